package defrag

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
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
