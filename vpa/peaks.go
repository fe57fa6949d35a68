package vpa

import (
	"math"
	"slices"
	"time"
)

// peakWindow is the width of a window of which the highest demand is kept: an
// hour is long enough to be cheap (672 numbers for 28 days) and short enough to
// tell what is typical from what is a spike.
const peakWindow = time.Hour

// peak is the highest value of one window.
type peak struct {
	start time.Time
	value float64
}

// peaks is the long memory: the highest value of each window that was observed.
// Age is counted in observed windows, not by the clock, so that neither a gap
// nor a clock that jumps makes it forget.
type peaks struct {
	windows []peak // in order of arrival, the last one still open
	width   time.Duration
	keep    int // windows kept
	// Of the closed windows, worked out when one closes.
	typical float64 // median
	closed  float64 // faded maximum
}

func (p *peaks) add(t time.Time, v float64, pol Policy) {
	if n := len(p.windows); n > 0 {
		last := &p.windows[n-1]
		if d := t.Sub(last.start); d > -p.width && d < p.width {
			last.value = max(last.value, v)
			return
		}
	}
	p.windows = append(p.windows, peak{t.Truncate(p.width), v})
	if over := len(p.windows) - p.keep; over > 0 {
		p.windows = slices.Delete(p.windows, 0, over)
	}
	p.digest(pol)
}

func (p *peaks) digest(pol Policy) {
	p.typical, p.closed = 0, 0
	n := len(p.windows) - 1
	if n < 1 {
		return
	}
	sorted := make([]float64, n)
	for i, w := range p.windows[:n] {
		sorted[i] = w.value
	}
	slices.Sort(sorted)
	p.typical = sorted[n/2]
	for i, w := range p.windows[:n] {
		v, age := w.value, time.Duration(n-i)*p.width
		if age > pol.PeakHold && v > p.typical {
			v = p.typical + (v-p.typical)*math.Exp2(-float64(age-pol.PeakHold)/float64(pol.PeakFade))
		}
		p.closed = max(p.closed, v)
	}
}

// level is the highest demand remembered: held in full for a while, then fading
// toward what is typical.
func (p *peaks) level() float64 {
	if len(p.windows) == 0 {
		return 0
	}
	return max(p.closed, p.windows[len(p.windows)-1].value)
}

// usual is the median of the hourly peaks.
func (p *peaks) usual() float64 {
	if p.typical > 0 || len(p.windows) == 0 {
		return p.typical
	}
	return p.windows[len(p.windows)-1].value
}

// observed is how much history there is, gaps left out.
func (p *peaks) observed() time.Duration { return time.Duration(len(p.windows)) * p.width }

// newPeaks returns an empty memory of a history.
func newPeaks(width, history time.Duration) peaks {
	return peaks{width: width, keep: int(max(1, history/width))}
}

// highest is the highest value remembered, without fading, NaN when there is none.
func (p *peaks) highest() float64 {
	v := math.NaN()
	for _, w := range p.windows {
		if !(v >= w.value) {
			v = w.value
		}
	}
	return v
}

// quantile is the share q of the windows' peaks, NaN when there is none.
func (p *peaks) quantile(q float64) float64 {
	if len(p.windows) == 0 {
		return math.NaN()
	}
	sorted := make([]float64, len(p.windows))
	for i, w := range p.windows {
		sorted[i] = w.value
	}
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// growth is the 90th percentile of what a window's peak grew by against the one
// before it, 0 where it shrinks, NaN with fewer than three windows.
func (p *peaks) growth() float64 {
	if len(p.windows) < 3 {
		return math.NaN()
	}
	var steps []float64
	for i := 1; i < len(p.windows); i++ {
		// A gap spreads its growth over the windows that it left out.
		gap := max(1, p.windows[i].start.Sub(p.windows[i-1].start).Hours()/p.width.Hours())
		steps = append(steps, (p.windows[i].value-p.windows[i-1].value)/gap)
	}
	slices.Sort(steps)
	return max(0, steps[min(len(steps)-1, int(math.Ceil(0.9*float64(len(steps))))-1)])
}
