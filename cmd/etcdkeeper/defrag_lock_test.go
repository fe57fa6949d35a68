package main

import (
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// A dry run says that another keeper is at work, as the run itself would, and
// leaves that one's lock alone.
func TestDefrag_DryRunWithAHeldLock(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = []string{e.Endpoint}
	client, err := cluster.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lock, err := client.Acquire(t.Context(), cluster.LockRun, "keeper z", cluster.MinLockTTL)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	args := []string{"defrag", "--endpoints", e.Endpoint, "--rule", "true", "--allow-small", "--dry-run", "-w", "json"}
	code, stdout, stderr := runCmd(t, args...)
	if code != exitRefused || !strings.Contains(stdout, `"outcome": "refused"`) || !strings.Contains(stderr, "keeper z") {
		t.Errorf("held: got exit code %d, %s%s, want 3, refused, and the holder", code, stdout, stderr)
	}
	if err := lock.Check(t.Context()); err != nil {
		t.Errorf("the other keeper's lock: got %v, want it held still", err)
	}
	lock.Release()
	if code, stdout, stderr := runCmd(t, args...); code != exitFindings || !strings.Contains(stdout, `"outcome": "planned"`) {
		t.Errorf("free: got exit code %d, %s%s, want 5 and a plan", code, stdout, stderr)
	}
}
