package vpa

import (
	"math"
	"time"
)

const (
	// maxEvents is how many kills and how many restarts are kept.
	maxEvents = 16
	// sameEvent is how far two sources may differ in the time of one kill: the
	// kubelet stamps the end of the process, a sample sees the new one.
	sameEvent = 2 * time.Minute
)

// OOMEvent is a kill for memory and what drove it.
type OOMEvent struct {
	Time   time.Time `json:"time"`
	Driver Driver    `json:"driver"`
	Bytes  Number    `json:"bytes"` // the memory that was in use at least
}

// RestartEvent is a start of the process and the driver that was highest before
// it. An OOM kill that no source tells apart is one too.
type RestartEvent struct {
	Time   time.Time `json:"time"`
	Driver Driver    `json:"driver"`
	Bytes  Number    `json:"bytes"` // the memory that was in use before, null where it is not known
}

// topBefore is the driver that was highest before the sample.
func (r *Recommender) topBefore(s Sample) Driver {
	if r.before.Drivers.Version != "" || known(r.before.Drivers.Keys) {
		return r.before.Top()
	}
	return s.Top()
}

func (r *Recommender) noteRestart(s Sample) {
	e := RestartEvent{Time: s.Time, Driver: r.topBefore(s), Bytes: Number(math.NaN())}
	if v := r.before.Demand(); known(v) {
		e.Bytes = Number(v)
	}
	r.restarts = append(r.restarts, e)
	if over := len(r.restarts) - maxEvents; over > 0 {
		r.restarts = r.restarts[over:]
	}
}

// NoteKill notes an OOM kill that somebody else saw, such as the kubelet, at the
// limit then in bytes, NaN where it is not known. It says whether that is news:
// a kill before the history, or one that is noted already, is not.
func (r *Recommender) NoteKill(at time.Time, limit float64) bool {
	if r.first.IsZero() || at.Before(r.first) || !r.oomAt.IsZero() && at.Before(r.oomAt.Add(sameEvent)) {
		return false
	}
	s := NewSample(at)
	s.OOM, s.Limit = true, limit
	if at.Before(r.last) {
		s.Time = r.last // samples come in time order
	}
	r.Observe(s)
	e := &r.events[len(r.events)-1]
	e.Time, r.oomAt = at, at
	for _, restart := range r.restarts {
		// By now the drivers are those of the new process.
		if d := restart.Time.Sub(at); d > -sameEvent && d < sameEvent {
			e.Driver = restart.Driver
		}
	}
	return true
}

// noteOOM blames the driver that was highest before the kill, and returns what
// was in use then, 0 where that is not known.
func (r *Recommender) noteOOM(s Sample) float64 {
	// After the kill the new process is small: what was in use is the limit, else
	// the highest use that was seen.
	used := s.Limit
	if !known(used) {
		used = r.peaks.level()
		if v := s.Demand(); known(v) {
			used = max(used, v)
		}
	}
	r.events = append(r.events, OOMEvent{s.Time, r.topBefore(s), Number(used)})
	if over := len(r.events) - maxEvents; over > 0 {
		r.events = r.events[over:]
	}
	r.ooms = min(r.ooms+1, 2)
	r.oomFloor = max(r.oomFloor, used*(1+(r.cfg.Policy.OOMFactor-1)*float64(r.ooms)), used+float64(r.cfg.Policy.OOMAdd))
	r.oomAt, r.oomCut = s.Time, used
	return used
}

// endOOM lets the jump after a kill go: soon when the demand that was cut off
// was seen, else as late as a peak fades, since nobody knows what it was.
func (r *Recommender) endOOM(t time.Time, v float64) {
	if v >= r.oomCut {
		r.oomCut = 0
	}
	hold := r.cfg.Policy.OOMHold
	if r.oomCut > 0 {
		hold = max(hold, r.cfg.Policy.PeakHold)
	}
	if r.oomFloor > 0 && t.Sub(r.oomAt) > hold {
		r.oomFloor, r.oomCut, r.ooms = 0, 0, 0
	}
}
