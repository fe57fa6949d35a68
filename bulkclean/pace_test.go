package bulkclean

import (
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	fine := signals{requests: 50, p99: 10 * time.Millisecond, slow: 100 * time.Millisecond, saturated: true, rested: true}
	with := func(change func(*signals)) signals {
		s := fine
		change(&s)
		return s
	}
	for name, tc := range map[string]struct {
		current, ceiling float64
		s                signals
		want             float64
		says             bool
	}{
		"rises by a part of the ceiling":   {20, 200, fine, 28, false},
		"ends at the ceiling":              {195, 200, fine, 200, false},
		"rises without a ceiling":          {1000, 0, fine, 1400, false},
		"does not rise beyond the workers": {1000, 0, with(func(s *signals) { s.saturated = false }), 1000, false},
		"halves when slow":                 {1000, 0, with(func(s *signals) { s.p99 = 101 * time.Millisecond }), 500, true},
		"halves on 429":                    {200, 200, with(func(s *signals) { s.overloaded = 1 }), 100, true},
		"halves on a slow fsync":           {200, 200, with(func(s *signals) { s.pressure.FsyncSeconds = 0.2 }), 100, true},
		"halves on pending proposals":      {200, 200, with(func(s *signals) { s.pressure.PendingProposals = 1000 }), 100, true},
		"rests between two decreases":      {1000, 0, with(func(s *signals) { s.p99, s.rested = time.Second, false }), 1000, true},
		"does not end":                     {1.2, 200, with(func(s *signals) { s.overloaded = 9 }), 1, true},
		"nothing happened":                 {100, 200, signals{slow: time.Second, rested: true}, 100, false},
	} {
		got, why := decide(tc.current, tc.ceiling, tc.s)
		if got != tc.want || (why != "") != tc.says {
			t.Errorf("%s: got %v, %q, want %v", name, got, why, tc.want)
		}
	}
}

func TestPace_StartsAtATenth(t *testing.T) {
	for ceiling, want := range map[float64]float64{200: 20, 2000: 200, 0: 200, 5: 1} {
		if got, _ := newPace(ceiling, time.Second).state(); got != want {
			t.Errorf("ceiling %v: got %v, want %v", ceiling, got, want)
		}
	}
}

func TestPace_Gate(t *testing.T) {
	p := newPace(0, time.Second)
	p.hold("busy")
	done := make(chan error, 1)
	go func() { done <- p.wait(t.Context()) }()
	select {
	case <-done:
		t.Fatal("the gate let somebody pass")
	case <-time.After(50 * time.Millisecond):
	}
	p.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
