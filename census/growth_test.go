package census_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
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
	for seconds, want := range map[float64]string{40 * 60: "in 40 minutes", 3 * 3600: "in 3 hours", 47 * 3600: "in 47 hours", 3 * 86400: "in 3 days"} {
		if text := (census.Growth{Resource: "events", QuotaSeconds: &seconds}).String(); text != "events reach the quota "+want {
			t.Errorf("got %q, want %q at its end", text, want)
		}
	}
	if got := s.Growth(-1); got[0].QuotaSeconds != nil {
		t.Error("a forecast without a quota")
	}
}

// TestSeries_Save: growth goes on over a restart, and begins anew where the cluster is another one or was restored.
func TestSeries_Save(t *testing.T) {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	of := func(hour int, revision, bytes int64) *census.Census {
		return &census.Census{Taken: at.Add(time.Duration(hour) * time.Hour), Revision: revision, Prefix: "/registry/",
			Resources: []census.Resource{{Group: "batch", Resource: "jobs", Bytes: bytes}}}
	}
	var first census.Series
	first.Of("c1")
	first.Add(of(0, 100, 1000))
	var saved bytes.Buffer
	if err := first.Save(&saved); err != nil {
		t.Fatal(err)
	}
	load := func(t *testing.T) *census.Series {
		t.Helper()
		s := new(census.Series)
		if err := s.Load(bytes.NewReader(saved.Bytes())); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := load(t)
	s.Of("c1")
	s.Add(of(1, 200, 4600))
	if got := s.Growth(3600); len(got) != 1 || got[0].BytesPerSecond != 1 || *got[0].QuotaSeconds != 3600 || got[0].Group != "batch" {
		t.Errorf("after a restart: got %+v, want jobs with a byte a second", got)
	}
	for name, add := range map[string]func(*census.Series){
		"another cluster":        func(s *census.Series) { s.Of("c2"); s.Add(of(1, 200, 4600)) },
		"restored":               func(s *census.Series) { s.Add(of(1, 99, 4600)) },
		"the clock was set back": func(s *census.Series) { s.Add(of(-1, 200, 4600)) },
		"another prefix":         func(s *census.Series) { c := of(1, 200, 4600); c.Prefix = "/kubernetes.io/"; s.Add(c) },
		"other keys are read":    func(s *census.Series) { c := of(1, 200, 4600); c.Scope = "/registry/"; s.Add(c) },
	} {
		s := load(t)
		add(s)
		if got := s.Growth(3600); len(got) != 0 {
			t.Errorf("%s: got %+v, want no growth", name, got)
		}
	}
	older := strings.Replace(saved.String(), `"prefix":"/registry/",`, "", 1)
	if err := s.Load(strings.NewReader(older)); err != nil || older == saved.String() {
		t.Fatalf("%v in %s", err, older)
	}
	s.Add(of(1, 200, 4600))
	if got := s.Growth(3600); len(got) != 1 || got[0].BytesPerSecond != 1 {
		t.Errorf("saved before prefixes were: got %+v, want jobs with a byte a second", got)
	}
	many := of(2, 300, 1)
	for i := range 5000 {
		many.Resources = append(many.Resources, census.Resource{Group: "example.com", Resource: fmt.Sprintf("things%d", i), Bytes: 1})
	}
	for i := range 1000 {
		many.Taken = at.Add(time.Duration(i+3) * time.Minute)
		s.Add(many)
	}
	saved.Reset()
	if err := s.Save(&saved); err != nil || saved.Len() > 1<<20 {
		t.Errorf("1,000 censuses of 5,000 resources are saved in %d bytes (%v)", saved.Len(), err)
	}
	for _, bad := range []string{"", "null", "{}", `{"version":1,"points":[{"taken":"2026-06-01T00:00:00Z","bytes":{"x":1}}]}`,
		`{"version":1,"points":[{"taken":"2026-06-01T00:00:00Z"},{"taken":"2026-06-01T00:00:00Z"}]}`, saved.String()[:saved.Len()/2]} {
		if err := s.Load(strings.NewReader(bad)); err == nil {
			t.Errorf("%.60q was loaded", bad)
		}
	}
	if err := s.Load(strings.NewReader(`{"version":9}`)); !errors.Is(err, census.ErrSeriesVersion) {
		t.Errorf("a newer version: got %v", err)
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
