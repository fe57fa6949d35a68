package bulkclean

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
)

// KeepAnnotation on an object keeps it, whatever a selector says. Any value but "false" counts.
const KeepAnnotation = "etcdkeeper.io/keep"

const (
	mirrorAnnotation = "kubernetes.io/config.mirror" // a static pod's shadow: the kubelet would make it again
	archivingLabel   = "workflows.argoproj.io/workflow-archiving-status"
)

// State is how an object ended.
type State string

// The two ways to end. An object without a State has not ended.
const (
	Complete State = "complete"
	Failed   State = "failed"
)

// OwnerRef is one entry of metadata.ownerReferences.
type OwnerRef struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller,omitempty"`
}

// Facts are what the rules ask of an object, read from its stored value.
type Facts struct {
	Namespace, Name, UID string
	Created              time.Time
	Deleting             bool // has a deletionTimestamp
	OptedOut             bool // carries KeepAnnotation
	Finalizers           []string
	Owners               []OwnerRef
	Manager              string // who created it, by managedFields

	State      State
	Suspended  bool          // by its spec
	FinishedAt time.Time     // when it ended; zero where that is not known
	Unsettled  string        // ended, but something is still to be done about it
	TTL        time.Duration // its own time to live after the end
	HasTTL     bool
	ManagedBy  string // spec.managedBy
	Kept       string // a reason of the kind itself to keep it

	resourceVersion string // of what the API server shows; etcd does not store it
	managedAt       time.Time
	archiving       string
	mirror          bool
}

// errEncrypted is returned for a value that only the API server can read.
var errEncrypted = errors.New("the value is encrypted at rest")

var (
	protobufMagic  = []byte("k8s\x00")
	encryptedMagic = []byte("k8s:enc:")
	cborMagic      = []byte{0xd9, 0xd9, 0xf7}
)

// decode reads the stored value of an object of the kind.
func (k *Kind) decode(value []byte) (*Facts, error) {
	f := new(Facts)
	switch {
	case bytes.HasPrefix(value, encryptedMagic):
		return nil, errEncrypted
	case bytes.HasPrefix(value, protobufMagic) && k.protobuf != nil:
		kind, raw, err := envelope(value)
		if err != nil {
			return nil, err
		}
		if kind != k.object {
			return nil, fmt.Errorf("it is a %s, not a %s", kind, k.object)
		}
		if err := k.protobuf(f, raw); err != nil {
			return nil, err
		}
	case bytes.HasPrefix(value, cborMagic):
		var v map[string]any
		if err := cbor.Unmarshal(value, &v); err != nil {
			return nil, fmt.Errorf("CBOR: %w", err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("CBOR: %w", err)
		}
		if err := k.fromJSON(f, text); err != nil {
			return nil, err
		}
	case len(value) > 0 && value[0] == '{':
		if err := k.fromJSON(f, value); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("the value's encoding is not known")
	}
	return f, nil
}

func (k *Kind) fromJSON(f *Facts, text []byte) error {
	var t metav1.TypeMeta
	if err := json.Unmarshal(text, &t); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	if t.Kind != k.object {
		return fmt.Errorf("it is a %s, not a %s", t.Kind, k.object)
	}
	return k.json(f, text)
}

// envelope takes apart "k8s\0" and runtime.Unknown.
func envelope(value []byte) (kind string, raw []byte, err error) {
	err = fields(value[len(protobufMagic):], func(f field) error {
		switch f.id {
		case 1:
			return fields(f.bytes, func(t field) error {
				if t.id == 2 {
					kind = string(t.bytes)
				}
				return nil
			})
		case 2:
			raw = f.bytes
		}
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("protobuf envelope: %w", err)
	}
	return kind, raw, nil
}

// fromMeta takes over the metadata of a decoded object.
func (o *Facts) fromMeta(m *metav1.ObjectMeta) {
	o.Namespace, o.Name, o.UID = m.Namespace, m.Name, string(m.UID)
	o.resourceVersion = m.ResourceVersion
	o.Created = m.CreationTimestamp.Time
	o.Deleting = m.DeletionTimestamp != nil
	o.Finalizers = m.Finalizers
	for k, v := range m.Labels {
		o.label([]byte(k), []byte(v))
	}
	for k, v := range m.Annotations {
		o.annotation([]byte(k), []byte(v))
	}
	for _, r := range m.OwnerReferences {
		o.Owners = append(o.Owners, OwnerRef{APIVersion: r.APIVersion, Kind: r.Kind, Name: r.Name, UID: string(r.UID),
			Controller: r.Controller != nil && *r.Controller})
	}
	for _, e := range m.ManagedFields {
		var at time.Time
		if e.Time != nil {
			at = e.Time.Time
		}
		o.manager(e.Manager, e.Subresource, at)
	}
}

// meta reads the metadata of any stored object, in whatever encoding.
func meta(value []byte) (*Facts, error) {
	k := Kind{
		object: kindOf(value),
		protobuf: func(f *Facts, raw []byte) error {
			return fields(raw, func(e field) error {
				if e.id == 1 {
					return f.metadata(e.bytes)
				}
				return nil
			})
		},
		json: func(f *Facts, text []byte) error {
			var v metav1.PartialObjectMetadata
			if err := json.Unmarshal(text, &v); err != nil {
				return fmt.Errorf("JSON: %w", err)
			}
			f.fromMeta(&v.ObjectMeta)
			return nil
		},
	}
	return k.decode(value)
}

// metaUID is the uid of any stored object.
func metaUID(value []byte) (string, error) {
	f, err := meta(value)
	if err != nil {
		return "", err
	}
	if f.UID == "" {
		return "", errors.New("it has no uid")
	}
	return f.UID, nil
}

// kindOf is the kind that the value itself names, "" where it names none.
func kindOf(value []byte) string {
	switch {
	case bytes.HasPrefix(value, protobufMagic):
		kind, _, err := envelope(value)
		if err != nil {
			return ""
		}
		return kind
	case bytes.HasPrefix(value, cborMagic):
		var t metav1.TypeMeta
		if cbor.Unmarshal(value, &t) != nil {
			return ""
		}
		return t.Kind
	}
	var t metav1.TypeMeta
	if json.Unmarshal(value, &t) != nil {
		return ""
	}
	return t.Kind
}
