// Package forecast tells from a series of sizes when a database will reach its quota. It is pure.
package forecast

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Sample is what one member said at one time.
type Sample struct {
	Time  time.Time
	Size  int64 // of the database file, in bytes: what the quota counts
	InUse int64 // of that, what a defragmentation would leave, in bytes
}

// Forecast is how long until the quota is reached. QuotaExhaustionSeconds is nil where there is no reason to expect it;
// Basis says in words what the number, or its absence, rests on.
type Forecast struct {
	QuotaExhaustionSeconds *float64 `json:"quotaExhaustionSeconds"`
	Basis                  string   `json:"basis"`
}

const (
	// minSpan and minSamples keep a forecast from resting on a moment: one compaction interval of kube-apiserver is
	// 5 minutes, so that ten minutes hold its saw-tooth twice.
	minSpan    = 10 * time.Minute
	minSamples = 8
	// maxSamples bounds the pairs: 120 samples are 7,140 slopes.
	maxSamples = 120
	// Window is how far back samples count: etcd's own alert predicts from 4 hours.
	Window = 4 * time.Hour
)

// Exhaustion forecasts when the file of a member with the given quota is full. quota is nil or 0 where it is not known.
// Samples are in order of time; those older than Window are left out.
//
// Two lines are drawn, each with the Theil–Sen slope, the median of the slopes between all pairs, which up to 29 % of
// outliers cannot move: the file's size since it last shrank (only a defragmentation shrinks it) up to the quota, and
// the size in use up to the quota, since free pages are filled before the file grows. The one that gets there first
// counts. A slope that is lost in the scatter around it does not count.
func Exhaustion(samples []Sample, quota *int64) Forecast {
	if quota == nil || *quota <= 0 {
		return Forecast{Basis: "the quota is not known"}
	}
	if len(samples) == 0 {
		return Forecast{Basis: "nothing was observed yet"}
	}
	last := samples[len(samples)-1]
	if last.Size >= *quota {
		return Forecast{QuotaExhaustionSeconds: new(float64), Basis: "the file has reached the quota"}
	}
	samples = slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool {
		return last.Time.Sub(s.Time) > Window || s.Time.After(last.Time)
	})
	span := last.Time.Sub(samples[0].Time)
	if len(samples) < minSamples || span < minSpan {
		return Forecast{Basis: fmt.Sprintf("%d samples over %s are too few: want %d over %s", len(samples), span.Round(time.Second), minSamples, minSpan)}
	}
	file := line("the file", sinceShrunk(samples), func(s Sample) int64 { return s.Size }, *quota)
	use := line("the size in use", samples, func(s Sample) int64 { return s.InUse }, *quota)
	switch {
	case file.QuotaExhaustionSeconds == nil && use.QuotaExhaustionSeconds == nil:
		return Forecast{Basis: fmt.Sprintf("no growth beyond the scatter in %d samples over %s", len(samples), span.Round(time.Minute))}
	case file.QuotaExhaustionSeconds == nil:
		return use
	case use.QuotaExhaustionSeconds == nil || *file.QuotaExhaustionSeconds <= *use.QuotaExhaustionSeconds:
		return file
	}
	return use
}

// sinceShrunk are the samples since the file last became smaller.
func sinceShrunk(samples []Sample) []Sample {
	for i := len(samples) - 1; i > 0; i-- {
		if samples[i].Size < samples[i-1].Size {
			return samples[i:]
		}
	}
	return samples
}

// line forecasts when value, drawn out along its slope, reaches quota.
func line(what string, samples []Sample, value func(Sample) int64, quota int64) Forecast {
	last := samples[len(samples)-1]
	span := last.Time.Sub(samples[0].Time)
	if len(samples) < minSamples || span < minSpan {
		return Forecast{}
	}
	slope, scatter := theilSen(thin(samples), value)
	if slope <= 0 || slope*span.Seconds() < 2*scatter {
		return Forecast{}
	}
	seconds := math.Max(0, float64(quota-value(last))/slope)
	return Forecast{
		QuotaExhaustionSeconds: &seconds,
		Basis: fmt.Sprintf("%s grows by %.1f MiB an hour (median of the slopes of %d samples over %s), %.1f MiB are left",
			what, slope*3600/(1<<20), len(samples), span.Round(time.Minute), float64(quota-value(last))/(1<<20)),
	}
}

// thin keeps at most maxSamples, the first and the last among them.
func thin(samples []Sample) []Sample {
	if len(samples) <= maxSamples {
		return samples
	}
	out := make([]Sample, 0, maxSamples)
	for i := range maxSamples {
		out = append(out, samples[i*(len(samples)-1)/(maxSamples-1)])
	}
	return out
}

// theilSen is the median slope in bytes a second, and the median distance of the samples from the line in bytes.
func theilSen(samples []Sample, value func(Sample) int64) (slope, scatter float64) {
	slopes := make([]float64, 0, len(samples)*(len(samples)-1)/2)
	for i, a := range samples {
		for _, b := range samples[i+1:] {
			if dt := b.Time.Sub(a.Time).Seconds(); dt > 0 {
				slopes = append(slopes, float64(value(b)-value(a))/dt)
			}
		}
	}
	if len(slopes) == 0 {
		return 0, 0
	}
	slope = median(slopes)
	rest := make([]float64, len(samples))
	for i, s := range samples {
		rest[i] = float64(value(s)) - slope*s.Time.Sub(samples[0].Time).Seconds()
	}
	level := median(slices.Clone(rest))
	for i := range rest {
		rest[i] = math.Abs(rest[i] - level)
	}
	return slope, median(rest)
}

// median reorders values.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}

// Soonest is the forecast of the member that reaches its quota first; where none does, that of the first by order.
func Soonest(forecasts []Forecast) Forecast {
	var out Forecast
	for i, f := range forecasts {
		switch {
		case i == 0:
			out = f
		case f.QuotaExhaustionSeconds == nil:
		case out.QuotaExhaustionSeconds == nil || *f.QuotaExhaustionSeconds < *out.QuotaExhaustionSeconds:
			out = f
		}
	}
	if len(forecasts) == 0 {
		out.Basis = "nothing was observed yet"
	}
	return out
}
