// Package split measures what package splitter predicts: one keyspace and one mix of writes, first in one etcd, then in
// two. Run it with make bench-split.
package split

import (
	"context"
	"fmt"
	"log/slog"
	"math"
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

// The mix: three events for each data write. Pods are updated in place; events are made and expire, as kube-apiserver's
// do, so that each is two writes in the end. The phase is long enough for both to be what they are ever after.
const (
	pods, podBytes = 4_000, 3000
	eventBytes     = 900
	eventTTL       = 50 * time.Second
	dataPerSecond  = 60.0
	eventsPerData  = 3
	phase          = 110 * time.Second
	settled        = 70 * time.Second // of the phase, until it is measured
	compactEvery   = 10 * time.Second
)

// writer writes one resource at a rate and keeps the latencies of the settled part.
type writer struct {
	put  func(ctx context.Context, i int, value string) error
	size int
	rate float64

	mu        sync.Mutex
	latencies []time.Duration
}

func (w *writer) run(ctx context.Context, from time.Time) {
	value := make([]byte, w.size)
	for i := range value {
		value[i] = byte(rand.IntN(256))
	}
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Duration(float64(time.Second) / w.rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-tick.C:
		}
		wg.Go(func() {
			start := time.Now()
			if err := w.put(ctx, i, string(value)); err != nil {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if start.After(from) {
				w.latencies = append(w.latencies, time.Since(start))
			}
		})
	}
}

// newPods updates pods at random.
func newPods(c *clientv3.Client) *writer {
	return &writer{size: podBytes, rate: dataPerSecond, put: func(ctx context.Context, _ int, value string) error {
		_, err := c.Put(ctx, podKey(rand.IntN(pods)), value)
		return err
	}}
}

// newEvents makes events under leases that many of them share, as kube-apiserver does.
func newEvents(c *clientv3.Client) *writer {
	var mu sync.Mutex
	var lease clientv3.LeaseID
	const perLease = 200
	used := perLease
	return &writer{size: eventBytes, rate: dataPerSecond * eventsPerData, put: func(ctx context.Context, i int, value string) error {
		mu.Lock()
		if used++; used > perLease {
			granted, err := c.Grant(ctx, int64(eventTTL.Seconds()))
			if err != nil {
				mu.Unlock()
				return err
			}
			lease, used = granted.ID, 1
		}
		id := lease
		mu.Unlock()
		_, err := c.Put(ctx, fmt.Sprintf("/registry/events/ns-%d/pod-%06d.%x", i%50, i%pods, i), value, clientv3.WithLease(id))
		return err
	}}
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

// seed writes the pods.
func seed(b *testing.B, c *clientv3.Client) {
	b.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for worker := range 16 {
		wg.Go(func() {
			value := make([]byte, podBytes)
			for i := worker; i < pods; i += 16 {
				if _, err := c.Put(context.Background(), podKey(i), string(value)); err != nil {
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

// load runs the two writers and the compaction of their clusters for one phase, and look in its settled part.
func load(dataClient, eventClient *clientv3.Client, look func()) (data *writer) {
	ctx, cancel := context.WithTimeout(context.Background(), phase)
	defer cancel()
	from := time.Now().Add(settled)
	data = newPods(dataClient)
	event := newEvents(eventClient)
	var wg sync.WaitGroup
	wg.Go(func() { data.run(ctx, from) })
	wg.Go(func() { event.run(ctx, from) })
	wg.Go(func() { compact(ctx, dataClient) })
	if eventClient != dataClient {
		wg.Go(func() { compact(ctx, eventClient) })
	}
	time.Sleep(time.Until(from))
	look()
	wg.Wait()
	return data
}

func podKey(i int) string { return fmt.Sprintf("/registry/pods/ns-%d/pod-%06d", i%50, i) }

// BenchmarkSplit prints the table of docs/benchmarks/split.md: the scorecard of split verify.
func BenchmarkSplit(b *testing.B) {
	one := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V36}})
	c := one.Client(b)
	seed(b, c)
	keeper := client(b, one)
	var e splitter.Evidence
	var err error
	together := load(c, c, func() {
		e, err = splitter.Gather(context.Background(), keeper, splitter.GatherOptions{Watch: phase - settled - 5*time.Second, EventTTL: eventTTL})
	})
	if err != nil {
		b.Fatal(err)
	}
	policy := splitter.DefaultPolicy()
	policy.CompactEvery, policy.EventTTL, policy.Resources = compactEvery, eventTTL, []string{"events"}
	plan, err := splitter.NewPlan(e, policy, splitter.PlanOptions{Resources: []string{"events"}, Installer: splitter.StaticPods, Hosts: []splitter.Host{{Name: "a", Address: "127.0.0.1"}}})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range e.Resources {
		b.Logf("%s: %.0f keys, %.1f writes/s, %.1f deletes/s", r.Resource, r.Keys.Or(-1), r.WritesPerSecond.Or(-1), r.DeletesPerSecond.Or(-1))
	}
	b.Logf("before: %.0f bytes, %.0f in use, compactions of %.3f s", e.Stress.DBSizeBytes.Or(-1), e.Stress.DBSizeInUseBytes.Or(-1), e.Stress.CompactionSeconds.Or(-1))

	main := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V36}})
	shard := etcdtest.Start(b, etcdtest.Options{Versions: []string{etcdtest.V37}})
	seed(b, main.Client(b))
	var v *splitter.Verification
	apart := load(main.Client(b), shard.Client(b), func() {
		v, err = splitter.Verify(context.Background(), client(b, main), client(b, shard),
			splitter.VerifyOptions{Resources: []string{"events"}, Watch: phase - settled - 5*time.Second, Plan: plan})
	})
	if err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n| | predicted | measured | deviation |\n|---|---:|---:|---:|\n")
	for _, s := range v.Scorecard {
		if s.Predicted == nil || s.Measured == nil || s.Deviation == nil {
			b.Errorf("%s is not known: %+v", s.Name, s)
			continue
		}
		scale, unit := 1.0, "/s"
		switch s.Unit {
		case "bytes":
			scale, unit = 1<<20, " MiB"
		case "seconds":
			scale, unit = 1e-3, " ms"
		}
		fmt.Printf("| %s | %.4g%s | %.4g%s | %+.0f %% |\n", s.Name, *s.Predicted/scale, unit, *s.Measured/scale, unit, 100**s.Deviation)
		limit := 0.10
		if s.Unit == "seconds" {
			limit = 0.30
		}
		b.ReportMetric(100**s.Deviation, s.Name+"-%")
		if math.Abs(*s.Deviation) > limit {
			b.Logf("%s deviates by more than %.0f %%", s.Name, 100*limit)
		}
	}
	fmt.Printf("\np99 of a data write: %s with events in the same etcd, %s without (%d and %d writes)\n", together.p99().Round(10*time.Microsecond),
		apart.p99().Round(10*time.Microsecond), len(together.latencies), len(apart.latencies))
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
