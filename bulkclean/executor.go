package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Defaults of an Executor.
const (
	DefaultWorkers = 8
	// DefaultEtcdWorkers is more than through the API server: a deletion in etcd is a wait for the log's sync, and the log
	// takes as many as there are in one sync.
	DefaultEtcdWorkers = 32
	DefaultMaxPlanAge  = 24 * time.Hour
	// DefaultMaxOrphanPods is above the 12,500 terminated pods that the pod collector tolerates by itself: with so many
	// to go the garbage collector has a quarter of an hour of work and is not idle.
	DefaultMaxOrphanPods = 20000
	// DefaultPatience is how long an outage is waited out: longer than a restart of any control plane member.
	DefaultPatience = 5 * time.Minute

	requestTimeout = 30 * time.Second
	pressureTick   = 2 * time.Second // a member's metrics cost it some 10 ms
	gateTick       = 5 * time.Second
	flushTick      = 500 * time.Millisecond // of results, which a crash of the tool must not lose
	syncTick       = 5 * time.Second        // of results, against a crash of the machine; intents sync too
	maxFailures    = 1000
	sampleSize     = 200
)

// Why an Executor refuses a plan, before anything is changed.
var (
	ErrOtherCluster  = errors.New("the plan is of another cluster")
	ErrOldPlan       = errors.New("the plan is too old")
	ErrMostlyChanged = errors.New("most objects of the plan have changed since it was made")
)

// ErrOutage is returned when nothing was answered for longer than the executor's patience.
var ErrOutage = errors.New("nothing was answered for too long")

// Executor carries plans out. Etcd or API must be set, and the one that Via names. Where both are, the export holds
// what etcd stores, and the plan's cluster is checked from both sides.
type Executor struct {
	Via  Via
	Etcd *Etcd
	API  API

	Export        string        // directory; required
	Journal       string        // file; empty means JournalPath of the plan
	Workers       int           // 0 means DefaultWorkers, or with ViaEtcd DefaultEtcdWorkers
	QPS           float64       // ceiling; 0 means none
	MaxOrphanPods int64         // 0 means no gate
	MaxPlanAge    time.Duration // 0 means DefaultMaxPlanAge
	Patience      time.Duration // 0 means DefaultPatience

	Pressure func(context.Context) (Pressure, error) // of the members; may be nil
	Progress func(Progress)                          // called a few times a second; may be nil
	Log      *slog.Logger                            // may be nil
	Now      func() time.Time                        // may be nil
}

// Progress is how far a run is.
type Progress struct {
	Done, Total int64
	Deleted     int64
	Rate        float64 // deletions a second, lately
	Waiting     string  // what holds the pace down; empty for nothing
	ETA         time.Duration
	PodsETA     time.Duration // of the garbage collector, from now
}

// Result is what became of the plan, over all runs that worked on it.
type Result struct {
	Deleted   int64   `json:"deleted"`
	Kept      int64   `json:"kept"`
	Changed   int64   `json:"changed"`
	Failed    int64   `json:"failed"`
	Left      int64   `json:"left"`
	Seconds   float64 `json:"seconds"`   // of this run
	PerSecond float64 `json:"perSecond"` // deleted by this run
	Bytes     int64   `json:"bytes"`     // of the deleted: keys and values

	Reasons  map[string]int64 `json:"reasons"` // of what was not deleted
	Finished bool             `json:"finished"`
	Resumed  bool             `json:"resumed"`
	Via      Via              `json:"via"`
	Export   string           `json:"export"`
	Journal  string           `json:"journal"`

	// DependentsETASeconds is how long the garbage collector has to work from now; null where not known.
	DependentsETASeconds *float64 `json:"dependentsEtaSeconds"`
}

// execution is one run of a plan.
type execution struct {
	*Executor
	plan    *Plan
	kind    *Kind
	matcher *matcher
	target  target
	source  source
	pace    *pace
	export  *exporter

	mu      sync.Mutex // guards what follows
	journal *journal
	deleted int64     // by this run
	seen    int64     // objects with an outcome of this run
	stale   int64     // of these, those that are there and are not as planned
	unsure  bool      // an attempt ended without an answer
	failing time.Time // since when nothing was answered; zero while answers come
	began   time.Time
}

// Execute deletes the plan's objects. It ends early, with a partial Result, when ctx does: what is in flight is
// finished. A run over the same plan and journal goes on where the last one ended, however that ended.
func (e *Executor) Execute(ctx context.Context, p *Plan) (Result, error) {
	x, err := e.prepare(ctx, p)
	if err != nil {
		return Result{Via: e.Via, Left: p.End.Objects}, err
	}
	journal, err := openJournal(e.Journal, p, e.Now())
	if err != nil {
		return Result{Via: e.Via, Left: p.End.Objects}, err
	}
	x.journal = journal
	defer func() { _ = journal.close() }()
	resumed := journal.totals.Count() > 0 || journal.last >= 0
	if journal.over && len(journal.broken) == 0 {
		return x.result(resumed), nil
	}
	if err := x.sample(ctx); err != nil {
		return x.result(resumed), err
	}
	if x.export, err = openExport(e.Export, p, x.kind, e.Now()); err != nil {
		return x.result(resumed), err
	}
	defer func() { _ = x.export.close() }()
	if err := journal.run(string(e.Via), x.export.path, e.Now()); err != nil {
		return x.result(resumed), err
	}
	err = x.work(ctx)
	return x.result(resumed), err
}

// Check refuses what Execute would refuse at once: a plan that is too old or of another cluster. It changes nothing.
func (e *Executor) Check(ctx context.Context, p *Plan) error {
	_, err := e.prepare(ctx, p)
	return err
}

// Started tells whether any attempt to change something was made, by this run or an earlier one.
func (r Result) Started() bool { return r.Deleted+r.Kept+r.Changed+r.Failed > 0 || r.Resumed }

// prepare checks everything that can be checked before the journal is opened.
func (e *Executor) prepare(ctx context.Context, p *Plan) (*execution, error) {
	o := *e
	if o.Journal == "" {
		o.Journal = JournalPath(p.File)
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
		if o.Via == ViaEtcd {
			o.Workers = DefaultEtcdWorkers
		}
	}
	if o.MaxPlanAge <= 0 {
		o.MaxPlanAge = DefaultMaxPlanAge
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	*e = o
	m, err := p.Head.Selector.matcher()
	if err != nil {
		return nil, err
	}
	x := &execution{Executor: e, plan: p, kind: m.kind, matcher: m}
	switch {
	case e.Export == "":
		return nil, errors.New("no directory for the export: nothing is deleted that was not exported")
	case e.Via == ViaAPI && e.API != nil:
		x.target, x.pace = apiTarget{e.API}, newPace(e.QPS, slowAPI)
	case e.Via == ViaEtcd && e.Etcd != nil:
		x.target, x.pace = etcdTarget{e.Etcd}, newPace(e.QPS, slowEtcd)
	default:
		return nil, fmt.Errorf("via %q: not connected", e.Via)
	}
	x.source = source(apiSource{e.API, e.Workers})
	if e.Etcd != nil {
		x.source = etcdSource{e.Etcd}
	}
	if age := e.Now().Sub(p.Head.Made); age > e.MaxPlanAge {
		return nil, fmt.Errorf("%w: it was made %s ago and may be at most %s old: make a new plan", ErrOldPlan, roughly(age), roughly(e.MaxPlanAge))
	}
	return x, x.checkCluster(ctx)
}

// checkCluster compares what the plan says of its cluster with everything that can be reached.
func (x *execution) checkCluster(ctx context.Context) error {
	h := &x.plan.Head
	same := false
	if x.Etcd != nil {
		id, rev, err := x.Etcd.ClusterID(ctx, h.Selector.Registry)
		if err != nil {
			return err
		}
		if h.ClusterID != nil {
			if err := differ("etcd's cluster id", *h.ClusterID, id.String()); err != nil {
				return err
			}
			same = true
		}
		if rev < h.Revision {
			return fmt.Errorf("%w: etcd is at revision %d, the plan was made at %d: was this etcd restored from a snapshot?", ErrOtherCluster, rev, h.Revision)
		}
		uid, err := KubeSystemUID(ctx, x.Etcd, nil, h.Selector.Registry)
		if err != nil {
			return err
		}
		if uid != "" && h.KubeSystemUID != nil {
			if err := differ("the uid of kube-system in etcd", *h.KubeSystemUID, uid); err != nil {
				return err
			}
			same = true
		}
	}
	if x.API != nil && x.Via == ViaAPI {
		uid, err := x.API.ClusterUID(ctx)
		if err != nil {
			return err
		}
		if h.KubeSystemUID == nil {
			return fmt.Errorf("%w: it carries no uid of kube-system, so that the API server's cluster cannot be compared", ErrOtherCluster)
		}
		if err := differ("the uid of kube-system at the API server", *h.KubeSystemUID, uid); err != nil {
			return err
		}
		same = true
	}
	if !same {
		return fmt.Errorf("%w, or it cannot be told: there is nothing to compare", ErrOtherCluster)
	}
	return nil
}

func differ(what, plan, here string) error {
	if plan != here {
		return fmt.Errorf("%w: %s is %s, the plan's is %s", ErrOtherCluster, what, here, plan)
	}
	return nil
}

// sample looks at some objects that were not worked on yet, spread over the plan, and refuses a plan that is stale. What
// is gone is no danger and does not count.
func (x *execution) sample(ctx context.Context) error {
	left := x.plan.End.Objects - int64(x.journal.last+1)
	step := max(1, left/sampleSize)
	var objects []*Object
	i := 0
	for o, err := range x.plan.Objects() {
		if err != nil {
			return err
		}
		if after := int64(i - x.journal.last - 1); after >= 0 && after%step == 0 && len(objects) < sampleSize {
			objects = append(objects, o)
		}
		i++
	}
	there, changed := 0, 0
	for len(objects) > 0 {
		n := batchOf(objects)
		items, err := x.source.read(ctx, x.kind, objects[:n])
		if err != nil {
			return err
		}
		for i, it := range items {
			if it == nil {
				continue
			}
			if there++; it.ModRevision != objects[i].ModRevision {
				changed++
			}
		}
		objects = objects[n:]
	}
	if 2*changed > there {
		return fmt.Errorf("%w: %d of %d that were looked at: make a new plan", ErrMostlyChanged, changed, there)
	}
	return nil
}

// batchOf is how many of the objects are read together.
func batchOf(objects []*Object) int {
	var size int64
	for i, o := range objects {
		if size += o.Bytes; i == batchObjects || (i > 0 && size > batchBytes) {
			return i
		}
	}
	return len(objects)
}

// work runs the pipeline: batches are read, exported and intended, then deleted by the workers.
func (x *execution) work(ctx context.Context) error {
	x.began = x.Now()
	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	items := make(chan item, batchObjects)
	if x.gated() {
		x.pace.hold("the garbage collector's backlog is not read yet")
	}
	g, gctx := errgroup.WithContext(stop)
	x.prepareBatches(gctx, g, items)
	for range x.Workers {
		g.Go(func() error {
			for it := range items {
				if gctx.Err() != nil {
					continue // drain
				}
				if err := x.one(gctx, it); err != nil {
					return err
				}
			}
			return nil
		})
	}
	background, end := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { x.ticker(background) })
	side.Go(func() { x.look(background) })
	side.Go(func() { x.gate(background, cancel) })
	err := g.Wait()
	end()
	side.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case stop.Err() != nil && err == nil:
		err = context.Cause(stop)
	case err == nil:
		return x.journal.finish(x.Now())
	}
	if !x.unsure {
		// What was intended and has no result was not attempted.
		err = errors.Join(err, x.journal.write(entry{Type: "stop"}))
	}
	return errors.Join(err, x.journal.sync())
}

// ticker sets the pace, makes results durable and reports progress.
func (x *execution) ticker(ctx context.Context) {
	t := time.NewTicker(paceTick)
	defer t.Stop()
	last, flushed, synced := x.Now(), x.Now(), x.Now()
	var lately recent
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := x.Now()
		x.pace.tick(now.Sub(last))
		last = now
		if now.Sub(flushed) >= flushTick {
			x.mu.Lock()
			err := x.journal.flush()
			x.mu.Unlock()
			if err == nil && now.Sub(synced) >= syncTick {
				err, synced = x.journal.settle(), now
			}
			if err != nil {
				x.Log.Error("the journal cannot be written: results will be looked at again", "err", err)
			}
			flushed = now
			allowed, why := x.pace.state()
			x.Log.Debug("pace", "allowed", allowed, "why", why)
		}
		x.mu.Lock()
		p := x.progress()
		p.Rate = lately.rate(now, x.deleted)
		x.mu.Unlock()
		if p.Rate > 0 {
			p.ETA = time.Duration(float64(p.Total-p.Done) / p.Rate * float64(time.Second))
		}
		if x.Progress != nil {
			x.Progress(p)
		}
	}
}

var _ Conn = (*cluster.Client)(nil)
