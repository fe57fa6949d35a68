package bulkclean

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what the daemon tells of its policies.
type Metrics struct {
	selected, bytes, kept *prometheus.GaugeVec
	objects               *prometheus.CounterVec
	last                  *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	policy := []string{"policy"}
	m := &Metrics{
		selected: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_clean_selected_objects",
			Help: "Objects that the latest plan of the policy selected."}, policy),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_clean_selected_bytes",
			Help: "Keys and values of the objects that the latest plan of the policy selected."}, policy),
		kept: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_clean_kept_objects",
			Help: "Objects that the latest plan of the policy kept, by class."}, []string{"policy", "class"}),
		objects: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_clean_objects_total",
			Help: "Objects of plans by what became of them: deleted, kept, changed or failed."}, []string{"policy", "result"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_clean_last_plan_timestamp_seconds",
			Help: "When the latest plan of the policy was made."}, policy),
	}
	reg.MustRegister(m.selected, m.bytes, m.kept, m.objects, m.last)
	return m
}

// Set shows what a run came to.
func (m *Metrics) Set(r PolicyReport) {
	if s := r.Summary; s != nil {
		m.selected.WithLabelValues(r.Policy).Set(float64(s.Objects))
		m.bytes.WithLabelValues(r.Policy).Set(float64(s.Bytes))
		m.last.WithLabelValues(r.Policy).Set(float64(r.Taken.Unix()))
		m.kept.DeletePartialMatch(prometheus.Labels{"policy": r.Policy})
		for _, k := range s.Kept {
			m.kept.WithLabelValues(r.Policy, string(k.Class)).Set(float64(k.Count))
		}
	}
	if res := r.Result; res != nil {
		for o, n := range map[Outcome]int64{Deleted: res.Deleted, Stayed: res.Kept, Changed: res.Changed, Broken: res.Failed} {
			m.objects.WithLabelValues(r.Policy, string(o)).Add(float64(n))
		}
	}
}
