package daemon

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/report"
)

// censusTimeout is well above what the largest database that etcd advises, 8 GiB, takes at the default rate.
const censusTimeout = 45 * time.Minute

// censusPart is what the census leaves for the page and the metrics.
type censusPart struct {
	host    *Host
	metrics *census.Metrics

	mu     sync.Mutex
	series census.Series
	latest *census.Census
	growth []census.Growth
}

// setUpCensus makes the task that measures who fills the database.
func setUpCensus(h *Host) (func(Env) ([]Task, error), error) {
	p := &censusPart{host: h, metrics: census.NewMetrics(h.Registry)}
	h.census = p
	h.Status("census", p.status)
	h.Page("/census", "who fills the database", http.HandlerFunc(p.serve))
	h.Section(p.sections)
	return func(e Env) ([]Task, error) {
		c := e.Config.Census
		if !c.Enabled {
			return nil, nil
		}
		return []Task{{Name: "census", When: c.Schedule, AtStart: true, Timeout: censusTimeout, Jitter: 10 * time.Second, Retry: time.Minute,
			Run: func(ctx context.Context) error { return p.run(ctx, e, c) }}}, nil
	}, nil
}

func (p *censusPart) run(ctx context.Context, e Env, c census.Config) error {
	view, err := e.Cluster.View(ctx)
	if err != nil {
		return err
	}
	endpoints := e.Cluster.Config().Endpoints
	member, err := view.Pick(c.From, endpoints)
	if err != nil {
		return err
	}
	if other := besideAnother(ctx, e.Cluster, view, member, endpoints); other != "" {
		return fmt.Errorf("%w: the keeper beside member %s takes the census", ErrSkipped, other)
	}
	etcd, err := e.Cluster.Member(ctx, member)
	if err != nil {
		return err
	}
	live, err := keyspace.NewLive(ctx, etcd, keyspace.LiveOptions{Name: member.String(), Rate: int64(c.Rate),
		PinKey: keyspace.NewLayout(c.Prefix).Prefix(), Pending: e.Cluster.PendingProposals(member)})
	if err != nil {
		return err
	}
	result, err := census.Take(ctx, live, census.Options{Source: "member " + member.String(), Prefix: c.Prefix, Top: c.Top, Thresholds: c.Thresholds})
	if err != nil {
		return err
	}
	free := int64(-1)
	if member.Quota != nil {
		free = max(0, *member.Quota-member.DBSizeInUse)
	}
	p.mu.Lock()
	if p.latest != nil && result.Revision < p.latest.Revision {
		p.series = census.Series{} // restored, or another cluster
	}
	p.series.Add(result)
	p.latest, p.growth = result, p.series.Growth(free)
	growth := p.growth
	p.mu.Unlock()
	p.metrics.Set(result, growth, c.MetricsTop)
	p.host.Log.Info("census taken", "member", member.String(), "revision", result.Revision, "keys", result.Keys, "bytes", result.Bytes,
		"seconds", result.Seconds, "findings", len(result.Findings))
	return nil
}

// besideAnother names the member whose keeper takes the census instead of this one, "" where it is for this one to do.
// Of the keepers beside members that is the one beside the member that is read, else the one with the lowest id.
func besideAnother(ctx context.Context, c *cluster.Client, view cluster.View, picked cluster.Member, endpoints []string) string {
	if len(endpoints) != 1 {
		return "" // it looks after the whole cluster
	}
	at := slices.IndexFunc(view.Members, func(m cluster.Member) bool { return m.Endpoint == endpoints[0] })
	keepers, err := c.Keepers(ctx)
	if at < 0 || err != nil || len(keepers) == 0 {
		return ""
	}
	chosen := keepers[0].Member
	for _, k := range keepers {
		if k.Member == picked.ID {
			chosen = k.Member
			break
		}
		chosen = min(chosen, k.Member)
	}
	if chosen == 0 || chosen == view.Members[at].ID {
		return ""
	}
	for _, m := range view.Members {
		if m.ID == chosen {
			return m.String()
		}
	}
	return ""
}

func (p *censusPart) get() (*census.Census, []census.Growth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.growth
}

func (p *censusPart) status() any {
	c, growth := p.get()
	if c == nil {
		return nil
	}
	return struct {
		Taken    time.Time         `json:"taken"`
		Source   string            `json:"source"`
		Revision int64             `json:"revision"`
		Keys     int64             `json:"keys"`
		Bytes    int64             `json:"bytes"`
		Findings []census.Finding  `json:"findings"`
		Growth   []census.Growth   `json:"growth"`
		Largest  []census.Resource `json:"resources"`
	}{c.Taken, c.Source, c.Revision, c.Keys, c.Bytes, c.Findings, growth, c.Resources[:min(10, len(c.Resources))]}
}

func (p *censusPart) serve(w http.ResponseWriter, _ *http.Request) {
	c, _ := p.get()
	if c == nil {
		http.Error(w, "no census was taken yet", http.StatusNotFound)
		return
	}
	var buf bytes.Buffer
	if err := report.Census(&buf, c); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, _ = w.Write(buf.Bytes())
}

// sections are what the status page shows: sizes over time, and the latest census.
func (p *censusPart) sections() []report.Section {
	out := []report.Section{{ID: "sizes", Title: "Sizes over time", Body: p.chart()}}
	c, growth := p.get()
	if c == nil {
		return out
	}
	intro := report.Text(fmt.Sprintf("%d keys, %s, read from %s at %s.", c.Keys, report.Size(c.Bytes), c.Source, c.Taken.Format(time.RFC3339)))
	for _, g := range growth {
		if g.QuotaSeconds != nil && *g.QuotaSeconds < 90*86400 {
			intro += report.Text("At their pace, " + g.String() + ".")
		}
	}
	return append(out,
		report.Section{ID: "census", Title: "Who fills the database", Body: intro + report.CensusMap(c)},
		report.Section{ID: "findings", Title: "Findings", Body: report.Findings(c.Findings)},
	)
}

func (p *censusPart) chart() template.HTML {
	view, ok := p.host.Watch.Latest()
	if !ok {
		return report.Text("Nothing is known of the members now.")
	}
	var lines []report.Line
	limit := int64(0)
	for _, m := range view.Members {
		l := report.Line{Name: m.String()}
		for _, s := range p.host.Watch.History(m.ID) {
			l.Points = append(l.Points, report.Point{At: s.Time, Bytes: s.Size})
		}
		if m.Quota != nil {
			limit = max(limit, *m.Quota)
		}
		lines = append(lines, l)
	}
	return report.Chart("Size of each member's database over time", lines, limit)
}
