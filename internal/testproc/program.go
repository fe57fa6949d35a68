package testproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

// RunProgram lets a program, such as a benchmark, use the launchers without a
// test: body gets a TB whose Fatalf ends it, whose logs go to standard error,
// and whose clean-ups have all run when RunProgram returns. The context ends
// with ctx, which is to end on an interrupt.
func RunProgram(ctx context.Context, name string, body func(TB)) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &programTB{name: name, ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer p.cleanUp()
		defer cancel()
		defer p.recovered()
		body(p)
	}()
	<-done
	return p.err()
}

type programTB struct {
	name string
	ctx  context.Context

	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

func (p *programTB) Helper() {}

func (p *programTB) Name() string { return p.name }

func (p *programTB) Context() context.Context { return p.ctx }

func (p *programTB) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *programTB) TempDir() string {
	dir, err := os.MkdirTemp("", strings.ReplaceAll(p.name, "/", "-")+"-")
	if err != nil {
		p.Fatalf("make a temporary folder: %v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *programTB) Failed() bool { return p.err() != nil }

func (p *programTB) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, fmt.Sprintf(format, args...))
}

// Fatalf ends body, and so must be called on its goroutine.
func (p *programTB) Fatalf(format string, args ...any) {
	p.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// Skip ends body as a failure: a program that was asked for is to run.
func (p *programTB) Skip(args ...any) {
	p.fail(errors.New(fmt.Sprint(args...)))
	runtime.Goexit()
}

func (p *programTB) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, err)
}

func (p *programTB) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}

// recovered turns a panic of body into an error, so that the clean-ups run.
func (p *programTB) recovered() {
	if r := recover(); r != nil {
		stack := make([]byte, 16<<10)
		p.fail(fmt.Errorf("panic: %v\n%s", r, stack[:runtime.Stack(stack, false)]))
	}
}

// cleanUp runs the clean-ups, the last first, those that they add too.
func (p *programTB) cleanUp() {
	for {
		p.mu.Lock()
		if len(p.cleanups) == 0 {
			p.mu.Unlock()
			return
		}
		last := p.cleanups[len(p.cleanups)-1]
		p.cleanups = p.cleanups[:len(p.cleanups)-1]
		p.mu.Unlock()
		// On a goroutine of its own, so that a Fatalf ends this one only.
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer p.recovered()
			last()
		}()
		<-done
	}
}
