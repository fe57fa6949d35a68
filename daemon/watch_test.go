package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const mib = 1 << 20

func pointer[T any](v T) *T { return &v }

func testView(size, inUse int64) cluster.View {
	return cluster.View{ClusterID: 0xc1, Members: []cluster.Member{
		{ID: 1, Name: "etcd-0", Started: true, Reachable: true, Version: "3.7.3", Leader: true, LeaderID: 1, RaftTerm: 4, RaftAppliedIndex: 77, Revision: 66,
			DBSize: size, DBSizeInUse: inUse, Quota: pointer(int64(2048 * mib)), QuotaSource: cluster.QuotaFromStatus, DefragInFlight: pointer(int64(0))},
		{ID: 2, Name: "etcd-1", Started: true, Reachable: false, Error: "hangs", Alarms: []string{"NOSPACE", "NOSPACE"}},
	}}
}

func newTestWatch(t *testing.T, dir string) (*Watch, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	return NewWatch(dir, slog.New(slog.NewTextHandler(log, nil))), log
}

func TestWatch_Forecast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := newTestWatch(t, "")
		if f := w.Forecast(); f.QuotaExhaustionSeconds != nil || f.Basis != "nothing was observed yet" {
			t.Errorf("got %+v before anything was observed", f)
		}
		for i := range int64(120) {
			w.Observe(testView((905+i)*mib, 100*mib))
			time.Sleep(time.Minute)
		}
		f := w.Forecast()
		if f.QuotaExhaustionSeconds == nil || int(*f.QuotaExhaustionSeconds+0.5) != 1024*60 || !strings.HasPrefix(f.Basis, "member etcd-0: the file grows by 60.0 MiB an hour") {
			t.Errorf("got %+v, want 1024 minutes because etcd-0's file grows", f)
		}
		if h := w.History(1); len(h) != 13 || h[0].Size != 905*mib || h[12].Size != 1024*mib {
			t.Errorf("got a history of %d points: %+v", len(h), h)
		}
		if h := w.History(2); h != nil {
			t.Errorf("got a history of the member that never answered: %+v", h)
		}
	})
}

// Old numbers are not shown as if they were new.
func TestWatch_LatestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := newTestWatch(t, "")
		w.setInterval(15 * time.Second)
		w.Observe(testView(2, 1))
		time.Sleep(59 * time.Second)
		if _, ok := w.Latest(); !ok {
			t.Error("the view ended too early")
		}
		if n := testutil.CollectAndCount(&watchCollector{w: w}); n == 0 {
			t.Error("nothing is exported")
		}
		time.Sleep(2 * time.Second)
		if _, ok := w.Latest(); ok {
			t.Error("the view did not end")
		}
		if n := testutil.CollectAndCount(&watchCollector{w: w}); n != 0 {
			t.Errorf("%d numbers of the past are still exported", n)
		}
	})
}

func TestWatch_ClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-3 * time.Hour, 5 * time.Hour, 48 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w, log := newTestWatch(t, "")
			for i := range int64(60) {
				w.Observe(testView((905+i)*mib, 100*mib))
				time.Sleep(time.Minute)
			}
			w.mu.Lock()
			w.clockMoved(by)
			ages := time.Now().Add(by).Unix() - w.series[1].Fine[59].at
			w.mu.Unlock()
			if ages != 60 {
				t.Errorf("by %s: got an age of %d s, want 60", by, ages)
			}
			if !strings.Contains(log.String(), "the clock was set") {
				t.Errorf("by %s: the log does not tell it", by)
			}
		})
	}
}

func TestSeries_Bounded(t *testing.T) {
	var s series
	for i := range int64(20 * 24 * 360) { // 20 days, every ten seconds
		s.add(point{at: 1_700_000_000 + 10*i, size: i, inUse: i})
	}
	if len(s.Fine) > finePoints || len(s.Coarse) > 2017 {
		t.Errorf("got %d fine and %d coarse points", len(s.Fine), len(s.Coarse))
	}
	last := s.Fine[len(s.Fine)-1]
	s.add(point{at: last.at, size: 1})
	s.add(point{at: last.at - 5, size: 1})
	if got := s.Fine[len(s.Fine)-1]; got != last {
		t.Errorf("a point that is not newer was taken: %+v", got)
	}
}

func TestWatch_StateSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	synctest.Test(t, func(t *testing.T) {
		w, _ := newTestWatch(t, dir)
		for i := range int64(60) {
			w.Observe(testView((905+i)*mib, 100*mib))
			time.Sleep(time.Minute)
		}
		w.Save()
		again, log := newTestWatch(t, dir)
		again.Observe(testView(965*mib, 100*mib))
		if f := again.Forecast(); f.QuotaExhaustionSeconds == nil {
			t.Errorf("got %+v, want a forecast from the samples before the restart", f)
		}
		if log.String() != "" {
			t.Errorf("got log %s, want none", log)
		}
		other := testView(1, 1)
		other.ClusterID = 0xc2
		third, log := newTestWatch(t, dir)
		third.Observe(other)
		if h := third.History(1); len(h) != 1 || !strings.Contains(log.String(), "another cluster answers") {
			t.Errorf("got %d points of the other cluster's member; log %s", len(h), log)
		}
	})
}

// The file of every released version can be read.
func TestWatch_ReadsVersion1(t *testing.T) {
	data, err := os.ReadFile("testdata/watch-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	w, log := newTestWatch(t, dir)
	s := w.series[0x8e9e05c52164694d]
	if log.String() != "" || w.clusterID != 0xcdf818194e3a8c32 || s == nil || s.Name != "etcd-0" ||
		!slices.Equal(s.Fine, []point{{1767322800, 1000, 600}, {1767322815, 1100, 700}}) || len(s.Coarse) != 1 {
		t.Errorf("got cluster %s, series %+v, log %s", w.clusterID, s, log)
	}
}

func TestWatch_BadStateFiles(t *testing.T) {
	for _, tt := range []struct {
		name, content, want string
		kept                bool // at its place; else moved aside
	}{
		{"torn", `{"version":1,"clusterId":"c1","members":{"1":{"fine":[[1,2`, "is torn or no state file", false},
		{"empty", "", "is torn or no state file", false},
		{"other content", `[]`, "is torn or no state file", false},
		{"no version", `{}`, "is torn or no state file", false},
		{"wrong points", `{"version":1,"members":{"1":{"fine":[[1]]}}}`, "is torn or no state file", false},
		{"newer", `{"version":2,"members":"another form"}`, "was written by a newer version (2, this one knows 1)", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), stateName)
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			w, log := newTestWatch(t, filepath.Dir(path))
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("got log %s, want %q", log, tt.want)
			}
			w.Observe(testView(2, 1)) // works on
			if p := w.status().Problem; p == nil || !strings.Contains(*p, tt.want) {
				t.Errorf("the status does not tell it: %v", p)
			}
			w.Save()
			name := path
			if !tt.kept {
				name += ".broken"
			}
			if got, err := os.ReadFile(name); err != nil || string(got) != tt.content {
				t.Errorf("got %q, %v in %s, want the file as it was", got, err, name)
			}
			if again, _ := newTestWatch(t, filepath.Dir(path)); !tt.kept && again.series[1] == nil {
				t.Error("nothing was saved after the bad file was moved aside")
			}
		})
	}
}

// A directory that cannot be written is told once, and when it works again.
func TestWatch_UnwritableState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file in the way: this stops root, too
		t.Fatal(err)
	}
	w, log := newTestWatch(t, dir)
	w.Observe(testView(2, 1))
	w.Save()
	w.Save()
	if p := w.status().Problem; p == nil {
		t.Error("the status does not tell it")
	}
	if n := strings.Count(log.String(), "kept in memory only"); n == 0 || n > 2 {
		t.Errorf("got %d log lines, want it told when it changes:\n%s", n, log)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Save()
	if p := w.status().Problem; p != nil {
		t.Errorf("got problem %s after it went", *p)
	}
}

func TestWatch_TellsChanges(t *testing.T) {
	w, log := newTestWatch(t, "")
	before, after := testView(2, 1), testView(2, 1)
	after.Members[0].Reachable, after.Members[0].Error = false, "connection refused"
	after.Members[1].Reachable, after.Members[1].Alarms = true, nil
	after.Members[1].LeaderID = 2
	after.Members = append(after.Members, cluster.Member{ID: 3, Name: "etcd-2", Learner: true, Reachable: true})
	w.Observe(before)
	w.Observe(after)
	w.Observe(before)
	for _, want := range []string{
		`msg="member does not answer" member=etcd-0 err="connection refused"`, `msg="member answers again" member=etcd-1`,
		`msg="alarm ended" member=etcd-1 alarm=NOSPACE`, `msg="alarm raised" member=etcd-1 alarm=NOSPACE`,
		`msg="member joined" member=etcd-2 learner=true`, `msg="leadership moved" from=etcd-0 to=etcd-1`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

func TestCollector(t *testing.T) {
	w, _ := newTestWatch(t, "")
	w.Observe(testView(1000, 600))
	want := `
# HELP etcdkeeper_member_db_free_bytes Part of the database file that a defragmentation gives back.
# TYPE etcdkeeper_member_db_free_bytes gauge
etcdkeeper_member_db_free_bytes{member="etcd-0"} 400
# HELP etcdkeeper_member_reachable 1 where the member answered the last look at it, else 0.
# TYPE etcdkeeper_member_reachable gauge
etcdkeeper_member_reachable{member="etcd-0"} 1
etcdkeeper_member_reachable{member="etcd-1"} 0
# HELP etcdkeeper_member_alarm 1 for every alarm that is raised on the member.
# TYPE etcdkeeper_member_alarm gauge
etcdkeeper_member_alarm{alarm="NOSPACE",member="etcd-1"} 1
# HELP etcdkeeper_member_quota_bytes The member's quota. Absent where it is not known.
# TYPE etcdkeeper_member_quota_bytes gauge
etcdkeeper_member_quota_bytes{member="etcd-0",source="status"} 2.147483648e+09
# HELP etcdkeeper_cluster_has_leader 1 where the members that answer agree on a leader, else 0.
# TYPE etcdkeeper_cluster_has_leader gauge
etcdkeeper_cluster_has_leader 1
`
	err := testutil.CollectAndCompare(&watchCollector{w: w}, strings.NewReader(want), "etcdkeeper_member_db_free_bytes", "etcdkeeper_member_reachable",
		"etcdkeeper_member_alarm", "etcdkeeper_member_quota_bytes", "etcdkeeper_cluster_has_leader")
	if err != nil {
		t.Error(err)
	}
}

// Two members of one name must not make the whole scrape fail.
func TestCollector_SameNames(t *testing.T) {
	w, _ := newTestWatch(t, "")
	v := testView(2, 1)
	v.Members[1].Name = "etcd-0"
	w.Observe(v)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(&watchCollector{w: w})
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

// Every metric that a daemon can export keeps to Prometheus' conventions and to ours.
func TestMetrics_Lint(t *testing.T) {
	metrics, err := Metrics()
	if err != nil {
		t.Fatal(err)
	}
	if len(metrics) < 20 {
		t.Fatalf("got only %d metrics", len(metrics))
	}
	types := map[string]*dto.MetricType{"counter": dto.MetricType_COUNTER.Enum(), "gauge": dto.MetricType_GAUGE.Enum(), "histogram": dto.MetricType_HISTOGRAM.Enum()}
	var families []*dto.MetricFamily
	for _, m := range metrics {
		metric := &dto.Metric{}
		for _, l := range m.Labels {
			metric.Label = append(metric.Label, &dto.LabelPair{Name: pointer(l), Value: pointer("x")})
			if slices.Contains([]string{"key", "object", "namespace"}, l) {
				t.Errorf("%s: label %s could hold a name of the keyspace", m.Name, l)
			}
		}
		switch m.Type {
		case "counter":
			metric.Counter = &dto.Counter{Value: pointer(1.0)}
		case "histogram":
			metric.Histogram = &dto.Histogram{SampleCount: pointer(uint64(1))}
		case "gauge":
			metric.Gauge = &dto.Gauge{Value: pointer(1.0)}
		default:
			t.Errorf("%s: got type %q", m.Name, m.Type)
			continue
		}
		if !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: got help %q, want a sentence", m.Name, m.Help)
		}
		families = append(families, &dto.MetricFamily{Name: pointer(m.Name), Help: pointer(m.Help), Type: types[m.Type], Metric: []*dto.Metric{metric}})
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
