package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// inFlight reads a member's gauge; 0 where it cannot be read.
func inFlight(client *http.Client, m *etcdtest.Member) int {
	resp, err := client.Get(m.MetricsURL + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		var n int
		if _, err := fmt.Sscanf(sc.Text(), "etcd_disk_defrag_inflight %d", &n); err == nil {
			return n
		}
	}
	return 0
}

type memberRow struct {
	ID, Name, Endpoint, Action, Reason, Leader string
	BeforeBytes, InUseBytes, AfterBytes        *int64
	Seconds, PredictedSeconds                  *float64
}

type defragReport struct {
	DryRun         bool
	Outcome        string
	Reason         string
	LeaderMoves    int
	ReclaimedBytes int64
	Seconds        float64
	Disarmed       bool
	Hash           *struct{ Result, Reason string }
	Members        []memberRow
}

type statusReport struct {
	ClusterID, Leader string
	Members           []struct {
		ID, Name, Version, QuotaSource string
		Leader, Learner, Reachable     bool
		DBSizeBytes, DBSizeInUseBytes  *int64
		QuotaBytes, DefragInFlight     *int64
		Alarms, Features               []string
	}
	Verdict struct {
		Action, Reason        string
		ReclaimableBytes      int64
		PredictedStallSeconds *float64
	}
}

func three(version string) []string { return []string{version, version, version} }

// clusters are what every version is proven on.
func eachVersion(t *testing.T, f func(t *testing.T, version string)) {
	for _, v := range etcdtest.Versions() {
		t.Run("etcd "+v, func(t *testing.T) { f(t, v) })
	}
}

func TestDefrag_FollowersFirstLeaderLast(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
		fragment(t, c, 25, 100)
		leader := c.Leader(t)

		r := keeper(t, c, "status", "-w", "json")
		st := decode[statusReport](t, r)
		if r.code != 0 || len(st.Members) != 3 || st.Verdict.Action != "defragment" || st.Leader != fmt.Sprintf("%x", leader.ID) {
			t.Fatalf("status: %s", r)
		}
		for _, m := range st.Members {
			if m.QuotaBytes == nil || *m.QuotaBytes != 2<<30 || !m.Reachable || m.DefragInFlight == nil {
				t.Errorf("member %+v: want the default quota, a gauge", m)
			}
			if want := map[string]string{"3.5": "metrics", "3.6": "status", "3.7": "status"}[version]; m.QuotaSource != want {
				t.Errorf("member %s: quota from %s, want %s", m.Name, m.QuotaSource, want)
			}
			if told := m.Features != nil; told != (version != "3.5") {
				t.Errorf("member %s: features %v", m.Name, m.Features)
			}
		}

		r = keeper(t, c, "defrag", "--dry-run", "-w", "json")
		plan := decode[defragReport](t, r)
		if r.code != 5 || plan.Outcome != "planned" || !plan.DryRun || plan.Members[2].ID != st.Leader {
			t.Fatalf("dry run: %s", r)
		}

		stop := gauges(t, c, 50*time.Millisecond)
		r = keeper(t, c, "defrag", "-w", "json")
		most, order := stop()
		rep := decode[defragReport](t, r)
		if r.code != 0 || rep.Outcome != "done" || rep.LeaderMoves != 0 || rep.Hash == nil || rep.Hash.Result != "equal" {
			t.Fatalf("defrag: %s", r)
		}
		if most > 1 {
			t.Errorf("%d members were in flight at once", most)
		}
		if len(order) > 0 && slices.Contains(order[:len(order)-1], leader.Name) {
			t.Errorf("the leader %s was not the last of %v", leader.Name, order)
		}
		for i, m := range rep.Members {
			if m.ID != plan.Members[i].ID || m.AfterBytes == nil || *m.AfterBytes > *m.InUseBytes*12/10 {
				t.Errorf("member %+v: want the planned order and a file of what is in use", m)
			}
		}
		if last := rep.Members[2]; last.Leader != "in-place" || last.ID != st.Leader {
			t.Errorf("last: %+v", last)
		}
		if rep.ReclaimedBytes < 250<<20 {
			t.Errorf("%d bytes given back, want more than 250 MiB", rep.ReclaimedBytes)
		}
		if again := keeper(t, c, "defrag", "-w", "json"); again.code != 0 || decode[defragReport](t, again).Outcome != "nothing" {
			t.Errorf("again: %s", again)
		}
		hist := keeper(t, c, "status", "--history", "-w", "json")
		if runs := decode[struct{ Runs []defragReport }](t, hist).Runs; len(runs) != 1 || runs[0].Outcome != "done" {
			t.Errorf("history: %s", hist)
		}
	})
}

func TestDefrag_TLSAuthAndSeparateMetrics(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: []string{"3.6", "3.6", "3.7"}, TLS: true, Auth: true})
	r := keeper(t, c, "defrag", "--rule", "true", "-w", "json")
	if r.code != 0 || decode[defragReport](t, r).Outcome != "done" {
		t.Fatalf("TLS and a password on mixed versions: %s", r)
	}

	c = etcdtest.Start(t, etcdtest.Options{Versions: three("3.7"), SeparateMetrics: true})
	args := []string{"defrag", "--rule", "true", "-w", "json"}
	for _, m := range c.Members {
		args = append(args, "--metrics-url", m.Name+"="+m.MetricsURL+"/metrics")
	}
	if r := keeper(t, c, args...); r.code != 0 || decode[defragReport](t, r).Outcome != "done" {
		t.Fatalf("metrics elsewhere: %s", r)
	}
}

func TestDefrag_RefusesWhatIsNotSafe(t *testing.T) {
	eachVersion(t, refusesWhatIsNotSafe)
}

func refusesWhatIsNotSafe(t *testing.T, version string) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
	refused := func(t *testing.T, want string, args ...string) {
		t.Helper()
		r := keeper(t, c, append([]string{"defrag", "--rule", "true", "-w", "json", "--command-timeout", "2s"}, args...)...)
		rep := decode[defragReport](t, r)
		if r.code != 3 || rep.Outcome != "refused" || !strings.Contains(rep.Reason, want) {
			t.Errorf("got %s\nwant a refusal with %q", r, want)
		}
	}
	t.Run("paused", func(t *testing.T) {
		if r := keeper(t, c, "pause", "--for", "1h", "--reason", "upgrade of the nodes"); r.code != 0 {
			t.Fatal(r)
		}
		refused(t, "upgrade of the nodes")
		if r := keeper(t, c, "resume"); r.code != 0 {
			t.Fatal(r)
		}
	})
	t.Run("member down", func(t *testing.T) {
		m := c.Followers(t)[0]
		m.Kill()
		refused(t, m.Name)
		r := keeper(t, c, "status", "-w", "json", "--command-timeout", "2s")
		if st := decode[statusReport](t, r); r.code != 0 || len(st.Members) != 3 {
			t.Errorf("status with a member down: %s", r)
		}
		m.Restart(t)
	})
	t.Run("member hangs", func(t *testing.T) {
		m := c.Followers(t)[0]
		m.Pause(t)
		refused(t, m.Name)
		m.Resume(t)
		m.WaitReady(t)
	})
	t.Run("member lags", func(t *testing.T) {
		stop := lag(t, c, c.Followers(t)[0])
		defer stop()
		eventually(t, 2*time.Minute, "a run is refused for the lag", func() bool {
			r := keeper(t, c, "defrag", "--rule", "true", "--dry-run", "-w", "json")
			return r.code == 3 && strings.Contains(r.stdout, "entries behind the leader")
		})
	})
	t.Run("corrupt", func(t *testing.T) {
		raiseCorrupt(t, c)
		refused(t, "CORRUPT")
		c.Members[0].Ctl(t, "alarm", "disarm")
	})
	t.Run("unstarted", func(t *testing.T) {
		c.AddMember(t, etcdtest.AddOptions{Unstarted: true})
		refused(t, "never started")
	})
}

func TestDefrag_SkipsLearner(t *testing.T) {
	eachVersion(t, skipsLearner)
}

func skipsLearner(t *testing.T, version string) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
	c.AddMember(t, etcdtest.AddOptions{Learner: true})
	r := keeper(t, c, "defrag", "--rule", "true", "-w", "json")
	rep := decode[defragReport](t, r)
	if r.code != 0 || rep.Outcome != "done" || len(rep.Members) != 4 {
		t.Fatal(r)
	}
	if last := rep.Members[3]; last.Action != "skip" || !strings.Contains(last.Reason, "learner") {
		t.Errorf("the learner: %+v", last)
	}
}

func TestDefrag_SmallClusterByOptInOnly(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: []string{"3.7"}})
	if r := keeper(t, c, "defrag", "--rule", "true"); r.code != 3 || !strings.Contains(r.stderr, "--allow-small") {
		t.Errorf("without: %s", r)
	}
	if r := keeper(t, c, "defrag", "--rule", "true", "--allow-small"); r.code != 0 {
		t.Errorf("with: %s", r)
	}
}
