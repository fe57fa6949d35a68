package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/report"
)

// censusTimeout is well above what the largest database that etcd advises, 8 GiB, takes at the default rate.
const censusTimeout = 45 * time.Minute

// censusPart is what the census leaves for the page and the metrics.
type censusPart struct {
	host    *Host
	metrics *census.Metrics

	file string // of the series; "" where there is no stateDir, or it must not be written

	mu     sync.Mutex
	series census.Series
	latest *census.Census
	growth []census.Growth
	taker  string // which other keeper takes the census; "" for none
	off    bool   // it is switched off in this one
}

// setUpCensus makes the task that measures who fills the database.
func setUpCensus(h *Host) (func(Env) ([]Task, error), error) {
	p := &censusPart{host: h, metrics: census.NewMetrics(h.Registry)}
	h.census = p
	h.Status("census", p.status)
	h.Page("/census", "who fills the database", http.HandlerFunc(p.serve))
	h.Section(p.sections)
	var once sync.Once
	return func(e Env) ([]Task, error) {
		once.Do(func() { p.load(e.Config.StateDir) })
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
	keepers, _ := e.Cluster.Keepers(ctx) // who must not read them looks after itself
	if taker, other := p.look(view, keepers, e); other {
		return fmt.Errorf("%w: %s takes the census", ErrSkipped, taker)
	}
	member, ok := view.Beside(e.Cluster.Config())
	if !ok || !readableFrom(member, c.From) {
		if member, err = view.Pick(c.From, e.Cluster.Config().Endpoints); err != nil {
			return err
		}
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
	p.mu.Lock()
	p.series.Of(view.ClusterID.String())
	p.series.Add(result)
	p.latest, p.growth = result, p.series.Growth(quotaLeft(view))
	p.save()
	p.metrics.Set(result, p.growth, c.MetricsTop)
	p.mu.Unlock()
	p.host.Log.Info("census taken", "member", member.String(), "revision", result.Revision, "keys", result.Keys, "bytes", result.Bytes,
		"seconds", result.Seconds, "findings", len(result.Findings))
	return nil
}

// quotaLeft is what the member that comes closest to its quota has left of it in bytes, since one member without room
// ends the writes to all; -1 where no quota is known.
func quotaLeft(view cluster.View) int64 {
	left := int64(-1)
	for _, m := range view.Members {
		if !m.Reachable || m.Quota == nil {
			continue
		}
		if n := max(0, *m.Quota-m.DBSizeInUse); left < 0 || n < left {
			left = n
		}
	}
	return left
}

// lowestQuota is the one that is drawn, for the same reason; 0 where none is known.
func lowestQuota(view cluster.View) (lowest int64) {
	for _, m := range view.Members {
		if m.Quota != nil && (lowest == 0 || *m.Quota < lowest) {
			lowest = *m.Quota
		}
	}
	return lowest
}

// censusTitle is that of the section in the status page.
const censusTitle = "Who fills the database"

// censusName is the file in stateDir.
const censusName = "census.json"

// load reads the series that an earlier run of the daemon left. What is wrong with it never stops the keeper: growth
// is told anew then, and a file that cannot be read is kept aside.
func (p *censusPart) load(stateDir string) {
	if stateDir == "" {
		return
	}
	path := filepath.Join(stateDir, censusName)
	data, err := os.ReadFile(path)
	if err == nil {
		if err = p.series.Load(bytes.NewReader(data)); err != nil && !errors.Is(err, census.ErrSeriesVersion) {
			err = errors.Join(err, os.Rename(path, path+".broken"))
		}
	}
	switch {
	case errors.Is(err, census.ErrSeriesVersion):
		p.host.Log.Warn("the growth of resources is kept in memory only", "file", path, "err", err)
		return
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		p.host.Log.Warn("the growth of resources starts anew", "file", path, "err", err)
	}
	p.file = path
}

// save keeps the series over a restart.
func (p *censusPart) save() {
	if p.file == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(p.file), 0o755)
	if err == nil {
		err = atomicfile.WriteFunc(p.file, 0o644, p.series.Save)
	}
	if err != nil {
		p.host.Log.Warn("the growth of resources is kept in memory only", "err", err)
	}
}

// look sees whether another keeper takes the census, and which. What this one has shown ends then: two that go on showing
// theirs would contradict each other. What it knows of growth it keeps, for when it takes the census again.
func (p *censusPart) look(view cluster.View, keepers []cluster.Keeper, e Env) (taker string, other bool) {
	enabled, from := e.Config.Census.Enabled, e.Config.Census.From
	self := keeperIn(view, e.Cluster.Config())
	best, found := censusTaker(view, keepers, self, enabled, from)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taker, p.off = "", !enabled
	if found && !sameKeeper(best, self) {
		if p.taker, other = "the keeper on "+best.Host, true; best.Member != 0 {
			p.taker = fmt.Sprintf("the keeper beside member %s on %s", best.Name, best.Host)
		}
	}
	if (other || !enabled) && p.latest != nil {
		p.latest, p.growth = nil, nil
		p.metrics.Reset()
	}
	return p.taker, other
}

// censusTaker is the keeper that takes the census, of those that have it switched on: one beside the member that from
// names, else the one beside the member with the lowest id, and one beside no member only where no other is. Who leads
// and which member answers does not matter, so that it stays one: a keeper that is announced reaches the cluster, and can
// read any member. All keepers come to the same answer. This one counts also where it is not announced yet; false for
// none at all.
func censusTaker(view cluster.View, keepers []cluster.Keeper, self cluster.Keeper, enabled bool, from string) (cluster.Keeper, bool) {
	named := func(k cluster.Keeper) bool {
		return slices.ContainsFunc(view.Members, func(m cluster.Member) bool {
			return m.ID == k.Member && (from == cluster.FromLearner && m.Learner || m.Name == from || m.ID.String() == from)
		})
	}
	candidates := slices.DeleteFunc(slices.Clone(keepers), func(k cluster.Keeper) bool {
		gone := k.Member != 0 && !slices.ContainsFunc(view.Members, func(m cluster.Member) bool { return m.ID == k.Member })
		return gone || !k.Runs(cluster.TaskCensus) || sameKeeper(k, self)
	})
	if enabled {
		candidates = append(candidates, self)
	}
	if len(candidates) == 0 {
		return cluster.Keeper{}, false
	}
	first := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	return slices.MinFunc(candidates, func(a, b cluster.Keeper) int {
		return cmp.Or(
			cmp.Compare(first(a.Member != 0), first(b.Member != 0)),
			cmp.Compare(first(named(a)), first(named(b))),
			cmp.Compare(a.Member, b.Member),
			cmp.Compare(a.Host, b.Host),
			cmp.Compare(a.PID, b.PID),
		)
	}), true
}

// readableFrom tells whether a member is one that census.from asks for.
func readableFrom(m cluster.Member, from string) bool {
	switch from {
	case cluster.FromFollower, "":
		return m.Voter() && !m.Leader
	case cluster.FromLeader:
		return m.Leader
	case cluster.FromLearner:
		return m.Learner
	case cluster.FromLocal:
		return true
	}
	return m.Name == from || m.ID.String() == from
}

func (p *censusPart) get() (*census.Census, []census.Growth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.growth
}

// none says why there is no census here.
func (p *censusPart) none() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taker != "" {
		return "The census is taken by " + p.taker + ": its pages show it."
	}
	if p.off {
		return "The census is switched off in this keeper (census.enabled)."
	}
	return "No census was taken yet."
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
		http.Error(w, p.none(), http.StatusNotFound)
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
		return append(out, report.Section{ID: "census", Title: censusTitle, Body: report.Text(p.none())})
	}
	intro := report.Text(fmt.Sprintf("%d keys, %s, read from %s at %s.", c.Keys, report.Size(c.Bytes), c.Source, c.Taken.Format(time.RFC3339)))
	for _, g := range growth {
		if g.QuotaSeconds != nil && *g.QuotaSeconds < 90*86400 {
			intro += report.Text("At their pace, " + g.String() + ".")
		}
	}
	return append(out,
		report.Section{ID: "census", Title: censusTitle, Body: intro + report.CensusMap(c)},
		report.Section{ID: "findings", Title: "Findings", Body: report.Findings(c.Findings)},
	)
}

func (p *censusPart) chart() template.HTML {
	view, ok := p.host.Watch.Latest()
	if !ok {
		return report.Text("Nothing is known of the members now.")
	}
	var lines []report.Line
	for _, m := range view.Members {
		l := report.Line{Name: m.String()}
		for _, s := range p.host.Watch.History(m.ID) {
			l.Points = append(l.Points, report.Point{At: s.Time, Bytes: s.Size})
		}
		lines = append(lines, l)
	}
	return report.Chart("Size of each member's database over time", lines, lowestQuota(view))
}
