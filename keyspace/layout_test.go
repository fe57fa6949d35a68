package keyspace

import (
	"bytes"
	"strings"
	"testing"
)

func TestLayout_Resource(t *testing.T) {
	for _, tc := range []struct {
		prefix, key string
		want        Resource
	}{
		{"", "/registry/pods/default/web-0", Resource{"", "pods", "default", "web-0"}},
		{"", "/registry/minions/node-1", Resource{"", "nodes", "", "node-1"}},
		{"", "/registry/services/specs/default/web", Resource{"", "services", "default", "web"}},
		{"", "/registry/services/endpoints/default/web", Resource{"", "endpoints", "default", "web"}},
		{"", "/registry/controllers/default/web", Resource{"", "replicationcontrollers", "default", "web"}},
		{"", "/registry/ingress/default/web", Resource{"networking.k8s.io", "ingresses", "default", "web"}},
		{"", "/registry/jobs/ci/nightly-1", Resource{"batch", "jobs", "ci", "nightly-1"}},
		{"", "/registry/events/default/web.17", Resource{"", "events", "default", "web.17"}},
		{"", "/registry/leases/kube-node-lease/node-1", Resource{"coordination.k8s.io", "leases", "kube-node-lease", "node-1"}},
		{"", "/registry/namespaces/default", Resource{"", "namespaces", "", "default"}},
		{"", "/registry/ranges/serviceips", Resource{"", "rangeallocations", "", "serviceips"}},
		{"", "/registry/masterleases/10.0.0.1", Resource{"", "masterleases", "", "10.0.0.1"}},
		{"", "/registry/clusterroles/system:node", Resource{"rbac.authorization.k8s.io", "clusterroles", "", "system:node"}},
		{"", "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c", Resource{"apiextensions.k8s.io", "customresourcedefinitions", "", "a.b.c"}},
		{"", "/registry/apiregistration.k8s.io/apiservices/v1.apps", Resource{"apiregistration.k8s.io", "apiservices", "", "v1.apps"}},
		{"", "/registry/argoproj.io/workflows/ci/nightly", Resource{"argoproj.io", "workflows", "ci", "nightly"}},
		{"", "/registry/cilium.io/ciliumidentities/12345", Resource{"cilium.io", "ciliumidentities", "", "12345"}},
		// A custom resource may be called as a built-in is: its group tells them apart.
		{"", "/registry/example.com/pods/default/web", Resource{"example.com", "pods", "default", "web"}},
		{"", "/registry/example.com/pods/web", Resource{"example.com", "pods", "", "web"}},
		// A built-in of a later Kubernetes: the shape decides.
		{"", "/registry/gizmos/default/a", Resource{"", "gizmos", "default", "a"}},
		{"", "/registry/gizmos/a", Resource{"", "gizmos", "", "a"}},
		// Names with slashes cannot be made through the API, but by hand.
		{"", "/registry/minions/a/b", Resource{"", "nodes", "", "a/b"}},
		{"", "/registry/pods/a/b/c", Resource{"", "pods", "a", "b/c"}},
		{"", "/registry/pods/a", Resource{"", "pods", "", "a"}},
		{"/kubernetes.io", "/kubernetes.io/pods/default/web-0", Resource{"", "pods", "default", "web-0"}},
		{"kubernetes.io/", "/kubernetes.io/route.openshift.io/routes/a/b", Resource{"route.openshift.io", "routes", "a", "b"}},
		{"/k8s/prod", "/k8s/prod/pods/default/web-0", Resource{"", "pods", "default", "web-0"}},
		{"/kubernetes.io", "/registry/pods/default/web-0", Resource{"", "other", "registry", "pods/default/web-0"}},
		{"", "/registry2/pods/default/web-0", Resource{"", "other", "registry2", "pods/default/web-0"}},
		{"", "compact_rev_key", Resource{"", "compact_rev_key", "", "compact_rev_key"}},
		{"", "/etcdkeeper/pause", Resource{"", "other", "etcdkeeper", "pause"}},
		{"", "/calico/ipam/v2/host", Resource{"", "other", "calico", "ipam/v2/host"}},
		{"", "key", Resource{"", "other", "key", ""}},
		{"", "\x00\xff", Resource{"", "other", "\x00\xff", ""}},
		{"", "/", Resource{"", "other", "", ""}},
		{"", "", Resource{"", "other", "", ""}},
		{"", "/registry/", Resource{"", "other", "registry", ""}},
		{"", "/registry/pods", Resource{"", "other", "registry", "pods"}},
		{"", "/registry/pods/", Resource{"", "other", "registry", "pods/"}},
		{"", "/registry/pods//web", Resource{"", "other", "registry", "pods//web"}},
		{"", "/registry/pods/default/", Resource{"", "other", "registry", "pods/default/"}},
		{"", "/registry//web", Resource{"", "other", "registry", "/web"}},
		{"", "/registry/services/default/web", Resource{"", "other", "registry", "services/default/web"}},
		{"", "/registry/example.com/web", Resource{"", "other", "registry", "example.com/web"}},
		{"", "/registry/pods/default/\xff\x00", Resource{"", "pods", "default", "\xff\x00"}},
	} {
		if got := NewLayout(tc.prefix).Resource([]byte(tc.key)); got != tc.want {
			t.Errorf("prefix %q, key %q: got %+v, want %+v", tc.prefix, tc.key, got, tc.want)
		}
	}
}

func TestLayout_Dir(t *testing.T) {
	l := NewLayout("")
	for _, key := range []string{
		"/registry/pods/default/web-0", "/registry/minions/node-1", "/registry/services/specs/default/web",
		"/registry/ingress/default/web", "/registry/argoproj.io/workflows/ci/nightly", "/registry/cilium.io/ciliumidentities/1",
		"/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c", "/registry/gizmos/default/a",
	} {
		r := l.Resource([]byte(key))
		if got := l.Dir(r.Group, r.Resource, r.Namespace) + r.Name; got != key {
			t.Errorf("key %q: Dir and name give %q", key, got)
		}
	}
	if got, want := l.Dir("events.k8s.io", "events", "a"), "/registry/events/a/"; got != want {
		t.Errorf("events of events.k8s.io: got %q, want %q", got, want)
	}
}

func TestLayout_PartsAllocatesNothing(t *testing.T) {
	l := NewLayout("")
	keys := [][]byte{[]byte("/registry/pods/default/web-0"), []byte("/registry/services/specs/default/web"),
		[]byte("/registry/argoproj.io/workflows/ci/nightly"), []byte("/elsewhere/x")}
	if n := testing.AllocsPerRun(100, func() {
		for _, k := range keys {
			l.Parts(k)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// FuzzLayout_Parts: the parts that are told make up the key again, and are those of all its neighbours.
func FuzzLayout_Parts(f *testing.F) {
	for _, k := range []string{"/registry/pods/default/web-0", "/registry/a.b/c/d/e", "/registry/services/specs/a/b", "/registry/minions/n", "/registry/gizmos/a/b",
		"/registry/a.b/c/d", "/registry/pods//x", "/registry/pods/a/", "/registry/a.b//c", "//x/y", "/calico/a/b", "/", "", "compact_rev_key"} {
		f.Add([]byte(k))
	}
	l := NewLayout("")
	f.Fuzz(func(t *testing.T, key []byte) {
		p := l.Parts(key)
		r := p.Strings()
		switch r.Resource {
		case CompactRevKey:
			if string(key) != CompactRevKey && !bytes.HasPrefix(key, []byte("/registry/compact_rev_key/")) {
				t.Fatalf("key %q: got %+v", key, r)
			}
			return
		case Other:
			if bytes.HasPrefix(key, []byte("/registry/other/")) {
				return // a plural that nobody has
			}
			if trimmed := strings.TrimLeft(string(key), "/"); trimmed != r.Namespace+"/"+r.Name && (trimmed != r.Namespace || r.Name != "") || r.Group != "" {
				t.Fatalf("key %q: got %+v", key, r)
			}
			return
		}
		if r.Resource == "" || r.Name == "" || !bytes.Equal(key[p.NameAt:], p.Name) {
			t.Fatalf("key %q: got %+v with the name at %d", key, r, p.NameAt)
		}
		// The directory is that of the resource, or what is written as an API group, a plural and a namespace.
		written := l.Prefix() + r.Resource + "/"
		if r.Group != "" {
			written = l.Prefix() + r.Group + "/" + r.Resource + "/"
		}
		if r.Namespace != "" {
			written += r.Namespace + "/"
		}
		if dir := string(key[:p.NameAt]); dir != written && dir != l.Dir(r.Group, r.Resource, r.Namespace) {
			t.Fatalf("key %q: got %+v, which does not lie under %q", key, r, dir)
		}
		neighbour := append(bytes.Clone(key[:p.NameAt]), 'x')
		if n := l.Resource(neighbour); n.Group != r.Group || n.Resource != r.Resource || n.Namespace != r.Namespace || n.Name != "x" {
			if !strings.Contains(r.Name, "/") {
				t.Fatalf("key %q: got %+v, and %+v for %q", key, r, n, neighbour)
			}
		}
	})
}

// FuzzLayout_Dir: a custom resource's key is read back as it was made.
func FuzzLayout_Dir(f *testing.F) {
	f.Add("argoproj.io", "workflows", "ci", "nightly")
	f.Add("cilium.io", "ciliumidentities", "", "1")
	f.Add("batch.example.com", "jobs", "a", "b")
	f.Add("a.b", "services", "specs", ".")
	l := NewLayout("")
	f.Fuzz(func(t *testing.T, group, resource, namespace, name string) {
		for _, e := range []string{group, resource, namespace, name} {
			if strings.Contains(e, "/") {
				return
			}
		}
		if _, builtin := paths[GroupResource(group, resource)]; builtin || !strings.Contains(group, ".") || resource == "" || name == "" {
			return
		}
		want := Resource{group, resource, namespace, name}
		if got := l.Resource([]byte(l.Dir(group, resource, namespace) + name)); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
