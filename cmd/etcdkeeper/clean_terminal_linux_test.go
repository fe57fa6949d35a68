package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: what a person sees and types, and the side that the command has.
type terminal struct {
	person *os.File
	side   *os.File

	mu   sync.Mutex
	seen bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var ioctl error
	if err := raw.Control(func(fd uintptr) {
		if ioctl = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctl == nil {
			n, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || ioctl != nil {
		t.Fatal(err, ioctl)
	}
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{person: person, side: side}
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := person.Read(buf)
			term.mu.Lock()
			term.seen.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { side.Close(); person.Close(); reader.Wait() })
	return term
}

func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

// waitFor waits until the person sees the words.
func (s *terminal) waitFor(t *testing.T, words string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.text(), words); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q in it", s.text(), words)
		}
	}
}

// start runs a command on the terminal.
func (s *terminal) start(ctx context.Context, args ...string) (code <-chan int) {
	out := make(chan int, 1)
	go func() { out <- execute(ctx, args, s.side, io.Discard, s.side) }()
	return out
}

// TestClean_Terminal: clean apply asks, takes no for an answer, can be interrupted while it asks, and shows how far it is.
func TestClean_Terminal(t *testing.T) {
	e := newCleanEnv(t)
	plan := filepath.Join(e.dir, "plan.jsonl")
	e.must(exitDone, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
	before := e.count("/registry/jobs/")
	// A slow pace, so that the bar is drawn.
	args := []string{"clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--qps", "40", "--endpoints", e.endpoint}
	const question = "Delete 40 jobs"

	for name, answer := range map[string]string{"no": "n\n", "an empty line": "\n"} {
		s := newTerminal(t)
		code := s.start(t.Context(), args...)
		s.waitFor(t, question)
		if _, err := s.person.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if got := <-code; got != exitRefused {
			t.Errorf("%s: got exit code %d, want %d\n%s", name, got, exitRefused, s.text())
		}
	}

	s := newTerminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	code := s.start(ctx, args...)
	s.waitFor(t, question)
	interrupt()
	if got := <-code; got != exitInterrupted {
		t.Errorf("interrupted: got exit code %d, want %d\n%s", got, exitInterrupted, s.text())
	}
	if got := e.count("/registry/jobs/"); got != before {
		t.Fatalf("got %d Jobs, want all %d: something was deleted without a yes", got, before)
	}

	s = newTerminal(t)
	code = s.start(t.Context(), args...)
	s.waitFor(t, question)
	if _, err := s.person.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != exitDone {
		t.Errorf("yes: got exit code %d, want 0\n%s", got, s.text())
	}
	for _, want := range []string{"deleting", "/40", "pods 2.0s"} {
		if !strings.Contains(s.text(), want) {
			t.Errorf("the progress bar does not show %q: got %q", want, s.text())
		}
	}
	if got := e.count("/registry/jobs/"); got != before-40 {
		t.Errorf("got %d Jobs, want %d", got, before-40)
	}
}
