package daemon

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/etcdkeeper/etcdkeeper/config"
)

// MetricDoc describes a metric that the daemon can export.
type MetricDoc struct {
	Name, Type, Help string
	Labels           []string
}

// Metrics describes every metric of etcdkeeper's own that a daemon can export, by name, whether or not it has a series
// now. Those of Go and of the process are left out.
func Metrics() ([]MetricDoc, error) {
	rec := &recorder{Registerer: prometheus.NewRegistry()}
	d, err := newDaemon(Options{Config: config.Default()}, rec)
	if err != nil {
		return nil, err
	}
	if err := d.gen.client.Close(); err != nil {
		return nil, err
	}
	slices.SortFunc(rec.docs, func(a, b MetricDoc) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(rec.docs, func(a, b MetricDoc) bool { return a.Name == b.Name }), rec.err
}

// recorder is a registry that remembers what was registered.
type recorder struct {
	prometheus.Registerer
	docs []MetricDoc
	err  error
}

// MustRegister registers as the registry does.
func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Register registers as the registry does.
func (r *recorder) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	for desc := range ch {
		doc, err := describe(desc, c)
		if err != nil {
			r.err = err
		} else if strings.HasPrefix(doc.Name, "etcdkeeper_") {
			r.docs = append(r.docs, doc)
		}
	}
	return r.Registerer.Register(c)
}

// descText is the text form of a prometheus.Desc, which tells its content in no other way.
var descText = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"),.* constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

func describe(desc *prometheus.Desc, c prometheus.Collector) (MetricDoc, error) {
	m := descText.FindStringSubmatch(desc.String())
	if m == nil {
		return MetricDoc{}, fmt.Errorf("the metric library describes metrics in another form: %s", desc)
	}
	var doc MetricDoc
	if _, err := fmt.Sscanf(m[1]+" "+m[2], "%q %q", &doc.Name, &doc.Help); err != nil {
		return MetricDoc{}, fmt.Errorf("metric description %s: %w", desc, err)
	}
	for pair := range strings.SplitSeq(m[3], ",") {
		if name, _, ok := strings.Cut(pair, "="); ok {
			doc.Labels = append(doc.Labels, name)
		}
	}
	if m[4] != "" {
		doc.Labels = append(doc.Labels, strings.Split(m[4], ",")...)
	}
	doc.Type = metricType(c, doc.Name)
	return doc, nil
}

// metricType tells the type from the collector's, and for a collector of another kind from the name.
func metricType(c prometheus.Collector, name string) string {
	t := strings.ToLower(fmt.Sprintf("%T", c))
	for _, kind := range []dto.MetricType{dto.MetricType_HISTOGRAM, dto.MetricType_SUMMARY, dto.MetricType_COUNTER, dto.MetricType_GAUGE} {
		if strings.Contains(t, "prometheus."+strings.ToLower(kind.String())) {
			return strings.ToLower(kind.String())
		}
	}
	switch m := c.(type) {
	case prometheus.Histogram:
		return "histogram"
	case prometheus.Metric:
		var out dto.Metric
		if m.Write(&out) == nil {
			if out.Counter != nil {
				return "counter"
			}
			if out.Histogram != nil {
				return "histogram"
			}
		}
	}
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}
