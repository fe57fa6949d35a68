//go:build linux

package drain

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/netnstest"
)

// inUse is what the members keep, in MiB: a defragmentation takes a few tenths of a second.
const inUse = 48

// calm are flags of etcd with which a busy machine causes no election.
var calm = []string{"--heartbeat-interval=300", "--election-timeout=3000"}

// TestDrain_RoundRobin holds that a run with keepers drains each member in its turn, one at a time,
// and that clients of all members lose next to nothing.
func TestDrain_RoundRobin(t *testing.T) {
	for _, version := range []string{etcdtest.V35, etcdtest.V36} { // 3.7 is that of TestDrain_WhatGoesWrong
		t.Run(version, func(t *testing.T) {
			o := netnstest.Options{Version: version, Args: calm}
			if version == etcdtest.V36 {
				o.IPv6, o.TLS = true, true
			}
			l := netnstest.Start(t, o)
			l.Fragment(t, inUse, inUse)
			work := l.RoundRobin(t, 100)
			var api *netnstest.Load
			if version == etcdtest.V35 {
				api = netnstest.ConfigMaps(t, l.APIServer(t), 50)
			}
			keepers(t, l)
			seen(t, l, l.ClientAddr)
			term := l.Terms(t)
			stop := mostDrained(t, l)
			r := begin(t, l)
			rep := r.end(t)
			if n := stop(); n != 1 {
				t.Errorf("%d members were drained at once, want 1", n)
			}
			got := work.Stop()
			if rep.Outcome != "done" {
				t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
			}
			for _, m := range rep.Members {
				if !m.Drain || m.DrainedSeconds == nil || m.ConnectionsMoved == nil || *m.ConnectionsMoved == 0 {
					t.Errorf("member %s was not drained, or nobody was turned away: %+v\n%s", m.Name, m, r.stderr.String())
					continue
				}
				if *m.DrainedSeconds < *m.Seconds {
					t.Errorf("member %s was drained for %.3f s and defragmented for %.3f s", m.Name, *m.DrainedSeconds, *m.Seconds)
				}
				if m.ConnectionsBack == nil || *m.ConnectionsBack == 0 {
					t.Errorf("member %s: clients did not come back: %+v", m.Name, m)
				}
			}
			if rep.Hash == nil || rep.Hash.Result != "equal" {
				t.Errorf("got hash %+v", rep.Hash)
			}
			// Hashes are taken in the turns of the defragmentations.
			for _, m := range l.Members {
				if log := m.Log(); strings.Count(log, "taking the member's turn") != 1 || !strings.Contains(log, "work=defragment") {
					t.Errorf("the keeper beside %s had other turns than one: %s", m.Name, log)
				}
			}
			if rep.Clients == nil || rep.Clients.Reads == 0 || !strings.Contains(strings.Join(rep.Notes, "\n"), "clients waited at most") {
				t.Errorf("got clients %+v, notes %q", rep.Clients, rep.Notes)
			}
			if api != nil {
				apiServer(t, rep, api.Stop())
			}
			// One connection a member is turned away, once. What is in flight on it at that moment is more on a busy machine.
			if len(got.Failed) > most(got) {
				t.Errorf("%d of %d requests failed: %v", len(got.Failed), got.Requests, got.Failed)
			}
			if now := l.Terms(t); !slices.Equal(now, term) {
				t.Errorf("an election: terms were %v, are %v", term, now)
			}
			noTables(t, l)
			t.Logf("longest wait %s, the keeper's own client %.3f s, %d of %d requests failed", max(got.LongestPut, got.LongestGet), rep.Clients.LongestSeconds, len(got.Failed), got.Requests)
		})
	}
}

// most is how many requests may fail: 2 %, on a machine that is busy with other things.
func most(got netnstest.Noticed) int { return got.Requests / 50 }

// apiServer holds that the clients of a real API server of all members notice next to nothing.
func apiServer(t *testing.T, rep report, got netnstest.Noticed) {
	t.Helper()
	moved := 0
	for _, m := range rep.Members {
		if m.ConnectionsMoved != nil {
			moved += *m.ConnectionsMoved
		}
	}
	if moved == 0 || len(got.Failed) > most(got) {
		t.Errorf("API server: %d of %d requests failed with %d connections turned away: %v", len(got.Failed), got.Requests, moved, got.Failed)
	}
	t.Logf("API server: longest create %s, get %s, %d of %d requests failed, %d connections turned away", got.LongestPut, got.LongestGet, len(got.Failed), got.Requests, moved)
}

// TestDrain_WhatGoesWrong kills, freezes and takes away, on one cluster.
func TestDrain_WhatGoesWrong(t *testing.T) {
	l := netnstest.Start(t, netnstest.Options{Version: etcdtest.V37, Args: calm})
	l.Fragment(t, inUse, inUse)
	l.RoundRobin(t, 100)
	keepers(t, l)
	seen(t, l, l.ClientAddr)
	for _, step := range []struct {
		name string
		test func(t *testing.T, l *netnstest.Lab)
	}{
		{"pinned client", pinned},
		{"two runs at once", twoRuns},
		{"run from elsewhere", fromElsewhere},
		{"clients go elsewhere", clientsGoElsewhere},
		{"keeper killed", keeperKilled},
		{"member never finishes", neverFinishes},
		{"keeper stands still", keeperStandsStill},
		{"etcd killed", etcdKilled},
		{"no room beside the member", noRoom},
		{"no right", noRight},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, l) }) {
			for _, m := range l.Members {
				t.Logf("%s: %s", m.Name, m.Log())
			}
			return
		}
	}
}

// freeze holds a member in the middle of its defragmentation while f runs.
func freeze(t *testing.T, m *netnstest.Member, f func()) {
	t.Helper()
	if err := m.Etcd().Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Etcd().Resume() }()
	f()
}

// clientsGoElsewhere holds a drained member still for longer than its clients may wait: they do not wait for it, and of
// those whose connection was turned away each loses a request or two.
func clientsGoElsewhere(t *testing.T, l *netnstest.Lab) {
	const still = 6 * time.Second
	work := l.RoundRobin(t, 100)
	seen(t, l, l.ClientAddr)
	r := begin(t, l)
	m := busy(t, l, r) // the leader comes last, so this is a follower
	freeze(t, m, func() { time.Sleep(still) })
	rep := r.end(t)
	got := work.Stop()
	if rep.Outcome != "done" {
		t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	if longest := max(got.LongestPut, got.LongestGet); longest >= still {
		t.Errorf("a request waited %s for a member that stood still for %s", longest, still)
	}
	moved := 0
	for _, row := range rep.Members {
		if row.ConnectionsMoved != nil {
			moved += *row.ConnectionsMoved
		}
	}
	if len(got.Failed) > 2*moved {
		t.Errorf("%d of %d requests failed with %d connections turned away: %v", len(got.Failed), got.Requests, moved, got.Failed)
	}
	t.Logf("longest wait %s, %d of %d requests failed, %d connections turned away", max(got.LongestPut, got.LongestGet), len(got.Failed), got.Requests, moved)
}

func keeperKilled(t *testing.T, l *netnstest.Lab) {
	l.Fragment(t, inUse, inUse) // for the file to tell what the lost answer does not
	r := begin(t, l)
	m := busy(t, l, r)
	freeze(t, m, func() {
		if err := m.Keeper().Signal(9); err != nil {
			t.Fatal(err)
		}
		<-m.Keeper().Done()
		killed := time.Now()
		if got := m.Tables(t); got != "" {
			t.Errorf("the rule outlived its keeper: %s", got)
		}
		t.Logf("the rule was gone %s after the kill", time.Since(killed))
		// The turn's lease ends with its keeper, only sooner.
		cl := l.Client(t)
		resp, err := cl.Get(t.Context(), "/etcdkeeper/turn")
		if err == nil && len(resp.Kvs) == 1 {
			_, err = cl.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if err := m.Reach(t, patience); err != nil {
		t.Errorf("member %s cannot be reached: %v", m.Name, err)
	}
	// The server goes on: the gauge and the size of the file tell that it was done.
	if rep := r.end(t); rep.Outcome != "done" {
		t.Errorf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	noTables(t, l)
	m.StartKeeper(t, true, keeperEnv()...)
	seen(t, l, l.ClientAddr)
}

func neverFinishes(t *testing.T, l *netnstest.Lab) {
	r := begin(t, l, "ETCDKEEPER_DEFRAG_DRAINMAX=2s")
	m := busy(t, l, r)
	freeze(t, m, func() {
		for end := time.Now().Add(patience); m.Tables(t) != ""; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the watchdog did not let clients in again")
			}
		}
	})
	if err := m.Reach(t, patience); err != nil {
		t.Errorf("member %s cannot be reached: %v", m.Name, err)
	}
	endsLetIn(t, l, r, m)
}

// endsLetIn wants a run to end as if nothing had happened, but that m's clients were let in again before it was over.
func endsLetIn(t *testing.T, l *netnstest.Lab, r *running, m *netnstest.Member) {
	t.Helper()
	rep := r.end(t)
	if rep.Outcome != "done" {
		t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	if row := rep.member(t, m.Name); row.DrainedSeconds == nil || !strings.Contains(row.Reason, "defrag.drainMax") {
		t.Errorf("got %+v", row)
	}
	noTables(t, l)
	l.Await(t)
}

// keeperStandsStill stops a keeper that drains: the kernel lets clients in again without it.
func keeperStandsStill(t *testing.T, l *netnstest.Lab) {
	r := begin(t, l, "ETCDKEEPER_DEFRAG_DRAINMAX=5s")
	m := busy(t, l, r)
	if err := m.Keeper().Pause(); err != nil {
		t.Fatal(err)
	}
	err := m.Reach(t, patience)
	rule := m.Tables(t)
	if rerr := m.Keeper().Resume(); err != nil || rerr != nil {
		t.Fatalf("member %s cannot be reached: %v, %v", m.Name, err, rerr)
	}
	if rule == "" {
		t.Error("the rule was gone, although its keeper stood still")
	}
	endsLetIn(t, l, r, m)
}

func etcdKilled(t *testing.T, l *netnstest.Lab) {
	r := begin(t, l)
	m := busy(t, l, r)
	m.Etcd().Kill()
	// It must not stay shut when it comes back.
	m.StartEtcd(t)
	if err := m.Reach(t, patience); err != nil {
		t.Errorf("member %s cannot be reached: %v", m.Name, err)
	}
	if rep := r.end(t); rep.Outcome != "failed" && rep.Outcome != "partial" {
		t.Errorf("got %s: %s", rep.Outcome, rep.Reason)
	}
	l.Await(t)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if m.Tables(t) == "" {
			break
		}
	}
	noTables(t, l)
	seen(t, l, l.ClientAddr)
}

// pinned is a client on the member's own machine that knows no other member.
func pinned(t *testing.T, l *netnstest.Lab) {
	m := l.Members[0]
	loop := fmt.Sprintf("exec 3<>/dev/tcp/%s/2379; while :; do printf 'GET /version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; sleep 0.2; done", m.Addr)
	cmd := m.In("bash", "-c", loop)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	// A run looks at clients more often while it goes on; before it, every 15 s.
	want := "clients of " + m.Name + " are not drained: clients of " + m.Addr + " use this member only"
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		out, err := dryRun(l)
		if strings.Contains(out, want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the plan does not say that the client at %s is pinned: %v: %s", m.Addr, err, out)
		}
	}
	// The command is on the machine of the pinned client, so that other keepers see connections from there as well.
	r := start(t, m.Command(runArgs...))
	rep := r.end(t)
	if rep.Outcome != "done" {
		t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	for _, x := range l.Members {
		row := rep.member(t, x.Name)
		if (row.DrainedSeconds != nil) != (x != m) {
			t.Errorf("member %s: drained %v: %s", x.Name, row.DrainedSeconds, row.DrainReason)
		}
	}
	if row := rep.member(t, m.Name); !strings.Contains(row.DrainReason, m.Addr+" use this member only") {
		t.Errorf("got %q", row.DrainReason)
	}
}

// twoRuns begins two runs at the same moment: the second one waits for the first one's lock, and no two members are
// drained at once.
func twoRuns(t *testing.T, l *netnstest.Lab) {
	stop := mostDrained(t, l)
	wait := append(slices.Clone(runArgs), "--wait")
	for _, r := range []*running{start(t, l.Command(wait...)), start(t, l.Command(wait...))} {
		rep := r.end(t)
		if rep.Outcome != "done" {
			t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
		}
		for _, row := range rep.Members {
			if !row.Done || row.DrainedSeconds == nil {
				t.Errorf("got %+v", row)
			}
		}
	}
	if n := stop(); n != 1 {
		t.Errorf("%d members were drained at once, want 1", n)
	}
	noTables(t, l)
}

// fromElsewhere holds that a run on a machine that no client is on, beside a member over loopback, does not take its own
// connections for clients that use one member only.
func fromElsewhere(t *testing.T, l *netnstest.Lab) {
	m := l.Members[1]
	r := start(t, m.In(netnstest.Program(t), append(slices.Clone(runArgs), "--endpoints", m.Loopback)...))
	rep := r.end(t)
	if rep.Outcome != "done" {
		t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	for _, row := range rep.Members {
		if !row.Done || row.DrainedSeconds == nil {
			t.Errorf("got %+v\n%s", row, r.stderr.String())
		}
	}
	noTables(t, l)
}

// noRoom has a keeper see no room on its member's volume, which the coordinator does not see.
func noRoom(t *testing.T, l *netnstest.Lab) {
	leader, m := l.Leader(t), l.Members[0]
	if m == leader {
		m = l.Members[1]
	}
	again := func(env ...string) {
		t.Helper()
		if err := m.Keeper().Stop(); err != nil {
			t.Fatal(err)
		}
		m.StartKeeper(t, true, keeperEnv(env...)...)
		seen(t, l, l.ClientAddr)
	}
	again("ETCDKEEPER_ETCD_MEMBERDATADIR=" + filepath.Join(t.TempDir(), "not there"))
	r := begin(t, l)
	rep := r.end(t)
	if rep.Outcome != "refused" && rep.Outcome != "partial" || !strings.Contains(rep.Reason, "free on its volume") || rep.member(t, m.Name).Done {
		t.Errorf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	noTables(t, l)
	again()
}

func noRight(t *testing.T, l *netnstest.Lab) {
	for _, m := range l.Members {
		if err := m.Keeper().Stop(); err != nil {
			t.Fatal(err)
		}
		m.StartKeeper(t, false, keeperEnv()...)
	}
	seen(t, l, l.ClientAddr)
	r := begin(t, l)
	rep := r.end(t)
	if rep.Outcome != "done" {
		t.Fatalf("got %s: %s\n%s", rep.Outcome, rep.Reason, r.stderr.String())
	}
	n := 0
	for _, note := range rep.Notes {
		if strings.Contains(note, "CAP_NET_ADMIN") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the plan says %d times what is missing: %q", n, rep.Notes)
	}
	for _, row := range rep.Members {
		if row.DrainedSeconds != nil || !row.Done {
			t.Errorf("got %+v", row)
		}
	}
	noTables(t, l)
}
