package defrag

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// slowHash is how many times slower than measured a hash under a drain may be before its keeper counts as lost.
const slowHash = 10

// turn takes one member's turn: it is defragmented and waited for until it serves again. Every gate was open a moment
// ago. An error stops the run; the row says what became of the member in every case.
func (s *run) turn(ctx context.Context, m cluster.Member, row *MemberReport) error {
	log := s.opts.Log.With("member", m.String())
	size, inUse := m.DBSize, m.DBSizeInUse
	row.BeforeBytes, row.InUseBytes, row.Endpoint = &size, &inUse, m.Endpoint
	log.Info("defragmenting", "sizeBytes", size, "inUseBytes", inUse, "predictedSeconds", *row.PredictedSeconds, "leader", row.Leader)
	keepers := s.keepers(ctx)
	start := s.now()
	res := s.defragment(ctx, m, row, start)
	if res.notBegun {
		return res.err
	}
	clients := notes(keepers)[m.ID].Clients
	if did := res.did; did != nil {
		row.DrainedSeconds = did.DrainedSeconds
		if did.DrainedSeconds != nil {
			row.ConnectionsMoved = &did.Moved
		}
		if did.NotDrained != "" {
			row.Drain, row.DrainReason = false, did.NotDrained
			row.Reason += "; not drained: " + did.NotDrained
		}
		for _, n := range did.Notes {
			row.Reason += "; " + n
		}
		if did.Seconds > 0 && res.err == nil {
			res.ended = start.Add(time.Duration(did.Seconds * float64(time.Second)))
		}
	}
	if res.ended.IsZero() {
		res.ended = s.now()
	}
	took := res.ended.Sub(start).Seconds()
	if row.Seconds = &took; res.untimed {
		row.Seconds = nil
	}
	row.Done = true // from here on something was, or may have been, changed
	s.done[m.ID] = true
	if res.left {
		row.Seconds = nil
		return s.goesOn(m)
	}
	after, err := s.recovered(ctx, m)
	if err != nil {
		row.Reason += "; " + err.Error()
		var stopped errStopped
		if errors.As(err, &stopped) {
			return err
		}
		return errors.Join(res.err, err)
	}
	now := after.DBSize
	row.AfterBytes = &now
	s.plan.ReclaimedBytes += size - now
	if res.err != nil {
		// The answer was lost; the file tells whether the server did it.
		if !shrunk(size, now, inUse) {
			row.Seconds = nil // no defragmentation that anything can be learnt from
			row.Reason += "; the call failed and the file did not shrink"
			return fmt.Errorf("member %s: %w, and its file did not shrink: look at its log and that of its keeper, then run the same command again", m, res.err)
		}
		row.Reason += "; the answer was lost, the file shrank: done"
		log.Warn("the answer was lost, the file shrank", "err", res.err)
	}
	log.Info("defragmented", "afterBytes", now, "seconds", took)
	if res.did != nil && res.did.Shut != "" {
		row.Reason += "; " + res.did.Shut
		return fmt.Errorf("member %s: %s", m, res.did.Shut)
	}
	if row.DrainedSeconds != nil {
		row.ConnectionsBack = s.cameBack(ctx, m, clients)
	}
	if after.RaftTerm != m.RaftTerm && m.RaftTerm != 0 {
		row.Reason += "; an election happened meanwhile"
		return fmt.Errorf("member %s: the raft term went from %d to %d during its defragmentation: an election happened", m, m.RaftTerm, after.RaftTerm)
	}
	return s.hear(m, res.did)
}

// shrunk tells whether a file of that size, now of another, was defragmented: it lost half of what was free, or there
// was nothing to lose.
func shrunk(before, after, inUse int64) bool {
	free := before - inUse
	return before-after >= free/2 && (free > 0 && after < before || free <= before/20)
}

func (s *run) goesOn(m cluster.Member) error {
	return errStopped{fmt.Sprintf("interrupted: the defragmentation of member %s goes on in the server; etcd does not answer through it until it ends ('etcdkeeper status' shows it); run the same command again afterwards", m)}
}

type result struct {
	err      error
	notBegun bool // the server did not begin
	left     bool // the server works on, and nobody waits for it any more

	untimed bool // neither an answer nor the gauge told how long it took

	ended time.Time   // when the gauge went to 0 for good, where there was no answer to tell
	did   *turnResult // what the keeper beside the member tells; nil: it was done from here, or it told nothing
}

// defragment has the member defragmented once, by the keeper beside it or from here, and waits: for the answer, or for
// the signs that no answer comes any more. The in-flight gauge, which etcd serves also meanwhile, is the one that is
// believed.
func (s *run) defragment(ctx context.Context, m cluster.Member, row *MemberReport, start time.Time) result {
	// The server does not stop when the caller does, so neither the end of ctx nor a lost lock ends the call.
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	type answered struct {
		did *turnResult
		err error
	}
	answer := make(chan answered, 1)
	order := s.order(m, row)
	var given atomic.Bool
	go func() {
		did, err := s.call(call, m, order, &given)
		answer <- answered{did, err}
	}()

	tick := time.NewTicker(s.t.poll)
	defer tick.Stop()
	gauge := &follower{need: s.t.quietReads, span: s.t.quietFor}
	stop := ctx.Done()
	lastReport := start
	for {
		select {
		case a := <-answer:
			if a.err == nil {
				return result{did: a.did}
			}
			if notBegun(a.err) {
				return result{err: a.err, notBegun: true}
			}
			s.opts.Log.Warn("the call failed, following the gauge", "member", m.String(), "err", a.err)
			res := s.follow(ctx, m, a.err)
			res.did, res.untimed = a.did, res.untimed && !gauge.seen
			return res
		case <-stop:
			stop = nil
			s.opts.Log.Warn("asked to stop: waiting for the member to end its defragmentation, which goes on in the server in any case", "member", m.String())
		case <-s.opts.Abandon:
			return result{left: true}
		case <-tick.C:
		}
		n, err := s.c.InFlight(call, m)
		gauge.read(s.now(), n, err)
		if now := s.now(); s.opts.Progress != nil && now.Sub(lastReport) >= time.Second {
			lastReport = now
			s.opts.Progress(*row, now.Sub(start))
		}
		late := s.t.hung
		if given.Load() {
			late += s.t.turnEnd
			if order.Revision > 0 {
				late += time.Duration(slowHash * hashSeconds(m) * float64(time.Second))
			}
		}
		if gauge.seen && gauge.quietSince(s.now()) > late {
			// It ran and has ended, the member answers, and the answer did not come.
			cancel()
			res := s.follow(ctx, m, errors.New("the connection lost the answer"))
			res.ended = gauge.since
			return res
		}
	}
}

// notBegun tells errors with which etcd turned the call away before it began.
func notBegun(err error) bool {
	for _, e := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthFailed,
		rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCNotSupportedForLearner, rpctypes.ErrTooManyRequests} {
		var have rpctypes.EtcdError
		if errors.As(err, &have) && have.Error() == rpctypes.ErrorDesc(e) {
			return true
		}
	}
	var stopped errStopped
	return errors.Is(err, cluster.ErrNotSent) || errors.Is(err, errLeads) || errors.As(err, &stopped)
}

// follower remembers what a gauge has read.
type follower struct {
	need  int
	span  time.Duration
	seen  bool // it has read more than 0
	zeros int
	since time.Time // of the first zero in a row
	alive time.Time // when it was last read
}

func (f *follower) read(now time.Time, n int64, err error) {
	switch {
	case err != nil:
		f.zeros = 0
		return
	case n > 0:
		f.seen, f.zeros = true, 0
	default:
		if f.zeros == 0 {
			f.since = now
		}
		f.zeros++
	}
	f.alive = now
}

func (f *follower) quietSince(now time.Time) time.Duration {
	if f.zeros == 0 {
		return 0
	}
	return now.Sub(f.since)
}

// done tells whether it has read 0 often and long enough: between two queued calls it dips to 0.
func (f *follower) done(now time.Time) bool {
	return f.zeros >= f.need && f.quietSince(now) >= f.span
}

// follow waits, after a call that failed, until the member is not in defragmentation and answers. It never calls
// again: a second call queues a second defragmentation.
func (s *run) follow(ctx context.Context, m cluster.Member, cause error) result {
	work := context.WithoutCancel(ctx)
	f := &follower{need: s.t.quietReads, span: s.t.quietFor, alive: s.now()}
	for {
		n, err := s.c.InFlight(work, m)
		f.read(s.now(), n, err)
		// Where it is done and yet does not answer for long, the wait for its recovery says what is wrong.
		if f.done(s.now()) && (s.answers(work, m) || f.quietSince(s.now()) > s.t.lost) {
			return result{err: cause, ended: f.since, untimed: !f.seen}
		}
		if silent := s.now().Sub(f.alive); silent > s.t.lost {
			return result{err: fmt.Errorf("member %s shows no sign of life for %s (%w): %w", m, silent.Round(time.Second), err, cause)}
		}
		select {
		case <-time.After(s.t.poll):
		case <-s.opts.Abandon:
			return result{left: true}
		}
	}
}

// answers tells whether the member answers Status.
func (s *run) answers(ctx context.Context, m cluster.Member) bool {
	v, err := s.c.View(ctx)
	if err != nil {
		return false
	}
	for _, x := range v.Members {
		if x.ID == m.ID {
			return x.Reachable
		}
	}
	return false
}

// recovered waits until the member serves as before: it answers, its gauge is 0, it has caught up. The member as it
// then is is returned.
func (s *run) recovered(ctx context.Context, m cluster.Member) (cluster.Member, error) {
	work := context.WithoutCancel(ctx)
	last := "it does not answer"
	for end := s.now().Add(s.cfg.GateTimeout); ; {
		v, err := s.c.View(work)
		if err != nil {
			last = err.Error()
		}
		for _, x := range v.Members {
			if x.ID != m.ID {
				continue
			}
			switch {
			case !x.Reachable:
				last = "it does not answer: " + x.Error
			case x.DefragInFlight == nil:
				last = x.GaugeError
			case *x.DefragInFlight != 0:
				last = "it is being defragmented again"
			default:
				closed := s.c.Probe(work, v)
				if len(closed) == 0 {
					return x, nil
				}
				last = closed[0].String()
			}
		}
		if s.now().After(end) {
			return cluster.Member{}, fmt.Errorf("member %s did not recover within %s of its defragmentation: %s", m, s.cfg.GateTimeout, last)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-s.opts.Abandon:
			return cluster.Member{}, errStopped{fmt.Sprintf("interrupted while member %s recovered from its defragmentation: %s; see 'etcdkeeper status', then run the same command again", m, last)}
		}
	}
}
