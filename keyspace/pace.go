package keyspace

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/time/rate"
)

// When a scan backs off. A serializable read of one absent key takes well under a millisecond on a member at rest; a
// scan at full speed makes it wait behind chunks of 1.5 MiB, which is tens of milliseconds on a busy core.
const (
	probeEvery     = 250 * time.Millisecond
	probeWait      = 5 * time.Second        // what takes longer is slow; a client tries a member that hangs for many minutes
	slowFloor      = 100 * time.Millisecond // never back off below this latency
	slowFactor     = 8                      // times the best latency seen
	pendingLimit   = 100                    // proposals; etcd itself sees 0 to a few at rest
	pendingEvery   = 2 * time.Second
	pendingWait    = time.Second // for the member's metrics
	pendingBroken  = time.Minute // until metrics that did not answer are asked again
	firstBackOff   = 50 * time.Millisecond
	maxBackOff     = 2 * time.Second
	smallestBucket = 64 << 10 // bytes of a burst
)

// pace holds a scan to its rate and out of the way of a member that is in trouble.
type pace struct {
	member  Member
	key     string
	pending func(context.Context) (int64, error)
	limit   *rate.Limiter // nil for none

	waited atomic.Int64 // nanoseconds

	mu        sync.Mutex
	probed    time.Time
	ask       time.Time // when pending is asked again
	best      time.Duration
	next      time.Duration // of the next back-off
	lastCount int64
}

func newPace(member Member, o LiveOptions) *pace {
	p := &pace{member: member, key: o.PinKey, pending: o.Pending, next: firstBackOff}
	if o.Rate > 0 {
		// A tenth of a second's worth at once, so that the member sees a flow and no bursts.
		p.limit = rate.NewLimiter(rate.Limit(o.Rate), max(smallestBucket, int(min(o.Rate/10, 1<<30))))
	}
	return p
}

func (p *pace) backedOff() time.Duration { return time.Duration(p.waited.Load()) }

// spend waits until n more bytes may be read.
func (p *pace) spend(ctx context.Context, n int) error {
	for p.limit != nil && n > 0 {
		part := min(n, p.limit.Burst())
		// Not WaitN, which fails at once where the wait is longer than ctx: that is no failure of the member's, to go on
		// from without having waited.
		select {
		case <-time.After(p.limit.ReserveN(time.Now(), part).Delay()):
		case <-ctx.Done():
			return ctx.Err()
		}
		n -= part
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.probed) < probeEvery {
		return nil
	}
	slow, err := p.slow(ctx)
	if err != nil || !slow {
		p.next = firstBackOff
		return ctx.Err() // a probe that fails says nothing; the scan itself will meet the cause
	}
	select {
	case <-time.After(p.next):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.waited.Add(int64(p.next))
	p.next = min(2*p.next, maxBackOff)
	return nil
}

// slow asks the member how it is.
func (p *pace) slow(ctx context.Context) (bool, error) {
	start := time.Now()
	short, end := context.WithTimeout(ctx, probeWait)
	defer end()
	_, err := p.member.Get(short, p.key, clientv3.WithCountOnly(), clientv3.WithSerializable())
	p.probed = time.Now()
	switch {
	case err != nil && short.Err() != nil && ctx.Err() == nil:
		return true, nil
	case err != nil:
		return false, err
	}
	took := p.probed.Sub(start)
	if p.best == 0 || took < p.best {
		p.best = took
	}
	if took > max(slowFloor, slowFactor*p.best) {
		return true, nil
	}
	if p.pending == nil || p.probed.Before(p.ask) && p.lastCount <= pendingLimit {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, pendingWait)
	defer cancel()
	if p.lastCount, err = p.pending(ctx); err != nil {
		p.lastCount, p.ask = 0, p.probed.Add(pendingBroken)
		return false, err
	}
	p.ask = p.probed.Add(pendingEvery)
	return p.lastCount > pendingLimit, nil
}
