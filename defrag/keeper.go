package defrag

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

const (
	// TickInterval is how often a keeper looks who coordinates.
	TickInterval = 15 * time.Second
	// stopGrace is how long a stopping daemon waits for a member's defragmentation; it goes on in the server anyway.
	// The daemon itself is given 25 s.
	stopGrace = 20 * time.Second
	// keepRevisions bounds how far back the keeper knows which revision was current.
	keepRevisions = 30 * time.Minute
)

// KeeperOptions of a Keeper.
type KeeperOptions struct {
	Log      *slog.Logger
	Metrics  *Metrics
	Forecast func(id cluster.ID) (seconds float64, ok bool) // until the member's quota is reached; nil: never known

	// Tell has the other keepers told of the clients of the member beside this one. Nil: they are not told.
	Tell func(ctx context.Context, note *cluster.DrainNote) error
}

// Keeper is the daemon's part in rolling defragmentations: it knows whether it coordinates, takes turns, and starts runs.
// That it is there is announced by the daemon. Its methods may be called concurrently; at most one run is going on.
type Keeper struct {
	c       *cluster.Client
	cfg     Config
	o       KeeperOptions
	windows schedule.Windows
	host    string

	run sync.Mutex // held during a run

	beside beside

	mu        sync.Mutex
	coord     Coordination
	nobody    time.Time // since when nobody coordinates
	alarm     bool      // NOSPACE was seen in the last tick
	revisions []revisionAt
	last      *Report
}

type revisionAt struct {
	at       time.Time
	revision int64
}

// Coordination is who starts runs, as this keeper sees it.
type Coordination struct {
	Coordinating bool             `json:"coordinating"`
	Reason       string           `json:"reason"`
	Member       string           `json:"member"` // beside this keeper; "": it looks after the whole cluster
	Keepers      []cluster.Keeper `json:"keepers"`
	Paused       *cluster.Pause   `json:"paused"`
}

// NewKeeper checks the configuration; it does nothing yet.
func NewKeeper(c *cluster.Client, cfg Config, o KeeperOptions) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	windows, err := schedule.NewWindows(cfg.Windows)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return &Keeper{c: c, cfg: cfg, o: o, windows: windows, host: host,
		coord: Coordination{Reason: "not looked yet", Keepers: []cluster.Keeper{}}}, nil
}

// Tick tells of the member's clients, puts tokens down, and looks who coordinates. Emergency: a NOSPACE alarm was raised since
// the last tick and this keeper coordinates, so that a run is due at once.
func (k *Keeper) Tick(ctx context.Context) (emergency bool, err error) {
	v, err := k.c.View(ctx)
	if err != nil {
		k.decide(v, nil, nil, err)
		return false, err
	}
	k.remember(v)
	raised := len(nospaceMembers(v)) > 0
	before, kerr := k.c.Keepers(ctx)
	if k.cfg.Drain != DrainNever && kerr == nil {
		m, ok := v.Beside(k.c.Config())
		k.beside.meet(v, m, ok)
		k.beside.look(before, time.Now())
		if note := k.beside.told(); note != nil && k.o.Metrics != nil {
			k.o.Metrics.canDrain.Set(bit(note.Able))
		}
	}
	k.tell(ctx)
	if !raised {
		if err := k.c.EnsureTokens(ctx); err != nil {
			k.o.Log.Debug("tokens not put down", "err", err)
		}
	}
	keepers, kerr := k.c.Keepers(ctx)
	pause, perr := k.c.ReadPause(ctx)
	if kerr == nil {
		kerr = perr
	}
	k.decide(v, keepers, pause, kerr)
	h := ReadHistory(ctx, k.c)
	if k.o.Metrics != nil && h.Problem == "" {
		n, last := h.Failures()
		k.o.Metrics.degraded.Set(bit(n >= DegradedAfter && time.Since(last) < k.cfg.DegradedBackoff))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	emergency = raised && !k.alarm && k.coord.Coordinating && k.cfg.EmergencyOnAlarm
	k.alarm = raised
	return emergency, kerr
}

// tell has the other keepers told of the clients of the member beside. Under NOSPACE they cannot be.
func (k *Keeper) tell(ctx context.Context) {
	note := k.beside.told()
	if note == nil || k.o.Tell == nil {
		return
	}
	if err := k.o.Tell(ctx, note); err != nil {
		k.o.Log.Debug("clients not told", "err", err)
	}
}

// decide says who coordinates. This keeper always counts, announced or not: the lock decides between two that believe.
func (k *Keeper) decide(v cluster.View, keepers []cluster.Keeper, pause *cluster.Pause, problem error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := Coordination{Keepers: keepers, Paused: pause}
	if c.Keepers == nil {
		c.Keepers = []cluster.Keeper{}
	}
	leader, ok := v.Leader()
	self, beside := v.Beside(k.c.Config())
	if beside {
		c.Member = self.String()
		keepers = append([]cluster.Keeper{{Member: self.ID}}, keepers...)
	}
	coordinator := cluster.Coordinator(leader.ID, keepers)
	switch {
	case problem != nil:
		c.Reason = problem.Error()
	case !ok:
		c.Reason = "the members do not agree on a leader, or there is none"
	case !beside && k.c.Config().Member != "":
		c.Reason = fmt.Sprintf("member %s, beside which this keeper should be, is not in the cluster", k.c.Config().Member)
	case coordinator == 0:
		c.Coordinating, c.Reason = true, "no keeper is beside a member: this one looks after the whole cluster"
	case beside && coordinator == self.ID && self.ID == leader.ID:
		c.Coordinating, c.Reason = true, "it is beside the leader"
	case beside && coordinator == self.ID:
		c.Coordinating, c.Reason = true, "no keeper is beside the leader, and this one is beside the member with the lowest id that has one"
	default:
		c.Reason = fmt.Sprintf("the keeper beside member %s coordinates", nameOf(v, coordinator))
	}
	if c.Coordinating != k.coord.Coordinating {
		k.o.Log.Info("coordination changed", "coordinating", c.Coordinating, "reason", c.Reason)
	}
	k.coord = c
	nobody := problem != nil || !ok || !c.Coordinating && coordinator == 0
	switch {
	case !nobody:
		k.nobody = time.Time{}
	case k.nobody.IsZero():
		k.nobody = time.Now()
	}
	if m := k.o.Metrics; m != nil {
		m.coordinating.Set(bit(c.Coordinating))
		if !c.Coordinating {
			m.reclaimable.Set(0) // what this keeper evaluated last is the business of another one now
		}
		m.paused.Set(bit(pause != nil))
		m.uncoordinated.Set(0)
		if nobody {
			m.uncoordinated.Set(time.Since(k.nobody).Seconds())
		}
	}
}

func nameOf(v cluster.View, id cluster.ID) string {
	for _, m := range v.Members {
		if m.ID == id {
			return m.String()
		}
	}
	return id.String()
}

func (k *Keeper) remember(v cluster.View) {
	var rev int64
	for _, m := range v.Members {
		rev = max(rev, m.Revision)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revisions = append(k.revisions, revisionAt{time.Now(), rev})
	for len(k.revisions) > 1 && time.Since(k.revisions[0].at) > keepRevisions {
		k.revisions = k.revisions[1:]
	}
}

// revision is what was current then; false where that was before this keeper looked.
func (k *Keeper) revision(then time.Time) (int64, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rev, ok := int64(0), false
	for _, r := range k.revisions {
		if r.at.After(then) {
			break
		}
		rev, ok = r.revision, true
	}
	return rev, ok
}

// Coordination is what the last tick found.
func (k *Keeper) Coordination() Coordination {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.coord
}

// Last is the report of the last run that this keeper started, nil before the first.
func (k *Keeper) Last() *Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// Run evaluates the rule and defragments where it is due, if this keeper coordinates; otherwise the report's outcome
// is Refused with the reason. A stopping daemon, whose ctx ends, does not wait for a member for longer than 20 s.
func (k *Keeper) Run(ctx context.Context) (Report, error) {
	if !k.run.TryLock() {
		return Report{Outcome: Refused, Reason: "a run of this keeper is going on"}, nil
	}
	defer k.run.Unlock()
	if c := k.Coordination(); !c.Coordinating {
		return Report{Outcome: Refused, Reason: c.Reason}, nil
	}
	abandon, stop := k.abandon(ctx)
	defer stop()
	r, err := NewRunner(Client{k.c}, k.cfg, Options{
		Log: k.o.Log, Metrics: k.o.Metrics, By: fmt.Sprintf("etcdkeeper run on %s (pid %d)", k.host, os.Getpid()),
		Abandon: abandon, Window: k.windows.Contains, Revision: k.revision, Situation: k.situation,
	})
	if err != nil {
		return Report{}, err
	}
	rep, err := r.Run(ctx)
	k.mu.Lock()
	k.last = &rep
	k.mu.Unlock()
	return rep, err
}

// abandon is closed stopGrace after ctx ended; stop is to be called when nobody waits for it any more.
func (k *Keeper) abandon(ctx context.Context) (abandon <-chan struct{}, stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	after := context.AfterFunc(ctx, func() {
		grace := time.NewTimer(stopGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			close(over)
		case <-ended:
		}
	})
	return over, func() {
		after()
		close(ended)
	}
}

func (k *Keeper) situation(v cluster.View) Situation {
	now := time.Now()
	s := Situation{InWindow: k.windows.Contains(now), NextWindow: k.windows.NextOpen(now), Forecast: map[cluster.ID]float64{}}
	for _, m := range v.Members {
		if k.o.Forecast == nil {
			break
		}
		if t, ok := k.o.Forecast(m.ID); ok {
			s.Forecast[m.ID] = t
		}
	}
	s.DiskFree = MemberDisk(k.c.Config(), v)
	return s
}
