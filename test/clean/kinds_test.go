package clean

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

func crd(group, version, kind, plural string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[4]s.%[1]s
  annotations: {api-approved.kubernetes.io: "unapproved, a group of a test"}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: %[3]s, plural: %[4]s, singular: %[5]s}
  versions:
  - name: %[2]s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
`, group, version, kind, plural, strings.ToLower(kind))
}

// TestClean_Kinds deletes every kind but Jobs, by either way: what has ended goes, what has not stays.
func TestClean_Kinds(t *testing.T) {
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V36}}, kubetest.Options{})
	e.api.KubectlInput(t, crd("argoproj.io", "v1alpha1", "Workflow", "workflows")+
		crd("sparkoperator.k8s.io", "v1beta2", "SparkApplication", "sparkapplications"), "apply", "-f", "-")
	for _, path := range []string{"/apis/argoproj.io/v1alpha1/workflows", "/apis/sparkoperator.k8s.io/v1beta2/sparkapplications"} {
		within(t, time.Minute, path+" to be served", func() bool {
			_, err := e.api.TryKubectl(t, "", "get", "--raw", path)
			return err == nil
		})
	}
	e.seed(seed.Options{
		Namespaces: []string{"batch"}, Events: 20, EventsNoLease: 40,
		Jobs: []seed.JobSet{
			{Namespace: "batch", Stem: "ended", Count: 40, Pods: 1},
			{Namespace: "batch", Stem: "goes", Count: 10, Pods: 1, State: seed.JobRunning},
		},
		Workflows: []seed.CustomSet{
			{Namespace: "batch", Stem: "ended", Count: 30}, {Namespace: "batch", Stem: "broken", Count: 10, Phase: "Error"},
			{Namespace: "batch", Stem: "goes", Count: 10, Phase: "Running"},
		},
		SparkApplications: []seed.CustomSet{
			{Namespace: "batch", Stem: "ended", Count: 30}, {Namespace: "batch", Stem: "broken", Count: 10, Phase: "FAILED"},
			{Namespace: "batch", Stem: "goes", Count: 10, Phase: "RUNNING"},
		},
	})
	for _, tc := range []struct {
		kind, folder string
		stays        func(o object, key string) bool
		args         []string
	}{
		{kind: "pods", folder: "pods/batch/", stays: func(_ object, key string) bool { return strings.Contains(key, "/goes-") }, args: []string{"--owner", "live,gone,none"}},
		{kind: "events", folder: "events/batch/", stays: func(o object, _ string) bool { return o.lease != 0 }},
		{kind: "workflows.argoproj.io", folder: "argoproj.io/workflows/batch/", stays: func(_ object, key string) bool { return strings.Contains(key, "/goes-") }},
		{kind: "sparkapplications.sparkoperator.k8s.io", folder: "sparkoperator.k8s.io/sparkapplications/batch/",
			stays: func(_ object, key string) bool { return strings.Contains(key, "/goes-") }},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			e := e.with(t, e.kubeconfig)
			before := e.keys("/registry/" + tc.folder)
			goes := 0
			for k, o := range before {
				if !tc.stays(o, k) {
					goes++
				}
			}
			if goes != 40 || len(before) <= goes {
				t.Fatalf("got %d of %d that should go, want 40 and some that stay", goes, len(before))
			}
			dir := t.TempDir()
			plan := filepath.Join(dir, "first.jsonl")
			args := append([]string{"clean", "plan", "--kind", tc.kind, "-n", "batch", "--limit", "25", "-o", plan}, tc.args...)
			e.run(0, args...)
			if res := e.apply(plan); res.Deleted != 25 || res.Kept+res.Changed+res.Failed != 0 {
				t.Errorf("through the API server: got %+v, want 25 deleted", res)
			}
			plan = filepath.Join(dir, "rest.jsonl")
			args[7] = "0"
			args[9] = plan
			e.run(0, args...)
			res := e.apply(plan, "--via", "etcd", "--accept-bypass")
			if res.Deleted != 15 || res.Kept+res.Changed+res.Failed != 0 {
				t.Errorf("in etcd: got %+v, want 15 deleted", res)
			}
			after := e.keys("/registry/" + tc.folder)
			for k, o := range before {
				is, there := after[k]
				switch {
				case there != tc.stays(o, k):
					t.Errorf("%s: got there %v, want %v", k, there, !there)
				case there && is != o:
					t.Errorf("%s was changed", k)
				}
			}
			if first := exported(t, res.Export); !strings.Contains(first.YAML, "metadata:\n") {
				t.Errorf("the export cannot be read by a person: got %q", first.YAML)
			}
			// Restored, it is what it was.
			e.run(0, "clean", "restore", res.Export, "--yes")
			for k, o := range e.keys("/registry/" + tc.folder) {
				if before[k].value != o.value {
					t.Errorf("%s differs after the restore", k)
				}
			}
		})
	}
}
