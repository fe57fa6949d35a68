package keyspace

import (
	"bytes"
	"strings"
)

// DefaultPrefix is the kube-apiserver's --etcd-prefix where none is given. OpenShift's is /kubernetes.io.
const DefaultPrefix = "/registry"

// Other is the Resource.Resource of keys that are not laid out as Kubernetes lays out its objects.
const Other = "other"

// CompactRevKey is the key by which the API servers of a cluster agree on compaction. It lies outside of every prefix.
const CompactRevKey = "compact_rev_key"

// Resource names the Kubernetes object that a key holds.
//
// Group and Resource are stable names: the API group ("" for core) and the lower-case plural, whatever the storage
// path is called, so "nodes" and not "minions", and "events" in the core group for both Event APIs. A few keys of the
// API server that are no API objects carry their path: rangeallocations, masterleases, peerserverleases and
// compact_rev_key. Keys of other programs have Resource "other", the first element of their path as Namespace and the
// rest as Name.
type Resource struct {
	Group, Resource, Namespace, Name string
}

// String is plural.group/namespace/name without the empty parts.
func (r Resource) String() string {
	s := GroupResource(r.Group, r.Resource)
	if r.Namespace != "" {
		s += "/" + r.Namespace
	}
	if r.Name != "" {
		s += "/" + r.Name
	}
	return s
}

// GroupResource is the form that kubectl takes, such as "jobs.batch" or "pods".
func GroupResource(group, resource string) string {
	if group == "" {
		return resource
	}
	return resource + "." + group
}

// Parts is a Resource whose strings are slices of the parsed key or of static memory: nothing is allocated, and
// nothing may be changed.
type Parts struct {
	Group, Resource, Namespace, Name []byte

	// NameAt is where in the key Name begins. Keys that agree in the bytes before it, and have no slash after it,
	// agree in everything but the name.
	NameAt int
}

// Strings copies the parts.
func (p Parts) Strings() Resource {
	return Resource{string(p.Group), string(p.Resource), string(p.Namespace), string(p.Name)}
}

// Layout reads the keys of one Kubernetes cluster, which all begin with its prefix. A Layout is immutable.
type Layout struct {
	prefix []byte // with the slash at the end
}

// NewLayout makes a Layout for the API server's --etcd-prefix; slashes around it do not matter, and "" means
// DefaultPrefix.
func NewLayout(prefix string) *Layout {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		prefix = strings.Trim(DefaultPrefix, "/")
	}
	return &Layout{prefix: []byte("/" + prefix + "/")}
}

// Prefix is what all keys of the cluster begin with, with the slash at its end.
func (l *Layout) Prefix() string { return string(l.prefix) }

// Resource is Parts with strings of its own.
func (l *Layout) Resource(key []byte) Resource { return l.Parts(key).Strings() }

// Parts says what object the key holds. Any bytes are taken.
//
// Built-in resources are known by their storage path and by whether they are namespaced. Of anything else the shape
// decides: a first element with a dot is an API group (Kubernetes wants a dot in the group of a custom resource), and
// it is followed by the plural, the namespace of a namespaced object, and the name; a first element without a dot is
// the plural of a built-in that this version does not know. Since no name contains a slash, the number of elements
// tells namespaced from cluster-scoped.
func (l *Layout) Parts(key []byte) Parts {
	if !bytes.HasPrefix(key, l.prefix) {
		return l.other(key)
	}
	at := len(l.prefix)
	first, next := element(key, at)
	if len(first) == 0 || next == 0 {
		return l.other(key)
	}
	b, ok := builtins[string(first)]
	if !ok && string(first) == "services" {
		second, after := element(key, next)
		if after != 0 {
			b, ok = builtins["services/"+string(second)]
			next = after
		}
		if !ok {
			return l.other(key)
		}
	}
	switch {
	case ok && !b.namespaced:
		return l.named(key, b.group, b.resource, nil, next)
	case ok:
		return l.scoped(key, b.group, b.resource, next)
	case bytes.IndexByte(first, '.') >= 0:
		plural, after := element(key, next)
		if len(plural) == 0 || after == 0 {
			return l.other(key)
		}
		return l.scoped(key, first, plural, after)
	}
	return l.scoped(key, nil, first, next)
}

// scoped reads [namespace/]name at i.
func (l *Layout) scoped(key, group, resource []byte, i int) Parts {
	namespace, next := element(key, i)
	if next == 0 {
		return l.named(key, group, resource, nil, i)
	}
	if len(namespace) == 0 {
		return l.other(key)
	}
	return l.named(key, group, resource, namespace, next)
}

func (l *Layout) named(key, group, resource, namespace []byte, i int) Parts {
	if i >= len(key) {
		return l.other(key)
	}
	return Parts{Group: group, Resource: resource, Namespace: namespace, Name: key[i:], NameAt: i}
}

var (
	otherName      = []byte(Other)
	compactRevName = []byte(CompactRevKey)
)

func (l *Layout) other(key []byte) Parts {
	if string(key) == CompactRevKey {
		return Parts{Resource: compactRevName, Name: key}
	}
	i := 0
	for i < len(key) && key[i] == '/' {
		i++
	}
	program, next := element(key, i)
	if next == 0 {
		return Parts{Resource: otherName, Namespace: program, NameAt: len(key)}
	}
	return Parts{Resource: otherName, Namespace: program, Name: key[next:], NameAt: next}
}

// element is the path element at i, and where the one behind it begins: 0 for none.
func element(key []byte, i int) (e []byte, next int) {
	n := bytes.IndexByte(key[i:], '/')
	if n < 0 {
		return key[i:], 0
	}
	return key[i : i+n], i + n + 1
}

// Dir is what the keys of a resource begin with, with the slash at its end, so that it never matches a longer name.
// With a namespace, it is that of the objects in the namespace.
func (l *Layout) Dir(group, resource, namespace string) string {
	path, ok := paths[GroupResource(group, resource)]
	if !ok {
		path = resource
		if group != "" {
			path = group + "/" + resource
		}
	}
	dir := string(l.prefix) + path + "/"
	if namespace != "" {
		dir += namespace + "/"
	}
	return dir
}
