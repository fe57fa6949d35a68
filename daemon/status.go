package daemon

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
	"github.com/etcdkeeper/etcdkeeper/report"
)

// taskStatus is a task in /api/status.
type taskStatus struct {
	Name        string     `json:"name"`
	Schedule    string     `json:"schedule"`
	Running     bool       `json:"running"`
	Hung        bool       `json:"hung"`
	Since       *time.Time `json:"runningSince"`
	Next        *time.Time `json:"next"`
	Last        *run       `json:"last"`
	LastSuccess *time.Time `json:"lastSuccess"`
	Failures    int        `json:"failuresInARow"`
}

func (s *slot) status() taskStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := taskStatus{Name: s.name, Schedule: s.schedule, Running: s.running, Hung: s.hung && s.running, Failures: s.failures,
		Next: whole(s.next), LastSuccess: whole(s.lastSuccess)}
	if s.running {
		st.Since = whole(s.since)
	}
	if s.last != nil {
		last := *s.last
		last.Started = last.Started.UTC().Truncate(time.Second)
		st.Last = &last
	}
	return st
}

// whole is t to the second for JSON, nil where it is zero.
func whole(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// memberStatus is a member in /api/status, with the names that `status -w json` has.
type memberStatus struct {
	ID               cluster.ID `json:"id"`
	Name             string     `json:"name"`
	Endpoint         string     `json:"endpoint"`
	Version          *string    `json:"version"`
	Leader           bool       `json:"leader"`
	Learner          bool       `json:"learner"`
	Reachable        bool       `json:"reachable"`
	Error            string     `json:"error,omitempty"`
	DBSizeBytes      *int64     `json:"dbSizeBytes"`
	DBSizeInUseBytes *int64     `json:"dbSizeInUseBytes"`
	DBSizeFreeBytes  *int64     `json:"dbSizeFreeBytes"`
	QuotaBytes       *int64     `json:"quotaBytes"`
	QuotaSource      string     `json:"quotaSource"`
	Alarms           []string   `json:"alarms"`
	DefragInFlight   *int64     `json:"defragInFlight"`
}

func statusOf(m cluster.Member) memberStatus {
	st := memberStatus{ID: m.ID, Name: m.Name, Endpoint: m.Endpoint, Leader: m.Leader, Learner: m.Learner, Reachable: m.Reachable,
		Error: m.Error, QuotaBytes: m.Quota, QuotaSource: string(m.QuotaSource), Alarms: append([]string{}, m.Alarms...), DefragInFlight: m.DefragInFlight}
	if m.Reachable {
		free := m.Free()
		st.Version, st.DBSizeBytes, st.DBSizeInUseBytes, st.DBSizeFreeBytes = &m.Version, &m.DBSize, &m.DBSizeInUse, &free
	}
	return st
}

type pageLink struct {
	Path  string `json:"path"`
	Title string `json:"title"`
}

type daemonStatus struct {
	Version       string         `json:"version"`
	Started       time.Time      `json:"started"`
	UptimeSeconds float64        `json:"uptimeSeconds"`
	Ready         bool           `json:"ready"`
	ClusterID     *cluster.ID    `json:"clusterId"`
	Members       []memberStatus `json:"members"`
	Tasks         []taskStatus   `json:"tasks"`
	Pages         []pageLink     `json:"pages"`
	Parts         map[string]any `json:"parts"`
}

func (d *Daemon) status() daemonStatus {
	st := daemonStatus{Version: d.o.Version, Started: d.started.UTC().Truncate(time.Second), UptimeSeconds: time.Since(d.started).Seconds(),
		Ready: d.ready.ok.Load(), Members: []memberStatus{}, Pages: []pageLink{}, Parts: map[string]any{}}
	if v, ok := d.host.Watch.Latest(); ok {
		st.ClusterID = &v.ClusterID
		for _, m := range v.Members {
			st.Members = append(st.Members, statusOf(m))
		}
	}
	st.Tasks = d.taskStatus()
	for _, p := range d.host.pages {
		if p.title != "" {
			st.Pages = append(st.Pages, pageLink{p.path, p.title})
		}
	}
	for _, p := range d.host.status {
		st.Parts[p.name] = p.read()
	}
	return st
}

func (d *Daemon) taskStatus() []taskStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	tasks := []taskStatus{}
	for _, s := range d.slots {
		tasks = append(tasks, s.status())
	}
	slices.SortFunc(tasks, func(a, b taskStatus) int { return strings.Compare(a.Name, b.Name) })
	return tasks
}

func (d *Daemon) serveStatus(w http.ResponseWriter, _ *http.Request) {
	data, err := json.MarshalIndent(d.status(), "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(data, '\n'))
}

//go:embed status.html
var statusHTML string

// statusPage is read when it is first asked for: no other command pays for it.
var statusPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("status").Funcs(statusFuncs).Parse(statusHTML))
})

var statusFuncs = template.FuncMap{
	"size": func(n *int64) string {
		if n == nil {
			return "–"
		}
		return bytesize.Bytes(*n).Human()
	},
	"text": func(s *string) string {
		if s == nil {
			return "–"
		}
		return *s
	},
	"time": func(t *time.Time) string {
		if t == nil {
			return "–"
		}
		return t.Format(time.RFC3339)
	},
	"join": func(s []string) string { return strings.Join(s, ", ") },
}

func (d *Daemon) servePage(w http.ResponseWriter, _ *http.Request) {
	st := d.status()
	var sections []report.Section
	for _, read := range d.host.sections {
		sections = append(sections, read()...)
	}
	var buf bytes.Buffer
	err := statusPage().Execute(&buf, struct {
		daemonStatus
		Watch    watchStatus
		Style    template.CSS
		Sections []report.Section
	}{st, d.host.Watch.status(), report.Style, sections})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, _ = w.Write(buf.Bytes())
}
