package splitter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

func clusterClient(t *testing.T, endpoint string) *cluster.Client {
	t.Helper()
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = []string{endpoint}
	c, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// states are the checks as "name:state".
func (v *Verification) states() string {
	var out []string
	for _, c := range v.Checks {
		out = append(out, c.Name+":"+string(c.State))
	}
	return strings.Join(out, " ")
}

// scores are the names of the scorecard.
func (v *Verification) scores() string {
	var out []string
	for _, s := range v.Scorecard {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestVerify(t *testing.T) {
	path, mainClient := mainSnapshot(t)
	p, err := Prepare(context.Background(), PrepareOptions{Snapshot: path, DataDir: filepath.Join(t.TempDir(), "d"), Resources: []string{"events"}, Name: "e0", PeerURLs: []string{"http://127.0.0.1:12382"}})
	if err != nil {
		t.Fatal(err)
	}
	shardClient := start(t, p)
	main, shard := clusterClient(t, mainClient.Endpoints()[0]), clusterClient(t, shardClient.Endpoints()[0])
	ctx := context.Background()
	verify := func(o VerifyOptions) *Verification {
		t.Helper()
		if len(o.Resources) == 0 {
			o.Resources = []string{"events"}
		}
		if o.Watch == 0 {
			o.Watch = time.Second
		}
		v, err := Verify(ctx, main, shard, o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	// writeTo writes events to a cluster while f runs.
	writeTo := func(c *clientv3.Client, f func()) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ctx.Err() == nil; i++ {
				_, _ = c.Put(ctx, fmt.Sprintf("/registry/events/ns/w%d", i%10), "v")
			}
		}()
		f()
		cancel()
		<-done
	}

	if v := verify(VerifyOptions{Before: true}); !v.Green || v.states() != "mainHealthy:green shardHealthy:green mainSpace:green shardSpace:green revisionOrder:green shardKeys:green" {
		t.Errorf("before: got %s", v.states())
	}
	// seen verifies until the state shows: on a busy machine a short watch may begin late.
	seen := func(want string) *Verification {
		t.Helper()
		for watch := time.Second; ; watch *= 2 {
			v := verify(VerifyOptions{Watch: watch})
			if strings.Contains(v.states(), want) || watch > 20*time.Second {
				return v
			}
		}
	}
	writeTo(shardClient, func() {
		v := seen("writesInMain:green writesInShard:green")
		if !v.Green || !strings.Contains(v.states(), "writesInMain:green writesInShard:green mainCompaction:unknown shardCompaction:unknown") {
			t.Errorf("moved: got %s", v.states())
		}
		if len(v.Remains) != 1 || v.Remains[0].Keys != 50 || v.Remains[0].ExpiresSeconds == nil || *v.Remains[0].ExpiresSeconds < 3000 {
			t.Errorf("got remains %+v", v.Remains)
		}
	})
	writeTo(mainClient, func() {
		if v := seen("writesInMain:red"); v.Green || !strings.Contains(v.states(), "writesInMain:red writesInShard:unknown") {
			t.Errorf("override missing: got %s", v.states())
		}
	})
	if v := verify(VerifyOptions{CompactEvery: 100 * time.Millisecond}); v.Green || !strings.Contains(v.states(), "mainCompaction:red shardCompaction:red") {
		t.Errorf("not compacted: got %s", v.states())
	}
	if v := verify(VerifyOptions{Plan: &Plan{Shard: Prediction{WritesPerSecond: new(float64)}}}); v.scores() != "mainDatabase shardDatabase mainWrites shardWrites mainRevisions shardRevisions mainCompaction shardCompaction" ||
		v.Scorecard[0].Measured == nil || v.Scorecard[0].Predicted != nil {
		t.Errorf("got scorecard %+v", v.Scorecard)
	}
	if _, err := shardClient.Put(ctx, "/registry/pods/other/cluster", "v"); err != nil {
		t.Fatal(err)
	}
	if v := verify(VerifyOptions{Before: true}); v.Green || !strings.Contains(v.states(), "shardKeys:red") {
		t.Errorf("foreign keys: got %s", v.states())
	}
	if _, err := Verify(ctx, main, main, VerifyOptions{Resources: []string{"events"}}); !errors.Is(err, ErrOneCluster) {
		t.Errorf("one cluster twice: got %v", err)
	}
	if _, err := Verify(ctx, main, shard, VerifyOptions{Resources: []string{"x.example.com"}}); err == nil {
		t.Error("custom resource: got no error")
	}
}

// A shard that was not prepared is below main's revision: caught before any client can wait in vain.
func TestVerify_LowShard(t *testing.T) {
	_, mainClient := mainSnapshot(t)
	fresh := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	v, err := Verify(context.Background(), clusterClient(t, mainClient.Endpoints()[0]), clusterClient(t, fresh.Endpoint), VerifyOptions{Resources: []string{"events"}, Before: true})
	if err != nil {
		t.Fatal(err)
	}
	if v.Green || !strings.Contains(v.states(), "revisionOrder:red") {
		t.Errorf("got %s", v.states())
	}
}

// A shard of which no member answers is a red check, not a failure to look.
func TestVerify_ShardDown(t *testing.T) {
	_, mainClient := mainSnapshot(t)
	v, err := Verify(context.Background(), clusterClient(t, mainClient.Endpoints()[0]), clusterClient(t, "http://127.0.0.1:1"), VerifyOptions{Resources: []string{"events"}})
	if err != nil {
		t.Fatal(err)
	}
	if v.Green || v.states() != "shardHealthy:red" {
		t.Errorf("got %s", v.states())
	}
}
