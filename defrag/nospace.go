package defrag

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const (
	// fillAfter is how much larger than what is in use a fresh file is at most (measured: 3 to 8 %).
	fillAfter = 1.08
	// marginShare and marginMax are the history that a compaction keeps where it is not known how old revisions are:
	// under NOSPACE nothing is put, so watchers that keep up need none of it.
	marginShare = 10
	marginMax   = 1000
)

func nospaceMembers(v cluster.View) []cluster.Member {
	var out []cluster.Member
	for _, m := range v.Members {
		if slices.Contains(m.Alarms, "NOSPACE") {
			out = append(out, m)
		}
	}
	return out
}

// tight tells whether a member would stay too close to its quota though it were defragmented.
func tight(v cluster.View) bool {
	return slices.ContainsFunc(v.Members, func(m cluster.Member) bool {
		return m.Reachable && m.Quota != nil && float64(m.DBSizeInUse)*fillAfter >= DisarmBelow*float64(*m.Quota)
	})
}

// alarmStays tells why the NOSPACE alarm must not be disarmed; "" where it may: every member is well below its own
// quota then. Before that the next put would raise it again, since etcd compares the size of the file.
func alarmStays(v cluster.View) string {
	for _, m := range v.Members {
		why := ""
		switch {
		case !m.Started:
		case !m.Reachable:
			why = "it does not answer"
		case m.Quota == nil:
			why = "its quota is not known (give --quota-backend-bytes)"
		case float64(m.DBSize) >= DisarmBelow*float64(*m.Quota):
			why = fmt.Sprintf("its file has %s of a quota of %s", human(m.DBSize), human(*m.Quota))
		}
		if why != "" {
			return fmt.Sprintf("member %s: %s; every member has to be below %.0f%% (find what fills it with 'etcdkeeper census', delete or raise --quota-backend-bytes)", m, why, 100*DisarmBelow)
		}
	}
	return ""
}

// makeRoom compacts where the alarm is raised and defragmenting alone would leave a member too close to its quota.
// The API server's compactor cannot do it then, since it writes before it compacts. The plan is made anew afterwards.
func (s *run) makeRoom(ctx context.Context) error {
	v, err := s.c.View(ctx)
	if err != nil {
		return err
	}
	if len(nospaceMembers(v)) == 0 {
		return nil
	}
	if !s.cfg.CompactOnNoSpace || !tight(v) {
		return nil
	}
	rev, why, ok := s.compactTo(ctx, v)
	if !ok {
		s.plan.note("there is no history left to compact: delete data ('etcdkeeper census' shows what fills it) or raise the quota")
		return nil
	}
	// The gates hold for this too, above all the lock and the pause.
	if _, err := s.open(ctx); err != nil {
		return err
	}
	s.opts.Log.Info("compacting", "revision", rev, "why", why)
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	defer cancel()
	if err := s.c.Compact(call, rev); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	s.plan.Compacted = &rev
	s.plan.note(fmt.Sprintf("compacted to revision %d (%s)", rev, why))
	if err := s.stable(ctx); err != nil {
		return err
	}
	// Sizes have changed: so may the order and the predictions. What was decided about each member stays.
	v, err = s.c.View(ctx)
	if err != nil {
		return err
	}
	for _, m := range v.Members {
		if row := s.plan.member(m.ID); row != nil && m.Reachable {
			size, inUse, free := m.DBSize, m.DBSizeInUse, m.Free()
			row.BeforeBytes, row.InUseBytes, row.ReclaimableBytes = &size, &inUse, &free
		}
	}
	return nil
}

// compactTo is the revision to compact to: what was current compactMargin ago, where that is known, else a margin of
// revisions behind the head.
func (s *run) compactTo(ctx context.Context, v cluster.View) (rev int64, why string, ok bool) {
	var head, compacted int64
	for _, m := range v.Members {
		if !m.Reachable {
			continue
		}
		head = max(head, m.Revision)
		if r, ok := s.c.CompactRevision(ctx, m); ok {
			compacted = max(compacted, r)
		}
	}
	if s.opts.Revision != nil {
		if r, known := s.opts.Revision(s.now().Add(-s.cfg.CompactMargin)); known && r > compacted {
			return r, fmt.Sprintf("what was current %s ago", s.cfg.CompactMargin), r > 0
		}
	}
	margin := min(int64(marginMax), (head-compacted)/marginShare)
	return head - margin, fmt.Sprintf("%d revisions behind the head", margin), head-margin > compacted
}

// disarm takes the NOSPACE alarm away where nothing speaks against it.
func (s *run) disarm(ctx context.Context) error {
	if len(s.done) == 0 && s.plan.Compacted == nil && !(s.plan.DisarmOnly && s.plan.Outcome == Planned) {
		return nil
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return fmt.Errorf("disarm the NOSPACE alarm: %w", err)
	}
	raised := nospaceMembers(v)
	if len(raised) == 0 {
		return nil
	}
	if why := alarmStays(v); why != "" {
		return errStopped{"the NOSPACE alarm stays: " + why}
	}
	if s.lock != nil {
		if err := s.lock.Check(ctx); err != nil {
			return fmt.Errorf("disarm the NOSPACE alarm: %w", err)
		}
	}
	if err := s.c.Disarm(ctx, raised); err != nil {
		return err
	}
	s.plan.Disarmed = true
	s.plan.note("the NOSPACE alarm was disarmed: etcd takes writes again")
	s.opts.Log.Info("disarmed the NOSPACE alarm")
	return nil
}
