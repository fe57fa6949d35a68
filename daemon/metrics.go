package daemon

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// taskMetrics are those that every task has.
type taskMetrics struct {
	lastSuccess *prometheus.GaugeVec
	runs        *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	running     *prometheus.GaugeVec
}

func newTaskMetrics(reg prometheus.Registerer) *taskMetrics {
	m := &taskMetrics{
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcdkeeper_task_last_success_timestamp_seconds",
			Help: "Unix time at which the task last succeeded. Absent before its first success.",
		}, []string{"task"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcdkeeper_task_runs_total",
			Help: "Runs of the task by result: success, skipped, error, timeout or panic.",
		}, []string{"task", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "etcdkeeper_task_duration_seconds",
			Help:                            "Time that runs of the task took.",
			Buckets:                         prometheus.ExponentialBuckets(0.01, 4, 9), // 10 ms to 11 min
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  50,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"task"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcdkeeper_task_running",
			Help: "1 while a run of the task is going on, also while it hangs.",
		}, []string{"task"}),
	}
	reg.MustRegister(m.lastSuccess, m.runs, m.seconds, m.running)
	return m
}

// declare makes the series of a task exist before its first run, so that a rate over them has a start.
func (m *taskMetrics) declare(task string) {
	for _, r := range results {
		m.runs.WithLabelValues(task, r)
	}
	m.seconds.WithLabelValues(task)
	m.running.WithLabelValues(task).Set(0)
}

// forget removes the series of a task that is gone.
func (m *taskMetrics) forget(task string) {
	l := prometheus.Labels{"task": task}
	m.lastSuccess.DeletePartialMatch(l)
	m.runs.DeletePartialMatch(l)
	m.seconds.DeletePartialMatch(l)
	m.running.DeletePartialMatch(l)
}

// daemonMetrics are those of the process.
type daemonMetrics struct {
	reloadSuccess prometheus.Gauge
	reloadTime    prometheus.Gauge
}

func newDaemonMetrics(reg prometheus.Registerer, version string) *daemonMetrics {
	m := &daemonMetrics{
		reloadSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcdkeeper_config_last_reload_successful",
			Help: "1 where the last load of the configuration was accepted, 0 where it was refused and the one before stays.",
		}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcdkeeper_config_last_reload_success_timestamp_seconds",
			Help: "Unix time at which a configuration was last accepted.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "etcdkeeper_build_info",
		Help:        "Always 1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(m.reloadSuccess, m.reloadTime, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.loaded(true)
	return m
}

func (m *daemonMetrics) loaded(ok bool) {
	if !ok {
		m.reloadSuccess.Set(0)
		return
	}
	m.reloadSuccess.Set(1)
	m.reloadTime.SetToCurrentTime()
}
