package defrag

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const (
	// askAtOnce bounds the reads that wait: a member that hangs gets a third of them.
	askAtOnce = 16
	// askWait bounds one read; no defragmentation that ends well takes as long.
	askWait = 5 * time.Minute
)

// asking is a client of all members that notices what a run does to clients.
type asking struct {
	s      *run
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	rep ClientReport
}

// ask starts to read through all members in turn; nothing where that is switched off or not possible.
func (s *run) ask(ctx context.Context) *asking {
	a := &asking{s: s, cancel: func() {}}
	if !s.cfg.Probe || s.plan.DisarmOnly {
		return a
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return a
	}
	through, err := s.c.Asker(ctx, v)
	if err != nil {
		s.opts.Log.Debug("clients' wait is not probed", "err", err)
		return a
	}
	// The member under way when the run is stopped is probed to its end.
	ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.plan.Clients = &ClientReport{}
	a.wg.Go(func() {
		defer through.Close()
		slots := make(chan struct{}, askAtOnce)
		var reads sync.WaitGroup
		defer reads.Wait()
		tick := time.NewTicker(s.t.ask)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case slots <- struct{}{}:
				reads.Go(func() {
					a.read(ctx, through)
					<-slots
				})
			default:
			}
		}
	})
	return a
}

func (a *asking) read(ctx context.Context, through Asker) {
	start := a.s.now()
	call, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	err := through.Ask(call)
	took := a.s.now().Sub(start).Seconds()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rep.LongestSeconds = max(a.rep.LongestSeconds, took)
	a.rep.Reads++
	if err != nil && ctx.Err() == nil {
		a.rep.Failed++
	}
}

// stop ends the reads and puts what they noticed into the report.
func (a *asking) stop() {
	a.cancel()
	a.wg.Wait()
	p := &a.s.plan
	if p.Clients == nil || a.rep.Reads == 0 {
		p.Clients = nil
		return
	}
	*p.Clients = a.rep
	p.note(fmt.Sprintf("clients waited at most %s: %d reads through all members in turn, %d failed", wait(a.rep.LongestSeconds), a.rep.Reads, a.rep.Failed))
}

func wait(seconds float64) string {
	if seconds < 10 {
		return fmt.Sprintf("%.0f ms", 1000*seconds)
	}
	return fmt.Sprintf("%.1f s", seconds)
}

// Asker connects to all voters as clients do: by the URLs that the members announce, where those are not on loopback,
// which a drain does not touch.
func (c Client) Asker(ctx context.Context, v cluster.View) (Asker, error) {
	var endpoints []string
	for _, m := range v.Voters() {
		if e := fromOutside(m); e != "" {
			endpoints = append(endpoints, e)
		}
	}
	if len(endpoints) == 0 {
		return nil, errors.New("no member has a client URL")
	}
	cl, err := c.RoundRobin(ctx, endpoints)
	if err != nil {
		return nil, err
	}
	return roundRobin{cl}, nil
}

// fromOutside is the URL by which clients on other machines reach the member, else the one that is known.
func fromOutside(m cluster.Member) string {
	for _, raw := range m.ClientURLs {
		u, err := url.Parse(raw)
		if err != nil || strings.HasPrefix(u.Scheme, "unix") {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !a.IsLoopback() && !a.IsUnspecified()) {
			return raw
		}
	}
	return m.Endpoint
}

type roundRobin struct{ cl *clientv3.Client }

func (r roundRobin) Ask(ctx context.Context) error {
	_, err := r.cl.Get(ctx, cluster.Root+"probe", clientv3.WithCountOnly())
	return err
}

func (r roundRobin) Close() { _ = r.cl.Close() }
