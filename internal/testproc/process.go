package testproc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long Stop waits for a process to end by itself: etcd hands
// its leadership on and closes its database, which takes seconds on a slow disk.
const stopGrace = 30 * time.Second

// Process is one running program. Its methods are safe for concurrent use.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	err error
}

// Spec says what to start.
type Spec struct {
	// Name is used in messages.
	Name string
	Path string
	Args []string
	// Env is added to the test's own environment.
	Env []string
	// Log is the file that output is appended to.
	Log string
}

// StartProcess starts a program in a process group of its own. The kernel
// kills it when the test's process dies, however that happens; the caller ends
// it with Stop or Kill.
func StartProcess(s Spec) (*Process, error) {
	out, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer out.Close()
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p := &Process{name: s.Name, log: s.Log, cmd: cmd, done: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err returns how the process ended: nil for exit code 0 or while it runs.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal to the process; one that has ended is left alone.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end with SIGTERM and waits; one that does not end in
// time is killed and reported.
func (p *Process) Stop() error {
	if !p.Running() {
		return nil
	}
	err := errors.Join(p.Signal(syscall.SIGTERM), p.Signal(syscall.SIGCONT))
	if err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("stop %s: still there %s after SIGTERM, killed", p.name, stopGrace)
	}
}

// pauseWait is how long a process may take to stop: a thread in an uninterruptible wait for the disk stops after it.
const pauseWait = 30 * time.Second

// Pause freezes the process with SIGSTOP and returns once every thread of it has stopped.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for end := time.Now().Add(pauseWait); !p.stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d did not stop within %s", p.PID(), pauseWait)
		}
	}
	return nil
}

// stopped says whether all threads are in state T, of proc(5); on a system without /proc it is taken for granted.
func (p *Process) stopped() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil {
		return true
	}
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(content), ") ")
		if !strings.HasPrefix(rest, "T") && !strings.HasPrefix(rest, "Z") {
			return false
		}
	}
	return true
}

// Resume lets a paused process go on with SIGCONT.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// LogTail returns the last lines of the process's output.
func (p *Process) LogTail(lines int) string { return Tail(p.log, lines) }

// Tail returns the last lines of a file, or why they cannot be read.
func Tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	var b strings.Builder
	for _, line := range all {
		b.WriteString("\t")
		b.Write(line)
		b.WriteString("\n")
	}
	return b.String()
}
