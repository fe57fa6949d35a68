package census

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the numbers of the latest census. The series of each are bounded: the largest resources and "other".
type Metrics struct {
	keys, bytes, largest, growth, quota *prometheus.GaugeVec
	findings                            *prometheus.GaugeVec
	taken, seconds, revision            *prometheus.GaugeVec // without labels: absent where there is no census
}

var resourceLabels = []string{"group", "resource"}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_census_" + name, Help: help}, labels)
		reg.MustRegister(g)
		return g
	}
	return &Metrics{
		keys:     gauges("keys", "Keys of a resource; the smaller resources are added up as other.", resourceLabels...),
		bytes:    gauges("bytes", "Bytes of the keys and values of a resource.", resourceLabels...),
		largest:  gauges("largest_object_bytes", "Size of the largest object of a resource.", resourceLabels...),
		growth:   gauges("growth_bytes_per_second", "Growth of a resource over the last censuses.", resourceLabels...),
		quota:    gauges("quota_exhaustion_seconds", "Time until the growth of this resource alone fills what is left of the quota.", resourceLabels...),
		findings: gauges("findings", "Findings of the latest census by severity.", "severity"),
		taken:    gauges("taken_timestamp_seconds", "When the latest census was taken."),
		seconds:  gauges("duration_seconds", "How long the latest census took."),
		revision: gauges("revision", "Revision of the latest census."),
	}
}

// Reset ends all series: this keeper has no census to show.
func (m *Metrics) Reset() {
	for _, g := range []*prometheus.GaugeVec{m.keys, m.bytes, m.largest, m.growth, m.quota, m.findings, m.taken, m.seconds, m.revision} {
		g.Reset()
	}
}

// Set shows a census. top bounds the resources with series of their own.
func (m *Metrics) Set(c *Census, growth []Growth, top int) {
	m.Reset()
	shown := map[resourceName]bool{}
	var keys, bytes, largest int64
	for i, r := range c.Resources {
		if i < top && r.Resource != "other" {
			shown[resourceName{r.Group, r.Resource}] = true
			m.keys.WithLabelValues(r.Group, r.Resource).Set(float64(r.Keys))
			m.bytes.WithLabelValues(r.Group, r.Resource).Set(float64(r.Bytes))
			m.largest.WithLabelValues(r.Group, r.Resource).Set(float64(r.LargestBytes))
			continue
		}
		keys += r.Keys
		bytes += r.Bytes
		largest = max(largest, r.LargestBytes)
	}
	m.keys.WithLabelValues("", "other").Set(float64(keys))
	m.bytes.WithLabelValues("", "other").Set(float64(bytes))
	m.largest.WithLabelValues("", "other").Set(float64(largest))
	other := 0.0
	for _, g := range growth {
		if !shown[resourceName{g.Group, g.Resource}] {
			other += g.BytesPerSecond
			continue
		}
		m.growth.WithLabelValues(g.Group, g.Resource).Set(g.BytesPerSecond)
		if g.QuotaSeconds != nil {
			m.quota.WithLabelValues(g.Group, g.Resource).Set(*g.QuotaSeconds)
		}
	}
	if len(growth) > 0 {
		m.growth.WithLabelValues("", "other").Set(other)
	}
	for _, severity := range []string{Info, Warning, Critical} {
		n := 0
		for _, f := range c.Findings {
			if f.Severity == severity {
				n++
			}
		}
		m.findings.WithLabelValues(severity).Set(float64(n))
	}
	m.taken.WithLabelValues().Set(float64(c.Taken.Unix()))
	m.seconds.WithLabelValues().Set(c.Seconds)
	m.revision.WithLabelValues().Set(float64(c.Revision))
}
