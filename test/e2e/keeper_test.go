package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// result of one command.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// command prepares the binary with the flags that reach the cluster.
func command(t *testing.T, c *etcdtest.Cluster, args ...string) (*exec.Cmd, *buffer, *buffer) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr buffer
	cmd := exec.Command(path, append(args, c.Flags()...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "ETCDKEEPER_DEFRAG_SETTLE=2s", "ETCDKEEPER_LISTEN_ADDRESS=127.0.0.1:0", "ETCDKEEPER_LISTEN_PROBEADDRESS=127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, &stdout, &stderr
}

// keeper runs the binary against the cluster to its end.
func keeper(t *testing.T, c *etcdtest.Cluster, args ...string) result {
	t.Helper()
	cmd, stdout, stderr := command(t, c, args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// start runs the binary in the background; it is killed with the test.
func start(t *testing.T, c *etcdtest.Cluster, args ...string) (*exec.Cmd, *buffer, *buffer) {
	t.Helper()
	cmd, stdout, stderr := command(t, c, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, stdout, stderr
}

// wait is the end of a started command.
func wait(t *testing.T, cmd *exec.Cmd, d time.Duration) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
		return cmd.ProcessState.ExitCode()
	case <-time.After(d):
		t.Fatalf("%s has not ended after %s", strings.Join(cmd.Args, " "), d)
		return -1
	}
}

func decode[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, r)
	}
	return v
}

func eventually(t *testing.T, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// fragment fills the cluster with keep + drop MiB, deletes the part to drop and compacts, so that about drop MiB are
// free on every member.
func fragment(t *testing.T, c *etcdtest.Cluster, keep, drop int) {
	t.Helper()
	cl := c.Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	value := strings.Repeat("x", 64<<10)
	fill := func(prefix string, mib int) {
		var wg sync.WaitGroup
		work := make(chan int)
		for range 8 {
			wg.Go(func() {
				for i := range work {
					// A busy disk makes a put time out: it is put again.
					for ctx.Err() == nil {
						if _, err := cl.Put(ctx, fmt.Sprintf("%s%06d", prefix, i), value); err == nil {
							break
						}
					}
				}
			})
		}
		for i := range mib * 16 {
			work <- i
		}
		close(work)
		wg.Wait()
	}
	fill("/keep/", keep)
	fill("/drop/", drop)
	resp, err := cl.Delete(ctx, "/drop/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	// A compaction is done on each member in its own time, and an idle etcd counts the freed pages at its next commit.
	for _, m := range c.Members {
		eventually(t, 2*time.Minute, "member "+m.Name+" has compacted", func() bool {
			if _, err := cl.Put(ctx, "/keep/commit", "1"); err != nil {
				return false
			}
			st, err := m.Status(ctx)
			return err == nil && (st.DbSize-st.DbSizeInUse) > int64(drop)<<20*7/10
		})
	}
}

// gauges samples every member's in-flight gauge until stop is called, which tells the most that were in flight at once
// and in which order members were seen in flight.
func gauges(t *testing.T, c *etcdtest.Cluster, every time.Duration) (stop func() (most int, order []string)) {
	t.Helper()
	client := c.HTTPClient(t)
	done, ended := make(chan struct{}), make(chan struct{})
	most, order := 0, []string{}
	go func() {
		defer close(ended)
		for {
			sum := 0
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, m := range c.Members {
				wg.Go(func() {
					n := inFlight(client, m)
					mu.Lock()
					defer mu.Unlock()
					sum += n
					if n > 0 && (len(order) == 0 || order[len(order)-1] != m.Name) {
						order = append(order, m.Name)
					}
				})
			}
			wg.Wait()
			most = max(most, sum)
			select {
			case <-done:
				return
			case <-time.After(every):
			}
		}
	}()
	return func() (int, []string) {
		close(done)
		<-ended
		return most, order
	}
}
