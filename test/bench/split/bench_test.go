// Package split measures what package splitter predicts: one keyspace and one mix of writes, first in one etcd, then in
// two. Run it with make bench-split.
package split

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// The mix: three events for each data write, over live keys whose number does not change.
const (
	pods, podBytes     = 10_000, 3000
	events, eventBytes = 30_000, 900
	dataPerSecond      = 60.0
	eventsPerData      = 3
	phase              = 75 * time.Second
	compactEvery       = 10 * time.Second
)

// writer writes one resource at a rate and keeps the latencies of the second half.
type writer struct {
	client *clientv3.Client
	key    func(i int) string
	keys   int
	size   int
	rate   float64

	mu        sync.Mutex
	latencies []time.Duration
	writes    int
}

func (w *writer) run(ctx context.Context, from time.Time) {
	value := make([]byte, w.size)
	for i := range value {
		value[i] = byte(rand.IntN(256))
	}
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Duration(float64(time.Second) / w.rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-tick.C:
		}
		wg.Go(func() {
			start := time.Now()
			if _, err := w.client.Put(ctx, w.key(rand.IntN(w.keys)), string(value)); err != nil {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.writes++
			if start.After(from) {
				w.latencies = append(w.latencies, time.Since(start))
			}
		})
	}
}

func (w *writer) p99() time.Duration {
	slices.Sort(w.latencies)
	if len(w.latencies) == 0 {
		return 0
	}
	return w.latencies[len(w.latencies)*99/100]
}

// compact does what the API servers do: every interval, to the revision of an interval ago.
func compact(ctx context.Context, c *clientv3.Client) {
	last := int64(0)
	for ctx.Err() == nil {
		if got, err := c.Get(ctx, "x"); err == nil {
			if last > 0 {
				_, _ = c.Compact(ctx, last)
			}
			last = got.Header.Revision
		}
		select {
		case <-ctx.Done():
		case <-time.After(compactEvery):
		}
	}
}

func seed(b *testing.B, c *clientv3.Client, key func(int) string, n, size int) {
	b.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for worker := range 16 {
		wg.Go(func() {
			value := make([]byte, size)
			for i := worker; i < n; i += 16 {
				if _, err := c.Put(context.Background(), key(i), string(value)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		b.Fatal(err)
	default:
	}
	got, err := c.Get(context.Background(), "x")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Compact(context.Background(), got.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Defragment(context.Background(), c.Endpoints()[0]); err != nil {
		b.Fatal(err)
	}
}

// load runs the two writers and the compaction of their clusters for one phase.
func load(dataClient, eventClient *clientv3.Client) (data, event *writer) {
	ctx, cancel := context.WithTimeout(context.Background(), phase)
	defer cancel()
	from := time.Now().Add(phase / 2)
	data = &writer{client: dataClient, key: podKey, keys: pods, size: podBytes, rate: dataPerSecond}
	event = &writer{client: eventClient, key: eventKey, keys: events, size: eventBytes, rate: dataPerSecond * eventsPerData}
	var wg sync.WaitGroup
	wg.Go(func() { data.run(ctx, from) })
	wg.Go(func() { event.run(ctx, from) })
	wg.Go(func() { compact(ctx, dataClient) })
	if eventClient != dataClient {
		wg.Go(func() { compact(ctx, eventClient) })
	}
	wg.Wait()
	return data, event
}

func podKey(i int) string   { return fmt.Sprintf("/registry/pods/ns-%d/pod-%06d", i%50, i) }
func eventKey(i int) string { return fmt.Sprintf("/registry/events/ns-%d/pod-%06d.17f3a2c4", i%50, i) }

// BenchmarkSplit prints the table of docs/benchmarks/split.md.
func BenchmarkSplit(b *testing.B) {
	one := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V36}, ExtraArgs: []string{"--snapshot-count=10000"}})
	c := one.Client(b)
	seed(b, c, podKey, pods, podBytes)
	seed(b, c, eventKey, events, eventBytes)
	keeper := client(b, one)
	var data *writer
	var e splitter.Evidence
	var gathered error
	var wg sync.WaitGroup
	wg.Go(func() {
		time.Sleep(phase * 6 / 10)
		e, gathered = splitter.Gather(context.Background(), keeper, splitter.GatherOptions{Watch: phase / 4})
	})
	data, _ = load(c, c)
	wg.Wait()
	if gathered != nil {
		b.Fatal(gathered)
	}
	policy := splitter.DefaultPolicy()
	policy.CompactEvery = compactEvery
	policy.Resources = []string{"events"}
	p := splitter.Propose(e, policy)
	together := data.p99()
	b.Logf("evidence: %v", e.Notes)

	main := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V36}})
	shard := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V37}})
	mc, sc := main.Client(b), shard.Client(b)
	seed(b, mc, podKey, pods, podBytes)
	seed(b, sc, eventKey, events, eventBytes)
	data, event := load(mc, sc)
	mainStress, shardStress := stress(b, main), stress(b, shard)
	fmt.Printf("\n| | predicted | measured | deviation |\n|---|---:|---:|---:|\n")
	row := func(name string, predicted, measured float64, unit string) {
		fmt.Printf("| %s | %.4g%s | %.4g%s | %+.0f %% |\n", name, predicted, unit, measured, unit, 100*(measured-predicted)/predicted)
	}
	const mib = 1 << 20
	row("main: database", float64(*p.Main.DBSizeBytes)/mib, mainStress.DBSizeBytes.Or(0)/mib, " MiB")
	row("shard: database", float64(*p.Shard.DBSizeBytes)/mib, shardStress.DBSizeBytes.Or(0)/mib, " MiB")
	row("main: writes", *p.Main.WritesPerSecond, float64(data.writes)/phase.Seconds(), "/s")
	row("shard: writes", *p.Shard.WritesPerSecond, float64(event.writes)/phase.Seconds(), "/s")
	row("main: compaction", *p.Main.CompactionSeconds*1000, mainStress.CompactionSeconds.Or(0)*1000, " ms")
	row("shard: compaction", *p.Shard.CompactionSeconds*1000, shardStress.CompactionSeconds.Or(0)*1000, " ms")
	fmt.Printf("\np99 of a data write: %s with events in the same etcd, %s without\n", together.Round(10*time.Microsecond), data.p99().Round(10*time.Microsecond))
}

func client(b *testing.B, c *etcdtest.Cluster) *cluster.Client {
	b.Helper()
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = c.Endpoints()
	k, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = k.Close() })
	return k
}

func stress(b *testing.B, c *etcdtest.Cluster) splitter.Stress {
	b.Helper()
	e, err := splitter.Gather(context.Background(), client(b, c), splitter.GatherOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return e.Stress
}
