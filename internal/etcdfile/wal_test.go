package etcdfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// writeWAL makes a log of n entries from make, and returns its directory.
func writeWAL(tb testing.TB, n int, request func(i int) *etcdserverpb.InternalRaftRequest) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "wal")
	w, err := wal.Create(zap.NewNop(), dir, []byte("metadata"))
	if err != nil {
		tb.Fatal(err)
	}
	w.SetUnsafeNoFsync()
	var batch []*raftpb.Entry
	for i := 1; i <= n; i++ {
		data, err := proto.Marshal(request(i))
		if err != nil {
			tb.Fatal(err)
		}
		batch = append(batch, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: proto.Uint64(1), Index: proto.Uint64(uint64(i)), Data: data})
		if len(batch) == 100 || i == n {
			if err := w.Save(&raftpb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(1), Commit: proto.Uint64(uint64(i))}, batch); err != nil {
				tb.Fatal(err)
			}
			batch = nil
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func header(i int) *etcdserverpb.RequestHeader { return &etcdserverpb.RequestHeader{ID: uint64(i)} }

// put is the transaction with which kube-apiserver creates an object.
func put(i int, key string, size int, lease int64) *etcdserverpb.InternalRaftRequest {
	return &etcdserverpb.InternalRaftRequest{Header: header(i), Txn: &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Key: []byte(key)}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
			Key: []byte(key), Value: make([]byte, size), Lease: lease,
		}}}},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte("not visited")}}}},
	}}
}

// mixed cycles through every operation.
func mixed(i int) *etcdserverpb.InternalRaftRequest {
	key := fmt.Sprintf("/registry/events/ns/e%d", i)
	switch i % 6 {
	case 1:
		return &etcdserverpb.InternalRaftRequest{Header: header(i), LeaseGrant: &etcdserverpb.LeaseGrantRequest{TTL: 3600, ID: int64(i)}}
	case 2:
		return put(i, key, 700, int64(i-1))
	case 3:
		return &etcdserverpb.InternalRaftRequest{Header: header(i), Put: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("v")}}
	case 4:
		return &etcdserverpb.InternalRaftRequest{Header: header(i), DeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte("z")}}
	case 5:
		return &etcdserverpb.InternalRaftRequest{Header: header(i), LeaseRevoke: &etcdserverpb.LeaseRevokeRequest{ID: int64(i - 4)}}
	}
	return &etcdserverpb.InternalRaftRequest{Header: header(i), Compaction: &etcdserverpb.CompactionRequest{Revision: int64(i)}}
}

func describe(o *WALOp) string {
	return fmt.Sprintf("%d %d txn=%v %s..%s %d lease=%d rev=%d", o.Index, o.Kind, o.InTxn, o.Key, o.RangeEnd, len(o.Value), o.Lease, o.Revision)
}

func TestReadWAL(t *testing.T) {
	dir := writeWAL(t, 12, mixed)
	before := listing(t, dir)
	var got []string
	sum, err := ReadWAL(context.Background(), dir, func(o *WALOp) error { got = append(got, describe(o)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1 3 txn=false .. 0 lease=1 rev=0",
		"2 1 txn=true /registry/events/ns/e2.. 700 lease=1 rev=0",
		"3 1 txn=false /registry/events/ns/e3.. 1 lease=0 rev=0",
		"4 2 txn=false /registry/events/ns/e4..z 0 lease=0 rev=0",
		"5 4 txn=false .. 0 lease=1 rev=0",
		"6 5 txn=false .. 0 lease=0 rev=6",
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("operation %d: got %q, want %q", i, got[i], w)
		}
	}
	if len(got) != 12 || sum.Entries != 12 || sum.FirstIndex != 1 || sum.LastIndex != 12 || sum.Commit != 12 || sum.Torn != "" || sum.Segments != 1 {
		t.Errorf("got %d operations, %+v", len(got), sum)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the log changed: %s, was %s", after, before)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(f.Name(), info.Size(), info.ModTime(), info.Mode()))
	}
	return strings.Join(out, " ")
}

// Every entry that wal.ReadAll returns is visited, over several segments.
func TestReadWAL_AgreesWithReadAll(t *testing.T) {
	old := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 1 << 20
	defer func() { wal.SegmentSizeBytes = old }()
	dir := writeWAL(t, 6000, mixed)
	entries := readAll(t, dir)
	seen := 0
	sum, err := ReadWAL(context.Background(), dir, func(o *WALOp) error {
		if o.Index != uint64(seen+1) {
			return fmt.Errorf("got index %d, want %d", o.Index, seen+1)
		}
		seen++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(entries) || sum.Segments < 2 || sum.FirstClosed.IsZero() || sum.FirstClosedIndex == 0 {
		t.Errorf("got %d operations of %d entries, %+v", seen, len(entries), sum)
	}
}

func readAll(tb testing.TB, dir string) []*raftpb.Entry {
	tb.Helper()
	w, err := wal.OpenForRead(zap.NewNop(), dir, &walpb.Snapshot{})
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	_, _, entries, err := w.ReadAll()
	if err != nil {
		tb.Fatal(err)
	}
	return entries
}

func TestReadWAL_TornTail(t *testing.T) {
	whole, err := os.ReadFile(segment(t, writeWAL(t, 12, mixed)))
	if err != nil {
		t.Fatal(err)
	}
	end := len(whole)
	for end > 0 && whole[end-1] == 0 {
		end--
	}
	for name, damage := range map[string]func([]byte) []byte{
		"cut":             func(b []byte) []byte { return b[:end-30] },
		"cut in a length": func(b []byte) []byte { return append(b[:(end+7)&^7], 9, 0, 0) },
		"zeros":           func(b []byte) []byte { clear(b[end-6:]); return b },
		"long length":     func(b []byte) []byte { copy(b[(end+7)&^7:], []byte{255, 255, 255, 255, 255, 255}); return b },
		"wrong checksum":  func(b []byte) []byte { b[end-1] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeWAL(t, 12, mixed)
			if err := os.WriteFile(segment(t, dir), damage(append([]byte(nil), whole...)), 0o600); err != nil {
				t.Fatal(err)
			}
			n := 0
			sum, err := ReadWAL(context.Background(), dir, func(*WALOp) error { n++; return nil })
			if err != nil || sum.Torn == "" || n < 11 {
				t.Errorf("got %d operations, torn %q, error %v", n, sum.Torn, err)
			}
		})
	}
}

func segment(t *testing.T, dir string) string {
	t.Helper()
	names, err := walSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, names[0])
}

func TestReadWAL_Refuses(t *testing.T) {
	none := func(*WALOp) error { return nil }
	if _, err := ReadWAL(context.Background(), filepath.Join(t.TempDir(), "absent"), none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent directory: got %v", err)
	}
	if _, err := ReadWAL(context.Background(), t.TempDir(), none); err == nil || !strings.Contains(err.Error(), "no segment") {
		t.Errorf("empty directory: got %v", err)
	}
	old := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 1 << 20
	defer func() { wal.SegmentSizeBytes = old }()
	dir := writeWAL(t, 6000, mixed)
	f, err := os.OpenFile(segment(t, dir), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := ReadWAL(context.Background(), dir, none); err == nil {
		t.Error("damage before the last segment: got no error")
	}
	stop := errors.New("stop")
	if _, err := ReadWAL(context.Background(), writeWAL(t, 12, mixed), func(*WALOp) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the visitor's error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ReadWAL(ctx, dir, none); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func FuzzReadWAL(f *testing.F) {
	b, err := os.ReadFile(func() string {
		dir := writeWAL(f, 12, mixed)
		names, _ := walSegments(dir)
		return filepath.Join(dir, names[0])
	}())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4096])
	f.Add([]byte{})
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = ReadWAL(context.Background(), dir, func(*WALOp) error { return nil })
	})
}

// benchWAL is 320 MB of kube-apiserver's transactions: three events for each pod update.
func benchWAL(b *testing.B) (string, int64) {
	dir := writeWAL(b, 200_000, func(i int) *etcdserverpb.InternalRaftRequest {
		if i%4 == 0 {
			return put(i, fmt.Sprintf("/registry/pods/ns-%d/pod-%d", i%50, i), 3500, 0)
		}
		return put(i, fmt.Sprintf("/registry/events/ns-%d/pod-%d.17f", i%50, i), 900, int64(i/1000))
	})
	sum, err := ReadWAL(context.Background(), dir, func(*WALOp) error { return nil }) // warms the page cache for both
	if err != nil {
		b.Fatal(err)
	}
	return dir, sum.Bytes
}

// BenchmarkWAL compares reading as a stream with wal.ReadAll on one log. Memory is the heap that reading adds at its
// largest.
func BenchmarkWAL(b *testing.B) {
	dir, size := benchWAL(b)
	b.Run("stream", func(b *testing.B) {
		b.SetBytes(size)
		grew := peak(b, func() {
			for b.Loop() {
				var puts, bytes int
				if _, err := ReadWAL(context.Background(), dir, func(o *WALOp) error { puts++; bytes += len(o.Value); return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.ReportMetric(grew/(1<<20), "peak-MiB")
	})
	b.Run("ReadAll", func(b *testing.B) {
		b.SetBytes(size)
		grew := peak(b, func() {
			for b.Loop() {
				readAll(b, dir)
			}
		})
		b.ReportMetric(grew/(1<<20), "peak-MiB")
	})
}

// peak samples the heap while f runs.
func peak(b *testing.B, f func()) float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, most := m.HeapInuse, m.HeapInuse
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	f()
	close(done)
	<-stopped
	return float64(most - start)
}
