package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// TestClean_Killed kills the process wherever it is, again and again. The end is that of an undisturbed run: the same
// objects are gone, the same counts are told, and everything that is gone was exported as it was.
func TestClean_Killed(t *testing.T) {
	e := newCleanEnv(t)
	const jobs = 1200
	_, err := seed.Write(t.Context(), e.client, seed.Generate(seed.Options{Now: time.Now(), Namespaces: []string{"many"},
		Jobs: []seed.JobSet{{Namespace: "many", Stem: "import", Count: jobs}}}), seed.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.client.Get(t.Context(), "/registry/jobs/many/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	plan := filepath.Join(e.dir, "plan.jsonl")
	e.must(exitDone, "clean", "plan", "--kind", "jobs", "-n", "many", "-o", plan)
	apply := []string{"clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--yes", "--qps", "600", "--max-orphan-pods", "0"}
	for range 8 {
		cmd := exec.Command("etcdkeeper", append(apply, "--endpoints", e.endpoint)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From some moment after the first deletion on.
		before := e.count("/registry/jobs/many/")
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for e.count("/registry/jobs/many/") == before && len(ended) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(rand.N(200 * time.Millisecond))
		_ = cmd.Process.Kill()
		<-ended
		if e.count("/registry/jobs/many/") == 0 {
			break
		}
	}
	out := e.must(exitDone, append(apply, "-w", "json")...)
	var res struct{ Deleted, Kept, Changed, Failed, Bytes int64 }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&res); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var bytes int64
	for _, kv := range resp.Kvs {
		bytes += int64(len(kv.Key) + len(kv.Value))
	}
	if res.Deleted != jobs || res.Kept+res.Changed+res.Failed != 0 || res.Bytes != bytes {
		t.Errorf("got %+v, want %d deleted of %d bytes and nothing else", res, jobs, bytes)
	}
	if got := e.count("/registry/jobs/many/"); got != 0 {
		t.Errorf("got %d Jobs left", got)
	}
	if got := e.count("/registry/jobs/"); got != 55 {
		t.Errorf("got %d other Jobs, want 55", got)
	}
	e.must(exitDone, "clean", "restore", plan+".export", "--yes")
	for _, kv := range resp.Kvs {
		now, err := e.client.Get(context.Background(), string(kv.Key))
		if err != nil || len(now.Kvs) != 1 || string(now.Kvs[0].Value) != string(kv.Value) {
			t.Fatalf("%s was not exported as it was: %v", kv.Key, err)
		}
	}
	if _, err := os.Stat(plan + ".journal"); err != nil {
		t.Error(err)
	}
}
