package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/cluster/forecast"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// staleAfter is how many intervals a view counts as the present one. After that its numbers are not exported any more:
// a frozen metric is worse than none.
const staleAfter = 4

// jumpAfter is how much wall time may differ from elapsed time between two looks before the clock counts as set.
const jumpAfter = 2 * time.Second

// Watch keeps the latest view of the cluster and the series of its members' sizes. It is safe for concurrent use.
type Watch struct {
	log  *slog.Logger
	file stateFile

	saving sync.Mutex // one save at a time; taken before mu

	mu        sync.Mutex
	interval  time.Duration
	view      *cluster.View
	seen      time.Time // when view was taken, with its monotonic reading
	clusterID cluster.ID
	series    map[cluster.ID]*series
	forecasts map[cluster.ID]forecast.Forecast
	saved     time.Time
	problem   string // what is wrong with the state file
}

// NewWatch reads the series from stateDir, where that is given.
func NewWatch(stateDir string, log *slog.Logger) *Watch {
	w := &Watch{log: log, series: map[cluster.ID]*series{}, forecasts: map[cluster.ID]forecast.Forecast{}, interval: time.Minute}
	if stateDir == "" {
		return w
	}
	w.file.path = filepath.Join(stateDir, stateName)
	content, problem := w.file.load()
	if problem != "" {
		w.problem = problem
		log.Warn("state file", "err", problem)
	}
	now := time.Now()
	for id, s := range content.Members {
		if s != nil {
			s.sane(now)
			w.series[id] = s
		}
	}
	w.clusterID, w.saved = content.ClusterID, now
	return w
}

func setUpWatch(h *Host) (func(Env) ([]Task, error), error) {
	h.Registry.MustRegister(&watchCollector{w: h.Watch})
	h.Status("watch", func() any { return h.Watch.status() })
	return func(e Env) ([]Task, error) {
		h.Watch.setInterval(e.Config.Watch.Interval)
		return []Task{{
			Name:    "watch",
			When:    schedule.Every(e.Config.Watch.Interval),
			AtStart: true,
			Timeout: 6 * e.Config.Etcd.CommandTimeout,
			Run: func(ctx context.Context) error {
				v, err := e.Cluster.View(ctx)
				if err != nil {
					return err
				}
				h.Watch.Observe(v)
				return nil
			},
		}}, nil
	}, nil
}

func (w *Watch) setInterval(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.interval = d
}

// Observe takes in what the members said.
func (w *Watch) Observe(v cluster.View) {
	w.take(v)
	w.save(false)
}

func (w *Watch) take(v cluster.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.view != nil {
		elapsed, wall := now.Sub(w.seen), now.Round(0).Sub(w.seen.Round(0))
		w.clockMoved(wall - elapsed)
		w.tell(*w.view, v)
	}
	if w.clusterID != 0 && w.clusterID != v.ClusterID {
		w.log.Warn("another cluster answers than before: its size series starts anew", "cluster", v.ClusterID, "before", w.clusterID)
		clear(w.series)
	}
	w.clusterID, w.view, w.seen = v.ClusterID, &v, now
	w.observe(v, now)
}

// clockMoved keeps the ages of the samples where the clock was set by d.
func (w *Watch) clockMoved(d time.Duration) {
	if d.Abs() < jumpAfter {
		return
	}
	w.log.Warn("the clock was set: the size series is moved along", "by", d.Round(time.Millisecond))
	for _, s := range w.series {
		s.shift(d)
	}
}

// observe appends the sizes and forecasts. Members that left the cluster are forgotten.
func (w *Watch) observe(v cluster.View, now time.Time) {
	present := map[cluster.ID]bool{}
	for _, m := range v.Members {
		present[m.ID] = true
		if !m.Reachable {
			continue
		}
		s := w.series[m.ID]
		if s == nil {
			s = &series{}
			w.series[m.ID] = s
		}
		s.Name = m.String()
		s.add(point{at: now.Unix(), size: m.DBSize, inUse: m.DBSizeInUse})
		w.forecasts[m.ID] = forecast.Exhaustion(s.samples(), m.Quota)
	}
	for id := range w.series {
		if !present[id] {
			delete(w.series, id)
			delete(w.forecasts, id)
		}
	}
}

// tell logs what became different.
func (w *Watch) tell(before, after cluster.View) {
	old := map[cluster.ID]cluster.Member{}
	for _, m := range before.Members {
		old[m.ID] = m
	}
	for _, m := range after.Members {
		o, known := old[m.ID]
		switch {
		case !known:
			w.log.Info("member joined", "member", m.String(), "learner", m.Learner)
			continue
		case o.Reachable && !m.Reachable:
			w.log.Warn("member does not answer", "member", m.String(), "err", m.Error)
		case !o.Reachable && m.Reachable:
			w.log.Info("member answers again", "member", m.String())
		}
		for _, a := range m.Alarms {
			if !slices.Contains(o.Alarms, a) {
				w.log.Warn("alarm raised", "member", m.String(), "alarm", a)
			}
		}
		for _, a := range o.Alarms {
			if m.Reachable && !slices.Contains(m.Alarms, a) {
				w.log.Info("alarm ended", "member", m.String(), "alarm", a)
			}
		}
	}
	if a, ok := before.Leader(); ok {
		if b, ok := after.Leader(); ok && a.ID != b.ID {
			w.log.Info("leadership moved", "from", a.String(), "to", b.String())
		}
	}
}

// Save writes the state file now: at the end.
func (w *Watch) Save() { w.save(true) }

// save writes the state file where it is time to; its problems are logged when they change. The lock is not held while
// the disk is waited for: a disk that hangs must not hide the metrics.
func (w *Watch) save(force bool) {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	now := time.Now()
	if w.file.path == "" || w.clusterID == 0 || (!force && now.Sub(w.saved) < saveEvery) {
		w.mu.Unlock()
		return
	}
	w.saved = now
	data, err := json.Marshal(stateContent{Version: stateVersion, ClusterID: w.clusterID, Saved: now.UTC().Truncate(time.Second), Members: w.series})
	w.mu.Unlock()
	if err == nil {
		err = w.file.save(data)
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if problem != w.problem && problem != "" {
		w.log.Warn("the size series is kept in memory only", "err", problem)
	}
	w.problem = problem
}

// Latest is the present view. It is false where there is none, or none of late.
func (w *Watch) Latest() (cluster.View, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view == nil || time.Since(w.seen) > max(staleAfter*w.interval, time.Minute) {
		return cluster.View{}, false
	}
	return *w.view, true
}

// Forecast is that of the member that reaches its quota first, with its name in the basis.
func (w *Watch) Forecast() forecast.Forecast {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]cluster.ID, 0, len(w.forecasts))
	for id := range w.forecasts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	all := make([]forecast.Forecast, len(ids))
	for i, id := range ids {
		all[i] = w.forecasts[id]
		all[i].Basis = fmt.Sprintf("member %s: %s", w.series[id].Name, all[i].Basis)
	}
	return forecast.Soonest(all)
}

// MemberForecast is the forecast of one member; false where nothing is known of it.
func (w *Watch) MemberForecast(id cluster.ID) (forecast.Forecast, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, ok := w.forecasts[id]
	return f, ok
}

// ReadForecast is the forecast from the series that a daemon keeps in stateDir, which is left as it is, and the view.
func ReadForecast(stateDir string, v cluster.View) forecast.Forecast {
	var content stateContent
	data, err := os.ReadFile(filepath.Join(stateDir, stateName))
	if err == nil {
		err = json.Unmarshal(data, &content)
	}
	switch {
	case err != nil:
		return forecast.Forecast{Basis: "no size series: " + err.Error()}
	case content.Version != stateVersion || content.ClusterID != v.ClusterID:
		return forecast.Forecast{Basis: fmt.Sprintf("the size series in %s is of another version or of another cluster", stateDir)}
	}
	w := &Watch{log: slog.New(slog.DiscardHandler), series: map[cluster.ID]*series{}, forecasts: map[cluster.ID]forecast.Forecast{}}
	now := time.Now()
	for id, s := range content.Members {
		if s != nil {
			s.sane(now)
			w.series[id] = s
		}
	}
	w.observe(v, now)
	return w.Forecast()
}

// History is the series of a member, up to two weeks in steps of ten minutes, oldest first.
func (w *Watch) History(id cluster.ID) []forecast.Sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.series[id]; s != nil {
		return s.history()
	}
	return nil
}

type watchStatus struct {
	Seen      *time.Time        `json:"seen"`
	StateFile *string           `json:"stateFile"`
	Problem   *string           `json:"stateProblem"`
	Forecast  forecast.Forecast `json:"forecast"`
}

func (w *Watch) status() watchStatus {
	st := watchStatus{Forecast: w.Forecast()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view != nil {
		seen := w.seen.UTC().Round(0)
		st.Seen = &seen
	}
	if w.file.path != "" {
		st.StateFile = &w.file.path
	}
	if w.problem != "" {
		problem := w.problem
		st.Problem = &problem
	}
	return st
}
