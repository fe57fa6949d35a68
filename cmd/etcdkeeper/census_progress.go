package main

import (
	"context"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// barInterval is how often the bar over a file looks how far the reader is.
const barInterval = 100 * time.Millisecond

// fileProgress shows on a terminal how many of the file's pages with keys have been read. They are counted first, so that
// the bar is honest. stop ends it.
func (a *app) fileProgress(ctx context.Context, f *keyspace.File, what string) (stop func(), err error) {
	return a.watched(ctx, what, f.Leaves, f.Walked)
}

// watched shows on a terminal how many steps are done of what was counted first. stop ends it.
func (a *app) watched(ctx context.Context, what string, count func(context.Context) (int64, error), done func() int64) (stop func(), err error) {
	if !isTerminal(a.stderr) {
		return func() {}, nil
	}
	total, err := count(ctx)
	if err != nil {
		return nil, err
	}
	bar := a.progress(total, what)
	_ = bar.RenderBlank()
	ended := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		tick := time.NewTicker(barInterval)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				_ = bar.Set64(min(done(), total))
			}
		}
	})
	return func() {
		close(ended)
		drawing.Wait()
		_ = bar.Finish()
	}, nil
}
