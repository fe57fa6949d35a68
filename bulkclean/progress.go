package bulkclean

import "time"

// recent is what was deleted at the ticks of the last seconds.
type recent []struct {
	at      time.Time
	deleted int64
}

// rateWindow is long enough for a steady figure and short enough to follow the pace.
const rateWindow = 100 // ticks

// rate is the deletions a second since the window's beginning.
func (r *recent) rate(now time.Time, deleted int64) float64 {
	*r = append(*r, struct {
		at      time.Time
		deleted int64
	}{now, deleted})
	if len(*r) > rateWindow {
		*r = (*r)[1:]
	}
	first := (*r)[0]
	if s := now.Sub(first.at).Seconds(); s > 0 {
		return float64(deleted-first.deleted) / s
	}
	return 0
}

func (x *execution) progress() Progress {
	t := &x.journal.totals
	p := Progress{Done: t.Count(), Total: x.plan.End.Objects, Deleted: t.Deleted}
	_, p.Waiting = x.pace.state()
	if d := x.plan.End.Dependents; d != nil {
		p.PodsETA = time.Duration(float64(*d) / CollectorRate * float64(time.Second))
	}
	return p
}

// result is what the journal says, with this run's speed.
func (x *execution) result(resumed bool) Result {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.journal.totals
	r := Result{Deleted: t.Deleted, Kept: t.Kept, Changed: t.Changed, Failed: t.Failed, Bytes: t.Bytes, Left: x.plan.End.Objects - t.Count(),
		Reasons: map[string]int64{}, Finished: x.journal.over, Resumed: resumed, Via: x.Via, Journal: x.journal.path, Export: x.journal.export}
	for k, v := range t.Reasons {
		r.Reasons[k] = v
	}
	if x.export != nil {
		r.Export = x.export.path
	}
	if !x.began.IsZero() {
		r.Seconds = x.Now().Sub(x.began).Seconds()
	}
	if r.Seconds > 0 {
		r.PerSecond = float64(x.deleted) / r.Seconds
	}
	if d := x.plan.End.Dependents; d != nil && x.plan.End.Objects > 0 {
		eta := float64(*d) * float64(r.Deleted) / float64(x.plan.End.Objects) / CollectorRate
		r.DependentsETASeconds = &eta
	}
	return r
}
