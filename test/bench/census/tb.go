package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// tb stands in for a test, so that servers are started as tests start them.
type tb struct {
	ctx      context.Context
	cancel   context.CancelFunc
	mu       sync.Mutex
	cleanups []func()
	failed   bool
}

func newTB() *tb {
	ctx, cancel := context.WithCancel(context.Background())
	return &tb{ctx: ctx, cancel: cancel}
}

func (t *tb) Helper()                  {}
func (t *tb) Name() string             { return "bench-census" }
func (t *tb) Context() context.Context { return t.ctx }
func (t *tb) Failed() bool             { return t.failed }
func (t *tb) Skip(args ...any)         { t.Fatalf("%s", fmt.Sprint(args...)) }

func (t *tb) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *tb) TempDir() string {
	dir, err := os.MkdirTemp("", "bench-census-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (t *tb) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (t *tb) Fatalf(format string, args ...any) {
	t.failed = true
	t.Logf(format, args...)
	t.end()
	os.Exit(1)
}

func (t *tb) end() {
	t.mu.Lock()
	list := slices.Clone(t.cleanups)
	t.cleanups = nil
	t.mu.Unlock()
	slices.Reverse(list)
	for _, f := range list {
		f()
	}
	t.cancel()
}

// probe writes one small key again and again and keeps how long each write took.
type probe struct {
	cancel context.CancelFunc
	done   chan struct{}
	took   []time.Duration
}

const probePause = 5 * time.Millisecond

func startProbe(t *tb, client *clientv3.Client) *probe {
	ctx, cancel := context.WithCancel(t.Context())
	p := &probe{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			start := time.Now()
			if _, err := client.Put(ctx, "/probe", "x"); err != nil {
				continue
			}
			p.took = append(p.took, time.Since(start))
			time.Sleep(probePause)
		}
	}()
	return p
}

func (p *probe) stop() (worst, p99 time.Duration) {
	p.cancel()
	<-p.done
	if len(p.took) == 0 {
		return 0, 0
	}
	slices.Sort(p.took)
	return p.took[len(p.took)-1], p.took[len(p.took)*99/100]
}
