package splitter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// DefaultObserve is how long a one-shot watches the revision advance: a few renewals of every node's lease (10 s).
const DefaultObserve = 30 * time.Second

// GatherOptions are the options of Gather and GatherFile.
type GatherOptions struct {
	Prefix   string        // the API server's --etcd-prefix; "" is /registry
	EventTTL time.Duration // the API server's --event-ttl; 0: not known
	Observe  time.Duration // between the two looks at the revision; 0: no rates from the scan
	// Watch reads every write of the whole keyspace for that long instead, at the price of their bandwidth.
	Watch   time.Duration
	Rate    int64  // bytes/s of the scan; 0: no limit
	DataDir string // of the member beside the keeper, for its write-ahead log; "": not to be had
	// APIServer is a kube-apiserver's metrics URL, read with HTTP (nil: the default client).
	APIServer string
	HTTP      *http.Client
}

// history is the retained revisions that are not live.
func (e Evidence) history() float64 {
	n := 0.0
	for _, r := range e.Resources {
		n += r.Revisions.Or(0) - r.Keys.Or(0)
	}
	return n
}

// Gather reads the evidence of a running cluster: a scan of one member, two looks at the members' metrics, and the
// write-ahead log, a watch or the API server's metrics where asked for.
func Gather(ctx context.Context, c *cluster.Client, o GatherOptions) (Evidence, error) {
	g := &gatherer{c: c, o: o, layout: keyspace.NewLayout(o.Prefix)}
	first, err := g.look(ctx)
	if err != nil {
		return Evidence{}, err
	}
	var watched Evidence
	if o.Watch > 0 {
		watched, err = g.watch(ctx, first)
	} else if o.Observe > 0 {
		err = wait(ctx, o.Observe)
	}
	if err != nil {
		return Evidence{}, err
	}
	e, err := g.scan(ctx, first)
	if err != nil {
		return Evidence{}, err
	}
	last, err := g.look(ctx)
	if err != nil {
		return Evidence{}, err
	}
	span := last.at.Sub(first.at).Seconds()
	e.ClusterID = last.view.ClusterID.String()
	e.Stress = ReadStress(last.view, last.metrics, first.metrics, span)
	for m, err := range last.failed {
		e.note(fmt.Sprintf("the metrics of member %s were not read: %v", m, err))
	}
	if o.Watch > 0 {
		e.Merge(watched)
	}
	if o.APIServer != "" {
		e.Merge(apiServerEvidence(first, last, span))
	}
	if o.DataDir != "" {
		g.wal(ctx, &e, float64(last.raftIndex-first.raftIndex)/span)
	}
	e.sort()
	return e, nil
}

// look is one moment of the cluster.
type look struct {
	at        time.Time
	view      cluster.View
	metrics   map[string]Families
	failed    map[string]error
	revision  int64
	raftIndex uint64
	api       apiServerLook
}

type gatherer struct {
	c      *cluster.Client
	o      GatherOptions
	layout *keyspace.Layout
}

func (g *gatherer) look(ctx context.Context) (look, error) {
	view, err := g.c.View(ctx)
	if err != nil {
		return look{}, err
	}
	l := look{view: view, metrics: map[string]Families{}, failed: map[string]error{}}
	for _, m := range view.Members {
		if !m.Reachable {
			continue
		}
		l.revision = max(l.revision, m.Revision)
		l.raftIndex = max(l.raftIndex, m.RaftIndex)
		fam, err := g.c.Metrics(ctx, m, StressMetrics...)
		if err != nil {
			l.failed[m.String()] = err
			continue
		}
		l.metrics[m.String()] = fam
	}
	if g.o.APIServer != "" {
		if l.api, err = readAPIServer(ctx, g.o.HTTP, g.o.APIServer); err != nil {
			return look{}, err
		}
	}
	l.at = time.Now()
	return l, nil
}

// reader is the member that is read: a follower where there is one, since the leader has more to do.
func (g *gatherer) reader(ctx context.Context, v cluster.View) (cluster.Member, *clientv3.Client, error) {
	var best *cluster.Member
	for i, m := range v.Members {
		if m.Reachable && !m.Learner && (best == nil || best.Leader && !m.Leader) {
			best = &v.Members[i]
		}
	}
	if best == nil {
		return cluster.Member{}, nil, errors.New("no member is reachable")
	}
	cl, err := g.c.Member(ctx, *best)
	return *best, cl, err
}

func (g *gatherer) scan(ctx context.Context, first look) (Evidence, error) {
	m, cl, err := g.reader(ctx, first.view)
	if err != nil {
		return Evidence{}, err
	}
	live, err := keyspace.NewLive(ctx, cl, keyspace.LiveOptions{Name: m.String(), Rate: g.o.Rate})
	if err != nil {
		return Evidence{}, err
	}
	o := ScanOptions{EventTTL: g.o.EventTTL, Window: time.Since(first.at)}
	if g.o.Observe > 0 || g.o.Watch > 0 {
		o.Since = first.revision
	}
	return Scan(ctx, live, g.layout, o)
}

// wal merges the write-ahead log of the member beside the keeper; what makes it unreadable is a note, since the rest of
// the evidence stands without it.
func (g *gatherer) wal(ctx context.Context, e *Evidence, entriesPerSecond float64) {
	w, err := ReadWAL(ctx, g.o.DataDir, g.layout)
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.note(fmt.Sprintf("the write-ahead log may not be read by this user, so rates are less sure: %v", err))
	case err != nil:
		e.note(fmt.Sprintf("the write-ahead log was not read, so rates are less sure: %v", err))
	default:
		w.Calibrate(entriesPerSecond)
		e.Merge(w.Evidence())
	}
}

// watch counts every write for a while.
func (g *gatherer) watch(ctx context.Context, first look) (Evidence, error) {
	m, cl, err := g.reader(ctx, first.view)
	if err != nil {
		return Evidence{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.Watch)
	defer cancel()
	start := time.Now()
	t := newWALTally(g.layout)
	// From the next write on: WithFragment keeps a burst from being one huge message.
	ch := cl.Watch(clientv3.WithRequireLeader(ctx), "\x00", clientv3.WithFromKey(), clientv3.WithFragment())
	revision := int64(0)
	for resp := range ch {
		if err := resp.Err(); err != nil {
			return Evidence{}, fmt.Errorf("watch member %s: %w", m, err)
		}
		for _, ev := range resp.Events {
			r := t.resource(ev.Kv.Key)
			revision = max(revision, ev.Kv.ModRevision)
			if ev.Type == clientv3.EventTypeDelete {
				r.Deletes++
				continue
			}
			r.Puts++
			r.PutBytes += int64(len(ev.Kv.Key) + len(ev.Kv.Value))
			if ev.IsCreate() {
				r.Creates++
			}
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return Evidence{}, err
	}
	window := time.Since(start).Seconds()
	e := Evidence{Taken: time.Now(), WindowSeconds: figure(window, FromWatch, Measured)}
	if revision > first.revision {
		e.RevisionsPerSecond = figure(float64(revision-first.revision)/window, FromWatch, Measured)
	}
	rate := func(n int64) *Figure { return figure(float64(n)/window, FromWatch, Measured) }
	count := func(n int64) *Figure { return figure(float64(n), FromWatch, Exact) }
	for _, r := range t.byName {
		x := e.resource(r.Resource)
		x.Puts, x.PutBytes, x.Deletes = count(r.Puts), count(r.PutBytes), count(r.Deletes)
		x.WritesPerSecond, x.WriteBytesPerSecond = rate(r.Puts+r.Deletes), rate(r.PutBytes)
		x.CreatesPerSecond, x.DeletesPerSecond = rate(r.Creates), rate(r.Deletes)
	}
	e.Unattributed = figure(0, FromWatch, Measured)
	return e, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// DaemonRate is the scan's limit in the daemon, in bytes/s: a database of 8 GiB takes seven minutes, and no member
// notices.
const DaemonRate = 20 << 20
