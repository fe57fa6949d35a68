package splitter

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// leaseValue is a Lease in storage encoding, renewed at t.
func leaseValue(tb testing.TB, t time.Time) string {
	tb.Helper()
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: t}}}
	raw, err := l.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return "k8s\x00" + string(append([]byte{0x12, byte(len(raw))}, raw...))
}

func TestRenewTime(t *testing.T) {
	want := time.Unix(1_700_000_000, 123_000_000)
	if got, ok := renewTime([]byte(leaseValue(t, want))); !ok || !got.Equal(want) {
		t.Errorf("got %v %v, want %v", got, ok, want)
	}
	for _, bad := range []string{"", "k8s", "k8s\x00", "k8s\x00\x12", "{}", "k8s:enc:aescbc:v1:key:xxxxxxxx"} {
		if _, ok := renewTime([]byte(bad)); ok {
			t.Errorf("%q: got a time", bad)
		}
	}
}

func TestEventTime(t *testing.T) {
	at := func(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(1_700_000_000+seconds, 0)) }
	for name, c := range map[string]struct {
		event corev1.Event
		want  int64
	}{
		"created":                {corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(5)}}, 5},
		"seen again":             {corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(5)}, FirstTimestamp: at(4), LastTimestamp: at(90)}, 90},
		"of the newer group":     {corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(5)}, EventTime: metav1.NewMicroTime(at(6).Time)}, 6},
		"a series of that group": {corev1.Event{EventTime: metav1.NewMicroTime(at(6).Time), Series: &corev1.EventSeries{Count: 9, LastObservedTime: metav1.NewMicroTime(at(300).Time)}}, 300},
	} {
		raw, err := c.event.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := eventTime(inStorage(raw)); !ok || got.Unix() != 1_700_000_000+c.want {
			t.Errorf("%s: got %v %v, want %d", name, got, ok, c.want)
		}
	}
	for _, bad := range []string{"", "k8s\x00", `{"kind":"Event"}`, "k8s:enc:aescbc:v1:key:xxxxxxxx"} {
		if _, ok := eventTime([]byte(bad)); ok {
			t.Errorf("%q: got a time", bad)
		}
	}
}

// inStorage wraps an object as kube-apiserver stores it.
func inStorage(raw []byte) []byte {
	return append([]byte("k8s\x00"), protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), raw)...)
}

// Where nothing renews a Lease, the events' own times tell how long a log is.
func TestWriteClock(t *testing.T) {
	var c writeClock
	event := func(seconds int64) []byte {
		raw, err := (&corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(seconds, 0)}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return inStorage(raw)
	}
	c.see("events", event(1000), 10)
	c.see("events", event(1100), 110)
	if w, ok := c.window(0, 200); !ok || w != 200*time.Second {
		t.Errorf("got %v %v, want 200s", w, ok)
	}
	c.see("leases.coordination.k8s.io", []byte(leaseValue(t, time.Unix(1000, 0))), 10)
	c.see("leases.coordination.k8s.io", []byte(leaseValue(t, time.Unix(1050, 0))), 110)
	if w, ok := c.window(0, 200); !ok || w != 100*time.Second {
		t.Errorf("with Leases: got %v %v, want 1m40s", w, ok)
	}
}

// writeLoad writes one round: a node's lease renewed ten seconds after the last round's, two events, a pod, and a
// secret deleted.
func writeLoad(t *testing.T, c *clientv3.Client, lease clientv3.LeaseID, round int, at time.Time) {
	t.Helper()
	ctx := context.Background()
	value := strings.Repeat("v", 900)
	ops := []clientv3.Op{
		clientv3.OpPut("/registry/leases/kube-node-lease/node-1", leaseValue(t, at.Add(time.Duration(round)*10*time.Second))),
		clientv3.OpPut(fmt.Sprintf("/registry/events/ci/runner-%05d.17a%x", round, round), value, clientv3.WithLease(lease)),
		clientv3.OpPut(fmt.Sprintf("/registry/events/ci/runner-%05d.17b%x", round, round), value, clientv3.WithLease(lease)),
		clientv3.OpPut("/registry/pods/ci/runner", value),
		clientv3.OpPut("/registry/secrets/ci/s", value),
		clientv3.OpDelete("/registry/secrets/ci/s"),
		clientv3.OpPut("/registry/kyverno.io/policies/ci/p", value),
	}
	for _, op := range ops {
		// As kube-apiserver writes: in a transaction.
		if _, err := c.Txn(ctx).Then(op).Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGather(t *testing.T) {
	m := etcdtest.Embed(t, etcdtest.EmbedOptions{QuotaBytes: 64 << 20})
	c := m.Client(t)
	grant, err := c.Grant(context.Background(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	base := time.Unix(1_700_000_000, 0)
	var rounds atomic.Int64
	for range 61 {
		writeLoad(t, c, grant.ID, int(rounds.Add(1)), base)
	}
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = []string{m.Endpoint}
	cl, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()

	t.Run("log", func(t *testing.T) {
		e, err := Gather(context.Background(), cl, GatherOptions{EventTTL: time.Hour, DataDir: m.DataDir})
		if err != nil {
			t.Fatal(err)
		}
		// 61 rounds, 10 s apart by the lease's own clock: 600 s.
		if w := e.WindowSeconds; w == nil || w.Source != FromWAL || w.Value < 590 || w.Value > 640 {
			t.Errorf("got a window of %+v", w)
		}
		for name, want := range map[string]float64{"events": 122, "leases.coordination.k8s.io": 61, "pods": 61, "secrets": 122, "policies.kyverno.io": 61} {
			got := e.find(name).WritesPerSecond.Or(0) * e.WindowSeconds.Or(0)
			if got < want-0.01 || got > want+0.01 {
				t.Errorf("%s: got %g writes, want %g", name, got, want)
			}
		}
		if k := e.find("events").Keys.Or(0); k != 122 {
			t.Errorf("got %g events", k)
		}
		if s := e.find("secrets"); s.Puts.Or(0) != 61 || s.Deletes.Or(0) != 61 || s.PutBytes.Or(0) != 61*float64(900+len("/registry/secrets/ci/s")) {
			t.Errorf("got %+v, %+v and %+v of secrets", s.Puts, s.Deletes, s.PutBytes)
		}
		if e.find("policies.kyverno.io").Movable || !e.find("events").Movable || !e.find("leases.coordination.k8s.io").Movable {
			t.Error("movable is wrong")
		}
		if n := e.Noisy; len(n) != 1 || n[0].Stem != "runner" || n[0].Namespace != "ci" || n[0].Share != 1 {
			t.Errorf("got noisy sources %+v", n)
		}
		s := e.Stress
		if s.DBSizeBytes.Or(0) == 0 || s.QuotaBytes.Or(0) != 64<<20 || s.FsyncP99Seconds == nil || s.CommitP99Seconds == nil {
			t.Errorf("got stress %+v", s)
		}
		if p := Propose(e, DefaultPolicy()); p.Verdict == "" || len(p.CannotMove) != 1 {
			t.Errorf("got %+v", p)
		}
	})
	load := func(ctx context.Context) {
		for ctx.Err() == nil {
			writeLoad(t, c, grant.ID, int(rounds.Add(1)), base)
		}
	}
	t.Run("watch", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); load(ctx) }()
		e, err := Gather(context.Background(), cl, GatherOptions{Watch: 2 * time.Second})
		cancel()
		<-done
		if err != nil {
			t.Fatal(err)
		}
		ev, pods := e.find("events").WritesPerSecond, e.find("pods").WritesPerSecond
		// A round may be cut at both ends of the watch.
		window := e.WindowSeconds.Or(0)
		if ev == nil || ev.Source != FromWatch || math.Abs(ev.Value-2*pods.Or(0))*window > 4.01 {
			t.Errorf("got %+v events and %+v pods a second in %gs, want twice as many", ev, pods, window)
		}
	})
	t.Run("observe", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); load(ctx) }()
		e, err := Gather(context.Background(), cl, GatherOptions{Observe: 2 * time.Second})
		cancel()
		<-done
		if err != nil {
			t.Fatal(err)
		}
		ev := e.find("events")
		if ev.CreatesPerSecond.Or(0) == 0 || ev.CreatesPerSecond.Confidence != Estimated || e.RevisionsPerSecond.Or(0) <= ev.CreatesPerSecond.Value {
			t.Errorf("got %+v, %+v", ev.CreatesPerSecond, e.RevisionsPerSecond)
		}
	})
	t.Run("unreadable log", func(t *testing.T) {
		e, err := Gather(context.Background(), cl, GatherOptions{DataDir: filepath.Join(t.TempDir(), "encrypted")})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(e.Notes, " "), "write-ahead log was not read") {
			t.Errorf("got notes %q", e.Notes)
		}
	})
	t.Run("encrypted log", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "member", "wal")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 64<<10)
		for i := range noise {
			noise[i] = byte(i * 7919 >> 3)
		}
		if err := os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), noise, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := Gather(context.Background(), cl, GatherOptions{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(e.Notes, " "); !strings.Contains(notes, "write-ahead log") || e.find("pods").Puts != nil {
			t.Errorf("got notes %q and %+v puts", notes, e.find("pods").Puts)
		}
	})
	t.Run("snapshot", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "snapshot.db")
		snapshot(t, c, path)
		e, err := GatherFile(context.Background(), path, GatherOptions{EventTTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		n := float64(rounds.Load())
		pods := e.find("pods")
		if pods.Keys.Or(0) != 1 || pods.Revisions.Or(0) != n || pods.WritesPerSecond.Or(0)*e.WindowSeconds.Or(0) < n-0.01 {
			t.Errorf("got %+v of %g rounds in %+v", pods, n, e.WindowSeconds)
		}
		s := e.find("secrets")
		if s.Keys.Or(0) != 0 || s.Revisions.Or(0) != 2*n || s.DeletesPerSecond.Or(0)*e.WindowSeconds.Or(0) < n-0.01 {
			t.Errorf("got secrets %+v", s)
		}
		if s.Puts.Or(0) != n || s.Deletes.Or(0) != n {
			t.Errorf("got %+v puts and %+v tombstones of secrets, want %g", s.Puts, s.Deletes, n)
		}
	})
	t.Run("snapshot and log", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "snapshot.db")
		snapshot(t, c, path)
		e, err := GatherFile(context.Background(), path, GatherOptions{DataDir: m.DataDir})
		if err != nil {
			t.Fatal(err)
		}
		if p := e.find("pods"); p.Keys.Or(0) != 1 || p.Puts.source() != FromWAL || p.WritesPerSecond.source() != FromWAL {
			t.Errorf("got %+v, %+v, %+v", p.Keys, p.Puts, p.WritesPerSecond)
		}
	})
	t.Run("snapshot without history", func(t *testing.T) {
		got, err := c.Get(context.Background(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Compact(context.Background(), got.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "snapshot.db")
		snapshot(t, c, path)
		e, err := GatherFile(context.Background(), path, GatherOptions{EventTTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(e.Notes, " "), "no history") || e.find("pods").WritesPerSecond != nil {
			t.Errorf("got notes %q, pods %+v", e.Notes, e.find("pods").WritesPerSecond)
		}
		if f := e.find("events").CreatesPerSecond; f == nil || f.Source != FromModel {
			t.Errorf("got %+v, want the rate by Little's law", f)
		}
	})
}

func snapshot(t *testing.T, c *clientv3.Client, path string) {
	t.Helper()
	r, err := c.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
}

func TestStem(t *testing.T) {
	for in, want := range map[string]string{
		"web-7d4b9c6f5-x2x4q.17f3a": "web", "runner-00012.1a": "runner", "node-1.17": "node", "kube-scheduler.17": "kube-scheduler",
		"nginx.17": "nginx", "plain": "plain", ".x": ".x",
	} {
		if got := string(stem([]byte(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
