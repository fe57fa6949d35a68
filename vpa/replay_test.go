package vpa

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// makeSeries builds a series of days at 5 minutes from a function of the step.
func makeSeries(days int, percent func(step int) float64) UsageSeries {
	s := UsageSeries{Name: "s"}
	for i := range days * 288 {
		s.Rows = append(s.Rows, UsageRow{Step: i, CPUPercent: 10, MemoryPercent: percent(i)})
	}
	return s
}

func TestReplay_Shapes(t *testing.T) {
	noise := func(i int) float64 { return math.Mod(float64(i)*0.618, 1) }
	tests := []struct {
		name       string
		days       int
		percent    func(int) float64
		maxOOMs    int
		maxChanges int
		maxRatio   float64
	}{
		{"constant", 10, func(int) float64 { return 20 }, 0, 1, 1.2},
		{"zero", 10, func(int) float64 { return 0 }, 0, 0, math.Inf(1)},
		{"noise", 10, func(i int) float64 { return 20 + 2*noise(i) }, 0, 2, 1.5},
		{"daily", 10, func(i int) float64 { return 20 + 10*math.Sin(float64(i)/288*2*math.Pi) }, 0, 2, 2},
		{"growth of 5 percent a day", 20, func(i int) float64 { return 10 * math.Pow(1.05, float64(i)/288) }, 0, 20, 1.4},
		{"weekly spike to three times the base", 35, func(i int) float64 {
			if i%(7*288) == 3*288 {
				return 37.5
			}
			return 12.5
		}, 2, 4, 4},
		{"step up to twice the base", 10, func(i int) float64 {
			if i > 4*288 {
				return 30
			}
			return 15
		}, 3, 5, 2},
		{"step down", 40, func(i int) float64 {
			if i < 4*288 {
				return 30
			}
			return 15
		}, 0, 6, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Replay([]UsageSeries{makeSeries(tt.days, tt.percent)}, DefaultReplayOptions())
			if err != nil {
				t.Fatal(err)
			}
			if got.OOMs > tt.maxOOMs || got.Changes > tt.maxChanges || float64(got.LimitOverUsed) > tt.maxRatio {
				t.Errorf("got %d OOM kills, %d changes, limit/used %.2f, want at most %d, %d, %.2f",
					got.OOMs, got.Changes, got.LimitOverUsed, tt.maxOOMs, tt.maxChanges, tt.maxRatio)
			}
		})
	}
}

// fixedLimiter is a recommender whose limit is the highest use seen, times two
// after an OOM kill.
type fixedLimiter struct{ limit float64 }

func (f *fixedLimiter) Observe(s Sample) {
	if s.OOM {
		f.limit = 2 * s.Memory
	}
}
func (f *fixedLimiter) Limit(time.Time) float64 { return f.limit }

func TestReplayWith_CountsByTheRules(t *testing.T) {
	s := UsageSeries{Name: "s"}
	// Warm-up of 3 steps; then 1 GiB of 1, a use of 3 (one OOM, limit 2), of 3
	// (another, limit 4), a gap, and 1.
	for i, v := range []float64{0.5, 9, 0.5, 1, 3, 3, math.NaN(), 1} {
		s.Rows = append(s.Rows, UsageRow{Step: i, MemoryPercent: v})
	}
	o := DefaultReplayOptions()
	o.MemoryBytes, o.Step, o.WarmUp = 100*gib, time.Hour, 3*time.Hour
	got, err := ReplayWith([]UsageSeries{s}, o, func(string) (Limiter, error) { return &fixedLimiter{gib}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if got.OOMs != 2 || got.SeriesWithOOMs != 1 || got.Changes != 2 || got.JudgedSteps != 4 || got.UnknownSteps != 1 {
		t.Errorf("got %d OOMs in %d series, %d changes, %d judged, %d unknown, want 2 in 1, 2, 4, 1",
			got.OOMs, got.SeriesWithOOMs, got.Changes, got.JudgedSteps, got.UnknownSteps)
	}
	if got.OverProvisionedGiBH != 3 {
		t.Errorf("over-provisioned: got %v GiB·h, want 3", got.OverProvisionedGiBH)
	}
	if r := float64(got.LimitOverUsed); math.Abs(r-8.0/8) > 1e-9 {
		t.Errorf("limit/used: got %v, want 1", r)
	}
}

func TestReplay_ShortSeriesAndGaps(t *testing.T) {
	short := makeSeries(1, func(int) float64 { return 10 })
	gaps := makeSeries(5, func(i int) float64 {
		if i%7 == 0 {
			return math.NaN()
		}
		return 10
	})
	gaps.Rows = append(gaps.Rows[:600], gaps.Rows[900:]...)
	empty := makeSeries(3, func(int) float64 { return math.NaN() })
	got, err := Replay([]UsageSeries{short, gaps, empty}, DefaultReplayOptions())
	if err != nil {
		t.Fatal(err)
	}
	if got.Series != 3 || got.OOMs != 0 || got.SeriesNotJudged != 2 {
		t.Errorf("got %d series, %d OOMs, %d not judged, want 3, 0, 2", got.Series, got.OOMs, got.SeriesNotJudged)
	}
}

func TestReplay_RefusesOptions(t *testing.T) {
	o := DefaultReplayOptions()
	o.Cores, o.MemoryBytes, o.Step, o.WarmUp = 0, math.NaN(), 0, -1
	_, err := Replay(nil, o)
	for _, want := range []string{"cores", "memory", "step", "warm-up"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that names %s", err, want)
		}
	}
}

func TestReadUsage(t *testing.T) {
	const head = "series,step,cpu_percent,memory_percent\n"
	tests := []struct{ name, in, wantErr string }{
		{"good", head + "a,0,1,2\na,1,,NaN\nb,0,1,2\n", ""},
		{"other order of columns", "memory_percent,series,extra,step,cpu_percent\n2,a,x,0,1\n", ""},
		{"empty", "", "empty"},
		{"no header", "a,0,1,2\n", "line 1: no column series"},
		{"short row", head + "a,0,1,2\na,1\n", "line 3: 2 fields, no cpu_percent"},
		{"not a number", head + "a,0,1,x\n", `line 2: memory_percent "x"`},
		{"negative", head + "a,0,1,-4\n", `line 2: memory_percent "-4"`},
		{"infinite", head + "a,0,Inf,4\n", `line 2: cpu_percent "Inf"`},
		{"bad step", head + "a,1.5,1,4\n", `line 2: step "1.5"`},
		{"step twice", head + "a,1,1,4\nb,1,1,4\na,1,1,5\n", "line 4: step 1 of series a was already on line 2"},
		{"no series", head + ",1,1,4\n", "line 2: series is empty"},
		{"open quote", head + "\"a,1,1,4\n", "line 2"},
		{"torn gzip", "\x1f\x8b\x08\x00", "read f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadUsage(strings.NewReader(tt.in), "f")
			if (err == nil) != (tt.wantErr == "") || (err != nil && !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("got error %v, want %q", err, tt.wantErr)
			}
		})
	}
	got, err := ReadUsage(strings.NewReader(head+"a,7,1,2\na,3,,NaN\n"), "f")
	if err != nil || fmt.Sprint(got) != "[{a [{3 NaN NaN} {7 1 2}]}]" {
		t.Errorf("got %v, %v, want the steps in order with gaps as NaN", got, err)
	}
}

func FuzzReadUsage(f *testing.F) {
	f.Add("series,step,cpu_percent,memory_percent\na,0,1,2\n")
	f.Add("\x1f\x8b\x08\x00\x00")
	f.Add("series,step,cpu_percent,memory_percent\na,0,,NaN\na,0,1,2\n")
	f.Fuzz(func(t *testing.T, in string) {
		series, err := ReadUsage(strings.NewReader(in), "f")
		if err != nil {
			return
		}
		res, err := Replay(series, DefaultReplayOptions())
		if err != nil {
			t.Fatal(err)
		}
		if res.Series != len(series) || !finite(res.OverProvisionedGiBH) {
			t.Errorf("got %d series and %v GiB·h for %d series", res.Series, res.OverProvisionedGiBH, len(series))
		}
	})
}
