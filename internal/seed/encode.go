package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// storageNames are the resources whose key does not carry their plural: the exceptions in Kubernetes'
// default_storage_factory_builder.go.
var storageNames = map[string]string{
	"nodes":                  "minions",
	"services":               "services/specs",
	"endpoints":              "services/endpoints",
	"replicationcontrollers": "controllers",
}

// object is what every API type is.
type object interface {
	metav1.Object
	runtime.Object
}

var storage = protobuf.NewSerializer(nil, nil)

// builtin encodes a built-in object as the API server stores it.
func (g *Generator) builtin(gvk schema.GroupVersionKind, resource string, o object) (Object, error) {
	o.GetObjectKind().SetGroupVersionKind(gvk)
	var b bytes.Buffer
	if err := storage.Encode(o, &b); err != nil {
		return Object{}, fmt.Errorf("encode %s %s/%s: %w", resource, o.GetNamespace(), o.GetName(), err)
	}
	dir := resource
	if s, ok := storageNames[resource]; ok {
		dir = s
	}
	return Object{
		Group: gvk.Group, Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(),
		Key:   strings.Join(nonEmpty(g.o.Prefix, dir, o.GetNamespace(), o.GetName()), "/"),
		Value: b.Bytes(),
	}, nil
}

// custom encodes a custom resource, which the API server stores as JSON.
func (g *Generator) custom(group, resource string, m metav1.ObjectMeta, body map[string]any) (Object, error) {
	meta, err := json.Marshal(m)
	if err != nil {
		return Object{}, fmt.Errorf("encode metadata of %s %s/%s: %w", resource, m.Namespace, m.Name, err)
	}
	body["metadata"] = json.RawMessage(meta)
	v, err := json.Marshal(body)
	if err != nil {
		return Object{}, fmt.Errorf("encode %s %s/%s: %w", resource, m.Namespace, m.Name, err)
	}
	return Object{
		Group: group, Resource: resource, Namespace: m.Namespace, Name: m.Name, UID: m.UID,
		Key:   strings.Join(nonEmpty(g.o.Prefix, group, resource, m.Namespace, m.Name), "/"),
		Value: append(v, '\n'), // as the API server's JSON encoder ends it
	}, nil
}

func nonEmpty(parts ...string) []string {
	out := parts[:0]
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

// managed is one entry of managedFields, of about the size that real ones have.
func managed(manager, operation, apiVersion, subresource string, at metav1.Time, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationType(operation), APIVersion: apiVersion,
		Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields), Subresource: subresource,
	}
}

func ptr[T any](v T) *T { return &v }
