package testproc

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestModule_BuildsOnce(t *testing.T) {
	source := t.TempDir()
	write(t, filepath.Join(source, "go.mod"), "module example.org/hello\n\ngo 1.26\n")
	write(t, filepath.Join(source, "main.go"), "package main\n\nfunc main() { println(\"hello\") }\n")
	m := Module{Programs: map[string]string{"hello": "example.org/hello"}}
	target := filepath.Join(t.TempDir(), "built")
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := m.buildOnce(t.Context(), source, target); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first, err := os.Stat(filepath.Join(target, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(target, "hello")).CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("got %q, %v, want the program's word", out, err)
	}
	if err := m.buildOnce(t.Context(), source, target); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(filepath.Join(target, "hello")); err != nil || !again.ModTime().Equal(first.ModTime()) {
		t.Errorf("got %v, %v, want the program of the first build", again, err)
	}
	entries, err := os.ReadDir(filepath.Dir(target))
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v, want only the programs and their lock", entries, err)
	}
}

func TestModule_BrokenBuild(t *testing.T) {
	source := t.TempDir()
	write(t, filepath.Join(source, "go.mod"), "module example.org/hello\n\ngo 1.26\n")
	write(t, filepath.Join(source, "main.go"), "package main\n\nfunc main() { nonsense }\n")
	m := Module{Programs: map[string]string{"hello": "example.org/hello"}}
	target := filepath.Join(t.TempDir(), "built")
	if err := m.buildOnce(t.Context(), source, target); err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Errorf("got %v, want the compiler's words", err)
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want nothing left of a broken build", err)
	}
}

func TestModule_Program(t *testing.T) {
	if _, err := Kubernetes().Program(t.Context(), "kubelet"); err == nil || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("got %v, want the names that there are", err)
	}
	root, err := RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for name, m := range Modules() {
		digest, err := m.digest(filepath.Join(root, m.Dir))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if other, ok := digests[digest]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		digests[digest] = name
	}
}

func TestLockFile_WaitEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the wait", err)
	}
	unlock()
	unlock, err = lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestPorts(t *testing.T) {
	ports := Ports(t, 20)
	slices.Sort(ports)
	if got := len(slices.Compact(slices.Clone(ports))); got != 20 {
		t.Errorf("got %d different ports, want 20", got)
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		if port >= ephemeralStart() {
			t.Errorf("port %d is one that an outgoing connection may take", port)
		}
		if _, ok := reservePort(filepath.Join(cache, "ports"), port); ok {
			t.Errorf("port %d can be reserved twice", port)
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Errorf("a reserved port is not free to listen on: %v", err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestProcess(t *testing.T) {
	start := func(t *testing.T, script string) *Process {
		t.Helper()
		p, err := StartProcess(Spec{
			Name: "script", Path: "/bin/sh", Args: []string{"-c", script},
			Env: []string{"WORD=hello"}, Log: filepath.Join(t.TempDir(), "log"),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}
	t.Run("ends by itself", func(t *testing.T) {
		p := start(t, "echo $WORD; exit 3")
		<-p.Done()
		var exit *exec.ExitError
		if !errors.As(p.Err(), &exit) || exit.ExitCode() != 3 {
			t.Errorf("got %v, want exit code 3", p.Err())
		}
		if got := p.LogTail(5); got != "\thello\n" {
			t.Errorf("got log %q, want its output", got)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("a signal to an ended process: %v", err)
		}
		if err := p.Stop(); err != nil {
			t.Errorf("stop an ended process: %v", err)
		}
	})
	t.Run("stops while paused", func(t *testing.T) {
		p := start(t, "exec sleep 600")
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		if !p.Running() || p.PID() == 0 {
			t.Error("a paused process counts as ended")
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if p.Running() {
			t.Error("a stopped process counts as running")
		}
	})
	t.Run("is killed", func(t *testing.T) {
		p := start(t, "exec sleep 600")
		p.Kill()
		if p.Running() || p.Err() == nil {
			t.Errorf("got running %t and %v, want it ended by a signal", p.Running(), p.Err())
		}
	})
	t.Run("is not there", func(t *testing.T) {
		_, err := StartProcess(Spec{Name: "nothing", Path: "/does/not/exist", Log: filepath.Join(t.TempDir(), "log")})
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want that the program does not exist", err)
		}
	})
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, "one\ntwo\nthree\n")
	if got := Tail(path, 2); got != "\ttwo\n\tthree\n" {
		t.Errorf("got %q, want the last two lines", got)
	}
	if got := Tail(path+".not", 2); !strings.Contains(got, "no such file") {
		t.Errorf("got %q, want why it cannot be read", got)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
