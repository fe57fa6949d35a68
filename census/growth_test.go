package census_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcdkeeper/etcdkeeper/census"
)

func TestSeries_Growth(t *testing.T) {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	of := func(day int, events, pods int64) *census.Census {
		return &census.Census{Taken: at.AddDate(0, 0, day), Resources: []census.Resource{{Resource: "events", Bytes: events}, {Resource: "pods", Bytes: pods}}}
	}
	var s census.Series
	s.Add(of(0, 1000, 500))
	if got := s.Growth(900); len(got) != 0 {
		t.Errorf("one census shows growth: %v", got)
	}
	s.Add(of(1, 1100, 500))
	s.Add(of(2, 1200, 400))
	got := s.Growth(900)
	if len(got) != 2 || got[0].Resource != "events" || got[0].QuotaSeconds == nil || got[1].QuotaSeconds != nil {
		t.Fatalf("got %v", got)
	}
	if text := got[0].String(); text != "events reach the quota in 9 days" {
		t.Errorf("got %q", text)
	}
	if got := s.Growth(-1); got[0].QuotaSeconds != nil {
		t.Error("a forecast without a quota")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := census.NewMetrics(reg)
	c := &census.Census{Taken: time.Unix(1_800_000_000, 0), Findings: []census.Finding{{Severity: census.Warning}}}
	for i := range 500 {
		c.Resources = append(c.Resources, census.Resource{Group: "example.com", Resource: fmt.Sprintf("things%03d", i), Keys: 1, Bytes: 10})
	}
	m.Set(c, []census.Growth{{Group: "example.com", Resource: "things000", BytesPerSecond: 2}, {Group: "example.com", Resource: "things400", BytesPerSecond: 3}}, 30)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if n := len(f.GetMetric()); n > 31 {
			t.Errorf("%s has %d series", f.GetName(), n)
		}
		if f.GetName() == "etcdkeeper_census_keys" {
			for _, x := range f.GetMetric() {
				sum += x.GetGauge().GetValue()
			}
		}
	}
	if sum != 500 {
		t.Errorf("the keys of all series: got %v, want 500", sum)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}
