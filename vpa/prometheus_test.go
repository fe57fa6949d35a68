package vpa

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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
		"two members": {Prometheus{URL: fakePrometheus(t, 2).URL}, "2 series (i0, i1)"},
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
