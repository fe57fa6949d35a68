package bulkclean

import (
	"context"
	"fmt"
	"time"
)

// look asks the members for their load.
func (x *execution) look(ctx context.Context) {
	if x.Pressure == nil {
		return
	}
	for sleep(ctx, pressureTick) == nil {
		q, err := x.Pressure(ctx)
		if err != nil {
			x.Log.Debug("the members' load cannot be read", "err", err)
			q = Pressure{}
		}
		x.pace.press(q)
	}
}

// gated tells whether the backlog is looked at.
func (x *execution) gated() bool {
	return x.MaxOrphanPods > 0 && x.Etcd != nil && x.plan.End.Dependents != nil
}

// gate holds the workers while the garbage collector is behind, and ends the run where it makes no headway: then no
// controller manager is at work, and waiting for it is in vain.
func (x *execution) gate(ctx context.Context, end context.CancelCauseFunc) {
	if !x.gated() {
		return
	}
	var least int64
	var since time.Time
	for ; ctx.Err() == nil; _ = sleep(ctx, gateTick) {
		n, err := x.backlog(ctx)
		switch {
		case err != nil: // a gate that cannot be read is closed
			x.pace.hold("the garbage collector's backlog cannot be read: " + err.Error())
			continue
		case n <= x.MaxOrphanPods:
			x.pace.release()
			since = time.Time{}
			continue
		}
		x.pace.hold(fmt.Sprintf("the garbage collector has about %d pods to remove", n))
		now := x.Now()
		if since.IsZero() || n < least {
			least, since = n, now
		}
		if now.Sub(since) > x.Patience {
			end(fmt.Errorf("%w: the garbage collector has about %d pods to remove, and removed none for %s: is a controller manager running? "+
				"--max-orphan-pods 0 does not wait for it", ErrOutage, n, x.Patience))
			return
		}
	}
}

// backlog estimates how many pods wait for the garbage collector: all that are there, but for those that were never of
// this plan and those of objects that are still to be deleted. Pods made since the plan count as waiting, which errs on
// the side of patience.
func (x *execution) backlog(ctx context.Context) (int64, error) {
	var pods int64
	p := planner{matcher: x.matcher}
	for _, prefix := range p.prefixes(podKind) {
		n, err := x.Etcd.Count(ctx, prefix)
		if err != nil {
			return 0, err
		}
		pods += n
	}
	end := x.plan.End
	x.mu.Lock()
	left := float64(end.Objects-x.journal.totals.Deleted) / float64(max(1, end.Objects))
	x.mu.Unlock()
	others := end.Pods - *end.Dependents
	return max(0, pods-others-int64(left*float64(*end.Dependents))), nil
}
