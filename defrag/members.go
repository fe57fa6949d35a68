package defrag

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// maxAgain bounds how often a member is put off because it has become the leader.
const maxAgain = 3

// members takes the members of the plan in turn. The first failure stops it.
func (s *run) members(ctx context.Context) error {
	if s.plan.DisarmOnly {
		_, err := s.open(ctx)
		return err
	}
	if err := s.makeRoom(ctx); err != nil {
		return err
	}
	if s.plan.Outcome != Planned {
		return errStopped{s.plan.Reason}
	}
	if err := s.stable(ctx); err != nil {
		return err
	}
	if err := s.snapshot(ctx); err != nil {
		return err
	}
	left, again := slices.Clone(s.plan.Order), 0
	for len(left) > 0 {
		v, err := s.open(ctx)
		if err != nil {
			return err
		}
		m, err := pick(v, left)
		if err != nil {
			return err
		}
		row := s.plan.member(m.ID)
		if m.Leader && row.Leader == LeaderMoved && len(v.Voters()) > 1 {
			moved, err := s.moveLeader(ctx, v, m)
			if err != nil {
				return err
			}
			if moved {
				continue // leadership is read again, behind every gate
			}
			row.Leader = LeaderInPlace
		}
		if row.Leader != LeaderMoved {
			row.Leader = LeaderNo
			if m.Leader {
				row.Leader = LeaderInPlace
			}
		}
		left = slices.DeleteFunc(left, func(id cluster.ID) bool { return id == m.ID })
		if s.drainNow(ctx, v, m, row); row.Drain {
			s.hashes.fix(v)
		}
		err = s.turn(ctx, m, row)
		switch {
		case errors.Is(err, errLeads) && again < maxAgain:
			again++
			left = append(left, m.ID)
			continue // it comes last, behind every gate
		case errors.Is(err, errLeads):
			return errStopped{fmt.Sprintf("member %s: leadership does not stay where it is: %s", m, err)}
		case err != nil:
			return err
		}
		if len(left) > 0 {
			if sleep(ctx, s.cfg.Settle) != nil {
				return s.stopped(ctx)
			}
		}
	}
	return nil
}

// pick is the next member: in the plan's order, but whoever is the leader now comes last.
func pick(v cluster.View, left []cluster.ID) (cluster.Member, error) {
	var leader *cluster.Member
	for _, id := range left {
		i := slices.IndexFunc(v.Members, func(m cluster.Member) bool { return m.ID == id })
		switch {
		case i < 0:
			return cluster.Member{}, fmt.Errorf("member %s is not in the cluster any more", id)
		case v.Members[i].Learner:
			return cluster.Member{}, fmt.Errorf("member %s has become a learner", v.Members[i])
		case v.Members[i].Leader:
			leader = &v.Members[i]
		default:
			return v.Members[i], nil
		}
	}
	return *leader, nil
}

// open waits until every gate is open, all read anew; a gate that stays closed stops the run. What a person or the
// clock orders is not waited for.
func (s *run) open(ctx context.Context) (cluster.View, error) {
	var closed []cluster.Refusal
	for end := s.now().Add(s.cfg.GateTimeout); ; {
		if ctx.Err() != nil {
			return cluster.View{}, s.stopped(ctx)
		}
		v, refusals, final := s.gates(ctx)
		if len(refusals) == 0 {
			return v, nil
		}
		closed = refusals
		if final || s.now().After(end) {
			break
		}
		s.opts.Log.Info("waiting for a gate", "gate", closed[0].String())
		if sleep(ctx, time.Second) != nil {
			return cluster.View{}, s.stopped(ctx)
		}
	}
	s.plan.Refusals = append(s.plan.Refusals, closed...)
	s.opts.Metrics.refused(closed)
	return cluster.View{}, errStopped{closed[0].String()}
}

// gates reads every gate once. Final: waiting would not open it.
func (s *run) gates(ctx context.Context) (v cluster.View, closed []cluster.Refusal, final bool) {
	if s.opts.Window != nil && !s.opts.Window(s.now()) && s.plan.Trigger == TriggerRule {
		return v, []cluster.Refusal{{Gate: cluster.GateWindow, Reason: "the maintenance window has closed"}}, true
	}
	if s.lock != nil {
		if err := s.lock.Check(ctx); errors.Is(err, cluster.ErrLockLost) {
			return v, []cluster.Refusal{{Gate: cluster.GateLock, Reason: err.Error() + ": look at 'etcdkeeper status' for who else is at work, then run the same command again"}}, true
		} else if err != nil {
			return v, []cluster.Refusal{{Gate: cluster.GateLock, Reason: err.Error()}}, false
		}
	}
	if closed = s.c.CheckPause(ctx); len(closed) > 0 {
		return v, closed, !closed[0].Unread
	}
	if closed = s.turnOut(ctx); len(closed) > 0 {
		return v, closed, false
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return v, []cluster.Refusal{{Gate: cluster.GateReachable, Reason: err.Error()}}, false
	}
	closed = append(closed, cluster.Check(v)...)
	if len(closed) == 0 {
		closed = s.c.Probe(ctx, v)
	}
	if len(closed) == 0 {
		closed = s.fence(ctx, v)
	}
	for _, r := range closed {
		final = final || r.Gate == cluster.GateCorrupt
	}
	return v, closed, final
}

// fence is the last look before a member is disturbed: reading the other gates takes as long as the slowest member,
// and meanwhile the lock may have gone to another keeper, which may have begun.
func (s *run) fence(ctx context.Context, v cluster.View) []cluster.Refusal {
	if s.lock != nil {
		if err := s.lock.Check(ctx); err != nil {
			return []cluster.Refusal{{Gate: cluster.GateLock, Reason: err.Error()}}
		}
	}
	closed := make([][]cluster.Refusal, len(v.Members))
	var wg sync.WaitGroup
	for i, m := range v.Members {
		wg.Go(func() {
			if n, err := s.c.InFlight(ctx, m); err != nil {
				closed[i] = []cluster.Refusal{{Gate: cluster.GateInFlight, Member: m.String(), Reason: err.Error()}}
			} else if n != 0 {
				closed[i] = []cluster.Refusal{{Gate: cluster.GateInFlight, Member: m.String(), Reason: "it is being defragmented"}}
			}
		})
	}
	wg.Wait()
	return slices.Concat(closed...)
}

func (s *run) stopped(ctx context.Context) error {
	why := "interrupted"
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		why = cause.Error()
	}
	left := 0
	for _, id := range s.plan.Order {
		if !s.done[id] {
			left++
		}
	}
	return errStopped{fmt.Sprintf("%s: %d of %d members are left; run the same command again to go on", why, left, len(s.plan.Order))}
}

// maxDrop is by how much what is in use may shrink between two samples before a compaction counts as under way.
func maxDrop(inUse int64) int64 { return max(4<<20, inUse/100) }

// stable waits until no member's use shrinks any more: a defragmentation in the middle of a compaction would leave
// most of the free pages behind.
func (s *run) stable(ctx context.Context) error {
	last, err := s.c.View(ctx)
	if err != nil {
		return err
	}
	for end := s.now().Add(s.t.stableMax); ; {
		if sleep(ctx, s.t.stableStep) != nil {
			return s.stopped(ctx)
		}
		v, err := s.c.View(ctx)
		if err != nil {
			return err
		}
		reason := ""
		for _, m := range v.Members {
			for _, before := range last.Members {
				if drop := before.DBSizeInUse - m.DBSizeInUse; before.ID == m.ID && before.Reachable && m.Reachable && drop > maxDrop(before.DBSizeInUse) {
					reason = fmt.Sprintf("member %s: what is in use fell by %s in %s: a compaction is under way", m, human(drop), s.t.stableStep)
				}
			}
		}
		if reason == "" {
			return nil
		}
		if s.now().After(end) {
			s.plan.Refusals = append(s.plan.Refusals, cluster.Refusal{Gate: cluster.GateStable, Reason: reason})
			return errStopped{cluster.GateStable + ": " + reason}
		}
		s.opts.Log.Info("waiting for a compaction to end", "reason", reason)
		last = v
	}
}

// moveLeader hands leadership to a voter that is caught up, one that was defragmented already if there is one. False:
// nobody can take it, so the leader is defragmented in place.
func (s *run) moveLeader(ctx context.Context, v cluster.View, from cluster.Member) (bool, error) {
	var to *cluster.Member
	for i, m := range v.Members {
		if m.ID == from.ID || !m.Voter() || !m.Reachable {
			continue
		}
		if to == nil || s.done[m.ID] && !s.done[to.ID] || s.done[m.ID] == s.done[to.ID] && m.RaftAppliedIndex > to.RaftAppliedIndex {
			to = &v.Members[i]
		}
	}
	if to == nil {
		return false, nil
	}
	s.opts.Log.Info("moving the leader", "from", from.String(), "to", to.String())
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	s.plan.LeaderMoves++
	if err := s.c.MoveLeader(callCtx, from, *to); err != nil {
		return false, err
	}
	for end := s.now().Add(s.cfg.GateTimeout); ; {
		v, err := s.c.View(callCtx)
		if leader, ok := v.Leader(); err == nil && ok && leader.ID != from.ID {
			break
		}
		if s.now().After(end) || sleep(callCtx, 200*time.Millisecond) != nil {
			return false, fmt.Errorf("leadership has not moved from member %s to %s", from, to)
		}
	}
	if sleep(ctx, max(s.t.moveSettle, s.cfg.Settle)) != nil {
		return false, s.stopped(ctx)
	}
	return true, nil
}
