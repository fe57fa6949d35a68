package vpa

import (
	"math"

	dto "github.com/prometheus/client_model/go"
)

// The families of etcd's /metrics that are read. They are the same in 3.5, 3.6
// and 3.7, but for the two Go runtime settings that 3.5 does not show.
const (
	famResident     = "process_resident_memory_bytes"
	famCPU          = "process_cpu_seconds_total"
	famStart        = "process_start_time_seconds"
	famGoSys        = "go_memstats_sys_bytes"
	famGoReleased   = "go_memstats_heap_released_bytes"
	famGoAlloc      = "go_memstats_heap_alloc_bytes"
	famGoNextGC     = "go_memstats_next_gc_bytes"
	famGoGC         = "go_gc_gogc_percent"
	famVersion      = "etcd_server_version"
	famKeys         = "etcd_debugging_mvcc_keys_total"
	famRevision     = "etcd_debugging_mvcc_current_revision"
	famCompact      = "etcd_debugging_mvcc_compact_revision"
	famApplied      = "etcd_server_proposals_applied_total"
	famPuts         = "etcd_mvcc_put_total"
	famPutSize      = "etcd_debugging_mvcc_total_put_size_in_bytes"
	famWatchStreams = "etcd_debugging_mvcc_watch_stream_total"
	famWatchers     = "etcd_debugging_mvcc_watcher_total"
	famDB           = "etcd_mvcc_db_total_size_in_bytes"
	famDBInUse      = "etcd_mvcc_db_total_size_in_use_in_bytes"
	famQuota        = "etcd_server_quota_backend_bytes"
	famSent         = "etcd_network_client_grpc_sent_bytes_total"
	famStarted      = "grpc_server_started_total"
	famHandled      = "grpc_server_handled_total"
)

// EtcdFamilies names the families of etcd's /metrics that ParseEtcdMetrics reads.
func EtcdFamilies() []string {
	return []string{
		famResident, famCPU, famStart, famGoSys, famGoReleased, famGoAlloc, famGoNextGC, famGoGC, famVersion, famKeys,
		famRevision, famCompact, famApplied, famPuts, famPutSize, famWatchStreams, famWatchers, famDB, famDBInUse,
		famQuota, famSent, famStarted, famHandled,
	}
}

// EtcdMetrics is one look at etcd's /metrics. Unknown numbers are NaN; counters
// are as they stand.
type EtcdMetrics struct {
	Resident float64 // anonymous and file memory together
	CPU      float64 // seconds since the start
	Start    float64 // seconds since 1970
	// GoAnon is what the Go runtime took from the system and has not given back:
	// an estimate of anonymous memory that is not below it by more than what the
	// runtime reserved and never touched.
	GoAnon    float64
	HeapAlloc float64
	HeapLive  float64 // what the last collection found in use
	Puts      float64
	PutSize   float64
	Sent      float64
	Drivers   Drivers // the gauges of it
}

// ParseEtcdMetrics takes the numbers from metric families as they come from
// etcd's /metrics; families that are missing leave NaN.
func ParseEtcdMetrics(families map[string]*dto.MetricFamily) EtcdMetrics {
	m := metricsOf(func(name string) float64 { return sumOf(families[name], nil) })
	m.Drivers.Version = labelOf(families[famVersion], "server_version")
	m.Drivers.RangesInFlight = inFlight(families, "Range", "RangeStream")
	m.Drivers.SnapshotsSending = inFlight(families, "Snapshot")
	return m
}

// metricsOf takes the numbers by the names of their families, NaN for what is
// not known.
func metricsOf(get func(name string) float64) EtcdMetrics {
	m := EtcdMetrics{
		Resident: get(famResident), CPU: get(famCPU), Start: get(famStart),
		GoAnon: get(famGoSys) - get(famGoReleased), HeapAlloc: get(famGoAlloc),
		Puts: get(famPuts), PutSize: get(famPutSize), Sent: get(famSent), Drivers: unknownDrivers(),
	}
	// The collector's goal is the live heap and its roots times 1 + GOGC/100
	// (https://go.dev/doc/gc-guide), unless GOMEMLIMIT holds it below; then the
	// estimate is too low and never too high.
	gogc := get(famGoGC)
	if !known(gogc) || gogc == 0 {
		gogc = 100
	}
	m.HeapLive = min(get(famGoNextGC)/(1+gogc/100), m.HeapAlloc)
	d := &m.Drivers
	d.Keys, d.Revision, d.CompactRevision = get(famKeys), get(famRevision), get(famCompact)
	d.AppliedEntries = get(famApplied)
	d.WatchStreams, d.Watchers = get(famWatchStreams), get(famWatchers)
	d.DBBytes, d.DBInUseBytes, d.QuotaBytes = get(famDB), get(famDBInUse), get(famQuota)
	d.HeapAlloc, d.HeapGarbage = m.HeapAlloc, m.HeapAlloc-m.HeapLive
	if d.CompactRevision < 0 { // etcd's way to say never
		d.CompactRevision = 0
	}
	return m
}

// inFlight is the number of calls that were started and not yet handled.
func inFlight(families map[string]*dto.MetricFamily, methods ...string) float64 {
	n := math.NaN()
	for _, method := range methods {
		want := func(m *dto.Metric) bool { return label(m, "grpc_method") == method }
		v := sumOf(families[famStarted], want) - sumOf(families[famHandled], want)
		if finite(v) {
			if !finite(n) {
				n = 0
			}
			n += max(0, v)
		}
	}
	return n
}

// sumOf adds the values of a family's series that want takes, NaN when there is none.
func sumOf(f *dto.MetricFamily, want func(*dto.Metric) bool) float64 {
	sum, n := 0.0, 0
	for _, m := range f.GetMetric() {
		if want != nil && !want(m) {
			continue
		}
		n++
		switch {
		case m.Gauge != nil:
			sum += m.Gauge.GetValue()
		case m.Counter != nil:
			sum += m.Counter.GetValue()
		case m.Untyped != nil:
			sum += m.Untyped.GetValue()
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func labelOf(f *dto.MetricFamily, name string) string {
	for _, m := range f.GetMetric() {
		if v := label(m, name); v != "" {
			return v
		}
	}
	return ""
}
