package bulkclean

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPolicy_Rights(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    Policy
		want Rights
	}{
		{"a report", Policy{Kind: "jobs", AllNamespaces: true}, Rights{Read: "/registry/"}},
		{"deletes through the API server", Policy{Kind: "jobs", AllNamespaces: true, Mode: ModeApply}, Rights{Read: "/registry/"}},
		{"deletes in etcd", Policy{Kind: "jobs", Namespaces: []string{"a", "b"}, Mode: ModeApply, Via: "etcd", EtcdPrefix: "k8s/"},
			Rights{Read: "/k8s/", Write: []string{"/k8s/jobs/a/", "/k8s/jobs/b/"}}},
		{"everywhere", Policy{Kind: "workflows.argoproj.io", AllNamespaces: true, Mode: ModeApply, Via: "etcd"},
			Rights{Read: "/registry/", Write: []string{"/registry/argoproj.io/workflows/"}}},
		{"no kind", Policy{Kind: "nonsense", AllNamespaces: true, Mode: ModeApply, Via: "etcd"}, Rights{Read: "/registry/"}},
	} {
		if d := cmp.Diff(tt.want, tt.p.Rights()); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}
