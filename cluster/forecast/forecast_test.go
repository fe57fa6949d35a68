package forecast

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const mib = 1 << 20

// series makes n samples in steps; size and use give MiB for the i-th.
func series(n int, step time.Duration, size, use func(i int) float64) []Sample {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	out := make([]Sample, n)
	for i := range out {
		out[i] = Sample{Time: start.Add(time.Duration(i) * step), Size: int64(size(i) * mib), InUse: int64(use(i) * mib)}
	}
	return out
}

func TestExhaustion(t *testing.T) {
	quota := int64(2048 * mib)
	flat := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	grow := func(from, perMinute float64) func(int) float64 {
		return func(i int) float64 { return from + perMinute*float64(i) }
	}
	rng := rand.New(rand.NewPCG(1, 2))
	noisy := func(v, by float64) func(int) float64 {
		return func(int) float64 { return v + by*rng.NormFloat64() }
	}
	for _, tt := range []struct {
		name      string
		samples   []Sample
		quota     *int64
		want      float64 // seconds; NaN: unknown
		tolerance float64 // share
		basis     string
	}{
		{"no quota", series(60, time.Minute, grow(100, 1), grow(100, 1)), nil, math.NaN(), 0, "quota is not known"},
		{"nothing observed", nil, &quota, math.NaN(), 0, "nothing was observed"},
		{"too short", series(5, time.Minute, grow(100, 1), grow(100, 1)), &quota, math.NaN(), 0, "too few"},
		{"many samples of one minute", series(60, time.Second, grow(100, 1), grow(100, 1)), &quota, math.NaN(), 0, "too few"},
		{"flat", series(120, time.Minute, flat(500), flat(200)), &quota, math.NaN(), 0, "no growth"},
		{"noise alone", series(120, time.Minute, flat(500), noisy(200, 5)), &quota, math.NaN(), 0, "no growth"},
		{"shrinks", series(120, time.Minute, flat(500), grow(400, -1)), &quota, math.NaN(), 0, "no growth"},
		{"file grows", series(120, time.Minute, grow(905, 1), flat(400)), &quota, 1024 * 60, 0.001, "the file grows by 60.0 MiB an hour"},
		{"use grows below the file", series(120, time.Minute, flat(1500), grow(905, 1)), &quota, 1024 * 60, 0.001, "the size in use grows by 60.0 MiB an hour"},
		{"the sooner of both", series(120, time.Minute, grow(905, 1), grow(100, 0.5)), &quota, 1024 * 60, 0.001, "the file grows"},
		{"noise around a trend", series(240, time.Minute, flat(1500), func(i int) float64 { return 809 + float64(i) + 5*rng.NormFloat64() }), &quota, 1000 * 60, 0.03, "the size in use"},
		{"a fifth of the samples are wild", series(120, time.Minute, flat(1900), func(i int) float64 {
			if i%5 == 0 && i < 119 {
				return 1800
			}
			return 929 + float64(i)
		}), &quota, 1000 * 60, 0.1, "the size in use"},
		{"saw-tooth of the compaction", series(240, time.Minute, flat(1900), func(i int) float64 { return 809 + float64(i) + 8*float64(i%5) - 32 }), &quota, 1000 * 60, 0.05, "the size in use"},
		{"a defragmentation is no trend", series(120, time.Minute, func(i int) float64 {
			if i < 60 {
				return 1500
			}
			return 400 + float64(i-60)
		}, flat(300)), &quota, (2048 - 459) * 60, 0.001, "the file grows by 60.0 MiB an hour (median of the slopes of 60 samples"},
		{"only what is in the window", series(600, time.Minute, flat(1900), func(i int) float64 { return 800 - math.Min(float64(i), 350) }), &quota, math.NaN(), 0, "no growth"},
		{"at the quota", series(60, time.Minute, flat(2048), flat(100)), &quota, 0, 0, "has reached the quota"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Exhaustion(tt.samples, tt.quota)
			if !strings.Contains(got.Basis, tt.basis) {
				t.Errorf("got basis %q, want it to contain %q", got.Basis, tt.basis)
			}
			switch {
			case math.IsNaN(tt.want):
				if got.QuotaExhaustionSeconds != nil {
					t.Errorf("got %.0f s, want unknown", *got.QuotaExhaustionSeconds)
				}
			case got.QuotaExhaustionSeconds == nil:
				t.Errorf("got unknown, want %.0f s", tt.want)
			case math.Abs(*got.QuotaExhaustionSeconds-tt.want) > tt.tolerance*tt.want+1e-9:
				t.Errorf("got %.0f s, want %.0f s", *got.QuotaExhaustionSeconds, tt.want)
			}
		})
	}
}

// Up to a quarter of samples that are anything at all do not move the forecast of a steady growth far: the breakdown
// point of the Theil–Sen slope is 29 %.
func TestExhaustion_Robust(t *testing.T) {
	quota := int64(4096 * mib)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(40, 200).Draw(t, "samples")
		rate := rapid.Float64Range(0.5, 5).Draw(t, "MiB a minute")
		s := series(n, time.Minute, func(int) float64 { return 4000 }, func(i int) float64 { return 500 + rate*float64(i) })
		for range n / 5 {
			s[rapid.IntRange(0, n-2).Draw(t, "at")].InUse = rapid.Int64Range(0, 4000*mib).Draw(t, "wild")
		}
		got := Exhaustion(s, &quota).QuotaExhaustionSeconds
		want := (4096 - 500 - rate*float64(n-1)) / rate * 60
		if got == nil || *got < want/2 || *got > want*2 {
			t.Fatalf("got %v, want about %.0f", got, want)
		}
	})
}

func TestExhaustion_DoesNotChangeItsInput(t *testing.T) {
	quota := int64(2048 * mib)
	s := series(600, time.Minute, func(int) float64 { return 100 }, func(i int) float64 { return float64(i % 7) })
	before := append([]Sample(nil), s...)
	Exhaustion(s, &quota)
	for i := range s {
		if s[i] != before[i] {
			t.Fatalf("sample %d was changed", i)
		}
	}
}

func TestSoonest(t *testing.T) {
	a, b := 100.0, 50.0
	if got := Soonest([]Forecast{{nil, "x"}, {&a, "a"}, {&b, "b"}}); got.Basis != "b" {
		t.Errorf("got %q, want b", got.Basis)
	}
	if got := Soonest([]Forecast{{nil, "x"}, {nil, "y"}}); got.QuotaExhaustionSeconds != nil || got.Basis != "x" {
		t.Errorf("got %+v, want x", got)
	}
	if got := Soonest(nil); got.Basis == "" {
		t.Error("got no basis")
	}
}

func BenchmarkExhaustion(b *testing.B) {
	quota := int64(2048 * mib)
	s := series(960, 15*time.Second, func(i int) float64 { return float64(i) }, func(i int) float64 { return float64(i) })
	for b.Loop() {
		Exhaustion(s, &quota)
	}
}
