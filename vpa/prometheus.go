package vpa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of a back-fill. Prometheus refuses more than 11,000 points a series.
const (
	promStep     = time.Minute
	promChunk    = 7 * 24 * time.Hour // 10,080 points
	promMaxBytes = 256 << 20
	promTimeout  = 2 * time.Minute
)

// Prometheus back-fills history by range queries. The step hides what is
// shorter than it: gauges are asked for their maximum within the step, and what
// Prometheus did not scrape is not there.
type Prometheus struct {
	URL      string // such as http://prometheus:9090
	Selector string // matchers of etcd's series, such as job="etcd"
	Instance string // the instance label of the member; empty: the only one
	Client   *http.Client
}

// promGauges are asked for their highest value within a step, promCounters for
// their last. Neither is carried over a step without a scrape: a counter that
// seems to stand still would give a rate of zero, and twice the rate after it.
var (
	promGauges = []string{famResident, famGoSys, famGoReleased, famGoAlloc, famGoNextGC, famKeys, famRevision, famCompact,
		famApplied, famWatchStreams, famWatchers, famDB, famDBInUse, famQuota}
	promCounters = []string{famCPU, famStart, famPuts, famPutSize, famSent}
)

// BackFill observes the range of [now-since, now] and returns the number of samples.
func (p Prometheus) BackFill(ctx context.Context, since time.Duration, now time.Time, observe func(Sample)) (int, error) {
	base, err := url.Parse(strings.TrimSuffix(p.URL, "/"))
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return 0, fmt.Errorf("prometheus %q: want a URL such as http://prometheus:9090", p.URL)
	}
	collector := NewCollector()
	n := 0
	for from := now.Add(-since).Truncate(promStep); from.Before(now); from = from.Add(promChunk) {
		to := from.Add(promChunk - promStep)
		if to.After(now) {
			to = now
		}
		readings, err := p.chunk(ctx, base, from, to)
		if err != nil {
			return n, fmt.Errorf("back-fill from prometheus %s: %w", base.Redacted(), err)
		}
		for _, r := range readings {
			observe(collector.Sample(r))
			n++
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("back-fill from prometheus %s: no series %s{%s} in the last %s", base.Redacted(), famResident, p.matchers(), since)
	}
	return n, nil
}

func (p Prometheus) matchers() string {
	m := p.Selector
	if p.Instance != "" {
		m = strings.Trim(m+","+fmt.Sprintf("instance=%q", p.Instance), ",")
	}
	return m
}

// chunk asks for all families and puts them together by time.
func (p Prometheus) chunk(ctx context.Context, base *url.URL, from, to time.Time) ([]Reading, error) {
	values := map[int64]map[string]float64{}
	ask := func(name, query string) error {
		series, err := p.query(ctx, base, query, from, to)
		if err != nil {
			return fmt.Errorf("query %s: %w", query, err)
		}
		twice := 0
		for _, s := range series {
			for _, v := range s.Values {
				if values[v.at] == nil {
					values[v.at] = map[string]float64{}
				}
				if old, there := values[v.at][name]; there {
					twice++
					v.value = max(old, v.value)
				}
				values[v.at][name] = v.value
			}
		}
		// A pod that moved has one series after the other, under another instance.
		if twice >= len(series) && len(series) > 1 {
			return fmt.Errorf("query %s: %d series at once (%s): name the member's instance", query, len(series), strings.Join(instances(series), ", "))
		}
		return nil
	}
	// Whose memory it is must be clear: everything else goes by the same matchers.
	for _, name := range promGauges {
		if err := ask(name, fmt.Sprintf("max_over_time(%s{%s}[%ds])", name, p.matchers(), int(promStep.Seconds()))); err != nil {
			return nil, err
		}
	}
	for _, name := range promCounters {
		if err := ask(name, fmt.Sprintf("last_over_time(%s{%s}[%ds])", name, p.matchers(), int(promStep.Seconds()))); err != nil {
			return nil, err
		}
	}
	times := make([]int64, 0, len(values))
	for at := range values {
		times = append(times, at)
	}
	slices.Sort(times)
	readings := make([]Reading, 0, len(times))
	for _, at := range times {
		m := metricsOf(func(name string) float64 {
			if v, ok := values[at][name]; ok {
				return v
			}
			return math.NaN()
		})
		readings = append(readings, Reading{Time: time.UnixMilli(at).UTC(), Etcd: &m})
	}
	return readings, nil
}

type promSeries struct {
	Metric map[string]string `json:"metric"`
	Values []promValue       `json:"values"`
}

// promValue is [seconds, "value"].
type promValue struct {
	at    int64 // milliseconds
	value float64
}

// UnmarshalJSON reads the pair.
func (v *promValue) UnmarshalJSON(b []byte) error {
	var pair []any
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("a value has %d parts, want a time and a number", len(pair))
	}
	at, ok := pair[0].(float64)
	text, isText := pair[1].(string)
	if !ok || !isText || math.Abs(at) > 1e11 {
		return fmt.Errorf("a value is %s, want a time and a number as text", b)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return err
	}
	v.at, v.value = int64(math.Round(at*1000)), f
	return nil
}

func instances(series []promSeries) []string {
	var out []string
	for _, s := range series {
		out = append(out, s.Metric["instance"])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (p Prometheus) query(ctx context.Context, base *url.URL, query string, from, to time.Time) ([]promSeries, error) {
	ctx, cancel := context.WithTimeout(ctx, promTimeout)
	defer cancel()
	form := url.Values{"query": {query}, "start": {promTime(from)}, "end": {promTime(to)}, "step": {strconv.Itoa(int(promStep.Seconds()))}}
	u := base.JoinPath("api/v1/query_range")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := p.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, promMaxBytes))
	if err != nil {
		return nil, err
	}
	return parsePromAnswer(body, resp.Status)
}

// parsePromAnswer reads the answer of a range query.
func parsePromAnswer(body []byte, status string) ([]promSeries, error) {
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			ResultType string       `json:"resultType"`
			Result     []promSeries `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("the answer (%s) is not Prometheus's: %w", status, err)
	}
	if answer.Status != "success" {
		return nil, errors.New(answer.Error)
	}
	if answer.Data.ResultType != "matrix" {
		return nil, fmt.Errorf("got a %s, want a matrix", answer.Data.ResultType)
	}
	return answer.Data.Result, nil
}

func promTime(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// ParseSince reads a span such as 36h or 14d, of a minute to two years.
func ParseSince(s string) (time.Duration, error) {
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n > 0 && n <= 731) {
			return 0, fmt.Errorf("%q: want a span such as 36h or 14d", s)
		}
		d = time.Duration(n * 24 * float64(time.Hour))
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return 0, fmt.Errorf("%q: want a span such as 36h or 14d", s)
		}
	}
	if d < time.Minute || d > 731*24*time.Hour {
		return 0, fmt.Errorf("%q: want a minute to two years", s)
	}
	return d, nil
}
