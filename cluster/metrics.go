package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Names of etcd's metrics that the keeper reads.
const (
	MetricDefragInFlight = "etcd_disk_defrag_inflight"
	MetricQuota          = "etcd_server_quota_backend_bytes"
	MetricFeature        = "etcd_server_feature_enabled"
	MetricCompactRev     = "etcd_debugging_mvcc_compact_revision"
)

// maxMetricsBytes bounds what is read of one member's metrics; etcd's own are about 200 KiB.
const maxMetricsBytes = 16 << 20

// MetricsURL is where the member's metrics are: the configured URL, else /metrics on its client URL. With
// --listen-client-http-urls etcd serves no HTTP on the client URL, and one must be configured.
func (c *Client) MetricsURL(m Member) string {
	if u, ok := c.cfg.MetricsURLs[m.Name]; ok {
		return u
	}
	if u, ok := c.cfg.MetricsURLs[m.ID.String()]; ok {
		return u
	}
	if m.Endpoint == "" || strings.HasPrefix(m.Endpoint, "unix") {
		return ""
	}
	return strings.TrimSuffix(m.Endpoint, "/") + "/metrics"
}

// Metrics reads the families with the given names from the member; the names end the search, so nothing else is
// parsed. Families that the member does not have are missing in the answer.
func (c *Client) Metrics(ctx context.Context, m Member, names ...string) (map[string]*dto.MetricFamily, error) {
	url := c.MetricsURL(m)
	if url == "" {
		return nil, fmt.Errorf("metrics of member %s: no URL is known: give --metrics-url %s=URL", m, m)
	}
	ctx, cancel := context.WithTimeout(ctx, c.memberWait())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("metrics of member %s: %w", m, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics of member %s: %w (where its metrics are served elsewhere, give --metrics-url %s=URL)", m, explainTLS(err), m)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of member %s: %s answers %s (where its metrics are served elsewhere, give --metrics-url %s=URL)", m, url, resp.Status, m)
	}
	families, err := parseMetrics(io.LimitReader(resp.Body, maxMetricsBytes), names)
	if err != nil {
		return nil, fmt.Errorf("metrics of member %s at %s: %w", m, url, err)
	}
	return families, nil
}

// parseMetrics keeps the lines of the named families and hands those to the parser: a whole page of etcd's is two
// hundred times larger than what the keeper looks at.
func parseMetrics(r io.Reader, names []string) (map[string]*dto.MetricFamily, error) {
	var keep bytes.Buffer
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for sc.Scan() {
		line := sc.Bytes()
		name := line
		if rest, ok := bytes.CutPrefix(line, []byte("# TYPE ")); ok {
			name = rest
		} else if len(line) > 0 && line[0] == '#' {
			continue
		}
		for _, want := range names {
			if rest, ok := bytes.CutPrefix(name, []byte(want)); ok && familyEnd(rest) {
				keep.Write(line)
				keep.WriteByte('\n')
				break
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(&keep)
}

// familyEnd tells whether rest, what stands behind a family's name, ends that name: a label set, a value, or the
// suffix of a histogram or summary.
func familyEnd(rest []byte) bool {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if r, ok := bytes.CutPrefix(rest, []byte(suffix)); ok {
			rest = r
			break
		}
	}
	return len(rest) > 0 && (rest[0] == '{' || rest[0] == ' ')
}

// MetricValue is the value of a family's only series.
func MetricValue(families map[string]*dto.MetricFamily, name string) (float64, bool) {
	f := families[name]
	if f == nil || len(f.Metric) != 1 {
		return 0, false
	}
	m := f.Metric[0]
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), true
	}
	return 0, false
}

// page is what a View takes from a member's metrics.
type page struct {
	inFlight *int64
	quota    *int64
	features []string
	problem  string // why inFlight is nil
}

// readPage reads the in-flight gauge, the quota and the features of one member.
func (c *Client) readPage(ctx context.Context, m Member) page {
	families, err := c.Metrics(ctx, m, MetricDefragInFlight, MetricQuota, MetricFeature)
	if err != nil {
		return page{problem: err.Error()}
	}
	p := page{features: enabledFeatures(families[MetricFeature])}
	if v, ok := MetricValue(families, MetricQuota); ok {
		q := int64(v)
		p.quota = &q
	}
	v, ok := MetricValue(families, MetricDefragInFlight)
	if !ok {
		p.problem = fmt.Sprintf("metrics of member %s: %s has no %s: is that an etcd member's metrics URL?", m, c.MetricsURL(m), MetricDefragInFlight)
		return p
	}
	n := int64(v)
	p.inFlight = &n
	return p
}

// enabledFeatures are the names of the feature gates that are on, in order. Nil where the member does not tell, as
// before 3.6.
func enabledFeatures(f *dto.MetricFamily) []string {
	if f == nil {
		return nil
	}
	on := []string{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if l.GetName() == "name" && m.Gauge.GetValue() == 1 {
				on = append(on, l.GetValue())
			}
		}
	}
	slices.Sort(on)
	return on
}

// InFlight is how many defragmentations the member has in progress. It is answered while one runs.
func (c *Client) InFlight(ctx context.Context, m Member) (int64, error) {
	p := c.readPage(ctx, m)
	if p.inFlight == nil {
		return 0, fmt.Errorf("defragmentation gauge: %s", p.problem)
	}
	return *p.inFlight, nil
}
