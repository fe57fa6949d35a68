package vpa

import (
	"fmt"
	"math"
	"time"
)

// The Vertical Pod Autoscaler's constants that its checkpoints imply.
const (
	cpuSampleWeight    = 0.1
	memoryWindow       = 24 * time.Hour
	surpriseRatio      = 1.05 // a demand this far above everything seen is a surprise
	warmHistory        = 24 * time.Hour
	maxSurprisesInHand = 16
)

// Recommender turns samples into a recommendation. It holds weeks of history in
// a few tens of kilobytes. It is not safe for concurrent use.
type Recommender struct {
	cfg       Config
	cpu       *Histogram
	memory    *Histogram
	peaks     peaks
	seen      int   // windows observed in all
	surprises []int // of these, the ones that brought a surprise

	window windowPeak // of the VPA-compatible memory histogram

	oomFloor float64
	oomAt    time.Time
	ooms     int // kills within the hold, 2 for more
	band     band

	first, last time.Time
	samples     int
}

// windowPeak is the highest demand of the 24 h window in hand, already counted
// in the histogram at the window's end.
type windowPeak struct {
	End  time.Time `json:"end"`
	Peak float64   `json:"peak"`
}

// NewRecommender returns a Recommender without history.
func NewRecommender(cfg Config) (*Recommender, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("vpa config: %w", err)
	}
	cpu, err := NewCPUHistogram(cfg.CPUHalfLife)
	if err != nil {
		return nil, err
	}
	memory, err := NewMemoryHistogram(cfg.MemoryHalfLife)
	if err != nil {
		return nil, err
	}
	return &Recommender{cfg: cfg, cpu: cpu, memory: memory, peaks: peaks{keep: int(cfg.Policy.History / peakWindow)}}, nil
}

// Observe takes one sample. Samples come in time order; numbers that are not
// known are left out, and a sample in which nothing is known changes nothing.
func (r *Recommender) Observe(s Sample) {
	if s.Time.IsZero() {
		return
	}
	if known(s.CPU) {
		r.cpu.Add(s.CPU, cpuSampleWeight, s.Time)
	}
	if v := s.Demand(); known(v) {
		r.observeDemand(s.Time, v, s.OOM)
	} else if s.OOM && known(s.Limit) {
		r.observeDemand(s.Time, s.Limit, true)
	} else if !known(s.CPU) {
		return
	}
	if r.first.IsZero() {
		r.first = s.Time
	}
	r.last = s.Time
	r.samples++
}

func (r *Recommender) observeDemand(t time.Time, v float64, oom bool) {
	level, before := r.peaks.level(), len(r.peaks.windows)
	warm := r.peaks.observed() >= warmHistory
	start := time.Time{}
	if before > 0 {
		start = r.peaks.windows[before-1].Start
	}
	r.peaks.add(t, v, r.cfg.Policy)
	if n := len(r.peaks.windows); before == 0 || r.peaks.windows[n-1].Start != start {
		r.seen++
	}
	if (warm && v > level*surpriseRatio) || oom {
		r.surprise()
	}
	if oom {
		r.ooms = min(r.ooms+1, 2)
		r.oomFloor = max(r.oomFloor, v*(1+(r.cfg.Policy.OOMFactor-1)*float64(r.ooms)), v+r.cfg.Policy.OOMAdd)
		r.oomAt = t
	} else if r.oomFloor > 0 && t.Sub(r.oomAt) > r.cfg.Policy.OOMHold {
		r.oomFloor, r.ooms = 0, 0
	}
	r.countWindowPeak(t, v)
}

// surprise notes one, once a window, and forgets those older than the history.
func (r *Recommender) surprise() {
	for len(r.surprises) > 0 && (r.seen-r.surprises[0] > r.peaks.keep || len(r.surprises) >= maxSurprisesInHand) {
		r.surprises = r.surprises[1:]
	}
	if n := len(r.surprises); n == 0 || r.surprises[n-1] != r.seen {
		r.surprises = append(r.surprises, r.seen)
	}
}

func (r *Recommender) recentSurprises() int {
	n := 0
	for _, at := range r.surprises {
		if r.seen-at <= r.peaks.keep {
			n++
		}
	}
	return n
}

// countWindowPeak keeps the histogram as the Vertical Pod Autoscaler would: one
// peak a day, stamped with the end of its window.
func (r *Recommender) countWindowPeak(t time.Time, v float64) {
	w := &r.window
	if w.End.IsZero() || !t.Before(w.End) || t.Before(w.End.Add(-2*memoryWindow)) {
		end := t.Add(memoryWindow)
		if !w.End.IsZero() && t.After(w.End) {
			end = w.End.Add((t.Sub(w.End)/memoryWindow + 1) * memoryWindow)
		}
		*w = windowPeak{End: end, Peak: v}
		r.memory.Add(v, 1, w.End)
		return
	}
	if v > w.Peak {
		r.memory.Subtract(w.Peak, 1, w.End)
		r.memory.Add(v, 1, w.End)
		w.Peak = v
	}
}

// memoryTarget is what the history alone asks for.
type memoryTarget struct {
	Level, Typical, Headroom, Floor float64
	Surprises                       int
}

func (m memoryTarget) limit(least float64) float64 {
	return max(m.Level+m.Headroom, m.Floor, least)
}

func (r *Recommender) historyTarget() memoryTarget {
	p := r.cfg.Policy
	m := memoryTarget{Level: r.peaks.level(), Typical: r.peaks.usual(), Floor: r.oomFloor, Surprises: r.recentSurprises()}
	m.Headroom = p.headroom(m.Level, m.Typical, r.peaks.observed(), m.Surprises)
	return m
}

// band holds a limit still until there is a reason to move it.
type band struct {
	Limit    float64   `json:"limit"`
	LowSince time.Time `json:"lowSince"`
}

// settle moves the limit: at once upward when the headroom is used up or the
// target's floor is above it, downward only after the target stayed well below
// for a while. It says whether the limit moved.
func (b *band) settle(now time.Time, target, tight float64, p Policy) bool {
	switch {
	case b.Limit == 0:
		b.Limit = target
		return true
	case tight > b.Limit && target > b.Limit:
		b.Limit, b.LowSince = target, time.Time{}
		return true
	case target >= b.Limit*(1-p.ShrinkShare):
		b.LowSince = time.Time{}
	case b.LowSince.IsZero() || now.Before(b.LowSince):
		b.LowSince = now
	case now.Sub(b.LowSince) >= p.ShrinkAfter:
		b.Limit, b.LowSince = target, time.Time{}
		return true
	}
	return false
}

// tightLimit is the limit below which it must grow now.
func (m memoryTarget) tight(p Policy) float64 {
	return max(m.Level+p.GrowShare*m.Headroom, m.Floor)
}

// memoryLimit settles the limit at time now and returns it, NaN without history.
func (r *Recommender) memoryLimit(now time.Time) float64 {
	if len(r.peaks.windows) == 0 {
		return math.NaN()
	}
	m := r.historyTarget()
	r.band.settle(now, m.limit(r.cfg.Policy.MinLimit), m.tight(r.cfg.Policy), r.cfg.Policy)
	return r.band.Limit
}
