package splitter

import (
	"github.com/prometheus/client_golang/prometheus"
)

// topResources bounds the series by resource; the rest is "other".
const topResources = 10

// Metrics are the shares and the verdict as gauges. Its methods are safe for concurrent use.
type Metrics struct {
	writeShare, bytes *prometheus.GaugeVec
	verdict           *prometheus.GaugeVec
	window            prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		writeShare: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_split_write_share_ratio",
			Help: "Part of the writes by resource, the largest ones and the rest."}, []string{"resource"}),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_split_resource_bytes",
			Help: "Key and value of the live keys by resource, the largest ones and the rest."}, []string{"resource"}),
		verdict: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_split_verdict",
			Help: "1 for the verdict that holds: split, do_not_split or not_enough_evidence; resource is the one that was judged."}, []string{"verdict", "resource"}),
		window: prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcdkeeper_split_evidence_window_seconds",
			Help: "Time that the rates of the verdict were taken over."}),
	}
	reg.MustRegister(m.writeShare, m.bytes, m.verdict, m.window)
	return m
}

// Set shows a proposal.
func (m *Metrics) Set(p Proposal) {
	m.writeShare.Reset()
	m.bytes.Reset()
	m.verdict.Reset()
	var total float64
	for _, r := range p.Evidence.Resources {
		total += r.WritesPerSecond.Or(0)
	}
	byWrites := append([]ResourceEvidence(nil), p.Evidence.Resources...)
	sortBy(byWrites, func(a, b ResourceEvidence) bool { return a.WritesPerSecond.Or(0) > b.WritesPerSecond.Or(0) })
	for i, r := range byWrites {
		if total == 0 {
			break
		}
		m.writeShare.WithLabelValues(top(i, r.Resource)).Add(r.WritesPerSecond.Or(0) / total)
	}
	for i, r := range p.Evidence.Resources {
		m.bytes.WithLabelValues(top(i, r.Resource)).Add(r.Bytes.Or(0))
	}
	label := map[Verdict]string{Split: "split", DoNotSplit: "do_not_split", NotEnoughEvidence: "not_enough_evidence"}
	for _, v := range []Verdict{Split, DoNotSplit, NotEnoughEvidence} {
		n := 0.0
		if p.Verdict == v {
			n = 1
		}
		m.verdict.WithLabelValues(label[v], p.Judged).Set(n)
	}
	m.window.Set(p.Evidence.WindowSeconds.Or(0))
}

func top(i int, name string) string {
	if i >= topResources {
		return restName
	}
	return name
}
