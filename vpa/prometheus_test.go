package vpa

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakePrometheus answers range queries with one or two series a minute.
func fakePrometheus(t *testing.T, series int) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		var start, end int64
		fmt.Sscan(r.FormValue("start"), &start)
		fmt.Sscan(r.FormValue("end"), &end)
		var out []string
		for i := range series {
			var values []string
			for at := start; at <= end; at += 60 {
				v := "1e9"
				if strings.Contains(query, famCPU) {
					v = fmt.Sprint(float64(at) * 0.25)
				}
				values = append(values, fmt.Sprintf(`[%d,%q]`, at, v))
			}
			out = append(out, fmt.Sprintf(`{"metric":{"instance":"i%d"},"values":[%s]}`, i, strings.Join(values, ",")))
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, strings.Join(out, ","))
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestPrometheus_BackFill(t *testing.T) {
	srv := fakePrometheus(t, 1)
	now := time.Unix(1_760_000_000, 0)
	var got []Sample
	n, err := Prometheus{URL: srv.URL, Selector: `job="etcd"`}.BackFill(t.Context(), 10*24*time.Hour, now, func(s Sample) { got = append(got, s) })
	if err != nil {
		t.Fatal(err)
	}
	if n != len(got) || n < 10*24*60-2 || n > 10*24*60+2 {
		t.Errorf("got %d samples, want one a minute over two chunks", n)
	}
	for i, s := range got {
		if i > 0 && (s.CPU != 0.25 || !s.Time.After(got[i-1].Time)) {
			t.Fatalf("sample %d: got %v cores at %s after %s, want 0.25 in order", i, s.CPU, s.Time, got[i-1].Time)
		}
	}
}

func TestPrometheus_BackFill_Refuses(t *testing.T) {
	ignore := func(Sample) {}
	for name, tt := range map[string]struct {
		p    Prometheus
		want string
	}{
		"two members": {Prometheus{URL: fakePrometheus(t, 2).URL}, "2 series at once (i0, i1)"},
		"no series":   {Prometheus{URL: fakePrometheus(t, 0).URL, Instance: "x"}, `{instance="x"}`},
		"no URL":      {Prometheus{URL: "prometheus"}, "want a URL"},
		"nobody":      {Prometheus{URL: "http://127.0.0.1:1"}, "connection refused"},
	} {
		if _, err := tt.p.BackFill(t.Context(), time.Hour, time.Unix(1_760_000_000, 0), ignore); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	for _, bad := range []string{"", "<html>", `{"status":"error","error":"bad query"}`, `{"status":"success","data":{"resultType":"vector"}}`,
		`{"status":"success","data":{"resultType":"matrix","result":[{"values":[[1]]}]}}`, `{"status":"success","data":{"resultType":"matrix","result":[{"values":[["a","b"]]}]}}`} {
		if _, err := parsePromAnswer([]byte(bad), "200 OK"); err == nil {
			t.Errorf("answer %q: got no error", bad)
		}
	}
}

// scripted answers each query with the series that it is given: minutes after
// start and values, for the metrics whose name the query has.
type scripted map[string][]scriptedSeries

type scriptedSeries struct {
	instance string
	values   map[int]string
}

func (s scripted) serve(t *testing.T, begin time.Time) Prometheus {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var start, end, step int64
		fmt.Sscan(r.FormValue("start"), &start)
		fmt.Sscan(r.FormValue("end"), &end)
		fmt.Sscan(r.FormValue("step"), &step)
		if step != 60 || (end-start)/step+1 > 11_000 {
			http.Error(w, `{"status":"error","error":"exceeded maximum resolution of 11,000 points per timeseries"}`, http.StatusBadRequest)
			return
		}
		var out []string
		for name, series := range s {
			if !strings.Contains(r.FormValue("query"), "("+name+"{") {
				continue
			}
			for _, one := range series {
				var values []string
				for at := start; at <= end; at += step {
					if v, ok := one.values[int((at-begin.Unix())/60)]; ok {
						values = append(values, fmt.Sprintf(`[%d,%q]`, at, v))
					}
				}
				if len(values) > 0 {
					out = append(out, fmt.Sprintf(`{"metric":{"instance":%q},"values":[%s]}`, one.instance, strings.Join(values, ",")))
				}
			}
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, strings.Join(out, ","))
	}))
	t.Cleanup(srv.Close)
	return Prometheus{URL: srv.URL}
}

func TestPrometheus_BackFill_GapsAndResets(t *testing.T) {
	begin := time.Unix(1_760_000_040, 0).Truncate(time.Minute)
	p := scripted{
		famResident: {{"a", map[int]string{0: "1e9", 1: "1e9", 2: "1e9", 30: "2e9", 31: "NaN", 32: "2e9"}}},
		// 30 CPU seconds a minute; a restart between 2 and 30; half an hour without a scrape.
		famCPU:   {{"a", map[int]string{0: "3000", 1: "3030", 2: "3060", 30: "3100", 31: "3130", 32: "3160"}}},
		famStart: {{"a", map[int]string{0: "100", 1: "100", 2: "100", 30: "5000", 31: "5000", 32: "5000"}}},
	}.serve(t, begin)
	var got []Sample
	if _, err := p.BackFill(t.Context(), 40*time.Minute, begin.Add(40*time.Minute), func(s Sample) { got = append(got, s) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 6 {
		t.Fatalf("got %d samples, want the six that were scraped", len(got))
	}
	for i, want := range []float64{math.NaN(), 0.5, 0.5, math.NaN(), 0.5, 0.5} {
		if got[i].CPU != want && !(math.IsNaN(want) && math.IsNaN(got[i].CPU)) {
			t.Errorf("sample %d: got %v cores, want %v", i, got[i].CPU, want)
		}
	}
	if !got[3].Restart || got[1].Restart || got[4].Restart {
		t.Errorf("got restarts %v, %v, %v, want the one in between", got[1].Restart, got[3].Restart, got[4].Restart)
	}
	if known(got[4].Memory) || got[5].Memory != 2e9 {
		t.Errorf("got memory %v and %v, want NaN to be no number", got[4].Memory, got[5].Memory)
	}
}

func TestPrometheus_BackFill_APodThatMoved(t *testing.T) {
	begin := time.Unix(1_760_000_040, 0).Truncate(time.Minute)
	moved := scripted{famResident: {{"10.0.0.1", map[int]string{0: "1e9", 1: "1e9", 2: "1e9"}}, {"10.0.0.2", map[int]string{2: "2e9", 3: "2e9"}}}}.serve(t, begin)
	var got []float64
	if _, err := moved.BackFill(t.Context(), 5*time.Minute, begin.Add(5*time.Minute), func(s Sample) { got = append(got, s.Memory) }); err != nil {
		t.Fatal(err)
	}
	if want := []float64{1e9, 1e9, 2e9, 2e9}; !slices.Equal(got, want) {
		t.Errorf("one pod after the other: got %v, want %v", got, want)
	}
	both := scripted{famResident: {{"10.0.0.1", map[int]string{0: "1", 1: "1", 2: "1"}}, {"10.0.0.2", map[int]string{1: "2", 2: "2"}}}}.serve(t, begin)
	if _, err := both.BackFill(t.Context(), 5*time.Minute, begin.Add(5*time.Minute), func(Sample) {}); err == nil || !strings.Contains(err.Error(), "2 series at once (10.0.0.1, 10.0.0.2)") {
		t.Errorf("two members: got %v, want both instances named", err)
	}
}

func TestSizer_BackFill_KeepsItsOwnHistory(t *testing.T) {
	begin := time.Now().Add(-3 * time.Hour).Truncate(time.Minute)
	series := map[int]string{}
	for i := range 180 {
		series[i] = "1e9"
	}
	p := scripted{famResident: {{"a", series}}}.serve(t, begin)
	newSizer := func(hours int, v float64) *Sizer {
		r := newRecommender(t)
		for i := range hours {
			r.Observe(useOf(begin.Add(-time.Duration(hours-i)*time.Hour), v))
		}
		return &Sizer{cfg: r.cfg, rec: r}
	}
	short := newSizer(1, 2e9)
	if _, err := short.BackFill(t.Context(), p, 4*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := short.rec.peaks; got.observed() < 3*time.Hour || got.level() != 2e9 {
		t.Errorf("a short history of its own: got %s with a peak of %v, want Prometheus's with its own peak of 2e9", got.observed(), got.level())
	}
	long := newSizer(48, 3e9)
	samples := long.rec.samples
	if _, err := long.BackFill(t.Context(), p, 4*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := long.rec; got.peaks.observed() != 48*time.Hour || got.samples != samples {
		t.Errorf("a long history of its own: got %s and %d samples, want it as it was", got.peaks.observed(), got.samples)
	}
}

func TestParseSince(t *testing.T) {
	for in, want := range map[string]time.Duration{"14d": 14 * 24 * time.Hour, "36h": 36 * time.Hour, "0.5d": 12 * time.Hour} {
		if got, err := ParseSince(in); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "d", "-1d", "NaNd", "1y", "1s", "9999d"} {
		if d, err := ParseSince(bad); err == nil {
			t.Errorf("%q: got %s, want an error", bad, d)
		}
	}
}
