package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// Shapes are made so often each, with other sizes, times and noise.
const (
	shapeRounds = 20
	shapeDays   = 28
	dayOfSteps  = 288
)

// shape is a made-up use of memory in percent at a step.
type shape struct {
	name string
	make func(rng *rand.Rand) func(step int) float64
}

var shapes = []shape{
	{"constant", func(rng *rand.Rand) func(int) float64 {
		base := between(rng, 5, 50)
		return func(int) float64 { return base }
	}},
	{"noise of 5 %", func(rng *rand.Rand) func(int) float64 {
		base := between(rng, 5, 50)
		return func(int) float64 { return base * (1 + 0.05*rng.NormFloat64()) }
	}},
	{"day and night", func(rng *rand.Rand) func(int) float64 {
		base, swing := between(rng, 5, 40), between(rng, 0.1, 0.6)
		return func(i int) float64 {
			return base * (1 + swing*math.Sin(2*math.Pi*float64(i)/dayOfSteps) + 0.02*rng.NormFloat64())
		}
	}},
	{"weekly spike", func(rng *rand.Rand) func(int) float64 {
		base, times, at, long := between(rng, 5, 25), between(rng, 1.5, 3), rng.IntN(7*dayOfSteps), 1+rng.IntN(24)
		return func(i int) float64 {
			v := base * (1 + 0.02*rng.NormFloat64())
			if d := (i - at + 70*dayOfSteps) % (7 * dayOfSteps); d < long {
				v *= times
			}
			return v
		}
	}},
	{"rare spikes", func(rng *rand.Rand) func(int) float64 {
		base, left := between(rng, 5, 25), 0
		times := 1.0
		return func(int) float64 {
			if left--; left < 0 && rng.Float64() < 0.2/dayOfSteps {
				left, times = 1+rng.IntN(12), between(rng, 1.2, 2.5)
			}
			v := base * (1 + 0.02*rng.NormFloat64())
			if left >= 0 {
				v *= times
			}
			return v
		}
	}},
	{"growth of 1 to 5 % a day", func(rng *rand.Rand) func(int) float64 {
		base, rate := between(rng, 5, 15), between(rng, 0.01, 0.05)
		return func(i int) float64 {
			return base * math.Pow(1+rate, float64(i)/dayOfSteps) * (1 + 0.02*rng.NormFloat64())
		}
	}},
	{"leak and restart", func(rng *rand.Rand) func(int) float64 {
		base, rate, period := between(rng, 5, 20), between(rng, 0.05, 0.3), int(between(rng, 1, 5)*dayOfSteps)
		return func(i int) float64 {
			return base * (1 + rate*float64(i%period)/dayOfSteps) * (1 + 0.01*rng.NormFloat64())
		}
	}},
	{"one step up", func(rng *rand.Rand) func(int) float64 {
		base, times, at := between(rng, 5, 25), between(rng, 1.2, 2), rng.IntN(shapeDays*dayOfSteps)
		return func(i int) float64 {
			v := base * (1 + 0.02*rng.NormFloat64())
			if i >= at {
				v *= times
			}
			return v
		}
	}},
	{"one step down", func(rng *rand.Rand) func(int) float64 {
		base, times, at := between(rng, 15, 50), between(rng, 0.3, 0.8), rng.IntN(shapeDays*dayOfSteps)
		return func(i int) float64 {
			v := base * (1 + 0.02*rng.NormFloat64())
			if i >= at {
				v *= times
			}
			return v
		}
	}},
	{"deploys, twice the use for half an hour", func(rng *rand.Rand) func(int) float64 {
		base, left := between(rng, 5, 25), 0
		return func(int) float64 {
			if left--; left < 0 && rng.Float64() < 0.5/dayOfSteps {
				left = 6
			}
			v := base * (1 + 0.02*rng.NormFloat64())
			if left >= 0 {
				v *= 2
			}
			return v
		}
	}},
}

func between(rng *rand.Rand, low, high float64) float64 { return low + (high-low)*rng.Float64() }

// runShapes replays made-up series, which nothing was tuned on.
func runShapes(w io.Writer) error {
	o := vpa.DefaultReplayOptions()
	fmt.Fprintf(w, "\n%d series of %d days of each shape:\n\n", shapeRounds, shapeDays)
	fmt.Fprintln(w, "| shape | etcdkeeper: OOM kills, changes, GiB·h | VPA 1.8.1: OOM kills, changes, GiB·h |\n|---|---:|---:|")
	for n, sh := range shapes {
		var series []vpa.UsageSeries
		for i := range shapeRounds {
			rng := rand.New(rand.NewPCG(uint64(n), uint64(i)))
			at := sh.make(rng)
			s := vpa.UsageSeries{Name: fmt.Sprint(i)}
			for step := range shapeDays * dayOfSteps {
				s.Rows = append(s.Rows, vpa.UsageRow{Step: step, CPUPercent: 10, MemoryPercent: max(0, at(step))})
			}
			series = append(series, s)
		}
		fmt.Fprintf(w, "| %s |", sh.name)
		for _, s := range subjects(nil)[:2] {
			r, err := vpa.ReplayWith(series, o, s.make)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, " %d, %d, %.0f |", r.OOMs, r.Changes, r.OverProvisionedGiBH)
		}
		fmt.Fprintln(w)
	}
	return nil
}
