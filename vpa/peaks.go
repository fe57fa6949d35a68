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

// Peak is the highest demand of one window.
type Peak struct {
	Start time.Time `json:"start"`
	Bytes float64   `json:"bytes"`
}

// peaks is the long memory: the highest demand of each hour that was observed.
// Age is counted in observed hours, not by the clock, so that neither a gap nor
// a clock that jumps makes it forget.
type peaks struct {
	windows []Peak // in order of arrival, the last one still open
	keep    int    // windows kept
	// Of the closed windows, worked out when one closes.
	typical float64 // median
	closed  float64 // faded maximum
}

func (p *peaks) add(t time.Time, v float64, pol Policy) {
	if n := len(p.windows); n > 0 {
		last := &p.windows[n-1]
		if d := t.Sub(last.Start); d > -peakWindow && d < peakWindow {
			last.Bytes = max(last.Bytes, v)
			return
		}
	}
	p.windows = append(p.windows, Peak{Start: t.Truncate(peakWindow), Bytes: v})
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
		sorted[i] = w.Bytes
	}
	slices.Sort(sorted)
	p.typical = sorted[n/2]
	for i, w := range p.windows[:n] {
		v, age := w.Bytes, time.Duration(n-i)*peakWindow
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
	return max(p.closed, p.windows[len(p.windows)-1].Bytes)
}

// usual is the median of the hourly peaks.
func (p *peaks) usual() float64 {
	if p.typical > 0 || len(p.windows) == 0 {
		return p.typical
	}
	return p.windows[len(p.windows)-1].Bytes
}

// observed is how much history there is, gaps left out.
func (p *peaks) observed() time.Duration { return time.Duration(len(p.windows)) * peakWindow }
