package cluster

import (
	"strings"
	"testing"
)

const etcdPage = `# HELP etcd_disk_defrag_inflight Whether or not defrag is active on the member. 1 means active, 0 means not.
# TYPE etcd_disk_defrag_inflight gauge
etcd_disk_defrag_inflight 1
# TYPE etcd_disk_defrag_inflight_other gauge
etcd_disk_defrag_inflight_other 7
# HELP etcd_server_quota_backend_bytes Current backend storage quota size in bytes.
# TYPE etcd_server_quota_backend_bytes gauge
etcd_server_quota_backend_bytes 2.147483648e+09
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 5
etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} 9
etcd_disk_wal_fsync_duration_seconds_sum 0.5
etcd_disk_wal_fsync_duration_seconds_count 9
`

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics(strings.NewReader(etcdPage), []string{MetricDefragInFlight, MetricQuota, "etcd_disk_wal_fsync_duration_seconds", "absent"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Errorf("got %d families, want the three that were asked for and are there", len(got))
	}
	for name, want := range map[string]float64{MetricDefragInFlight: 1, MetricQuota: 2 << 30} {
		if v, ok := MetricValue(got, name); !ok || v != want {
			t.Errorf("%s: got %v, %v; want %v", name, v, ok, want)
		}
	}
	h := got["etcd_disk_wal_fsync_duration_seconds"].GetMetric()
	if len(h) != 1 || h[0].GetHistogram().GetSampleCount() != 9 || len(h[0].GetHistogram().GetBucket()) != 2 {
		t.Errorf("got %v", h)
	}
	for name, page := range map[string]string{
		"two series of one gauge": "etcd_disk_defrag_inflight{a=\"1\"} 0\netcd_disk_defrag_inflight{a=\"2\"} 1\n",
		"another gauge":           "etcd_disk_defrag_inflight_x 0\n",
		"a web page":              "<html><body>it works</body></html>\n",
		"nothing":                 "",
	} {
		got, err := parseMetrics(strings.NewReader(page), []string{MetricDefragInFlight})
		if v, ok := MetricValue(got, MetricDefragInFlight); ok {
			t.Errorf("%s: got %v, %v; want no value, so that the gate stays closed", name, v, err)
		}
	}
	if _, err := parseMetrics(strings.NewReader("etcd_disk_defrag_inflight zero\n"), []string{MetricDefragInFlight}); err == nil {
		t.Error("a value that is no number was taken")
	}
}

// Whatever a URL serves, the parser neither panics nor finds what is not there.
func FuzzParseMetrics(f *testing.F) {
	f.Add(etcdPage)
	f.Add("etcd_disk_defrag_inflight{} NaN\n")
	f.Add("# TYPE etcd_disk_defrag_inflight histogram\netcd_disk_defrag_inflight_bucket{le=\"1\"} 1\n")
	f.Add("etcd_disk_defrag_inflight{a=\"\\\n")
	f.Fuzz(func(t *testing.T, page string) {
		got, err := parseMetrics(strings.NewReader(page), []string{MetricDefragInFlight})
		if err != nil {
			return
		}
		for name := range got {
			if !strings.HasPrefix(name, MetricDefragInFlight) {
				t.Errorf("got %q, which was not asked for", name)
			}
		}
		if _, ok := MetricValue(got, MetricDefragInFlight); ok && !strings.Contains(page, MetricDefragInFlight) {
			t.Error("got a value out of nothing")
		}
	})
}
