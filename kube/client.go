package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Media types of requests and answers.
const (
	JSON     = "application/json"
	Protobuf = "application/vnd.kubernetes.protobuf"
)

// Resource is one API resource.
type Resource struct {
	Group   string // "" for the core group
	Version string
	Plural  string
	// Custom marks a custom resource, which is spoken to in JSON; built-in ones take protobuf.
	Custom bool
}

// Path is the URL path of an object, or of the collection where name is empty.
func (r Resource) Path(namespace, name string) string {
	p := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		p = "/api/" + r.Version
	}
	if namespace != "" {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	p += "/" + r.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// Client talks to one API server.
type Client struct {
	rest *rest.RESTClient
	host string
}

// metaScheme knows what every API group shares: Status, options, metadata. The client sends and reads nothing else as a
// type, and the scheme of all groups would make the binary a quarter larger.
func metaScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// New makes a Client of what LoadConfig found. Nothing is sent yet.
func New(cfg *rest.Config) (*Client, error) {
	c := rest.CopyConfig(cfg)
	c.NegotiatedSerializer = serializer.NewCodecFactory(metaScheme()).WithoutConversion()
	c.GroupVersion = nil
	rc, err := rest.UnversionedRESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server %s: %w", cfg.Host, err)
	}
	return &Client{rest: rc, host: cfg.Host}, nil
}

// Open is LoadConfig and New.
func Open(o Options) (*Client, error) {
	cfg, err := LoadConfig(o)
	if err != nil {
		return nil, err
	}
	return New(cfg)
}

// Host is the API server's address as configured.
func (c *Client) Host() string { return c.host }

// Get reads one object in the API server's encoding (JSON or Protobuf, as accept says).
func (c *Client) Get(ctx context.Context, r Resource, namespace, name, accept string) ([]byte, error) {
	return c.do(ctx, c.rest.Get().AbsPath(r.Path(namespace, name)).SetHeader("Accept", accept))
}

// Preconditions name the one state of an object that may be deleted.
type Preconditions struct {
	UID             string
	ResourceVersion string
}

// Delete deletes one object in the background propagation policy, so that the garbage collector removes its
// dependents: the default of batch/v1 Jobs would leave their pods behind. A precondition that does not hold is an error
// that IsConflict knows.
func (c *Client) Delete(ctx context.Context, r Resource, namespace, name string, pre Preconditions) error {
	body, contentType, err := deleteBody(pre, r.Custom)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, c.rest.Delete().AbsPath(r.Path(namespace, name)).
		SetHeader("Content-Type", contentType).SetHeader("Accept", JSON).Body(body))
	return err
}

// Create creates an object from JSON.
func (c *Client) Create(ctx context.Context, r Resource, namespace string, body []byte) error {
	_, err := c.do(ctx, c.rest.Post().AbsPath(r.Path(namespace, "")).
		SetHeader("Content-Type", JSON).SetHeader("Accept", JSON).Body(body))
	return err
}

// ClusterUID is the uid of the namespace kube-system, which names a cluster from the API server's side.
func (c *Client) ClusterUID(ctx context.Context) (string, error) {
	raw, err := c.Get(ctx, Resource{Version: "v1", Plural: "namespaces"}, "", metav1.NamespaceSystem, JSON)
	if err != nil {
		return "", fmt.Errorf("read namespace %s from the API server %s: %w", metav1.NamespaceSystem, c.host, err)
	}
	var ns metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &ns); err != nil {
		return "", fmt.Errorf("read namespace %s from the API server %s: %w", metav1.NamespaceSystem, c.host, err)
	}
	if ns.UID == "" {
		return "", fmt.Errorf("read namespace %s from the API server %s: it has no uid", metav1.NamespaceSystem, c.host)
	}
	return string(ns.UID), nil
}

func (c *Client) do(ctx context.Context, req *rest.Request) ([]byte, error) {
	res := req.MaxRetries(0).Do(ctx)
	raw, err := res.Raw()
	// Raw keeps the body of an error; Error decodes it.
	if e := res.Error(); e != nil {
		return nil, e
	}
	return raw, err
}

// deleteBody is the DeleteOptions in the protobuf envelope of Kubernetes, or in JSON.
func deleteBody(pre Preconditions, asJSON bool) ([]byte, string, error) {
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if pre != (Preconditions{}) {
		opts.Preconditions = &metav1.Preconditions{}
		if pre.UID != "" {
			uid := types.UID(pre.UID)
			opts.Preconditions.UID = &uid
		}
		if pre.ResourceVersion != "" {
			opts.Preconditions.ResourceVersion = &pre.ResourceVersion
		}
	}
	if asJSON {
		opts.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
		body, err := json.Marshal(opts)
		if err != nil {
			return nil, "", fmt.Errorf("encode the delete options: %w", err)
		}
		return body, JSON, nil
	}
	raw, err := opts.Marshal()
	if err != nil {
		return nil, "", fmt.Errorf("encode the delete options: %w", err)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "DeleteOptions"}, Raw: raw}
	body, err := unknown.Marshal()
	if err != nil {
		return nil, "", fmt.Errorf("encode the delete options: %w", err)
	}
	return append([]byte("k8s\x00"), body...), Protobuf, nil
}

// IsNotFound tells whether the API server said that the object does not exist. The 404 of a proxy, or of an API server
// that does not serve the resource, is not that.
func IsNotFound(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err)
}

// IsConflict tells whether a precondition did not hold.
func IsConflict(err error) bool { return apierrors.IsConflict(err) }

// IsDenied tells whether the API server refused who asks: no other object will fare better.
func IsDenied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// IsExists tells whether an object of that name exists already.
func IsExists(err error) bool { return apierrors.IsAlreadyExists(err) }

// IsTransient tells whether the same request may succeed later: the server is overloaded, starting or stopping, or the
// connection broke, in which case it is not known whether the request was carried out.
func IsTransient(err error) bool {
	if err == nil {
		return false
	}
	if Overloaded(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) {
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Code >= 500
	}
	// Not an answer of the API server: the connection.
	return !errors.Is(err, context.Canceled)
}

// Overloaded tells whether the API server asked for less load (429).
func Overloaded(err error) bool { return apierrors.IsTooManyRequests(err) }

// RetryAfter is the wait that the API server asked for, 0 where it did not.
func RetryAfter(err error) time.Duration {
	if s, ok := apierrors.SuggestsClientDelay(err); ok {
		return time.Duration(s) * time.Second
	}
	return 0
}
