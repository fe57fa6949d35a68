//go:build bench

// Package vpamodel measures the stages on which the etcd model of package vpa
// rests, on real etcd servers, and records them at 1 Hz.
package vpamodel

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

const (
	keys      = 100_000
	valueSize = 2 << 10
	writers   = 64
	mib       = 1 << 20
)

func key(i int) string { return fmt.Sprintf("/registry/configmaps/ns-%03d/object-%06d", i%200, i) }

// TestStages prints the table of docs/benchmarks/vpa-model.md. VPA_RECORD_DIR
// writes the recordings.
func TestStages(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) { stages(t, version) })
	}
}

type bench struct {
	t      *testing.T
	c      *etcdtest.Cluster
	m      *etcdtest.Member
	client *clientv3.Client

	mu    sync.Mutex
	stage string
	peak  map[string][2]float64 // anon, file
	rows  [][]string
	stop  chan struct{}
	done  sync.WaitGroup
	begin time.Time
}

func stages(t *testing.T, version string) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}, ExtraArgs: []string{"--unsafe-no-fsync"}, QuotaBytes: 4 << 30})
	b := &bench{t: t, c: c, m: c.Members[0], client: c.Client(t), stage: "start", peak: map[string][2]float64{}, stop: make(chan struct{}), begin: time.Now()}
	b.done.Go(b.watchPeaks)
	b.done.Go(b.record)
	defer func() {
		close(b.stop)
		b.done.Wait()
		if dir := os.Getenv("VPA_RECORD_DIR"); dir != "" {
			b.write(filepath.Join(dir, "etcd-"+version+".csv.gz"))
		}
	}()
	ctx := t.Context()
	b.rest(5 * time.Second)
	b.setStage("watchers")
	b.watchers(ctx)
	b.run("keys", func() { b.putAll(ctx, 1) })
	b.run("revisions", func() { b.putAll(ctx, 1) })
	b.run("puts", func() { b.putAll(ctx, valueSize); b.putAll(ctx, valueSize) })
	b.run("compaction", func() {
		resp, err := b.client.Get(ctx, "x")
		b.must(err)
		_, err = b.client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
		b.must(err)
	})
	b.run("one full range", func() { b.fullRange(ctx, 1) })
	b.run("4 full ranges", func() { b.fullRange(ctx, 4) })
	b.run("snapshot after them", func() { b.snapshot(ctx) })
	b.run("defragmentation", func() {
		_, err := b.client.Defragment(ctx, b.m.ClientURL)
		b.must(err)
	})
	b.run("restart", func() { b.m.Restart(t) })
	b.run("snapshot after a restart", func() { b.snapshot(ctx) })
	b.t.Setenv("GOMEMLIMIT", "700MiB")
	b.run("restart, GOMEMLIMIT=700MiB", func() { b.m.Restart(t) })
	b.run("4 full ranges, GOMEMLIMIT=700MiB", func() { b.fullRange(ctx, 4) })
	b.run("snapshot after them, GOMEMLIMIT=700MiB", func() { b.snapshot(ctx) })
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) setStage(s string) {
	b.mu.Lock()
	b.stage = s
	b.mu.Unlock()
}

// run does a stage, waits until its memory has settled, and prints it.
func (b *bench) run(name string, do func()) {
	b.setStage(name)
	from := time.Now()
	do()
	took := time.Since(from)
	b.settled()
	b.rest(2 * time.Second)
	p, err := vpa.ReadProcess("/proc", b.m.PID())
	b.must(err)
	m, err := b.metrics()
	b.must(err)
	b.mu.Lock()
	peak := b.peak[name]
	b.mu.Unlock()
	d := m.Drivers
	fmt.Printf("| %s | %s | %.0f / %.0f | %.0f / %.0f | %.0f | %.0f | %.0f | %.0f | %.1f |\n", d.Version, name, peak[0]/mib, peak[1]/mib,
		p.Anon/mib, p.File/mib, m.HeapLive/mib, m.GoAnon/mib, d.DBBytes/mib, d.DBInUseBytes/mib, took.Seconds())
}

func (b *bench) rest(d time.Duration) { time.Sleep(d) }

func (b *bench) putAll(ctx context.Context, size int) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			value := make([]byte, size)
			_, _ = rand.Read(value)
			for i := range next {
				if _, err := b.client.Put(ctx, key(i), string(value)); err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	for i := range keys {
		next <- i
	}
	close(next)
	wg.Wait()
}

// watchers opens 200 connections, 10 streams on each and 20 watchers on each of
// those, and prints what each took. A stream is one Watch call without the
// client's own multiplexing.
func (b *bench) watchers(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const connections, streams, each = 200, 10, 20
	last := b.settled()
	step := func(what string, n int) {
		now := b.settled()
		fmt.Printf("| %s | %s | %d: live heap +%.1f MiB (%.0f bytes each), anon +%.1f MiB (%.0f bytes each) |\n", now.version, what, n,
			(now.live-last.live)/mib, (now.live-last.live)/float64(n), (now.anon-last.anon)/mib, (now.anon-last.anon)/float64(n))
		last = now
	}
	var clients []*grpc.ClientConn
	defer func() {
		for _, cl := range clients {
			_ = cl.Close()
		}
	}()
	for range connections {
		cl, err := grpc.NewClient(strings.TrimPrefix(b.m.ClientURL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		b.must(err)
		clients = append(clients, cl)
		_, err = etcdserverpb.NewKVClient(cl).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("x")})
		b.must(err)
	}
	step("connections", connections)
	var all []etcdserverpb.Watch_WatchClient
	for _, cl := range clients {
		for range streams {
			w, err := etcdserverpb.NewWatchClient(cl).Watch(ctx)
			b.must(err)
			all = append(all, w)
			b.watch(w, 0)
		}
	}
	step("streams with a watcher", connections*streams)
	for _, w := range all {
		for i := 1; i < each; i++ {
			b.watch(w, i)
		}
	}
	step("more watchers", connections*streams*(each-1))
}

func (b *bench) watch(w etcdserverpb.Watch_WatchClient, i int) {
	b.must(w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(key(i))},
	}}))
	_, err := w.Recv()
	b.must(err)
}

type settled struct {
	version    string
	live, anon float64
}

// settled makes garbage until the collector has run, so that the live heap is
// that of now.
func (b *bench) settled() settled {
	for range 3 {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 1500 {
					if _, err := b.client.Get(b.t.Context(), "x", clientv3.WithSerializable()); err != nil {
						b.t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	m, err := b.metrics()
	b.must(err)
	p, err := vpa.ReadProcess("/proc", b.m.PID())
	b.must(err)
	return settled{m.Drivers.Version, m.HeapLive, p.Anon}
}

func (b *bench) fullRange(ctx context.Context, n int) {
	var wg sync.WaitGroup
	for range n {
		cl, err := clientv3.New(clientv3.Config{Endpoints: []string{b.m.ClientURL}, DialTimeout: 10 * time.Second, MaxCallRecvMsgSize: 2 << 30})
		b.must(err)
		defer cl.Close()
		wg.Go(func() {
			resp, err := cl.Get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithSerializable())
			if err != nil {
				b.t.Error(err)
				return
			}
			if resp.Count != keys {
				b.t.Errorf("got %d keys, want %d", resp.Count, keys)
			}
		})
	}
	wg.Wait()
}

func (b *bench) snapshot(ctx context.Context) {
	r, err := b.client.Snapshot(ctx)
	b.must(err)
	n, err := io.Copy(io.Discard, r)
	b.must(err)
	_ = r.Close()
	b.t.Logf("snapshot of %d MiB", n/mib)
}

// watchPeaks reads /proc 50 times a second.
func (b *bench) watchPeaks() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
		p, err := vpa.ReadProcess("/proc", b.m.PID())
		if err != nil || math.IsNaN(p.Anon) {
			continue
		}
		b.mu.Lock()
		was := b.peak[b.stage]
		b.peak[b.stage] = [2]float64{max(was[0], p.Anon), max(was[1], p.File)}
		b.mu.Unlock()
	}
}

func (b *bench) metrics() (vpa.EtcdMetrics, error) {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(b.m.MetricsURL + "/metrics")
	if err != nil {
		return vpa.EtcdMetrics{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return vpa.EtcdMetrics{}, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return vpa.EtcdMetrics{}, err
	}
	return vpa.ParseEtcdMetrics(families), nil
}

var columns = []string{"second", "stage", "anon", "file", "heap_live", "heap_alloc", "go_anon", "cpu_seconds", "keys", "revision", "compact_revision",
	"applied", "puts", "put_size", "watch_streams", "watchers", "db", "db_in_use", "quota", "sent", "ranges", "snapshots"}

// record writes a row a second; what etcd did not answer in time is empty.
func (b *bench) record() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
		p, err := vpa.ReadProcess("/proc", b.m.PID())
		if err != nil {
			continue
		}
		at := time.Since(b.begin)
		m, err := b.metrics()
		values := []float64{p.Anon, p.File}
		if err == nil {
			d := m.Drivers
			values = append(values, m.HeapLive, m.HeapAlloc, m.GoAnon, p.CPU, d.Keys, d.Revision, d.CompactRevision, d.AppliedEntries,
				m.Puts, m.PutSize, d.WatchStreams, d.Watchers, d.DBBytes, d.DBInUseBytes, d.QuotaBytes, m.Sent, d.RangesInFlight, d.SnapshotsSending)
		}
		b.mu.Lock()
		row := []string{strconv.Itoa(int(at.Seconds() + 0.5)), b.stage}
		b.mu.Unlock()
		for _, v := range values {
			row = append(row, strconv.FormatFloat(v, 'f', -1, 64))
		}
		for len(row) < len(columns) {
			row = append(row, "")
		}
		b.rows = append(b.rows, row)
	}
}

func (b *bench) write(path string) {
	f, err := os.Create(path)
	b.must(err)
	gz, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	b.must(err)
	w := csv.NewWriter(gz)
	b.must(w.Write(columns))
	b.must(w.WriteAll(b.rows))
	b.must(gz.Close())
	b.must(f.Close())
}
