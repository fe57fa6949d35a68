package daemon

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	member := func(id cluster.ID) cluster.Member {
		return cluster.Member{ID: id, Name: fmt.Sprint("m", id), Reachable: true}
	}
	leader, learner, down := member(1), member(5), member(2)
	leader.Leader, learner.Learner, down.Reachable = true, true, false
	view := cluster.View{Members: []cluster.Member{down, learner, member(4), member(3), leader}}
	beside := func(ids ...cluster.ID) (out []cluster.Keeper) {
		for _, id := range ids {
			out = append(out, cluster.Keeper{Member: id, Host: "h", PID: 1, Tasks: []string{cluster.TaskCensus}})
		}
		return out
	}
	without := func(k ...cluster.Keeper) []cluster.Keeper { // the first has no census
		k[0].Tasks = []string{cluster.TaskDefrag}
		return k
	}
	for name, c := range map[string]struct {
		from    string
		keepers []cluster.Keeper
		want    map[cluster.ID]cluster.ID // by the member beside
	}{
		"the lowest id, whoever leads":      {"follower", beside(4, 1, 3), map[cluster.ID]cluster.ID{1: 1, 3: 1, 4: 1}},
		"whatever is to be read":            {"leader", beside(4, 3, 5), map[cluster.ID]cluster.ID{3: 3, 4: 3, 5: 3}},
		"beside the learner":                {"learner", beside(1, 3, 5), map[cluster.ID]cluster.ID{1: 5, 3: 5, 5: 5}},
		"beside the member with that name":  {"m4", beside(1, 3, 4), map[cluster.ID]cluster.ID{1: 4, 3: 4, 4: 4}},
		"that member has no keeper":         {"m4", beside(1, 3), map[cluster.ID]cluster.ID{1: 1, 3: 1}},
		"its member does not answer":        {"follower", beside(4, 2), map[cluster.ID]cluster.ID{2: 2, 4: 2}},
		"local":                             {"local", beside(5, 4, 3), map[cluster.ID]cluster.ID{3: 3, 4: 3, 5: 3}},
		"none can be read":                  {"follower", nil, map[cluster.ID]cluster.ID{1: 1, 3: 3, 0: 0}},
		"no census beside the lowest id":    {"follower", without(beside(1, 3, 4)...), map[cluster.ID]cluster.ID{3: 3, 4: 3}},
		"no census beside the one named":    {"m4", without(beside(4, 3, 1)...), map[cluster.ID]cluster.ID{3: 1, 1: 1}},
		"an older keeper does not tell":     {"follower", []cluster.Keeper{{Member: 1, Host: "old"}}, map[cluster.ID]cluster.ID{3: 1}},
		"beside a member that was removed":  {"follower", beside(9, 4), map[cluster.ID]cluster.ID{4: 4}},
		"beside no member":                  {"follower", beside(0), map[cluster.ID]cluster.ID{4: 4, 0: 0}},
		"beside a member rather than none":  {"follower", beside(0, 3), map[cluster.ID]cluster.ID{0: 3, 3: 3}},
		"none but this one, not there yet":  {"", beside(3, 4), map[cluster.ID]cluster.ID{1: 1}},
		"this one's older announcement too": {"", without(beside(3, 4)...), map[cluster.ID]cluster.ID{3: 3}},
	} {
		for id, want := range c.want {
			self := cluster.Keeper{Member: id, Host: "h", PID: 1}
			got, ok := censusTaker(view, c.keepers, self, true, c.from)
			if !ok || got.Member != want {
				t.Errorf("%s: asked beside %d: got %d (%v), want %d", name, id, got.Member, ok, want)
			}
		}
	}
	two := []cluster.Keeper{{Member: 0, Host: "b"}, {Member: 0, Host: "a"}}
	if got, _ := censusTaker(view, two, two[0], true, ""); got.Host != "a" {
		t.Errorf("of two beside no member: got %s, want a", got.Host)
	}
	if got, ok := censusTaker(view, without(beside(1, 3)...), beside(1)[0], false, ""); !ok || got.Member != 3 {
		t.Errorf("asked where it is off: got %d (%v), want 3", got.Member, ok)
	}
	if got, ok := censusTaker(view, without(beside(1)...), beside(1)[0], false, ""); ok {
		t.Errorf("where it is on nowhere: got %d", got.Member)
	}
}

// TestCensus_Off: the page of a keeper that takes no census, as no other does, does not promise one.
func TestCensus_Off(t *testing.T) {
	cfg := censusConfig(etcdtest.Embed(t, etcdtest.EmbedOptions{}).Endpoint)
	cfg.Census.Enabled, cfg.Defrag.Enabled = false, false
	d, _, _ := startReal(t, cfg)
	until(t, "the page to say that the census is off", func() bool {
		code, page := get(t, d, 0, "/census")
		return code == http.StatusNotFound && strings.Contains(page, "switched off")
	})
}

// TestQuotaLeft: the member that comes closest to its quota counts, whichever is read.
func TestQuotaLeft(t *testing.T) {
	member := func(quota, inUse int64) cluster.Member {
		m := cluster.Member{Reachable: true, DBSizeInUse: inUse, Quota: &quota}
		if quota == 0 {
			m.Quota = nil
		}
		return m
	}
	down := member(10, 9)
	down.Reachable = false
	for name, c := range map[string]struct {
		members      []cluster.Member
		left, lowest int64
	}{
		"a learner with a higher quota": {[]cluster.Member{member(2000, 40), member(200, 50), member(200, 40)}, 150, 200},
		"one is fuller":                 {[]cluster.Member{member(200, 50), member(200, 180)}, 20, 200},
		"over its quota":                {[]cluster.Member{member(200, 250)}, 0, 200},
		"known of one only":             {[]cluster.Member{member(0, 50), member(300, 100)}, 200, 300},
		"known of none":                 {[]cluster.Member{member(0, 50)}, -1, 0},
		"one does not answer":           {[]cluster.Member{down, member(300, 100)}, 200, 10},
	} {
		view := cluster.View{Members: c.members}
		if left, lowest := quotaLeft(view), lowestQuota(view); left != c.left || lowest != c.lowest {
			t.Errorf("%s: got %d left and a lowest of %d, want %d and %d", name, left, lowest, c.left, c.lowest)
		}
	}
}

// TestCensus_AnotherTakesIt: what a keeper has shown ends where another one takes the census, and its pages say who.
func TestCensus_AnotherTakesIt(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	if _, err := etcd.Client(t).Put(t.Context(), "/registry/configmaps/a/b", "x"); err != nil {
		t.Fatal(err)
	}
	cfg := censusConfig(etcd.Endpoint)
	cfg.Census.Schedule = schedule.Every(time.Hour)
	cfg.Defrag.Enabled = false
	d, _, _ := startReal(t, cfg)
	until(t, "a census", func() bool { return readCensus(t, d) != nil })
	waitMetrics(t, d, `etcdkeeper_census_keys{group="",resource="configmaps"} 1`)
	cl := etcd.Client(t)
	members, err := cl.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// It sorts before every other: beside the same member, on a host without a name.
	other := cluster.Keeper{Member: cluster.ID(members.Members[0].ID), Name: "m1", Tasks: []string{cluster.TaskCensus}}
	value, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Put(t.Context(), cluster.Root+"keepers/other", string(value)); err != nil {
		t.Fatal(err)
	}
	until(t, "the census to be left to the other keeper", func() bool { return readCensus(t, d) == nil })
	if _, metrics := get(t, d, 0, "/metrics"); strings.Contains(metrics, "etcdkeeper_census_") {
		t.Error("figures of the census are still exported")
	}
	for path, want := range map[string]int{"/": http.StatusOK, "/census": http.StatusNotFound} {
		if code, page := get(t, d, 0, path); code != want || !strings.Contains(page, "taken by the keeper beside member m1") {
			t.Errorf("%s: got %d, want %d and who takes the census", path, code, want)
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

// counted is a task's result that has come at least once.
var counted = regexp.MustCompile(`etcdkeeper_task_runs_total\{result="(success|skipped)",task="census"\} [1-9]`)

// TestReal_OneKeeperTakesTheCensus runs a keeper beside each of three members, whatever else they do.
func TestReal_OneKeeperTakesTheCensus(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37, etcdtest.V36, etcdtest.V37}})
	for _, c := range []struct {
		name   string
		defrag bool
		off    int // so many keepers beside the lowest ids have no census
	}{{"with defragmentation", true, 0}, {"without", false, 0}, {"none beside the lowest id", false, 1}} {
		t.Run(c.name, func(t *testing.T) { oneTakesTheCensus(t, etcd, c.defrag, c.off) })
	}
}

func oneTakesTheCensus(t *testing.T, etcd *etcdtest.Cluster, defrag bool, off int) {
	client, err := cluster.New(censusConfig(etcd.Endpoints()...).Etcd, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	view, err := client.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(view.Members, func(a, b cluster.Member) int { return cmp.Compare(a.ID, b.ID) })
	var daemons []*Daemon
	for i, m := range view.Members {
		cfg := censusConfig(m.Endpoint)
		cfg.Defrag.Enabled, cfg.Census.Enabled = defrag, i >= off
		d, _, _ := startReal(t, cfg)
		daemons = append(daemons, d)
	}
	for i, d := range daemons[off:] {
		until(t, "a census or a skip of each keeper", func() bool {
			_, metrics := get(t, d, 0, "/metrics")
			want := "skipped"
			if i == 0 {
				want = "success"
			}
			for _, m := range counted.FindAllStringSubmatch(metrics, -1) {
				if m[1] == want {
					return true
				}
			}
			return false
		})
	}
	// Until all have announced themselves more than one may take it. Then it is one, and it alone shows it.
	alone := func() (taken time.Time, ok bool) {
		for i, d := range daemons {
			c := readCensus(t, d)
			_, metrics := get(t, d, 0, "/metrics")
			if takes := i == off; (c != nil) != takes || strings.Contains(metrics, "etcdkeeper_census_keys{") != takes {
				return time.Time{}, false
			}
			if c != nil {
				taken = c.Taken
			}
		}
		return taken, true
	}
	until(t, "a time in which the keeper beside the lowest id takes censuses alone", func() bool {
		seen := map[time.Time]bool{}
		for len(seen) < 3 {
			taken, ok := alone()
			if !ok {
				return false
			}
			seen[taken] = true
			time.Sleep(100 * time.Millisecond)
		}
		return true
	})
}
