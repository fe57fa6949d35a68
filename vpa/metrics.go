package vpa

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what a keeper exports of the sizes of its members.
type Metrics struct {
	memory     *prometheus.GaugeVec
	cpu        *prometheus.GaugeVec
	goMemLimit *prometheus.GaugeVec
	usage      *prometheus.GaugeVec
	given      *prometheus.GaugeVec
	drivers    *prometheus.GaugeVec
	confidence *prometheus.GaugeVec
	ooms       *prometheus.CounterVec
	restarts   *prometheus.CounterVec
	resizes    *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcdkeeper_vpa_" + name, Help: help}, append([]string{"member"}, labels...))
		reg.MustRegister(g)
		return g
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcdkeeper_vpa_" + name, Help: help}, append([]string{"member"}, labels...))
		reg.MustRegister(c)
		return c
	}
	return &Metrics{
		memory:     gauge("memory_bytes", "Recommended memory of the etcd container by bound: request, limit, lower, upper, target.", "bound"),
		cpu:        gauge("cpu_cores", "Recommended CPU of the etcd container by bound: request, lower, upper.", "bound"),
		goMemLimit: gauge("gomemlimit_bytes", "Recommended GOMEMLIMIT of etcd."),
		usage:      gauge("usage_bytes", "Memory of etcd by part: anonymous, file, live_heap, garbage, total.", "part"),
		given:      gauge("limit_given_bytes", "Memory limit that the etcd container has. Absent where it has none or it cannot be seen."),
		drivers:    gauge("driver_bytes", "Memory that the model ascribes to a driver: index, raft, watch, range, database.", "driver"),
		confidence: gauge("confidence_ratio", "Share of two weeks of history that was observed."),
		ooms:       counter("oom_kills_total", "OOM kills of etcd by the driver that was highest before.", "driver"),
		restarts:   counter("restarts_total", "Restarts of etcd that were seen."),
		resizes:    counter("resizes_total", "Attempts to apply a recommendation by result.", "result"),
	}
}

// observe exports a sample, and the driver of its OOM kill where it has one.
func (m *Metrics) observe(member string, s Sample, driver Driver) {
	for part, v := range map[string]float64{"anonymous": s.Anon, "file": s.File, "live_heap": s.LiveHeap, "garbage": s.Drivers.HeapGarbage, "total": s.Memory} {
		set(m.usage, v, member, part)
	}
	set(m.given, s.Limit, member)
	for _, d := range AllDrivers() {
		m.ooms.WithLabelValues(member, string(d))
	}
	if s.OOM {
		m.ooms.WithLabelValues(member, string(driver)).Inc()
	}
	restarts := m.restarts.WithLabelValues(member)
	if s.Restart {
		restarts.Inc()
	}
}

// kill counts an OOM kill that no sample showed.
func (m *Metrics) kill(member string, d Driver) { m.ooms.WithLabelValues(member, string(d)).Inc() }

// recommend exports a recommendation.
func (m *Metrics) recommend(member string, r Recommendation) {
	for bound, v := range map[string]Number{"request": r.Memory.Request.Bytes, "limit": r.Memory.Limit.Bytes, "lower": r.Memory.Lower, "upper": r.Memory.Upper, "target": r.Memory.Target} {
		set(m.memory, float64(v), member, bound)
	}
	for bound, v := range map[string]Number{"request": r.CPU.Request, "lower": r.CPU.Lower, "upper": r.CPU.Upper} {
		set(m.cpu, float64(v), member, bound)
	}
	set(m.goMemLimit, float64(r.GoMemLimit.Bytes), member)
	d := r.Drivers
	for driver, v := range map[Driver]Number{DriverIndex: d.Index, DriverRaft: d.Raft, DriverWatch: d.Watch, DriverRange: d.Range, DriverDatabase: d.Database} {
		set(m.drivers, float64(v), member, string(driver))
	}
	set(m.confidence, float64(r.Confidence), member)
}

// set sets a gauge, and takes it away when the number is not known: a number
// that stays is worse than none.
func set(g *prometheus.GaugeVec, v float64, labels ...string) {
	if !finite(v) {
		g.DeleteLabelValues(labels...)
		return
	}
	g.WithLabelValues(labels...).Set(v)
}
