package defrag

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Lock is the right to disturb members.
type Lock interface {
	Revision() int64          // at which it was taken; 0: by a token, since etcd takes no writes
	Context() context.Context // ends when the lock is lost
	Check(ctx context.Context) error
	Release()
}

// Observer is what a run reads.
type Observer interface {
	View(ctx context.Context) (cluster.View, error)
	Probe(ctx context.Context, v cluster.View) []cluster.Refusal
	CheckPause(ctx context.Context) []cluster.Refusal
	InFlight(ctx context.Context, m cluster.Member) (int64, error)
	SampleLeases(ctx context.Context) (cluster.Leases, error)
	CompactRevision(ctx context.Context, m cluster.Member) (int64, bool)
	Quiet(ctx context.Context, d time.Duration) error
}

// Actor is what a run does.
type Actor interface {
	Defragment(ctx context.Context, m cluster.Member) error
	MoveLeader(ctx context.Context, from, to cluster.Member) error
	HashKV(ctx context.Context, m cluster.Member, rev int64) (cluster.Hash, error)
	Compact(ctx context.Context, rev int64) error
	Disarm(ctx context.Context, members []cluster.Member) error
}

// Locker gives the lock of the cluster.
type Locker interface {
	Lock(ctx context.Context, holder string, ttl time.Duration) (Lock, error)
	Held(ctx context.Context, name string) (*cluster.HeldError, error) // nil: nobody has it
	BreakLock(ctx context.Context, name string, quiet func(context.Context) error) error
}

// Relay gives the keepers their turns.
type Relay interface {
	Keepers(ctx context.Context) ([]cluster.Keeper, error)
	OfferTurn(ctx context.Context, t cluster.Turn) (offered cluster.Turn, revoke func(), err error)
	ReadTurn(ctx context.Context) (*cluster.Turn, error)
	WithdrawTurn(ctx context.Context, id string) (*cluster.Turn, error)
	Asker(ctx context.Context, v cluster.View) (Asker, error)
	Own(v cluster.View) []string // this program's connections to the members, ADDRESS:PORT of its end
}

// Asker makes one read through all members in turn, as a client of all endpoints does.
type Asker interface {
	Ask(ctx context.Context) error
	Close()
}

// Cluster is all that a Runner calls.
type Cluster interface {
	Observer
	Actor
	Locker
	Records
	Snapshotter
	Relay
}

// Options of a run. The zero value is an automatic run without a window.
type Options struct {
	Log     *slog.Logger
	Metrics *Metrics // nil: none are kept
	By      string   // who runs, for the report and the lock

	Manual     bool
	DryRun     bool
	AllowSmall bool
	Wait       bool // wait for the lock
	BreakLock  bool // take the lock from its holder once every gauge has read 0 for BreakQuiet
	NoLock     bool // where no lock can be made

	Situation func(v cluster.View) Situation              // what else the decision needs; nil: nothing
	Window    func(now time.Time) bool                    // whether the window is open; nil: always
	Revision  func(before time.Time) (int64, bool)        // the revision that was current then, where known
	Progress  func(m MemberReport, elapsed time.Duration) // called about once a second during a defragmentation
	Abandon   <-chan struct{}                             // closed: a defragmentation under way is not waited for any more; nil: always to its end
}

// Times of a run, which tests shorten.
type timing struct {
	poll       time.Duration // of the gauge
	quietFor   time.Duration // a gauge that has read 0 for so long, in quietReads reads, is done
	quietReads int
	hung       time.Duration // an answer that is this late behind a finished defragmentation does not come any more
	lost       time.Duration // a member that shows no sign of life for so long is lost
	stableStep time.Duration // between two samples of what is in use
	stableMax  time.Duration // the longest wait for it to be stable
	moveSettle time.Duration // after leadership was moved
	breakQuiet time.Duration
	lockRetry  time.Duration
	offer      time.Duration // a keeper that has not taken an offered turn by then is not there
	turnEnd    time.Duration // what a keeper does behind the call takes less: rule removed, port probed
	comeBack   time.Duration // the longest wait for drained clients to come back
	asMany     time.Duration // and for as many connections as before
	told       time.Duration // within it every keeper has looked at clients twice and told the others
	ask        time.Duration // between two reads of the keeper's own client
}

func defaultTiming() timing {
	return timing{
		poll: 250 * time.Millisecond, quietFor: 2 * time.Second, quietReads: 5, hung: 10 * time.Second, lost: 30 * time.Second,
		stableStep: 2 * time.Second, stableMax: 2 * time.Minute, moveSettle: 10 * time.Second,
		breakQuiet: 30 * time.Second, lockRetry: 5 * time.Second,
		offer: 10 * time.Second, turnEnd: 20 * time.Second, comeBack: 30 * time.Second, asMany: 5 * time.Second, told: 8 * time.Second, ask: 50 * time.Millisecond,
	}
}

// Runner carries out rolling defragmentations, one at a time.
type Runner struct {
	c    Cluster
	cfg  Config
	opts Options
	t    timing
	now  func() time.Time
}

// NewRunner checks the configuration; it does nothing yet.
func NewRunner(c Cluster, cfg Config, opts Options) (*Runner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{c: c, cfg: cfg, opts: opts, t: defaultTiming(), now: time.Now}, nil
}

// run is the state of one run.
type run struct {
	*Runner
	plan   Plan
	lock   Lock // nil: without
	start  time.Time
	done   map[cluster.ID]bool
	begun  bool // the lock was had: from here on a failure is a failed run
	hashes hashes

	view    cluster.View     // on which it was last decided
	looked  bool             // the keepers were read
	atStart []cluster.Keeper // what they told then
	beside  bool             // a keeper does this in its turn, without a lock and behind its own fence
}

// errStopped is the end of a run by an order, not by a failure.
type errStopped struct{ reason string }

func (e errStopped) Error() string { return e.reason }

// Run plans a run and carries it out. The report says what was done also where the error is not nil; an error means
// that the run failed, while a refusal, a stop by order or nothing to do are outcomes. Ending ctx stops the run
// before the next member: a defragmentation under way goes on in the server whatever is done here.
func (r *Runner) Run(ctx context.Context) (Report, error) {
	s := &run{Runner: r, start: r.now(), done: map[cluster.ID]bool{}}
	err := s.run(ctx)
	rep := &s.plan.Report
	rep.DryRun, rep.By, rep.Started = r.opts.DryRun, r.opts.By, s.start.UTC()
	rep.Seconds = r.now().Sub(s.start).Seconds()
	if rep.Members == nil {
		rep.Members, rep.Refusals, rep.Notes = []MemberReport{}, []cluster.Refusal{}, []string{}
	}
	s.conclude(ctx, err)
	r.opts.Metrics.observe(*rep)
	var stopped errStopped
	if errors.As(err, &stopped) {
		err = nil
	}
	return *rep, err
}

func (s *run) run(ctx context.Context) error {
	if err := s.decide(ctx); err != nil {
		return err
	}
	if s.opts.DryRun && s.plan.Outcome == Planned {
		return s.lookAtLock(ctx)
	}
	if s.plan.Outcome != Planned {
		return nil
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	s.begun = true
	if s.lock != nil {
		defer s.lock.Release()
	}
	// Another keeper may have acted while this one waited: decide again under the lock.
	if err := s.decide(ctx); err != nil || s.plan.Outcome != Planned {
		return err
	}
	s.wake(ctx, s.view)
	clients := s.ask(ctx)
	defer clients.stop()
	err := s.members(ctx)
	s.plan.tellNotDrained(s.cfg)
	if err != nil && s.plan.DisarmOnly {
		return err // a gate is closed: the alarm stays too
	}
	var stopped errStopped
	if err == nil || errors.As(err, &stopped) {
		if herr := s.hash(ctx); herr != nil {
			if err != nil {
				s.plan.note(stopped.reason)
			}
			err = herr
		}
	}
	// Also after a partial run, and whatever ended it: writing again is what the cluster needs most.
	return s.worse(err, s.disarm(context.WithoutCancel(ctx)))
}

// worse is what ended a run that ended in two ways: a failure before an order to stop. The other one becomes a note.
func (s *run) worse(first, second error) error {
	var stopped errStopped
	switch {
	case first == nil || second == nil:
		return cmp.Or(first, second)
	case errors.As(second, &stopped):
		s.plan.note(stopped.reason)
		return first
	case errors.As(first, &stopped):
		s.plan.note(stopped.reason)
		return second
	}
	return errors.Join(first, second)
}

// lookAtLock tells a dry run what a run would be told.
func (s *run) lookAtLock(ctx context.Context) error {
	held, err := s.c.Held(ctx, cluster.LockRun)
	switch {
	case err != nil:
		return err
	case held == nil || held.TokenOut:
		return nil
	case s.opts.Wait || s.opts.BreakLock:
		s.plan.note(held.Error())
		return nil
	}
	if s.opts.NoLock {
		s.plan.note("a run without the lock would not respect that " + held.Error())
		return nil
	}
	return s.lockRefused(held)
}

// decide makes the plan on a fresh view.
func (s *run) decide(ctx context.Context) error {
	v, err := s.c.View(ctx)
	if err != nil {
		return err
	}
	s.view = v
	h := ReadHistory(ctx, s.c)
	sit := Situation{InWindow: true}
	if s.opts.Situation != nil {
		sit = s.opts.Situation(v)
	}
	sit.Manual, sit.AllowSmall = s.opts.Manual, s.opts.AllowSmall
	if !s.looked {
		s.looked, s.atStart = true, s.keepers(ctx)
	}
	// Under the lock too: by then keepers may see some of the run's own connections, and not yet all.
	sit.Keepers = s.atStart
	if l, err := s.c.SampleLeases(ctx); err == nil {
		sit.Leases = &l
	}
	kept := s.plan.Report
	s.plan = Decide(v, s.cfg, h, sit, s.now())
	s.plan.Compacted, s.plan.Snapshot = kept.Compacted, kept.Snapshot
	if s.plan.Outcome != Planned {
		return nil
	}
	closed := s.c.CheckPause(ctx)
	if len(closed) == 0 {
		closed = s.c.Probe(ctx, v)
	}
	if len(closed) > 0 {
		s.refuse(closed)
	}
	return nil
}

func (s *run) refuse(closed []cluster.Refusal) {
	s.plan.Refusals = append(s.plan.Refusals, closed...)
	s.plan.Outcome, s.plan.Reason = Refused, closed[0].String()
	if n := len(closed) - 1; n > 0 {
		s.plan.Reason += fmt.Sprintf(" (and %d more)", n)
	}
}

// acquire takes the lock for longer than the run can take without renewing it: four times the longest prediction.
func (s *run) acquire(ctx context.Context) error {
	if s.opts.NoLock {
		s.plan.note("no lock was taken, as asked: nothing but the gauges keeps a second keeper away")
		return nil
	}
	ttl := max(cluster.MinLockTTL, time.Duration(4*s.plan.PredictedSeconds*float64(time.Second)))
	if s.opts.BreakLock {
		err := s.c.BreakLock(ctx, cluster.LockRun, func(ctx context.Context) error { return s.c.Quiet(ctx, s.t.breakQuiet) })
		if err != nil {
			return s.lockRefused(err)
		}
	}
	healed := false
	for {
		l, err := s.c.Lock(ctx, s.opts.By, ttl)
		if err == nil {
			s.lock = l
			return nil
		}
		var held *cluster.HeldError
		switch {
		case errors.As(err, &held) && held.TokenOut && !healed:
			// Left over from a run under an alarm that is over.
			healed = true
			if err := s.c.BreakLock(ctx, cluster.LockRun, func(ctx context.Context) error { return s.c.Quiet(ctx, s.t.breakQuiet) }); err != nil {
				return s.lockRefused(err)
			}
			continue
		case held == nil || !s.opts.Wait:
			return s.lockRefused(err)
		}
		s.opts.Log.Info("waiting for the lock", "holder", held.Holder, "secondsLeft", int(held.Left.Seconds()))
		if sleep(ctx, s.t.lockRetry) != nil {
			return s.lockRefused(err)
		}
	}
}

// lockRefused makes a lock that is not to be had a closed gate; other errors stay errors.
func (s *run) lockRefused(err error) error {
	var held *cluster.HeldError
	if errors.As(err, &held) {
		s.refuse([]cluster.Refusal{{Gate: cluster.GateLock, Reason: held.Error() + " (wait with --wait, or take it with --break-lock)"}})
		return errStopped{"refused"}
	}
	if errors.Is(err, cluster.ErrNoTokens) {
		s.refuse([]cluster.Refusal{{Gate: cluster.GateLock, Reason: err.Error() + ": make sure that nobody else defragments, then use --no-lock"}})
		return errStopped{"refused"}
	}
	return err
}

// conclude says how the run ended.
func (s *run) conclude(ctx context.Context, err error) {
	rep := &s.plan.Report
	var stopped errStopped
	switch {
	case err == nil && rep.Outcome == Planned && !s.opts.DryRun:
		rep.Outcome = Done
		rep.Reason = fmt.Sprintf("%d members defragmented, %s given back", len(s.done), human(rep.ReclaimedBytes))
		if s.plan.DisarmOnly {
			rep.Reason = "no member had to be defragmented; the NOSPACE alarm was disarmed"
		}
	case err == nil:
	case errors.As(err, &stopped) && rep.Outcome == Refused:
	case errors.As(err, &stopped) && rep.changed():
		rep.Outcome, rep.Reason = Partial, stopped.reason
	case errors.As(err, &stopped):
		rep.Outcome, rep.Reason = Refused, stopped.reason
	case rep.changed():
		rep.Outcome, rep.Reason, rep.Failure = Partial, err.Error(), true
	default:
		rep.Outcome, rep.Reason, rep.Failure = Failed, err.Error(), s.begun && ctx.Err() == nil
	}
	if s.opts.DryRun || !rep.changed() && !rep.Failure {
		return
	}
	record := *rep
	record.Notes, record.Refusals = nil, nil
	if len(record.Reason) > 500 {
		record.Reason = record.Reason[:500]
	}
	if err := s.c.Append(context.WithoutCancel(ctx), RecordsDir, KeepRecords, record); err != nil {
		rep.note("this run could not be recorded for other keepers: " + err.Error())
		s.opts.Log.Warn("run not recorded", "err", err)
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
