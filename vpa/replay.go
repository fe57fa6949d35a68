package vpa

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ReplayOptions scale a recorded series.
type ReplayOptions struct {
	Config      Config
	Cores       float64       // what 100 percent of CPU is
	MemoryBytes float64       // what 100 percent of memory is
	Step        time.Duration // time between two steps
	WarmUp      time.Duration // history before the first limit; not judged
}

// DefaultReplayOptions returns 4 cores, 8 GiB, 5 minutes and a day of warm-up.
func DefaultReplayOptions() ReplayOptions {
	return ReplayOptions{Config: DefaultConfig(), Cores: 4, MemoryBytes: 8 * gib, Step: 5 * time.Minute, WarmUp: 24 * time.Hour}
}

// Validate returns every fault of the options, joined.
func (o ReplayOptions) Validate() error {
	var errs []error
	if !finite(o.Cores) || o.Cores <= 0 {
		errs = append(errs, fmt.Errorf("cores %v: must be above 0", o.Cores))
	}
	if !finite(o.MemoryBytes) || o.MemoryBytes <= 0 {
		errs = append(errs, fmt.Errorf("memory %v: must be above 0", o.MemoryBytes))
	}
	if o.Step <= 0 || o.Step > 24*time.Hour {
		errs = append(errs, fmt.Errorf("step %s: must be above 0 and a day at most", o.Step))
	}
	if o.WarmUp < 0 {
		errs = append(errs, fmt.Errorf("warm-up %s: must not be negative", o.WarmUp))
	}
	return errors.Join(append(errs, o.Config.Validate())...)
}

// ReplayResult is what a recommender did to the series it was shown.
type ReplayResult struct {
	Series         int `json:"series"`
	OOMs           int `json:"ooms"`
	SeriesWithOOMs int `json:"seriesWithOoms"`
	// Changes counts the limits that replaced another one; the first limit after
	// the warm-up is not a change.
	Changes             int     `json:"changes"`
	OverProvisionedGiBH float64 `json:"overProvisionedGiBHours"`
	LimitOverUsed       Number  `json:"limitOverUsed"`
	JudgedSteps         int     `json:"judgedSteps"`
	UnknownSteps        int     `json:"unknownSteps"`
	SeriesNotJudged     int     `json:"seriesNotJudged"` // those that end within the warm-up
	limitSum, usedSum   float64
	PerSeries           []SeriesResult `json:"perSeries,omitempty"`
}

// SeriesResult is the part of one series.
type SeriesResult struct {
	Name                string  `json:"name"`
	OOMs                int     `json:"ooms"`
	Changes             int     `json:"changes"`
	OverProvisionedGiBH float64 `json:"overProvisionedGiBHours"`
	LimitOverUsed       Number  `json:"limitOverUsed"`
	LastLimitBytes      Number  `json:"lastLimitBytes"`
	PeakBytes           Number  `json:"peakBytes"`
	judged, unknown     int
	limitSum, usedSum   float64
}

// Limiter is a recommender under replay: it sees samples whose memory is capped
// at the limit and says the limit that holds from the next step on.
type Limiter interface {
	Observe(Sample)
	// Limit returns bytes, NaN when there is no limit yet.
	Limit(now time.Time) float64
}

// replayEpoch is the time of step 0: any fixed time does, since a recommender
// sees differences only.
var replayEpoch = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// Replay shows every series to a recommender of its own, in time order, and
// counts. During the warm-up there is no limit. After it, a step whose use is
// above the limit is one OOM kill, of which the recommender sees the limit as
// use; the new limit holds from the next step on.
func Replay(series []UsageSeries, o ReplayOptions) (ReplayResult, error) {
	return ReplayWith(series, o, func(name string) (Limiter, error) { return NewRecommender(o.Config, name) })
}

// ReplayWith is Replay with another recommender, made anew for each series.
func ReplayWith(series []UsageSeries, o ReplayOptions, make func(name string) (Limiter, error)) (ReplayResult, error) {
	var res ReplayResult
	if err := o.Validate(); err != nil {
		return res, fmt.Errorf("replay: %w", err)
	}
	for _, s := range series {
		l, err := make(s.Name)
		if err != nil {
			return res, fmt.Errorf("replay series %s: %w", s.Name, err)
		}
		res.add(replayOne(s, o, l))
	}
	if res.usedSum > 0 {
		res.LimitOverUsed = Number(res.limitSum / res.usedSum)
	} else {
		res.LimitOverUsed = Number(math.NaN())
	}
	return res, nil
}

func (r *ReplayResult) add(s SeriesResult) {
	r.Series++
	r.OOMs += s.OOMs
	if s.OOMs > 0 {
		r.SeriesWithOOMs++
	}
	r.Changes += s.Changes
	r.OverProvisionedGiBH += s.OverProvisionedGiBH
	r.JudgedSteps += s.judged
	r.UnknownSteps += s.unknown
	if s.judged == 0 {
		r.SeriesNotJudged++
	}
	r.limitSum += s.limitSum
	r.usedSum += s.usedSum
	r.PerSeries = append(r.PerSeries, s)
}

func replayOne(s UsageSeries, o ReplayOptions, l Limiter) SeriesResult {
	res := SeriesResult{Name: s.Name}
	limit, peak := math.NaN(), math.NaN()
	hours := o.Step.Hours()
	for _, row := range s.Rows {
		since := time.Duration(row.Step-s.Rows[0].Step) * o.Step
		now := replayEpoch.Add(since)
		used := row.MemoryPercent / 100 * o.MemoryBytes
		sample := NewSample(now)
		sample.CPU = row.CPUPercent / 100 * o.Cores
		if !known(used) {
			res.unknown++
			l.Observe(sample)
			continue
		}
		if math.IsNaN(peak) || used > peak {
			peak = used
		}
		if since >= o.WarmUp && math.IsNaN(limit) {
			limit = l.Limit(now)
		}
		sample.Memory = used
		if !math.IsNaN(limit) {
			sample.Limit = limit
			res.judged++
			res.limitSum += limit
			res.usedSum += used
			res.OverProvisionedGiBH += max(0, limit-used) / gib * hours
			if used > limit {
				res.OOMs++
				sample.OOM, sample.Memory = true, limit
			}
		}
		l.Observe(sample)
		if !math.IsNaN(limit) {
			if next := l.Limit(now); next != limit {
				res.Changes++
				limit = next
			}
		}
	}
	res.LastLimitBytes, res.PeakBytes = Number(limit), Number(peak)
	res.LimitOverUsed = Number(math.NaN())
	if res.usedSum > 0 {
		res.LimitOverUsed = Number(res.limitSum / res.usedSum)
	}
	return res
}
