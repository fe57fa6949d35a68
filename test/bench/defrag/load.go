package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// stalls is what one kind of client noticed.
type stalls struct {
	mu       sync.Mutex
	put, get time.Duration // the longest
	failed   int
	requests int
	first    error
}

func (s *stalls) max() float64 { return max(s.put, s.get).Seconds() }

func (s *stalls) add(put bool, d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if err != nil {
		s.failed++
		if s.first == nil {
			s.first = err
		}
	}
	if put {
		s.put = max(s.put, d)
	} else {
		s.get = max(s.get, d)
	}
}

// requestTimeout is longer than any stall: a request that a client would give up on shows as its stall.
const requestTimeout = 60 * time.Second

// load issues rate puts and rate linearizable reads a second, each at its own time whatever became of those before
// it, until ctx ends; then it waits for the answers.
func load(ctx context.Context, cl *clientv3.Client, name string, rate int, s *stalls) {
	value := strings.Repeat("l", 512)
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-tick.C:
		}
		key := fmt.Sprintf("/load/%s/%d", name, i%100)
		for _, put := range []bool{true, false} {
			wg.Go(func() {
				call, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
				defer cancel()
				start := time.Now()
				var err error
				if put {
					_, err = cl.Put(call, key, value)
				} else {
					_, err = cl.Get(call, key)
				}
				s.add(put, time.Since(start), err)
			})
		}
	}
}
