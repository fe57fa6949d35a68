//go:build linux

package drain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/netnstest"
)

// patience bounds waits for what takes seconds on an idle machine.
const patience = 2 * time.Minute

// report is what the tests read of 'defrag -w json'.
type report struct {
	Outcome string
	Reason  string
	Notes   []string
	Hash    *struct{ Result string }
	Clients *struct {
		LongestSeconds float64
		Reads, Failed  int
	}
	Members []member
}

type member struct {
	Name, Reason, DrainReason         string
	Done, Drain                       bool
	Seconds, DrainedSeconds           *float64
	ConnectionsMoved, ConnectionsBack *int
}

func (r report) member(t *testing.T, name string) member {
	t.Helper()
	for _, m := range r.Members {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no member %s in %+v", name, r)
	return member{}
}

// keepers starts a keeper beside each member. They defragment nothing by themselves.
func keepers(t *testing.T, l *netnstest.Lab, env ...string) {
	t.Helper()
	for _, m := range l.Members {
		m.StartKeeper(t, true, keeperEnv(env...)...)
	}
}

func keeperEnv(env ...string) []string {
	return append([]string{"ETCDKEEPER_DEFRAG_RULE=dbSize < 0", "ETCDKEEPER_LISTEN_ADDRESS=127.0.0.1:0", "ETCDKEEPER_LISTEN_PROBEADDRESS=127.0.0.1:0"}, env...)
}

// seen waits until the keepers of all members know of clients with that address.
func seen(t *testing.T, l *netnstest.Lab, address string) {
	t.Helper()
	type status struct {
		Keepers []struct {
			Name  string
			Drain *struct {
				Able    bool
				Reason  string
				Clients map[string]int
			}
		}
	}
	var last string
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := l.Command("status", "-w", "json").Output()
		var s status
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		n := 0
		for _, k := range s.Keepers {
			if k.Drain != nil && (address == "" || k.Drain.Clients[address] > 0) {
				n++
			}
		}
		if n == len(l.Members) {
			return
		}
		last = fmt.Sprintf("%v: %s", err, out)
		if time.Now().After(end) {
			t.Fatalf("the keepers do not all see clients of %q: %s", address, last)
		}
	}
}

// running is a defragmentation of the whole cluster under way.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan error
}

// begin runs the one-shot command on the clients' machine; the keepers get their turns from it.
func begin(t *testing.T, l *netnstest.Lab, env ...string) *running {
	t.Helper()
	return start(t, l.Command(runArgs...), env...)
}

var runArgs = []string{"defrag", "--rule", "true", "-w", "json", "--log-level", "debug"}

// start runs a command that prints a report.
func start(t *testing.T, cmd *exec.Cmd, env ...string) *running {
	t.Helper()
	r := &running{cmd: cmd, done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	r.cmd.Env = runEnv(env...)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

func runEnv(more ...string) []string {
	return append(os.Environ(), append([]string{"ETCDKEEPER_DEFRAG_DRAINABOVE=50ms", "ETCDKEEPER_DEFRAG_SETTLE=2s"}, more...)...)
}

// dryRun is the plan of a run as begin would make it.
func dryRun(l *netnstest.Lab) (string, error) {
	cmd := l.Command("defrag", "--rule", "true", "--dry-run", "-w", "json")
	cmd.Env = runEnv()
	out, err := cmd.Output()
	return string(out), err
}

// end waits for the report.
func (r *running) end(t *testing.T) report {
	t.Helper()
	select {
	case err := <-r.done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-time.After(2 * patience):
		t.Fatalf("the run does not end\n%s", r.stderr.String())
	}
	var rep report
	if err := json.Unmarshal(r.stdout.Bytes(), &rep); err != nil {
		t.Fatalf("no report: %v\n%s\n%s", err, r.stdout.String(), r.stderr.String())
	}
	return rep
}

// drained waits until a member's clients are turned away, and returns that member.
func drained(t *testing.T, l *netnstest.Lab, r *running) *netnstest.Member {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		for _, m := range l.Members {
			if strings.Contains(m.Tables(t), "etcdkeeper_drain") {
				return m
			}
		}
		select {
		case <-r.done:
			t.Fatalf("the run ended without a drain: %s\n%s", r.stdout.String(), r.stderr.String())
		default:
		}
	}
	t.Fatalf("nobody was drained within %s\n%s", patience, r.stderr.String())
	return nil
}

// busy waits until a member whose clients are turned away rebuilds its file.
func busy(t *testing.T, l *netnstest.Lab, r *running) *netnstest.Member {
	t.Helper()
	m := drained(t, l, r)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if files, _ := filepath.Glob(filepath.Join(m.DataDir, "member", "snap", "db.tmp*")); len(files) > 0 {
			return m
		}
		select {
		case <-r.done:
			t.Fatalf("the run ended: %s\n%s", r.stdout.String(), r.stderr.String())
		default:
		}
	}
	t.Fatalf("member %s was drained and not defragmented within %s\n%s", m.Name, patience, r.stderr.String())
	return nil
}

// mostDrained counts how many members are drained at once until stop is called.
func mostDrained(t *testing.T, l *netnstest.Lab) (stop func() int) {
	done, result := make(chan struct{}), make(chan int)
	go func() {
		most := 0
		for {
			select {
			case <-done:
				result <- most
				return
			default:
			}
			n := 0
			for _, m := range l.Members {
				out, _ := m.In("nft", "list", "tables").Output()
				if strings.Contains(string(out), "etcdkeeper_drain") {
					n++
				}
			}
			most = max(most, n)
		}
	}()
	return func() int {
		close(done)
		return <-result
	}
}

// noTables proves that no rule is left anywhere.
func noTables(t *testing.T, l *netnstest.Lab) {
	t.Helper()
	for _, m := range l.Members {
		if got := m.Tables(t); got != "" {
			t.Errorf("member %s: tables are left: %s", m.Name, got)
		}
	}
}
