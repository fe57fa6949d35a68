package defrag

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Metrics are the metrics of rolling defragmentations. A nil *Metrics keeps none.
type Metrics struct {
	runs          *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	lastSeconds   *prometheus.GaugeVec
	predicted     *prometheus.GaugeVec
	reclaimed     *prometheus.CounterVec
	refusals      *prometheus.CounterVec
	leaderMoves   prometheus.Counter
	hashSeconds   prometheus.Gauge
	hashDifferent prometheus.Gauge
	lastSuccess   prometheus.Gauge
	degraded      prometheus.Gauge
	paused        prometheus.Gauge
	reclaimable   prometheus.Gauge
	coordinating  prometheus.Gauge
	uncoordinated prometheus.Gauge
	drained       *prometheus.CounterVec
	moved         *prometheus.CounterVec
	clientWait    prometheus.Gauge
	canDrain      prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcdkeeper_" + name, Help: help})
	}
	m := &Metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_defrag_runs_total",
			Help: "Rolling defragmentations by trigger (rule, emergency, manual) and outcome (done, partial, failed, refused)."}, []string{"trigger", "outcome"}),
		// etcd's own buckets of etcd_disk_backend_defrag_duration_seconds.
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcdkeeper_defrag_duration_seconds",
			Help: "How long one member's defragmentation took.", Buckets: prometheus.ExponentialBuckets(0.1, 2, 13),
			NativeHistogramBucketFactor: 1.1}, []string{"member"}),
		lastSeconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_defrag_last_duration_seconds",
			Help: "How long the member's last defragmentation by this keeper took."}, []string{"member"}),
		predicted: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_defrag_predicted_duration_seconds",
			Help: "How long a defragmentation of the member was last predicted to take."}, []string{"member"}),
		reclaimed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_defrag_reclaimed_bytes_total",
			Help: "Bytes that defragmentations by this keeper gave back."}, []string{"member"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_defrag_refusals_total",
			Help: "Safety gates found closed when a run was due, by gate."}, []string{"gate"}),
		leaderMoves: prometheus.NewCounter(prometheus.CounterOpts{Name: "etcdkeeper_defrag_leader_moves_total",
			Help: "Leaderships moved before a defragmentation."}),
		hashSeconds:   gauge("defrag_hash_longest_seconds", "The longest HashKV call of the last run: its member's clients waited as long."),
		hashDifferent: gauge("defrag_hash_different", "1 if the members' hashes differed in the last run, else 0."),
		lastSuccess:   gauge("defrag_last_success_timestamp_seconds", "When the last run of this keeper that was done ended."),
		degraded:      gauge("defrag_degraded", "1 if three runs in a row have failed and no automatic run is started, else 0."),
		paused:        gauge("paused", "1 if all keepers of the cluster are paused, else 0."),
		reclaimable:   gauge("defrag_reclaimable_bytes", "What a run would give back by the last evaluation of the rule; 0 where it does not match."),
		coordinating:  gauge("coordinating", "1 if this keeper coordinates the cluster, else 0."),
		uncoordinated: gauge("uncoordinated_seconds", "For how long this keeper has seen no keeper coordinate the cluster; 0 while one does."),
		drained: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_defrag_drained_seconds_total",
			Help: "For how long the member's clients were turned away in the runs of this keeper, so that they went to other members."}, []string{"member"}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_defrag_connections_moved_total",
			Help: "Clients' connections that were turned away from the member in the runs of this keeper."}, []string{"member"}),
		clientWait: gauge("defrag_client_wait_seconds", "The longest read of the keeper's own client of all members during the last run of this keeper."),
		canDrain:   gauge("defrag_drain_possible", "1 if this keeper can turn the clients of the member beside it away, else 0."),
	}
	reg.MustRegister(m.runs, m.duration, m.lastSeconds, m.predicted, m.reclaimed, m.refusals, m.leaderMoves, m.hashSeconds,
		m.hashDifferent, m.lastSuccess, m.degraded, m.paused, m.reclaimable, m.coordinating, m.uncoordinated,
		m.drained, m.moved, m.clientWait, m.canDrain)
	for _, trigger := range []string{TriggerRule, TriggerEmergency} {
		for _, outcome := range []Outcome{Done, Partial, Failed, Refused} {
			m.runs.WithLabelValues(trigger, string(outcome))
		}
	}
	return m
}

func (m *Metrics) observe(r Report) {
	if m == nil || r.DryRun {
		return
	}
	m.reclaimable.Set(float64(r.ReclaimableBytes))
	for _, row := range r.Members {
		if row.PredictedSeconds != nil {
			m.predicted.WithLabelValues(row.Name).Set(*row.PredictedSeconds)
		}
		if row.DrainedSeconds != nil {
			m.drained.WithLabelValues(row.Name).Add(*row.DrainedSeconds)
		}
		if row.ConnectionsMoved != nil {
			m.moved.WithLabelValues(row.Name).Add(float64(*row.ConnectionsMoved))
		}
		if !row.Done || row.Seconds == nil {
			continue
		}
		m.duration.WithLabelValues(row.Name).Observe(*row.Seconds)
		m.lastSeconds.WithLabelValues(row.Name).Set(*row.Seconds)
		if row.AfterBytes != nil && *row.BeforeBytes > *row.AfterBytes {
			m.reclaimed.WithLabelValues(row.Name).Add(float64(*row.BeforeBytes - *row.AfterBytes))
		}
	}
	if r.Outcome == Nothing {
		return
	}
	m.runs.WithLabelValues(r.Trigger, string(r.Outcome)).Inc()
	m.leaderMoves.Add(float64(r.LeaderMoves))
	if r.Outcome == Refused {
		m.refused(r.Refusals)
	}
	if r.Clients != nil {
		m.clientWait.Set(r.Clients.LongestSeconds)
	}
	if r.Hash != nil {
		m.hashSeconds.Set(r.Hash.LongestSeconds)
		m.hashDifferent.Set(bit(r.Hash.Result == HashDifferent))
	}
	if r.Outcome == Done {
		m.lastSuccess.Set(float64(r.Started.Unix()) + r.Seconds)
	}
}

func (m *Metrics) refused(closed []cluster.Refusal) {
	if m == nil {
		return
	}
	for _, r := range closed {
		m.refusals.WithLabelValues(r.Gate).Inc()
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
