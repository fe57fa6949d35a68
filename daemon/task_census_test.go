package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

func TestCensusTaker(t *testing.T) {
	follower := func(id cluster.ID) cluster.Member {
		return cluster.Member{ID: id, Name: fmt.Sprint("m", id), Reachable: true}
	}
	leader, learner, down := follower(1), follower(5), follower(6)
	leader.Leader, learner.Learner, down.Reachable = true, true, false
	view := cluster.View{Members: []cluster.Member{down, learner, follower(4), follower(3), leader}}
	for _, c := range []struct {
		from    string
		keepers []cluster.ID
		want    map[cluster.ID]cluster.ID // by the member beside
	}{
		{"follower", []cluster.ID{1, 3, 4, 5}, map[cluster.ID]cluster.ID{1: 3, 3: 3, 4: 3, 5: 3}},
		{"", []cluster.ID{1, 4}, map[cluster.ID]cluster.ID{1: 4, 4: 4}},
		{"leader", []cluster.ID{4, 3, 1}, map[cluster.ID]cluster.ID{1: 1, 3: 1, 4: 1}},
		{"leader", []cluster.ID{4, 3}, map[cluster.ID]cluster.ID{3: 3, 4: 3}},
		{"learner", []cluster.ID{1, 3, 5}, map[cluster.ID]cluster.ID{1: 5, 3: 5, 5: 5}},
		{"local", []cluster.ID{5, 4, 3}, map[cluster.ID]cluster.ID{3: 3, 4: 3, 5: 3}},
		{"m4", []cluster.ID{1, 3, 4}, map[cluster.ID]cluster.ID{1: 4, 3: 4, 4: 4}},
		{"follower", []cluster.ID{6, 4}, map[cluster.ID]cluster.ID{4: 4}},
		{"follower", nil, map[cluster.ID]cluster.ID{1: 1, 3: 3}},
		{"follower", []cluster.ID{0}, map[cluster.ID]cluster.ID{4: 4}}, // one that looks after the whole cluster
	} {
		var keepers []cluster.Keeper
		for _, id := range c.keepers {
			keepers = append(keepers, cluster.Keeper{Member: id})
		}
		for _, m := range view.Members {
			want, ok := c.want[m.ID]
			if !ok {
				continue
			}
			if got := censusTaker(view, keepers, m, c.from); got.ID != want {
				t.Errorf("from %q, keepers beside %v, asked beside %d: got %d, want %d", c.from, c.keepers, m.ID, got.ID, want)
			}
		}
	}
}

// censusStatus is the census in /api/status, nil for none yet.
type censusStatus struct {
	Taken  time.Time       `json:"taken"`
	Source string          `json:"source"`
	Keys   int64           `json:"keys"`
	Growth []census.Growth `json:"growth"`
}

func readCensus(t *testing.T, d *Daemon) *censusStatus {
	t.Helper()
	var s struct {
		Parts struct {
			Census *censusStatus `json:"census"`
		} `json:"parts"`
	}
	code, body := get(t, d, 0, "/api/status")
	if code != http.StatusOK {
		t.Fatalf("/api/status: %d", code)
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("/api/status: %v", err)
	}
	return s.Parts.Census
}

func censusConfig(endpoints ...string) config.Config {
	cfg := testConfig()
	cfg.Etcd.Endpoints = endpoints
	cfg.Watch.Interval = time.Second
	cfg.Census.Schedule = schedule.Every(2 * time.Second)
	cfg.Census.Rate = 0
	return cfg
}

// until is eventually for what real etcds do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(slowly); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// TestCensus_GrowthOverARestart: what an earlier run of the daemon saw counts, and a broken state file harms nothing.
func TestCensus_GrowthOverARestart(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{QuotaBytes: 1 << 30})
	c := etcd.Client(t)
	put := func(key string, n int) {
		t.Helper()
		if _, err := c.Put(t.Context(), key, strings.Repeat("x", n)); err != nil {
			t.Fatal(err)
		}
	}
	put("/registry/configmaps/team-a/<script>", 1000)
	cfg := censusConfig(etcd.Endpoint)
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	state := filepath.Join(cfg.StateDir, censusName)
	run := func() (d *Daemon, stop func() error) {
		d, _, stop = startReal(t, cfg)
		until(t, "a census", func() bool { return readCensus(t, d) != nil })
		return d, stop
	}
	cfg.Census.Schedule = schedule.Every(time.Hour) // one at each start
	d, stop := run()
	first := readCensus(t, d)
	if len(first.Growth) != 0 || first.Keys == 0 || !strings.HasPrefix(first.Source, "member ") {
		t.Errorf("the first census: got %+v", first)
	}
	code, page := get(t, d, 0, "/census")
	if code != http.StatusOK || strings.Contains(page, "<script>") || !strings.Contains(page, "configmaps") {
		t.Errorf("/census: %d, %d bytes", code, len(page))
	}
	if _, front := get(t, d, 0, "/"); !strings.Contains(front, "Who fills the database") || !strings.Contains(front, "<svg") {
		t.Error("the front page does not show the census")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	put("/registry/configmaps/team-a/two", 100_000)
	d, stop = run()
	var growth float64
	for _, g := range readCensus(t, d).Growth {
		if g.Resource == "configmaps" {
			growth = g.BytesPerSecond
			if g.QuotaSeconds == nil {
				t.Error("no forecast although the quota is known")
			}
		}
	}
	if growth <= 0 {
		t.Errorf("after a restart: got a growth of %v, want that since the census before", growth)
	}
	waitMetrics(t, d, `etcdkeeper_census_growth_bytes_per_second{group="",resource="configmaps"}`, `etcdkeeper_census_keys{group="",resource="other"}`)
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(state, []byte(`{"version":1,"poi`), 0o644); err != nil {
		t.Fatal(err)
	}
	d, stop = run()
	if got := readCensus(t, d).Growth; len(got) != 0 {
		t.Errorf("with a torn state file: got growth %v", got)
	}
	if _, err := os.Stat(state + ".broken"); err != nil {
		t.Errorf("the torn file was not kept: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	newer := `{"version":99}`
	if err := os.WriteFile(state, []byte(newer), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stop = run()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(state); err != nil || string(data) != newer {
		t.Errorf("a file of a newer version was written over: %s (%v)", data, err)
	}
}

// TestReal_OneKeeperTakesTheCensus runs a keeper beside each of three members.
func TestReal_OneKeeperTakesTheCensus(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37, etcdtest.V36, etcdtest.V37}})
	var daemons []*Daemon
	for i := range etcd.Members {
		cfg := censusConfig(etcd.Endpoints()[i])
		d, _, _ := startReal(t, cfg)
		daemons = append(daemons, d)
	}
	for _, d := range daemons {
		until(t, "skips or censuses of all keepers", func() bool {
			_, metrics := get(t, d, 0, "/metrics")
			return strings.Contains(metrics, `etcdkeeper_task_runs_total{result="ok",task="census"}`) ||
				strings.Contains(metrics, `etcdkeeper_task_runs_total{result="skipped",task="census"}`)
		})
	}
	// Until all have announced themselves, and while the leader changes, more than one may take it. Then it is one.
	taken := func() (at []time.Time) {
		for _, d := range daemons {
			var last time.Time
			if c := readCensus(t, d); c != nil {
				last = c.Taken
			}
			at = append(at, last)
		}
		return at
	}
	until(t, "a time in which one keeper alone takes censuses", func() bool {
		before := taken()
		for end := time.Now().Add(slowly); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			now, moved := taken(), 0
			most := time.Duration(0)
			for i := range now {
				if !now[i].Equal(before[i]) {
					moved++
					most = max(most, now[i].Sub(before[i]))
				}
			}
			if moved > 1 {
				return false
			}
			if moved == 1 && most > 5*time.Second {
				return true
			}
		}
		return false
	})
}
