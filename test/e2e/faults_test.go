package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// raiseCorrupt raises the CORRUPT alarm as etcd's own check would.
func raiseCorrupt(t *testing.T, c *etcdtest.Cluster) {
	t.Helper()
	cl := c.Client(t)
	// A server that is behind with applying takes no proposal: "too many requests".
	eventually(t, 2*time.Minute, "the alarm is raised", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := pb.NewMaintenanceClient(cl.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: c.Members[1].ID, Alarm: pb.AlarmType_CORRUPT})
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

// defrags is how many defragmentations a member's server has done since it started.
func defrags(t *testing.T, client *http.Client, m *etcdtest.Member) int {
	t.Helper()
	resp, err := client.Get(m.MetricsURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		var n int
		if _, err := fmt.Sscanf(line, "etcd_disk_backend_defrag_duration_seconds_count %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("member %s has no count of its defragmentations", m.Name)
	return 0
}

// waitInFlight waits until some member is in defragmentation, and returns it.
func waitInFlight(t *testing.T, c *etcdtest.Cluster) *etcdtest.Member {
	t.Helper()
	client := c.HTTPClient(t)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, m := range c.Members {
			if m.Running() && inFlight(client, m) > 0 {
				return m
			}
		}
	}
	t.Fatal("no member was in defragmentation within a minute")
	return nil
}

func TestFault_KeeperKilledThenAnotherStarts(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
		fragment(t, c, 100, 40)
		stop := gauges(t, c, 50*time.Millisecond)
		defer func() {
			if most, _ := stop(); most > 1 {
				t.Errorf("%d members were in flight at once", most)
			}
		}()
		first, _, _ := start(t, c, "defrag", "--rule", "true")
		waitInFlight(t, c)
		if err := first.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = first.Wait()
		second := keeper(t, c, "defrag", "--rule", "true", "-w", "json")
		rep := decode[defragReport](t, second)
		if second.code != 3 || rep.Outcome != "refused" {
			t.Fatalf("the second keeper: %s", second)
		}
		// Either the member is still busy, or the dead keeper's lock is respected and its holder named.
		eventually(t, time.Minute, "the lock's holder is named", func() bool {
			r := keeper(t, c, "defrag", "--rule", "true", "-w", "json")
			return r.code == 3 && strings.Contains(r.stdout, fmt.Sprintf("(pid %d)", first.Process.Pid)) && strings.Contains(r.stdout, " s unless")
		})
		if version != "3.7" {
			return // taking the lock takes half a minute, and is the same on all of them
		}
		third := keeper(t, c, "defrag", "--rule", "true", "--break-lock", "-w", "json")
		if third.code != 0 || decode[defragReport](t, third).Outcome != "done" {
			t.Errorf("with --break-lock: %s", third)
		}
	})
}

func TestFault_ThreeKeepersAtOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
		fragment(t, c, 40, 70)
		client := c.HTTPClient(t)
		stop := gauges(t, c, 50*time.Millisecond)
		var wg sync.WaitGroup
		codes := make([]int, 3)
		for i := range codes {
			wg.Go(func() { codes[i] = keeper(t, c, "defrag", "--rule", "dbSizeFree > 40*1024*1024", "-w", "json").code })
		}
		wg.Wait()
		most, _ := stop()
		if most > 1 {
			t.Errorf("%d members were in flight at once", most)
		}
		won := 0
		for _, code := range codes {
			switch code {
			case 0:
				won++
			case 3:
			default:
				t.Errorf("exit codes %v: want 0 and 3 only", codes)
			}
		}
		if won == 0 {
			t.Errorf("exit codes %v: nobody did it", codes)
		}
		for _, m := range c.Members {
			if n := defrags(t, client, m); n != 1 {
				t.Errorf("member %s was defragmented %d times, want once", m.Name, n)
			}
		}
	})
}

// Three daemons beside three members: one run, led by the one beside the leader.
func TestFault_ThreeDaemons(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three("3.7")})
	client := c.HTTPClient(t)
	t.Setenv("ETCDKEEPER_DEFRAG_SCHEDULE", "@every 3s")
	t.Setenv("ETCDKEEPER_DEFRAG_RULE", "dbSizeFree > 50*1024*1024")
	var logs []*buffer
	for _, m := range c.Members {
		cmd, _, stderr := command(t, c, "run", "--member", m.Name)
		cmd.Args = append(cmd.Args[:2:2], "--member", m.Name, "--endpoints", m.ClientURL)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		logs = append(logs, stderr)
	}
	fragment(t, c, 40, 70)
	stop := gauges(t, c, 50*time.Millisecond)
	eventually(t, 2*time.Minute, "every member is defragmented", func() bool {
		for _, m := range c.Members {
			if defrags(t, client, m) == 0 {
				return false
			}
		}
		return true
	})
	time.Sleep(5 * time.Second) // time for a second run, which the cooldown has to prevent
	if most, order := stop(); most > 1 {
		t.Errorf("%d members were in flight at once, in order %v", most, order)
	}
	for _, m := range c.Members {
		if n := defrags(t, client, m); n != 1 {
			t.Errorf("member %s was defragmented %d times, want once", m.Name, n)
		}
	}
	if t.Failed() {
		for _, l := range logs {
			t.Log(l.String())
		}
	}
}

func TestFault_MemberKilledInARun(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
		fragment(t, c, 100, 40)
		t.Setenv("ETCDKEEPER_DEFRAG_GATETIMEOUT", "10s")
		cmd, stdout, stderr := start(t, c, "defrag", "--rule", "true", "-w", "json", "--command-timeout", "2s")
		m := waitInFlight(t, c)
		m.Kill()
		if code := wait(t, cmd, 3*time.Minute); code != 4 {
			t.Errorf("exit code %d, want 4\n%s%s", code, stdout, stderr)
		}
		if !strings.Contains(stdout.String(), m.Name) {
			t.Errorf("the report does not name member %s: %s", m.Name, stdout)
		}
		client := c.HTTPClient(t)
		m.Restart(t)
		for _, other := range c.Members {
			if n := defrags(t, client, other); n != 0 {
				t.Errorf("member %s was defragmented although %s had failed", other.Name, m.Name)
			}
		}
	})
}

func TestFault_StopsBeforeTheNextMember(t *testing.T) {
	eachVersion(t, stopsBeforeTheNextMember)
}

func stopsBeforeTheNextMember(t *testing.T, version string) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three(version)})
	client := c.HTTPClient(t)
	tests := []struct {
		name, want string
		stop       func(t *testing.T, pid int)
	}{
		{"interrupt", "interrupted", func(t *testing.T, pid int) { signal(t, pid) }},
		{"pause", "paused", func(t *testing.T, _ int) {
			if r := keeper(t, c, "pause", "--reason", "stop it"); r.code != 0 {
				t.Error(r)
			}
		}},
		{"lost lock", "lock", func(t *testing.T, _ int) {
			if _, err := c.Client(t).Delete(t.Context(), "/etcdkeeper/lock/", clientv3.WithPrefix()); err != nil {
				t.Error(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			count := func() (n int) {
				for _, m := range c.Members {
					n += defrags(t, client, m)
				}
				return n
			}
			before := count()
			t.Setenv("ETCDKEEPER_DEFRAG_HASHCHECK", "false")
			cmd, stdout, stderr := start(t, c, "defrag", "--rule", "true", "-w", "json")
			eventually(t, time.Minute, "the first member is done", func() bool { return count() > before })
			tt.stop(t, cmd.Process.Pid)
			if code := wait(t, cmd, time.Minute); code != 4 || !strings.Contains(stdout.String(), tt.want) {
				t.Errorf("exit code %d, want 4 and a report with %q\n%s%s", code, tt.want, stdout, stderr)
			}
			if n := count() - before; n >= 3 {
				t.Errorf("%d members were defragmented, want the run to stop before the last", n)
			}
			if r := keeper(t, c, "resume"); r.code != 0 {
				t.Error(r)
			}
		})
	}
}

func signal(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(os.Interrupt)
	}
	if err != nil {
		t.Error(err)
	}
}

// A connection that is cut, or swallows everything, while the server defragments: the member is followed by its gauge,
// and the call is never repeated.
func TestFault_ConnectionCutInADefragmentation(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		connectionFault(t, version, (*etcdtest.Proxy).CloseConnections)
	})
	t.Run("black hole", func(t *testing.T) {
		connectionFault(t, "3.6", func(p *etcdtest.Proxy) {
			p.Blackhole()
			time.AfterFunc(15*time.Second, p.Heal)
		})
	})
}

func connectionFault(t *testing.T, version string, fault func(p *etcdtest.Proxy)) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three(version), ClientProxies: true})
	fragment(t, c, 100, 40)
	client := c.HTTPClient(t)
	args := []string{"defrag", "--rule", "true", "-w", "json"}
	for _, m := range c.Members {
		args = append(args, "--metrics-url", m.Name+"="+m.MetricsURL+"/metrics")
	}
	stop := gauges(t, c, 50*time.Millisecond)
	cmd, stdout, stderr := start(t, c, args...)
	fault(waitInFlight(t, c).Proxy)
	if code := wait(t, cmd, 3*time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0\n%s%s", code, stdout, stderr)
	}
	if most, _ := stop(); most > 1 {
		t.Errorf("%d members were in flight at once", most)
	}
	for _, m := range c.Members {
		if n := defrags(t, client, m); n != 1 {
			t.Errorf("member %s was defragmented %d times, want once", m.Name, n)
		}
	}
}

// lag keeps a follower behind the leader until stop is called: it is stopped nine tenths of the time, too short for
// an election, while others write as fast as they can.
func lag(t *testing.T, c *etcdtest.Cluster, m *etcdtest.Member) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	leader := c.Client(t, c.Leader(t).ClientURL)
	for i := range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = leader.Put(ctx, fmt.Sprintf("/lag/%d", i), strings.Repeat("l", 4<<10))
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			m.Pause(t)
			time.Sleep(180 * time.Millisecond)
			m.Resume(t)
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		wg.Wait()
		m.WaitReady(t)
	}
}

func TestFault_NoSpaceToWritable(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := etcdtest.Start(t, etcdtest.Options{Versions: three(version), QuotaBytes: 48 << 20})
		cl := c.Client(t)
		// A daemon has run here before, so there are tokens.
		d, _, _ := start(t, c, "run")
		eventually(t, time.Minute, "tokens are down", func() bool {
			// Those for pauses come last.
			resp, err := cl.Get(t.Context(), "/etcdkeeper/token/pause/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err == nil && resp.Count > 0
		})
		_ = d.Process.Kill()
		_ = d.Wait()
		value := strings.Repeat("x", 100<<10)
		var err error
		for i := 0; i < 2000 && err == nil; i++ {
			_, err = cl.Put(t.Context(), fmt.Sprintf("/registry/configmaps/default/c%d", i%20), value)
		}
		if err == nil || !strings.Contains(err.Error(), "database space exceeded") {
			t.Fatalf("no alarm: %v", err)
		}
		if r := keeper(t, c, "status", "-w", "json"); !strings.Contains(r.stdout, "NOSPACE") || r.code != 0 {
			t.Errorf("status: %s", r)
		}
		// Pausing works under the alarm too.
		if r := keeper(t, c, "pause"); r.code != 0 {
			t.Fatal(r)
		}
		if r := keeper(t, c, "defrag"); r.code != 3 || !strings.Contains(r.stdout, "paused") {
			t.Errorf("paused: %s", r)
		}
		if r := keeper(t, c, "resume"); r.code != 0 {
			t.Fatal(r)
		}
		stop := gauges(t, c, 50*time.Millisecond)
		r := keeper(t, c, "defrag", "-w", "json")
		rep := decode[defragReport](t, r)
		if r.code != 0 || rep.Outcome != "done" || !rep.Disarmed {
			t.Fatalf("defrag under NOSPACE: %s", r)
		}
		if most, _ := stop(); most > 1 {
			t.Errorf("%d members were in flight at once", most)
		}
		if _, err := cl.Put(t.Context(), "/after", value); err != nil {
			t.Errorf("not writable afterwards: %v", err)
		}
		resp, err := cl.Get(t.Context(), "/etcdkeeper/token/run/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || resp.Count != 9 {
			t.Errorf("%d tokens afterwards, %v, want all of them back", resp.Count, err)
		}
	})
}

// Where no keeper has put tokens down before the alarm, no lock can be made: a run needs the explicit word.
func TestFault_NoSpaceWithoutTokens(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three("3.7"), QuotaBytes: 32 << 20})
	cl := c.Client(t)
	var err error
	for i := 0; i < 2000 && err == nil; i++ {
		_, err = cl.Put(t.Context(), fmt.Sprintf("/registry/configmaps/default/c%d", i%10), strings.Repeat("x", 100<<10))
	}
	if err == nil {
		t.Fatal("no alarm")
	}
	if r := keeper(t, c, "defrag", "-w", "json"); r.code != 3 || !strings.Contains(r.stdout, "--no-lock") {
		t.Errorf("without tokens: %s", r)
	}
	r := keeper(t, c, "defrag", "--no-lock", "-w", "json")
	if rep := decode[defragReport](t, r); r.code != 0 || !rep.Disarmed {
		t.Errorf("with --no-lock: %s", r)
	}
	if _, err := cl.Put(t.Context(), "/after", "1"); err != nil {
		t.Errorf("not writable afterwards: %v", err)
	}
}

// A snapshot that does not fit stops the run before any member is touched.
func TestFault_FullDiskForTheSnapshot(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Versions: three("3.7")})
	fragment(t, c, 5, 5)
	dir := t.TempDir()
	t.Setenv("ETCDKEEPER_DEFRAG_SNAPSHOTDIR", dir)
	cmd, stdout, stderr := command(t, c, "defrag", "--rule", "true", "-w", "json")
	// A file system of one megabyte, in a mount namespace of its own.
	script := `mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"`
	cmd.Args = append([]string{"unshare", "--map-root-user", "--mount", "sh", "-c", script, dir}, cmd.Args...)
	var err error
	if cmd.Path, err = exec.LookPath("unshare"); err != nil {
		t.Fatalf("unshare, of Debian's util-linux: %v", err)
	}
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stdout.String(), "no space left on device") || !strings.Contains(stdout.String(), "nothing was defragmented") {
		t.Errorf("exit code %d, want 1 and the reason\n%s%s", code, stdout, stderr)
	}
	client := c.HTTPClient(t)
	for _, m := range c.Members {
		if n := defrags(t, client, m); n != 0 {
			t.Errorf("member %s was defragmented without a snapshot", m.Name)
		}
	}
}
