package bulkclean

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Defaults of the pace, in deletions a second.
const (
	DefaultAPIQPS  = 200.0  // what kubectl reaches, and a control plane that is alive bears
	DefaultEtcdQPS = 2000.0 // one member commits more; what is left is for everybody else

	startRate = 200.0 // without a ceiling
	leastRate = 1.0
	paceTick  = 100 * time.Millisecond
	// The pace rises by a step each tick: to a ceiling in two seconds and a half, and without one to what a member bears,
	// some thousands a second, in one.
	stepsToCeiling = 25
	freeStep       = 400.0
	// After a decrease the next one waits, so that it is the new rate that is judged.
	decreaseRest = time.Second
)

// Pressure is what the members say of their load.
type Pressure struct {
	FsyncSeconds     float64 // 99th percentile of the WAL's fsync since the last look; 0 where not known
	PendingProposals int64
}

// Limits of what is pressed on. The latency is what somebody else's write meets too: etcd's writes share one log.
const (
	slowFsync     = 0.1 // s; etcd warns of slow disks from there
	manyProposals = 200
	slowEtcd      = 75 * time.Millisecond
	slowAPI       = time.Second
)

// signals are what one tick of the pace judges.
type signals struct {
	requests   int
	overloaded int           // answers that asked for less load
	p99        time.Duration // of the requests' own latency
	slow       time.Duration // what is too slow
	saturated  bool          // the rate was what held the workers back
	pressure   Pressure
	rested     bool // the last decrease is long enough ago
}

// decide is additive increase, multiplicative decrease: the next rate and why. Ceiling 0 is none.
func decide(current, ceiling float64, s signals) (next float64, why string) {
	step := freeStep
	if ceiling > 0 {
		step = ceiling / stepsToCeiling
	}
	why = ""
	switch {
	case s.overloaded > 0:
		why = "the API server asked for less load"
	case s.pressure.FsyncSeconds > slowFsync:
		why = "a member's fsync is slow"
	case s.pressure.PendingProposals > manyProposals:
		why = "proposals are pending in a member"
	case s.requests > 0 && s.p99 > s.slow:
		why = "deletions are answered slowly"
	}
	switch {
	case why != "" && s.rested:
		next = current / 2
	case why != "" || !s.saturated:
		next = current
	default:
		next = current + step
	}
	if ceiling > 0 {
		next = min(next, ceiling)
	}
	return max(next, leastRate), why
}

// pace holds all workers to one rate that follows what the cluster bears.
type pace struct {
	ceiling float64
	slow    time.Duration
	now     func() time.Time

	mu         sync.Mutex
	limiter    *rate.Limiter
	current    float64
	latencies  []time.Duration
	overloaded int
	pressure   Pressure
	decreased  time.Time
	holdUntil  time.Time
	why        string
	gated      string // why the gate holds; empty when it is open
}

func newPace(ceiling float64, slow time.Duration) *pace {
	p := &pace{ceiling: ceiling, slow: slow, now: time.Now, current: startRate}
	if ceiling > 0 {
		p.current = max(leastRate, ceiling/10)
	}
	p.limiter = rate.NewLimiter(rate.Limit(p.current), burst(p.current))
	return p
}

// burst is what may go at once: a tick's worth would arrive as a wave.
func burst(r float64) int { return max(1, int(r/50)) }

// wait blocks until the next deletion may start.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		hold := p.holdUntil.Sub(p.now())
		if p.gated != "" {
			// In small steps: the gate may open at any time.
			hold = max(hold, paceTick)
		}
		p.mu.Unlock()
		if hold <= 0 {
			return p.limiter.Wait(ctx)
		}
		if err := sleep(ctx, hold); err != nil {
			return err
		}
	}
}

// observe takes the latency of one request.
func (p *pace) observe(d time.Duration) {
	p.mu.Lock()
	p.latencies = append(p.latencies, d)
	p.mu.Unlock()
}

// overload notes that the server asked for less, and holds everybody for the time that it asked for.
func (p *pace) overload(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.overloaded++
	if until := p.now().Add(wait); until.After(p.holdUntil) {
		p.holdUntil = until
	}
}

// hold stops everybody until release.
func (p *pace) hold(why string) {
	p.mu.Lock()
	p.gated = why
	p.mu.Unlock()
}

// release ends hold.
func (p *pace) release() {
	p.mu.Lock()
	p.gated = ""
	p.mu.Unlock()
}

// press takes what the members say.
func (p *pace) press(q Pressure) {
	p.mu.Lock()
	p.pressure = q
	p.mu.Unlock()
}

// tick sets the next rate.
func (p *pace) tick(elapsed time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	s := signals{requests: len(p.latencies), overloaded: p.overloaded, slow: p.slow, pressure: p.pressure,
		rested:    now.Sub(p.decreased) >= decreaseRest,
		saturated: float64(len(p.latencies)) >= 0.8*p.current*elapsed.Seconds()}
	if len(p.latencies) > 0 {
		slices.Sort(p.latencies)
		s.p99 = p.latencies[(len(p.latencies)-1)*99/100]
	}
	next, why := decide(p.current, p.ceiling, s)
	if next < p.current {
		p.decreased = now
	}
	p.current, p.why = next, why
	p.latencies, p.overloaded = p.latencies[:0], 0
	p.limiter.SetLimit(rate.Limit(next))
	p.limiter.SetBurst(burst(next))
}

// state is the rate and why it does not rise.
func (p *pace) state() (float64, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gated != "" {
		return p.current, p.gated
	}
	return p.current, p.why
}
