package vpa

import (
	"fmt"
	"math"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

const gib = 1 << 30

// quietAfter is the history that it takes to tell that a member hardly moves.
const quietAfter = 24 * time.Hour

// Policy is the statistics behind a recommendation. The defaults were chosen on
// one half of 49 public usage series, those at even places in the file, where
// neighbouring values do about as well, and judged on the other half; the curve
// is in docs/benchmarks/vpa.md.
type Policy struct {
	// PeakHold is how long a peak counts in full: two weeks and a day, so that
	// what happens weekly has been seen twice before it may fade.
	PeakHold time.Duration `yaml:"peakHold" doc:"How long a peak of memory counts in full."`
	// PeakFade is the half-life of a peak's excess over the typical use after that.
	PeakFade time.Duration `yaml:"peakFade" doc:"Half-life of a peak's excess over the typical use once it no longer counts in full."`
	// History is how much observed time is kept.
	History time.Duration `yaml:"history" doc:"How much observed time is kept."`
	// OOMCostGiBHours prices one OOM kill in unused memory: the headroom is the
	// one that makes the sum of both least.
	OOMCostGiBHours float64 `yaml:"oomCostGiBHours" doc:"What one OOM kill costs, in GiB·hours of unused memory."`
	// SpikesPerDay is the rate of demands above everything seen before, in the
	// long run.
	SpikesPerDay float64 `yaml:"spikesPerDay" doc:"How often, per day, demand exceeds everything seen before once the history is long."`
	// NoveltySpikes is added to that rate, divided by the days of history: the
	// n-th value of a series is a record with probability 1/n.
	NoveltySpikes float64 `yaml:"noveltySpikes" doc:"Extra rate of such demands, divided by the days of history."`
	// SpikeScale is the mean size of such an excess relative to the peak.
	SpikeScale float64 `yaml:"spikeScale" doc:"Mean size of such an excess, relative to the peak."`
	// MinHeadroom is the least headroom, relative to the peak.
	MinHeadroom float64 `yaml:"minHeadroom" doc:"The least headroom over the peak, relative to the peak."`
	// QuietSpread is the spread of peak over typical use below which a member
	// counts as quiet and its headroom is reduced, down to QuietShare.
	QuietSpread float64 `yaml:"quietSpread" doc:"Spread of peak over typical use below which the headroom is reduced."`
	QuietShare  float64 `yaml:"quietShare" doc:"Share of the headroom that remains when there is no spread at all."`
	// OOMFactor and OOMAdd are the jump after an OOM kill, of which the larger
	// holds for OOMHold once as much was seen without a kill, and for PeakHold
	// where it was not: what was wanted is not known then, since the kill cut it
	// off. The excess of OOMFactor over 1 counts twice at the second kill within
	// the hold.
	OOMFactor float64        `yaml:"oomFactor" doc:"After an OOM kill the limit is at least this many times what was in use."`
	OOMAdd    bytesize.Bytes `yaml:"oomAddBytes" doc:"After an OOM kill the limit is at least what was in use and this much more."`
	OOMHold   time.Duration  `yaml:"oomHold" doc:"How long the jump after an OOM kill holds once as much was in use without one; until then it holds as long as a peak."`
	// GrowShare is the share of the headroom that must be left; below it the
	// limit grows at once.
	GrowShare float64 `yaml:"growShare" doc:"Share of the headroom below which the limit grows at once."`
	// ShrinkShare is how far under the limit the target must stay, for
	// ShrinkAfter, before the limit shrinks.
	ShrinkShare float64       `yaml:"shrinkShare" doc:"How far below the limit the target must be before the limit shrinks, relative to the limit."`
	ShrinkAfter time.Duration `yaml:"shrinkAfter" doc:"How long the target must stay that far below before the limit shrinks."`
	// MinLimit is the least limit.
	MinLimit bytesize.Bytes `yaml:"minLimitBytes" doc:"The least memory limit."`
}

// DefaultPolicy returns the policy that the benchmark reports.
func DefaultPolicy() Policy {
	return Policy{
		PeakHold: 15 * 24 * time.Hour, PeakFade: 7 * 24 * time.Hour, History: 28 * 24 * time.Hour,
		OOMCostGiBHours: 170, SpikesPerDay: 0.035, NoveltySpikes: 0.08, SpikeScale: 0.5,
		MinHeadroom: 0.07, QuietSpread: 0.03, QuietShare: 0.4,
		OOMFactor: 1.5, OOMAdd: 100 * bytesize.MiB, OOMHold: 12 * time.Hour,
		GrowShare: 0.4, ShrinkShare: 0.2, ShrinkAfter: 24 * time.Hour,
		MinLimit: 100 * bytesize.MiB,
	}
}

// Validate returns every fault of the policy; prefix stands before each key.
func (p Policy) Validate(prefix string) []error {
	var errs []error
	within := func(key string, v, least, most float64) {
		if !finite(v) || v < least || v > most {
			errs = append(errs, fmt.Errorf("%s%s: want %v to %v, got %v", prefix, key, least, most, v))
		}
	}
	days := func(key string, v time.Duration, least time.Duration) {
		if v < least || v > 365*24*time.Hour {
			errs = append(errs, fmt.Errorf("%s%s: want %s to a year, got %s", prefix, key, least, v))
		}
	}
	days("peakHold", p.PeakHold, time.Hour)
	days("peakFade", p.PeakFade, time.Hour)
	days("history", p.History, 24*time.Hour)
	days("oomHold", p.OOMHold, 0)
	days("shrinkAfter", p.ShrinkAfter, 0)
	within("oomCostGiBHours", p.OOMCostGiBHours, 0, 1e9)
	within("spikesPerDay", p.SpikesPerDay, 0, 1e6)
	within("noveltySpikes", p.NoveltySpikes, 0, 1e6)
	within("spikeScale", p.SpikeScale, 0.01, 100)
	within("minHeadroom", p.MinHeadroom, 0, 10)
	within("quietSpread", p.QuietSpread, 0, 10)
	within("quietShare", p.QuietShare, 0, 1)
	within("oomFactor", p.OOMFactor, 1, 10)
	within("growShare", p.GrowShare, 0, 1)
	within("shrinkShare", p.ShrinkShare, 0, 0.9)
	within("oomAddBytes", float64(p.OOMAdd), 0, 1<<40)
	within("minLimitBytes", float64(p.MinLimit), 1<<20, 1<<40)
	return errs
}

// headroom is the memory, in bytes, to leave above the highest demand.
//
// Demands above everything seen arrive at a rate of r a day, and their excess is
// taken as exponential with mean s = SpikeScale·level. A headroom x then costs
// 24·x GiB·h a day and leaves r·exp(−x/s) OOM kills a day at c GiB·h each; the
// sum is least at x = s·ln(r·c / (24·s)). A member whose peaks hardly differ
// from its typical use over a day at least gets a share of it.
func (p Policy) headroom(level, typical float64, observed time.Duration) float64 {
	days := max(observed.Hours()/24, 1)
	quiet := p.QuietSpread > 0 && typical > 0 && observed >= quietAfter
	rate := p.SpikesPerDay + p.NoveltySpikes/days
	scale := p.SpikeScale * level / gib
	x := 0.0
	if scale > 0 {
		x = max(0, scale*math.Log(rate*p.OOMCostGiBHours/(24*scale))) * gib
	}
	x = max(x, p.MinHeadroom*level)
	if quiet {
		spread := (level/typical - 1) / p.QuietSpread
		x *= p.QuietShare + (1-p.QuietShare)*min(1, max(0, spread))
	}
	return x
}
