package vpa

import (
	"context"
	"math"
	"time"
)

// Reading is what the sources said at one time; parts that no source gave are nil.
type Reading struct {
	Time    time.Time
	Etcd    *EtcdMetrics
	Process *Process
	Cgroup  *Cgroup
}

// Source gives a part of a Reading.
type Source interface {
	// Name is what reports call it.
	Name() string
	// Gives says in words what the source gives, and what it cannot.
	Gives() string
	// Read fills its part; an error leaves the reading as it was.
	Read(ctx context.Context, into *Reading) error
}

// SourceReport says what came of a source.
type SourceReport struct {
	Name  string `json:"name"`
	Gives string `json:"gives"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Collector turns readings of several sources into samples: counters into rates
// and events, memory apart by kind. It is not safe for concurrent use.
type Collector struct {
	sources []Source
	last    Reading
}

// NewCollector returns a Collector over the sources.
func NewCollector(sources ...Source) *Collector { return &Collector{sources: sources} }

// Collect reads every source once. The sample has NaN for what no source gave.
func (c *Collector) Collect(ctx context.Context, now time.Time) (Sample, []SourceReport) {
	reading := Reading{Time: now}
	var reports []SourceReport
	for _, s := range c.sources {
		r := SourceReport{Name: s.Name(), Gives: s.Gives(), OK: true}
		if err := s.Read(ctx, &reading); err != nil {
			r.OK, r.Error = false, err.Error()
		}
		reports = append(reports, r)
	}
	return c.Sample(reading), reports
}

// Sample makes a sample from a reading and the one before it. A counter that
// went back, or a time that did not go forward, gives no rate.
func (c *Collector) Sample(r Reading) Sample {
	s := NewSample(r.Time)
	last := c.last
	c.last = r
	seconds := r.Time.Sub(last.Time).Seconds()
	if last.Time.IsZero() || seconds <= 0 {
		seconds = math.NaN()
	}
	if m := r.Etcd; m != nil {
		s.Memory, s.Anon, s.LiveHeap, s.Drivers = m.Resident, min(m.GoAnon, m.Resident), m.HeapLive, m.Drivers
		s.File = s.Memory - s.Anon
		if l := last.Etcd; l != nil {
			s.Restart = known(l.Start) && known(m.Start) && math.Abs(m.Start-l.Start) > 1
		}
		if l := last.Etcd; l != nil && !s.Restart { // the counters of a new process began at 0
			s.CPU = increase(l.CPU, m.CPU) / seconds
			s.Drivers.PutBytes = increase(l.PutSize, m.PutSize) / increase(l.Puts, m.Puts)
			s.Drivers.SentBytes = increase(l.Sent, m.Sent)
		}
		if !known(s.Drivers.PutBytes) {
			s.Drivers.PutBytes = m.PutSize / m.Puts
		}
		if m.Puts == 0 {
			s.Drivers.PutBytes = 0
		}
	}
	if g := r.Cgroup; g != nil {
		c.fromCgroup(&s, g, last.Cgroup, seconds)
	}
	if p := r.Process; p != nil {
		if known(p.Anon) {
			s.Anon, s.File = p.Anon, p.File
			s.Memory = p.Anon + p.File
		}
		if g := r.Cgroup; g != nil {
			s.Anon = max(s.Anon, spike(g, last.Cgroup))
		}
		if l := last.Process; l != nil {
			if p.PID == l.PID && p.StartTick == l.StartTick {
				s.CPU = increase(l.CPU, p.CPU) / seconds
			} else {
				s.Restart = true
			}
		}
	}
	return s
}

func (c *Collector) fromCgroup(s *Sample, g, last *Cgroup, seconds float64) {
	if known(g.Anon) {
		s.Anon, s.File = g.Anon, g.File
	}
	if v := g.Current - g.InactiveFile; known(v) {
		s.Memory = v // the working set, as the kubelet counts it
	} else if known(g.Current) {
		s.Memory = g.Current
	}
	if known(g.Max) {
		s.Limit = g.Max
	}
	s.Drivers.Pressure = g.Pressure
	if last == nil {
		return
	}
	if known(s.Anon) {
		s.Anon = max(s.Anon, spike(g, last))
	}
	s.CPU = increase(last.CPU, g.CPU) / seconds
	s.OOM = increase(last.OOMKills, g.OOMKills) > 0
	s.Drivers.Throttled = increase(last.Throttled, g.Throttled) / increase(last.Periods, g.Periods)
}

// spike is the anonymous memory at the highest use between two readings, 0 where
// that was no new peak: the file pages were no more then than at either end,
// since they grow slowly and are what the kernel takes back first.
func spike(g, last *Cgroup) float64 {
	if last == nil || !(g.Peak > last.Peak) {
		return 0
	}
	if v := g.Peak - max(g.File, last.File); known(v) {
		return v
	}
	return 0
}

// increase is what a counter grew by, NaN when it was reset or is not known.
func increase(from, to float64) float64 {
	if !known(from) || !known(to) || to < from {
		return math.NaN()
	}
	return to - from
}
