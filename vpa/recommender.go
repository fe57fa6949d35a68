package vpa

import (
	"fmt"
	"math"
	"time"
)

// The Vertical Pod Autoscaler's constants that its checkpoints imply, and the
// bounds of what is kept.
const (
	cpuSampleWeight = 0.1
	memoryWindow    = 24 * time.Hour
)

// Recommender turns samples into a recommendation. It holds weeks of history in
// a few tens of kilobytes. It is not safe for concurrent use.
type Recommender struct {
	cfg    Config
	member string

	cpu      *Histogram
	memory   *Histogram
	window   windowPeak // of the VPA-compatible memory histogram
	peaks    peaks      // demand
	live     peaks      // live heap
	burst    peaks      // bytes sent to clients between two samples
	ranges   peaks      // ranges in flight
	watchers peaks
	streams  peaks
	dbInUse  peaks // a window a day, for the slope
	steady   bool  // demand is anonymous memory

	oomFloor float64
	oomAt    time.Time
	oomCut   float64 // what was in use at the last kill, 0 once as much was seen without one
	ooms     int     // kills within the hold, 2 for more
	events   []OOMEvent
	restarts []RestartEvent
	band     band
	request  band
	cpuBand  band

	keyspace *Keyspace // the latest census, nil where there is none

	before      Sample // the last sample with drivers
	first, last time.Time
	samples     int
}

// windowPeak is the highest demand of the 24 h window in hand, already counted
// in the histogram at the window's end.
type windowPeak struct {
	End  time.Time `json:"end"`
	Peak float64   `json:"peak"`
}

// NewRecommender returns a Recommender without history for a member; its name
// guards checkpoints against being read by another one.
func NewRecommender(cfg Config, member string) (*Recommender, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("vpa configuration: %w", err)
	}
	cpu, err := NewCPUHistogram(cfg.CPUHalfLife)
	if err != nil {
		return nil, err
	}
	memory, err := NewMemoryHistogram(cfg.MemoryHalfLife)
	if err != nil {
		return nil, err
	}
	h := cfg.Policy.History
	return &Recommender{
		cfg: cfg, member: member, cpu: cpu, memory: memory, before: NewSample(time.Time{}),
		peaks: newPeaks(peakWindow, h), live: newPeaks(peakWindow, h), burst: newPeaks(peakWindow, h),
		ranges: newPeaks(memoryWindow, h), watchers: newPeaks(memoryWindow, h), streams: newPeaks(memoryWindow, h),
		dbInUse: newPeaks(memoryWindow, h),
	}, nil
}

// Observe takes one sample. Samples come in time order; numbers that are not
// known are left out, and a sample in which nothing is known changes nothing.
func (r *Recommender) Observe(s Sample) {
	if s.Time.IsZero() {
		return
	}
	if s.Restart {
		r.noteRestart(s)
	}
	used := r.observeDrivers(s)
	if known(s.CPU) {
		r.cpu.Add(s.CPU, cpuSampleWeight, s.Time)
		used = true
	}
	v := s.Demand()
	if known(v) {
		// A history of one kind of memory is no history of the other.
		if anon := known(s.Anon); anon != r.steady && len(r.peaks.windows) > 0 {
			r.peaks = newPeaks(peakWindow, r.cfg.Policy.History)
			r.band, r.request = band{}, band{}
		}
		r.steady = known(s.Anon)
	}
	if s.OOM {
		// After the kill the new process is small; what was in use counts.
		if used := r.noteOOM(s); used > 0 && !(v > used) {
			v = used
		}
	}
	if known(v) {
		r.observeDemand(s.Time, v, s.OOM)
		used = true
	}
	if !used {
		return
	}
	if r.first.IsZero() {
		r.first = s.Time
	}
	r.last = s.Time
	r.samples++
}

// observeDrivers keeps what the model needs. It says whether there was anything.
func (r *Recommender) observeDrivers(s Sample) bool {
	d, any := s.Drivers, false
	for _, t := range []struct {
		into *peaks
		v    float64
	}{{&r.live, s.LiveHeap}, {&r.burst, d.SentBytes}, {&r.ranges, d.RangesInFlight}, {&r.watchers, d.Watchers}, {&r.streams, d.WatchStreams}, {&r.dbInUse, d.DBInUseBytes}} {
		if known(t.v) {
			t.into.add(s.Time, t.v, r.cfg.Policy)
			any = true
		}
	}
	if any && !s.OOM {
		r.before = s
	}
	return any
}

func (r *Recommender) observeDemand(t time.Time, v float64, oom bool) {
	r.peaks.add(t, v, r.cfg.Policy)
	if !oom {
		r.endOOM(t, v)
	}
	r.countWindowPeak(t, v)
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

// succeed takes over what another history of the same member has beyond this
// one: its highest values, its kills, and what is held.
func (r *Recommender) succeed(own *Recommender) {
	theirs := own.named()
	for name, p := range r.named() {
		if from := theirs[name]; len(from.windows) > 0 && (name != demandPeaks || own.steady == r.steady) {
			p.add(from.windows[len(from.windows)-1].start, from.level(), r.cfg.Policy)
		}
	}
	if r.cpu.Empty() {
		r.cpu = own.cpu
	}
	r.oomFloor, r.oomCut, r.oomAt, r.ooms, r.events = own.oomFloor, own.oomCut, own.oomAt, own.ooms, own.events
	r.restarts = own.restarts
	r.band, r.request, r.cpuBand, r.keyspace = own.band, own.request, own.cpuBand, own.keyspace
	if own.last.After(r.last) {
		r.last = own.last
	}
	r.samples += own.samples
}

// memoryTarget is what the history alone asks for, in bytes.
type memoryTarget struct {
	level, typical, headroom, floor float64
}

func (r *Recommender) historyTarget() memoryTarget {
	m := memoryTarget{level: r.peaks.level(), typical: r.peaks.usual(), floor: r.oomFloor}
	m.headroom = r.cfg.Policy.headroom(m.level, m.typical, r.peaks.observed())
	return m
}

// modelInput gathers what the model is told.
func (r *Recommender) modelInput() ModelInput {
	in := ModelInput{
		Drivers: r.before.Drivers, KeyBytes: math.NaN(), Members: math.NaN(), LiveHeap: r.live.highest(),
		Watchers: r.watchers.highest(), WatchStreams: r.streams.highest(), Burst: r.burst.highest(),
		SteadyAnon: math.NaN(), AnonPeak: math.NaN(), DBPerDay: r.dbInUse.growth(),
		HorizonDays: r.cfg.Horizon.Hours() / 24, FileShare: r.cfg.FileShare, NodeMemory: math.NaN(), Volume: math.NaN(),
	}
	if k := r.keyspace; k != nil {
		in.KeyBytes, in.KeyWords = k.MeanKey(), k.words()
		if !known(in.Drivers.Keys) {
			in.Drivers.Keys = k.Keys()
		}
		// Two censuses tell the growth sooner than three days of history, which
		// has what is written over in it and is better once it is there.
		if !known(in.DBPerDay) {
			in.DBPerDay = k.BytesPerDay()
		}
	}
	if r.cfg.Members > 0 {
		in.Members = float64(r.cfg.Members)
	}
	if r.cfg.NodeMemory > 0 {
		in.NodeMemory = float64(r.cfg.NodeMemory)
	}
	if r.cfg.Volume > 0 {
		in.Volume = float64(r.cfg.Volume)
	}
	if v := in.Drivers.DBInUseBytes; known(v) && known(in.Burst) {
		// The ranges of one interval cannot hold more than the database each.
		n := r.ranges.highest()
		if !known(n) {
			n = 1
		}
		in.Burst = min(in.Burst, v*max(1, n))
	}
	if r.steady && len(r.peaks.windows) > 0 {
		in.AnonPeak = r.peaks.quantile(0.99)
		if len(r.peaks.windows) > 2 { // within the first hours the peak is no usual value
			in.SteadyAnon = r.peaks.usual()
		}
	}
	return in
}
