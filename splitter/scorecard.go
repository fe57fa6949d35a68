package splitter

import (
	"context"
	"slices"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Score is one prediction beside what is measured.
type Score struct {
	Name      string   `json:"name"`
	Predicted *float64 `json:"predicted"`
	Measured  *float64 `json:"measured"`
	Deviation *float64 `json:"deviation"` // (measured − predicted) ÷ predicted
	Unit      string   `json:"unit"`      // bytes, perSecond, seconds
}

// writeMetrics count the keys that a member's store put and deleted.
var writeMetrics = []string{"etcd_mvcc_put_total", "etcd_mvcc_delete_total"}

// memberMetrics are the metrics of each member that tells them.
func memberMetrics(ctx context.Context, c *cluster.Client, view cluster.View) map[string]Families {
	out := map[string]Families{}
	for _, m := range view.Members {
		if !m.Reachable {
			continue
		}
		if fam, err := c.Metrics(ctx, m, append(slices.Clone(writeMetrics), StressMetrics...)...); err == nil {
			out[m.String()] = fam
		}
	}
	return out
}

// score compares the plan's predictions with what was measured over the watch.
func (v *verifier) score(before, after moment) {
	p := v.o.Plan
	if p == nil {
		return
	}
	span := after.at.Sub(before.at).Seconds()
	pace := func(from, to int64) *float64 { x := float64(to-from) / span; return &x }
	add := func(name, unit string, predicted, measured *float64) {
		s := Score{Name: name, Predicted: predicted, Measured: measured, Unit: unit}
		if predicted != nil && measured != nil && *predicted != 0 {
			d := (*measured - *predicted) / *predicted
			s.Deviation = &d
		}
		v.out.Scorecard = append(v.out.Scorecard, s)
	}
	add("mainDatabase", "bytes", float(p.Main.DBSizeBytes), largest(after.main))
	add("shardDatabase", "bytes", float(p.Shard.DBSizeBytes), largest(after.shard))
	add("mainWrites", "perSecond", p.Main.WritesPerSecond, writesPerSecond(before.mainMetrics, after.mainMetrics, span))
	add("shardWrites", "perSecond", p.Shard.WritesPerSecond, writesPerSecond(before.shardMetrics, after.shardMetrics, span))
	add("mainRevisions", "perSecond", p.Main.RevisionsPerSecond, pace(before.mainRevision, after.mainRevision))
	add("shardRevisions", "perSecond", p.Shard.RevisionsPerSecond, pace(before.shardRevision, after.shardRevision))
	// main compacted the moved keys too before the split, so that only what is seen now counts; the shard never did.
	add("mainCompaction", "seconds", p.Main.CompactionSeconds, compactionSeconds(before.mainMetrics, after.mainMetrics))
	shard := compactionSeconds(before.shardMetrics, after.shardMetrics)
	if shard == nil {
		shard = compactionSeconds(nil, after.shardMetrics)
	}
	add("shardCompaction", "seconds", p.Shard.CompactionSeconds, shard)
}

func float(n *int64) *float64 {
	if n == nil {
		return nil
	}
	x := float64(*n)
	return &x
}

// largest is the database of the member that has the largest one.
func largest(view cluster.View) *float64 {
	var out *float64
	for _, m := range view.Members {
		if x := float64(m.DBSize); m.Reachable && (out == nil || x > *out) {
			out = &x
		}
	}
	return out
}

// writesPerSecond is the pace of the member that was told most by both; nil where none told.
func writesPerSecond(before, after map[string]Families, span float64) *float64 {
	var out *float64
	for member, fam := range after {
		was, ok := before[member]
		if !ok || span <= 0 {
			continue
		}
		n := 0.0
		for _, name := range writeMetrics {
			n += value(fam[name]) - value(was[name])
		}
		if n /= span; n >= 0 && (out == nil || n > *out) {
			out = &n
		}
	}
	return out
}

// compactionSeconds is the mean of the compactions between two moments, or since the members started where before is
// nil, of the slowest member; nil where there was none.
func compactionSeconds(before, after map[string]Families) *float64 {
	var out *float64
	for member, fam := range after {
		h := histogram(fam[compactionMetric])
		if before != nil {
			old := histogram(before[member][compactionMetric])
			h.count, h.sum = h.count-old.count, h.sum-old.sum
		}
		if h.count <= 0 {
			continue
		}
		if s := h.sum / h.count / 1000; out == nil || s > *out {
			out = &s
		}
	}
	return out
}
