package defrag

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// TestRunner_ClientsComeBack proves that a run waits for every address of a drained member's clients, and only a while
// for as many connections.
func TestRunner_ClientsComeBack(t *testing.T) {
	for name, tt := range map[string]struct {
		during map[string]int // behind the drain, for 10 s
		after  map[string]int
		waits  time.Duration // at least, for one member
		most   time.Duration
	}{
		"all are back":               {map[string]int{"192.0.2.9": 2}, map[string]int{"192.0.2.9": 2}, 0, 2 * time.Second},
		"not as many":                {map[string]int{"192.0.2.9": 1}, map[string]int{"192.0.2.9": 1}, 5 * time.Second, 8 * time.Second},
		"an address comes late":      {map[string]int{}, map[string]int{"192.0.2.9": 2}, 10 * time.Second, 13 * time.Second},
		"an address does not return": {map[string]int{}, map[string]int{}, 30 * time.Second, 33 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.keepers = beside3(map[string]int{"192.0.2.9": 2})
				s := &run{Runner: &Runner{c: f, t: defaultTiming(), now: time.Now, opts: Options{Log: slog.New(slog.DiscardHandler)}}}
				before := f.keepers[0].Drain.Clients
				f.keepers = beside3(tt.during)
				time.AfterFunc(10*time.Second, func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					f.keepers = beside3(tt.after)
				})
				start := time.Now()
				back := s.cameBack(t.Context(), healthy().Members[0], before)
				if took := time.Since(start); took < tt.waits || took > tt.most || back == nil {
					t.Errorf("waited %s, want %s to %s; got %v", took, tt.waits, tt.most, back)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// TestRun_Opened proves that a turn waits for a gate that may open by itself, and not for one that somebody has closed.
func TestRun_Opened(t *testing.T) {
	pause := cluster.Refusal{Gate: cluster.GatePause, Reason: "stop"}
	unread := pause
	unread.Unread = true
	lag := cluster.Refusal{Gate: cluster.GateLag, Reason: "behind"}
	for name, tt := range map[string]struct {
		paused, probed []cluster.Refusal // for good, and for 5 s
		wait           time.Duration
		open           bool
	}{
		"open":                     {nil, nil, 0, true},
		"paused":                   {[]cluster.Refusal{pause}, nil, 0, false},
		"a pause that is not read": {[]cluster.Refusal{unread}, nil, openWait, false},
		"behind for a while":       {nil, []cluster.Refusal{lag}, 5 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				start := time.Now()
				f.pause = tt.paused
				f.probe = func() []cluster.Refusal {
					if time.Since(start) < 5*time.Second {
						return tt.probed
					}
					return nil
				}
				s := &run{Runner: &Runner{c: f, now: time.Now}}
				_, closed := s.opened(t.Context())
				if took := time.Since(start); took != tt.wait || (len(closed) == 0) != tt.open {
					t.Errorf("waited %s, closed are %v, want %s and open: %t", took, closed, tt.wait, tt.open)
				}
			})
		})
	}
}
