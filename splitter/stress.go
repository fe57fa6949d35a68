package splitter

import (
	"math"

	dto "github.com/prometheus/client_model/go"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// compactionMetric is the histogram of whole compactions, in milliseconds.
const compactionMetric = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds"

// StressMetrics are the families of a member's metrics that ReadStress wants.
var StressMetrics = []string{
	"etcd_disk_wal_fsync_duration_seconds",
	"etcd_disk_backend_commit_duration_seconds",
	compactionMetric,
	"etcd_server_slow_apply_total",
	"etcd_server_proposals_pending",
}

// Families is one member's metrics by name.
type Families map[string]*dto.MetricFamily

// ReadStress reads the stress of the member that is worst off from the members' metrics at the end and at the beginning
// of a window (nil: since the members started, which is less sure), and the sizes of the view. A figure is nil where no
// member told it.
func ReadStress(view cluster.View, now, before map[string]Families, seconds float64) Stress {
	var s Stress
	worst := func(f **Figure, v float64, c Confidence) {
		if !math.IsNaN(v) && (*f == nil || v > (*f).Value) {
			*f = figure(v, FromMetrics, c)
		}
	}
	for member, fam := range now {
		was, windowed := before[member]
		p99 := func(to **Figure, name string, scale float64) {
			h, old := histogram(fam[name]), histogram(was[name])
			// A window with too few observations says less than the whole life of the process does.
			if windowed && h.count-old.count >= minObservations {
				worst(to, h.minus(old).quantile(0.99)*scale, Measured)
			} else if h.count > 0 {
				worst(to, h.quantile(0.99)*scale, Estimated)
			}
		}
		p99(&s.FsyncP99Seconds, StressMetrics[0], 1)
		p99(&s.CommitP99Seconds, StressMetrics[1], 1)
		h := histogram(fam[compactionMetric])
		if now := h.minus(histogram(was[compactionMetric])); windowed && now.count >= minCompactions {
			h = now
		}
		if h.count > 0 {
			worst(&s.CompactionSeconds, h.sum/h.count/1000, Measured)
		}
		if f := fam[StressMetrics[3]]; f != nil && windowed && seconds > 0 {
			worst(&s.SlowAppliesPerSecond, max(0, value(f)-value(was[StressMetrics[3]]))/seconds, Measured)
		}
		if f := fam[StressMetrics[4]]; f != nil {
			worst(&s.PendingProposals, value(f), Measured)
		}
	}
	for _, m := range view.Members {
		if !m.Reachable {
			continue
		}
		if s.DBSizeBytes == nil || float64(m.DBSize) > s.DBSizeBytes.Value {
			s.DBSizeBytes = figure(float64(m.DBSize), FromStatus, Exact)
		}
		if s.DBSizeInUseBytes == nil || float64(m.DBSizeInUse) > s.DBSizeInUseBytes.Value {
			s.DBSizeInUseBytes = figure(float64(m.DBSizeInUse), FromStatus, Exact)
		}
		if m.Quota != nil && (s.QuotaBytes == nil || float64(*m.Quota) < s.QuotaBytes.Value) {
			src := Source(m.QuotaSource)
			s.QuotaBytes = figure(float64(*m.Quota), src, Exact)
		}
	}
	return s
}

// minCompactions is how many say more than all since the member's start.
const minCompactions = 3

// minObservations is how many a p99 needs: below a hundred it is the largest one.
const minObservations = 100

func value(f *dto.MetricFamily) float64 {
	sum := 0.0
	for _, m := range f.GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
	}
	return sum
}

// hist is a classic histogram with cumulative buckets.
type hist struct {
	bounds, counts []float64
	count, sum     float64
}

func histogram(f *dto.MetricFamily) hist {
	var h hist
	for _, m := range f.GetMetric() {
		x := m.GetHistogram()
		h.count += float64(x.GetSampleCount())
		h.sum += x.GetSampleSum()
		for i, b := range x.GetBucket() {
			if len(h.bounds) <= i {
				h.bounds, h.counts = append(h.bounds, b.GetUpperBound()), append(h.counts, 0)
			}
			h.counts[i] += float64(b.GetCumulativeCount())
		}
	}
	return h
}

func (h hist) minus(old hist) hist {
	if len(old.counts) != len(h.counts) {
		return h
	}
	out := hist{bounds: h.bounds, count: h.count - old.count, sum: h.sum - old.sum}
	for i := range h.counts {
		out.counts = append(out.counts, h.counts[i]-old.counts[i])
	}
	return out
}

// quantile is Prometheus's histogram_quantile: linear within a bucket, the last finite bound beyond it.
func (h hist) quantile(q float64) float64 {
	if h.count <= 0 {
		return math.NaN()
	}
	rank := q * h.count
	for i, c := range h.counts {
		if c < rank {
			continue
		}
		if math.IsInf(h.bounds[i], 1) {
			break
		}
		lower, below := 0.0, 0.0
		if i > 0 {
			lower, below = h.bounds[i-1], h.counts[i-1]
		}
		if c == below {
			return h.bounds[i]
		}
		return lower + (h.bounds[i]-lower)*(rank-below)/(c-below)
	}
	for i := len(h.bounds) - 1; i >= 0; i-- {
		if !math.IsInf(h.bounds[i], 1) {
			return h.bounds[i]
		}
	}
	return math.NaN()
}
