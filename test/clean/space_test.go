package clean

import (
	"path/filepath"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// TestClean_ThenDefrag: after the deletions the tool waits for the API server's compaction and hands over to the rolling
// run, and the files are small.
func TestClean_ThenDefrag(t *testing.T) {
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V36, etcdtest.V36, etcdtest.V36}},
		kubetest.Options{ExtraArgs: []string{"--etcd-compaction-interval=5s"}})
	e.seed(seed.Options{Namespaces: []string{"batch"}, Jobs: []seed.JobSet{{Namespace: "batch", Stem: "import", Count: 3000, Bytes: 20 << 10}}})
	t.Setenv("ETCDKEEPER_DEFRAG_RULE", "true")
	t.Setenv("ETCDKEEPER_DEFRAG_SETTLE", "1s")
	plan := filepath.Join(e.dir, "plan.jsonl")
	e.run(0, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
	out := e.run(0, "clean", "apply", plan, "--yes", "-w", "json", "--via", "etcd", "--accept-bypass", "--then-defrag", "--compact-wait", "3m")
	got := parse[struct {
		Deleted int64
		Defrag  *struct {
			Outcome        string
			ReclaimedBytes int64
			Members        []struct {
				Action                  string
				BeforeBytes, AfterBytes int64
			}
		}
	}](e, out)
	if got.Deleted != 3000 || got.Defrag == nil {
		t.Fatalf("got %+v, want 3000 deleted and a run of defragmentation", got)
	}
	if d := got.Defrag; d.Outcome != "done" || d.ReclaimedBytes < 150<<20 || len(d.Members) != 3 {
		t.Errorf("got %+v, want three members defragmented and most of 200 MB back", d)
	}
	for _, m := range got.Defrag.Members {
		if m.Action != "defragment" || m.AfterBytes > 20<<20 {
			t.Errorf("got %+v, want a small file", m)
		}
	}
}
