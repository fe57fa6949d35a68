// Package e2e drives the built binary.
package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binaryDir is set once binary has made it.
var binaryDir string

// binary builds the command once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "etcdkeeper-e2e-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	path := filepath.Join(dir, "etcdkeeper")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/etcdkeeper").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

// buffer is a bytes.Buffer that may be read while a process writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// demo is one running demo with a temporary directory of its own.
type demo struct {
	cmd         *exec.Cmd
	out, errout buffer
	tmp         string
	done        chan error
}

func startDemo(t *testing.T, args ...string) *demo {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{tmp: t.TempDir(), done: make(chan error, 1)}
	d.cmd = exec.Command(path, append([]string{"demo"}, args...)...)
	// An etcd of the user's that must never be touched: nothing listens there, and the credentials do not exist.
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp, "ETCDCTL_ENDPOINTS=http://127.0.0.1:1",
		"ETCDCTL_CACERT=/does/not/exist", "ETCDKEEPER_ENDPOINTS=http://127.0.0.1:1", "ETCDKEEPER_CONFIG=/does/not/exist")
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.errout
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() { d.cmd.Process.Kill() })
	return d
}

// wait waits for the end and returns the exit code.
func (d *demo) wait(t *testing.T, atMost time.Duration) int {
	t.Helper()
	select {
	case err := <-d.done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(atMost):
		t.Fatalf("demo did not end within %s; it said:\n%s\n%s", atMost, &d.out, &d.errout)
		return 0
	}
}

func (d *demo) waitFor(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(d.out.String(), text) {
			return
		}
		select {
		case err := <-d.done:
			t.Fatalf("demo ended (%v) before it said %q:\n%s\n%s", err, text, &d.out, &d.errout)
		default:
		}
	}
	t.Fatalf("demo did not say %q:\n%s\n%s", text, &d.out, &d.errout)
}

var memberLine = regexp.MustCompile(`(?m)^ +\S+ +http://(127\.0\.0\.1:\d+) +pid (\d+)$`)

// left checks that no process, port or file of the demo is left. A member that outlives a killed parent may take a
// moment.
func (d *demo) left(t *testing.T) {
	t.Helper()
	members := memberLine.FindAllStringSubmatch(d.out.String(), -1)
	if len(members) != 3 {
		t.Fatalf("got %d members in the output, want 3:\n%s", len(members), &d.out)
	}
	var left []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = nil
		for _, m := range members {
			if cmdline, err := os.ReadFile("/proc/" + m[2] + "/cmdline"); err == nil && strings.Contains(string(cmdline), "demo-member") {
				left = append(left, "process "+m[2])
			}
			if c, err := net.DialTimeout("tcp", m[1], time.Second); err == nil {
				c.Close()
				left = append(left, "port "+m[1])
			}
		}
		entries, err := os.ReadDir(d.tmp)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, "file "+e.Name())
		}
		if left == nil {
			return
		}
	}
	t.Errorf("left behind: %s", strings.Join(left, ", "))
}

func TestDemo_Once(t *testing.T) {
	d := startDemo(t, "--once")
	if code := d.wait(t, 5*time.Minute); code != 0 {
		t.Fatalf("got exit code %d, want 0:\n%s\n%s", code, &d.out, &d.errout)
	}
	for _, want := range []string{"Starting three etcd members", "jobs.batch", "3 members defragmented", "Deleted 4040 of 4040 jobs", "The tour is over", "files removed"} {
		if !strings.Contains(d.out.String(), want) {
			t.Errorf("the output does not say %q:\n%s", want, &d.out)
		}
	}
	d.left(t)
}

// Ctrl-C ends the demo cleanly wherever it is: while it fills its etcd, and while it stays up.
func TestDemo_Interrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("goes through the whole tour again: not with -short")
	}
	for _, tt := range []struct {
		name, at string
		code     int
	}{
		{"while filling", "== 2.", 130},
		{"when it stays up", "/metrics", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startDemo(t)
			d.waitFor(t, tt.at)
			if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if code := d.wait(t, 2*time.Minute); code != tt.code {
				t.Errorf("got exit code %d, want %d:\n%s\n%s", code, tt.code, &d.out, &d.errout)
			}
			d.left(t)
		})
	}
}

// A killed demo cannot clean up; its members do.
func TestDemo_Killed(t *testing.T) {
	d := startDemo(t)
	d.waitFor(t, "== 2.")
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.wait(t, time.Minute)
	d.left(t)
}
