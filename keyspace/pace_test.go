package keyspace

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// sluggish is a member that takes its time.
type sluggish struct {
	Member
	takes  time.Duration
	err    error
	probes int
}

func (s *sluggish) Get(ctx context.Context, _ string, _ ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	s.probes++
	select {
	case <-time.After(s.takes):
		return nil, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestPace_BackOff: a scan waits while the member is slow, longer and longer up to a bound, and no more once it is not.
func TestPace_BackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &sluggish{takes: time.Millisecond}
		p := newPace(m, LiveOptions{})
		spend := func(during time.Duration) (waited time.Duration) {
			t.Helper()
			before := p.backedOff()
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if err := p.spend(t.Context(), 1000); err != nil {
					t.Fatal(err)
				}
			}
			return p.backedOff() - before
		}
		if waited := spend(10 * time.Second); waited != 0 {
			t.Errorf("a member at rest: waited %s", waited)
		}
		if m.probes < 30 || m.probes > 50 {
			t.Errorf("asked %d times in 10 s, want about 40", m.probes)
		}
		m.takes = 90 * time.Millisecond
		if waited := spend(10 * time.Second); waited != 0 {
			t.Errorf("a member that answers in 90 ms: waited %s", waited)
		}
		m.takes = 150 * time.Millisecond
		if waited := spend(30 * time.Second); waited < 20*time.Second {
			t.Errorf("a member that is slow for 30 s: waited %s, want most of it", waited)
		}
		if p.next != maxBackOff {
			t.Errorf("the next wait is %s, want %s", p.next, maxBackOff)
		}
		m.takes = time.Millisecond
		if waited := spend(10 * time.Second); waited != 0 || p.next != firstBackOff {
			t.Errorf("a member that has recovered: waited %s, the next wait is %s", waited, p.next)
		}
		// A probe that fails says nothing of the member's load.
		m.takes, m.err = 150*time.Millisecond, errors.New("refused")
		if waited := spend(10 * time.Second); waited != 0 {
			t.Errorf("a member that refuses the probe: waited %s", waited)
		}
	})
}

// TestPace_Deadline: a scan that ends before it may read on waits until then, and reads no more.
func TestPace_Deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(&sluggish{}, LiveOptions{Rate: 1 << 10})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := p.spend(ctx, smallestBucket); err != nil || time.Since(start) != 0 {
			t.Errorf("the first burst: took %s, got %v", time.Since(start), err)
		}
		if err := p.spend(ctx, 1<<10); err != nil || time.Since(start) != time.Second {
			t.Errorf("a second's worth: took %s, got %v", time.Since(start), err)
		}
		if err := p.spend(ctx, smallestBucket); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("more than there is time for: took %s, got %v", time.Since(start), err)
		}
	})
}

// TestPace_Hangs: a member that answers nothing is slow, and does not hold the scan for as long as the client would try.
func TestPace_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &sluggish{takes: time.Hour}
		p := newPace(m, LiveOptions{})
		start := time.Now()
		if err := p.spend(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != probeWait+firstBackOff || p.backedOff() != firstBackOff {
			t.Errorf("took %s and waited %s of it, want %s and %s", took, p.backedOff(), probeWait+firstBackOff, firstBackOff)
		}
		start = time.Now()
		_, err := NewLive(t.Context(), m, LiveOptions{Name: "a"})
		if took := time.Since(start); took != futureWait || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "member a: no answer within 30s") {
			t.Errorf("took %s, got %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(probeEvery)
		if err := p.spend(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: got %v", err)
		}
	})
}

func TestPace_Pending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pending, asked := int64(0), 0
		p := newPace(&sluggish{takes: time.Millisecond}, LiveOptions{Pending: func(context.Context) (int64, error) {
			asked++
			return pending, nil
		}})
		spend := func(during time.Duration) {
			t.Helper()
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if err := p.spend(t.Context(), 1000); err != nil {
					t.Fatal(err)
				}
			}
		}
		spend(20 * time.Second)
		if p.backedOff() != 0 || asked < 8 || asked > 11 {
			t.Errorf("no proposals wait: waited %s, asked %d times in 20 s, want about 10", p.backedOff(), asked)
		}
		pending = 5000
		spend(20 * time.Second)
		if p.backedOff() < 10*time.Second {
			t.Errorf("5,000 proposals wait for 20 s: waited %s, want most of it", p.backedOff())
		}
		pending = 1
		before := p.backedOff()
		spend(20 * time.Second)
		if more := p.backedOff() - before; more > maxBackOff {
			t.Errorf("they are gone: waited %s more", more)
		}
	})
}

// TestPace_PendingHangs: metrics that do not answer cost the scan a second now and then.
func TestPace_PendingHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p := newPace(&sluggish{takes: time.Millisecond}, LiveOptions{Pending: func(ctx context.Context) (int64, error) {
			asked++
			<-ctx.Done()
			return 0, ctx.Err()
		}})
		start := time.Now()
		for end := start.Add(2*time.Minute + 10*time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err := p.spend(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
		}
		if asked != 3 || p.backedOff() != 0 {
			t.Errorf("asked %d times in 130 s, want 3; waited %s", asked, p.backedOff())
		}
	})
}

func TestPace_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(&sluggish{takes: 0}, LiveOptions{Rate: 1 << 20})
		start := time.Now()
		for range 100 {
			if err := p.spend(t.Context(), 300<<10); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 29*time.Second || took > 30*time.Second {
			t.Errorf("30,000 KiB at 1 MiB a second took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.spend(ctx, 1<<30); err == nil {
			t.Error("a wait that was cancelled ended without an error")
		}
	})
}
