package splitter

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// mainSnapshot is a snapshot of a small cluster, and that cluster's client.
func mainSnapshot(t *testing.T) (string, *clientv3.Client) {
	t.Helper()
	m := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := m.Client(t)
	ctx := context.Background()
	lease, err := c.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		for _, op := range []clientv3.Op{
			clientv3.OpPut(fmt.Sprintf("/registry/events/ns/e%d", i), "event", clientv3.WithLease(lease.ID)),
			clientv3.OpPut(fmt.Sprintf("/registry/leases/ns/l%d", i%5), fmt.Sprint("lease ", i)),
			clientv3.OpPut("/registry/leasesnot/x", "not a lease"),
			clientv3.OpPut("/registry/masterleases/10.0.0.1", fmt.Sprint(i), clientv3.WithLease(lease.ID)),
		} {
			if _, err := c.Do(ctx, op); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.Delete(ctx, "/registry/leases/ns/l4"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "main.db")
	snapshot(t, c, path)
	return path, c
}

// start runs a member on a prepared data directory.
func start(t *testing.T, p *Prepared) *clientv3.Client {
	t.Helper()
	m := etcdtest.Embed(t, etcdtest.EmbedOptions{Configure: func(cfg *embed.Config) {
		cfg.Dir = p.DataDir
		cfg.Name = p.Name
		cfg.InitialCluster = p.InitialCluster
		peer, err := url.Parse(strings.SplitN(p.InitialCluster, "=", 2)[1])
		if err != nil {
			t.Fatal(err)
		}
		cfg.AdvertisePeerUrls = []url.URL{*peer}
	}})
	return m.Client(t)
}

func TestPrepare_Events(t *testing.T) {
	path, main := mainSnapshot(t)
	dir := filepath.Join(t.TempDir(), "events.data")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(context.Background(), PrepareOptions{Snapshot: path, DataDir: dir, Resources: []string{"events"}, Name: "e0",
		PeerURLs:     []string{"http://127.0.0.1:12380"},
		MainRevision: func(ctx context.Context) (int64, error) { r, err := main.Get(ctx, "x"); return r.Header.Revision, err }})
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the snapshot changed: %v", err)
	}
	if p.MarginRevisions != MinMargin || p.Revision != p.SnapshotRevision+MinMargin || p.Keys != 0 || *p.MainLeftRevisions != MinMargin {
		t.Errorf("got %+v", p)
	}
	c := start(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got, err := c.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 0 || got.Header.Revision != p.Revision {
		t.Errorf("got %d keys at revision %d, want none at %d", len(got.Kvs), got.Header.Revision, p.Revision)
	}
	// A client that watches from main's revision is told to list anew, instead of hearing nothing.
	w := <-c.Watch(ctx, "/registry/events/", clientv3.WithPrefix(), clientv3.WithRev(p.SnapshotRevision+1))
	if w.CompactRevision == 0 {
		t.Errorf("a watch from main's revision got %+v, want compacted", w)
	}
	put, err := c.Put(ctx, "/registry/events/ns/new", "v")
	if err != nil || put.Header.Revision != p.Revision+1 {
		t.Errorf("got %v %v", put, err)
	}
}

// Without the bump a watch from main's revision stays silent: this is the trap that Prepare closes.
func TestPrepare_TrapIsReal(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	ch := c.Watch(ctx, "/registry/events/", clientv3.WithPrefix(), clientv3.WithRev(1_000_000))
	if _, err := c.Put(context.Background(), "/registry/events/ns/new", "v"); err != nil {
		t.Fatal(err)
	}
	for w := range ch {
		if len(w.Events) > 0 || w.CompactRevision > 0 {
			t.Fatalf("the watch at a future revision heard %+v", w)
		}
	}
}

func TestPrepare_Prefixes(t *testing.T) {
	path, _ := mainSnapshot(t)
	dir := filepath.Join(t.TempDir(), "leases.data")
	p, err := Prepare(context.Background(), PrepareOptions{Snapshot: path, DataDir: dir, Resources: []string{"leases", "/apiServerIPInfo"}, Name: "l0", PeerURLs: []string{"http://127.0.0.1:12381"}})
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, p)
	got, err := c.Get(context.Background(), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, kv := range got.Kvs {
		keys = append(keys, string(kv.Key)+"="+string(kv.Value))
	}
	want := "/registry/leases/ns/l0=lease 45 /registry/leases/ns/l1=lease 46 /registry/leases/ns/l2=lease 47 /registry/leases/ns/l3=lease 48 /registry/masterleases/10.0.0.1=49"
	if strings.Join(keys, " ") != want || p.Keys != 5 {
		t.Errorf("got %q and %d keys, want %q", keys, p.Keys, want)
	}
	leases, err := c.Leases(context.Background())
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("got leases %v %v, want the one of masterleases", leases, err)
	}
}

// Every member prepared from one snapshot begins at the same revision.
func TestPrepare_Agrees(t *testing.T) {
	path, _ := mainSnapshot(t)
	var revisions []int64
	for i := range 2 {
		p, err := Prepare(context.Background(), PrepareOptions{Snapshot: path, DataDir: filepath.Join(t.TempDir(), "d"), Resources: []string{"events"}, Name: fmt.Sprint("m", i),
			InitialCluster: "m0=http://127.0.0.1:1,m1=http://127.0.0.1:2", PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", i+1)}})
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, p.Revision)
	}
	if revisions[0] != revisions[1] {
		t.Errorf("got revisions %v", revisions)
	}
}

// Each refusal leaves nothing behind.
func TestPrepare_Refuses(t *testing.T) {
	path, _ := mainSnapshot(t)
	ctx := context.Background()
	good := func() PrepareOptions {
		return PrepareOptions{Snapshot: path, DataDir: filepath.Join(t.TempDir(), "d"), Resources: []string{"events"}}
	}
	f, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noHash := filepath.Join(t.TempDir(), "db")
	writeFile(t, noHash, string(f[:len(f)-32]))
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	f[len(f)/2] ^= 0xff
	writeFile(t, damaged, string(f))
	text := filepath.Join(t.TempDir(), "text")
	writeFile(t, text, "no database")
	at := func(rev int64) func(context.Context) (int64, error) {
		return func(context.Context) (int64, error) { return rev, nil }
	}
	for _, tt := range []struct {
		name   string
		change func(*PrepareOptions)
		want   string
		is     error
	}{
		{"target exists", func(o *PrepareOptions) { o.DataDir = t.TempDir() }, "exists", ErrTargetExists},
		{"no snapshot", func(o *PrepareOptions) { o.Snapshot = filepath.Join(t.TempDir(), "absent") }, "absent", os.ErrNotExist},
		{"no database", func(o *PrepareOptions) { o.Snapshot = text }, "text", nil},
		{"damaged", func(o *PrepareOptions) { o.Snapshot = damaged }, "damaged", nil},
		{"no checksum", func(o *PrepareOptions) { o.Snapshot = noHash }, "--skip-hash-check", nil},
		{"custom resource", func(o *PrepareOptions) { o.Resources = []string{"x.example.com"} }, "move only", nil},
		{"no resource", func(o *PrepareOptions) { o.Resources = nil }, "--resources", nil},
		{"revision too low", func(o *PrepareOptions) { o.Revision = 5 }, "wait in vain", nil},
		{"main is past the margin", func(o *PrepareOptions) { o.MainRevision = at(1 << 40) }, "past the new cluster's", ErrPastMargin},
		{"main is another cluster", func(o *PrepareOptions) { o.MainRevision = at(1) }, "another cluster", nil},
		{"wrong peer", func(o *PrepareOptions) { o.PeerURLs = []string{"x"} }, "peer URL", nil},
		{"member not in cluster", func(o *PrepareOptions) { o.InitialCluster = "a=http://127.0.0.1:1" }, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := good()
			tt.change(&o)
			_, err := Prepare(ctx, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if tt.name != "target exists" {
				if left, _ := filepath.Glob(filepath.Dir(o.DataDir) + "/.*"); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				if _, err := os.Stat(o.DataDir); err == nil {
					t.Error("the directory was made")
				}
			}
		})
	}
	// Main passes the margin while the directory is made: it is taken away again.
	calls := 0
	o := good()
	o.MainRevision = func(context.Context) (int64, error) {
		calls++
		if calls == 1 {
			return 500, nil
		}
		return 1 << 40, nil
	}
	if _, err := Prepare(ctx, o); !errors.Is(err, ErrPastMargin) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(o.DataDir); err == nil {
		t.Error("the directory was left")
	}
	// And what is accepted on request.
	o = good()
	o.Snapshot, o.SkipHashCheck = noHash, true
	if _, err := Prepare(ctx, o); err != nil {
		t.Error(err)
	}
}
