package vpa

import (
	"testing"
	"time"
)

// useOf is a sample of which only the memory is known.
func useOf(at time.Time, v float64) Sample {
	s := NewSample(at)
	s.Memory = v
	return s
}

func killAt(at time.Time, limit float64) Sample {
	s := useOf(at, 50*mib) // the new process is small
	s.OOM, s.Limit = true, limit
	return s
}

func TestRecommender_JumpAfterAnOOMKill(t *testing.T) {
	const limit = 2.0 * gib
	tests := []struct {
		name      string
		after     float64       // use an hour after the kill
		until     time.Duration // the jump holds at least so long
		goneAfter time.Duration
	}{
		{"the demand is seen", 2.2 * gib, 11 * time.Hour, 13 * time.Hour},
		{"the demand is not seen again", gib, 14 * 24 * time.Hour, 16 * 24 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecommender(t)
			at := day0
			for range 8 * 24 {
				at = at.Add(time.Hour)
				r.Observe(useOf(at, gib))
			}
			kill := at.Add(time.Minute)
			r.Observe(killAt(kill, limit))
			r.Observe(useOf(kill.Add(time.Hour), tt.after))
			for at := kill.Add(2 * time.Hour); at.Before(kill.Add(tt.goneAfter)); at = at.Add(time.Hour) {
				r.Observe(useOf(at, gib))
				if held := r.oomFloor >= 1.5*limit; !held && at.Sub(kill) < tt.until {
					t.Fatalf("%s after the kill: got no jump, want it for %s", at.Sub(kill), tt.until)
				}
			}
			r.Observe(useOf(kill.Add(tt.goneAfter), gib))
			if r.oomFloor != 0 {
				t.Errorf("%s after the kill: the jump to %s still holds", tt.goneAfter, size(r.oomFloor))
			}
			if got := r.historyTarget().level; got < 0.9*limit {
				t.Errorf("after the jump: got a level of %s, want what was in use at the kill remembered", size(got))
			}
		})
	}
}

// The kernel's count of kills comes with the memory of the process that was
// started anew: the kill itself is what tells the demand.
func TestRecommender_OOMKillOfAKnownLimitIsAPeak(t *testing.T) {
	r := newRecommender(t)
	r.Observe(killAt(day0, 3*gib))
	if got := r.peaks.level(); got != 3*gib {
		t.Errorf("got a level of %s, want the limit at the kill", size(got))
	}
}

func TestReplay_WeeklySpikesAreNotForgotten(t *testing.T) {
	for name, steps := range map[string]int{"of five minutes": 1, "of half an hour": 6, "of three hours": 36} {
		t.Run(name, func(t *testing.T) {
			s := makeSeries(42, func(i int) float64 {
				if at := i % (7 * 288); at >= 3*288 && at < 3*288+steps {
					return 37.5
				}
				return 12.5
			})
			got, err := Replay([]UsageSeries{s}, DefaultReplayOptions())
			if err != nil {
				t.Fatal(err)
			}
			if got.OOMs > 2 || got.Changes > 5 {
				t.Errorf("got %d OOM kills and %d changes in six weeks, want 2 and 5 at most", got.OOMs, got.Changes)
			}
		})
	}
}
