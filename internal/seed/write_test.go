package seed

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

func startEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.LogLevel = "error"
	cfg.UnsafeNoFsync = true
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = local, local
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd was not ready within a minute")
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Clients[0].Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWrite(t *testing.T) {
	c := startEtcd(t)
	ctx := context.Background()
	o := Stuck(time.Time{}, 300)
	o.Events, o.EventsNoLease, o.EventsPerLease = 250, 20, 100
	want := map[string]string{}
	for obj, err := range Generate(o) {
		if err != nil {
			t.Fatal(err)
		}
		want[obj.Key] = string(obj.Value)
	}
	stats, err := Write(ctx, c, Generate(o), WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	perLease := map[int64]int{}
	var bytes int64
	for _, kv := range r.Kvs {
		got[string(kv.Key)] = string(kv.Value)
		perLease[kv.Lease]++
		bytes += int64(len(kv.Key) + len(kv.Value))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("keyspace (-want +got):\n%s", d)
	}
	if stats.Total.Keys != int64(len(want)) || stats.Total.Bytes != bytes {
		t.Errorf("got %+v, want %d keys of %d bytes", stats.Total, len(want), bytes)
	}
	if n := stats.Of("", "events").Keys; n != 270 {
		t.Errorf("got %d events, want 270", n)
	}
	if len(stats.Leases) != 3 || len(perLease) != 4 || perLease[int64(stats.Leases[2])] != 50 {
		t.Errorf("got leases %v and keys on them %v, want 100, 100, 50", stats.Leases, perLease)
	}
	ttl, err := c.TimeToLive(ctx, stats.Leases[0])
	if err != nil || ttl.GrantedTTL != 3600 {
		t.Errorf("got TTL %v (%v), want an hour", ttl, err)
	}
}

func TestWrite_EndsWithTheContext(t *testing.T) {
	c := startEtcd(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Write(ctx, c, Generate(Stuck(time.Time{}, 10)), WriteOptions{}); err == nil {
		t.Error("got no error from a cancelled context")
	}
}

func TestChurn(t *testing.T) {
	c := startEtcd(t)
	ctx := context.Background()
	if _, err := c.Put(ctx, "/registry/kept", "1"); err != nil {
		t.Fatal(err)
	}
	if err := Churn(ctx, c, "", 1, 1, 1); err == nil {
		t.Error("an empty prefix was accepted")
	}
	if err := Churn(ctx, c, "/churn/", 2, 200, 10<<10); err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	if r.Count != 1 {
		t.Errorf("got %d keys, want the one from before", r.Count)
	}
	// The pages of a transaction count as free once a later one has committed.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(150 * time.Millisecond) {
		if _, err := c.Put(ctx, "/registry/kept", "2"); err != nil {
			t.Fatal(err)
		}
		s, err := c.Status(ctx, c.Endpoints()[0])
		if err != nil {
			t.Fatal(err)
		}
		if s.DbSize >= 4<<20 && s.DbSizeInUse <= s.DbSize/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d bytes in use of %d, want at least 4 MiB, mostly free", s.DbSizeInUse, s.DbSize)
		}
	}
}
