package splitter

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func families(t *testing.T, text string) Families {
	t.Helper()
	p := expfmt.NewTextParser(prommodel.UTF8Validation)
	f, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// metrics are those of a member: fsyncs below 1, 10 and 100 ms, and what it compacted.
func metrics(t *testing.T, below1, below10, below100 string, slow string) Families {
	t.Helper()
	return families(t, `# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} `+below1+`
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.01"} `+below10+`
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.1"} `+below100+`
etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} `+below100+`
etcd_disk_wal_fsync_duration_seconds_sum 1
etcd_disk_wal_fsync_duration_seconds_count `+below100+`
# TYPE etcd_debugging_mvcc_db_compaction_total_duration_milliseconds histogram
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_bucket{le="+Inf"} 4
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_sum 2000
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count 4
# TYPE etcd_server_slow_apply_total counter
etcd_server_slow_apply_total `+slow+`
# TYPE etcd_server_proposals_pending gauge
etcd_server_proposals_pending 3
`)
}

func TestReadStress(t *testing.T) {
	quota := int64(8 << 30)
	view := cluster.View{Members: []cluster.Member{
		{Name: "a", Reachable: true, DBSize: 100, DBSizeInUse: 90, Quota: &quota, QuotaSource: cluster.QuotaFromStatus},
		{Name: "b", Reachable: true, DBSize: 200, DBSizeInUse: 50},
		{Name: "c", DBSize: 1 << 40},
	}}
	before := map[string]Families{"a": metrics(t, "1000", "1000", "1000", "0"), "b": metrics(t, "1000", "1000", "1000", "10")}
	now := map[string]Families{
		"a": metrics(t, "1100", "1200", "1200", "0"),  // in the window: 100 below 1 ms, 100 below 10 ms
		"b": metrics(t, "1000", "1000", "1010", "40"), // 10 observations are too few for the window
	}
	s := ReadStress(view, now, before, 10)
	near := func(what string, f *Figure, want float64, c Confidence) {
		t.Helper()
		if f == nil || math.Abs(f.Value-want) > 1e-9*math.Max(1, want) || f.Confidence != c {
			t.Errorf("%s: got %+v, want %g %s", what, f, want, c)
		}
	}
	near("fsync", s.FsyncP99Seconds, 0.001+0.009*0.98, Measured) // rank 198 of 200: the 98th of the 100 in its bucket
	near("compaction", s.CompactionSeconds, 0.5, Measured)
	near("slow applies", s.SlowAppliesPerSecond, 3, Measured)
	near("pending", s.PendingProposals, 3, Measured)
	near("size", s.DBSizeBytes, 200, Exact)
	near("in use", s.DBSizeInUseBytes, 90, Exact)
	near("quota", s.QuotaBytes, 8<<30, Exact)
	if s.CommitP99Seconds != nil {
		t.Errorf("commit: got %+v, want nil where no member tells it", s.CommitP99Seconds)
	}
	if empty := ReadStress(cluster.View{}, nil, nil, 0); empty.FsyncP99Seconds != nil || empty.DBSizeBytes != nil {
		t.Errorf("got %+v of nothing", empty)
	}
}

func TestParseAPIServer(t *testing.T) {
	parse := func(creates, updates string) apiServerLook {
		l, err := parseAPIServer(strings.NewReader(`# TYPE etcd_requests_total counter
etcd_requests_total{group="",operation="create",resource="events"} ` + creates + `
etcd_requests_total{group="",operation="get",resource="events"} 9999
etcd_requests_total{group="coordination.k8s.io",operation="update",resource="leases"} ` + updates + `
# TYPE apiserver_resource_objects gauge
apiserver_resource_objects{group="",resource="events"} 77
apiserver_resource_objects{group="coordination.k8s.io",resource="leases"} -1
`))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	at := time.Unix(1e9, 0)
	e := apiServerEvidence(look{at: at, api: parse("100", "1000")}, look{at: at.Add(10 * time.Second), api: parse("150", "1200")}, 10)
	// Each event is also deleted, by its lease.
	if got := e.find("events").WritesPerSecond.Or(0); got != 10 {
		t.Errorf("got %g writes of events a second, want 10", got)
	}
	if got := e.find("leases.coordination.k8s.io").WritesPerSecond.Or(0); got != 20 {
		t.Errorf("got %g writes of leases a second, want 20", got)
	}
	if e.find("events").Keys.Or(0) != 77 || e.find("leases.coordination.k8s.io").Keys != nil {
		t.Errorf("got keys %+v, %+v", e.find("events").Keys, e.find("leases.coordination.k8s.io").Keys)
	}
	if _, err := parseAPIServer(strings.NewReader("not metrics {")); err == nil {
		t.Error("got no error for what are no metrics")
	}
}

func FuzzRenewTime(f *testing.F) {
	f.Add([]byte(leaseValue(f, time.Unix(1e9, 0))))
	f.Add([]byte("k8s\x00\x12\xff\xff\xff"))
	f.Fuzz(func(_ *testing.T, b []byte) { renewTime(b) })
}
