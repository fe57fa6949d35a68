package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

type tool struct {
	name, bin string
	args      []string
}

type result struct {
	robin, pinned *stalls
	longest       float64 // seconds, the server's own figure of the longest single defragmentation
	most          int     // members in flight at once
	terms         uint64
	leasesLost    int
	leaderLast    float64
	reclaimed     int64
	seconds       float64
	peak          int64 // bytes
}

func (r result) String() string {
	s := fmt.Sprintf("robin put %v get %v failed %d, pinned %.0f ms failed %d, longest %.2f s, in flight %d, terms %d, leases lost %d, %.1f s",
		r.robin.put.Round(time.Millisecond), r.robin.get.Round(time.Millisecond), r.robin.failed, 1000*r.pinned.max(), r.pinned.failed, r.longest, r.most, r.terms, r.leasesLost, r.seconds)
	if r.robin.first != nil {
		s += fmt.Sprintf(" (%v)", r.robin.first)
	}
	return s
}

const (
	pinnedRate = 20
	leases     = 50
	// leaseTTL is about 4 × the time that a quiet machine needs for the default data.
	leaseTTL = 12
	// quiet is how long the load runs before and after the tool.
	quiet = 3 * time.Second
)

// measure runs the tool once under load.
func measure(tb testproc.TB, c *etcdtest.Cluster, t tool, o options) result {
	r := result{robin: &stalls{}, pinned: &stalls{}}
	http := c.HTTPClient(tb)
	leader := c.Leader(tb)
	before := map[string]float64{}
	var term uint64
	var size int64
	for _, m := range c.Members {
		before[m.Name] = metric(http, m, "etcd_disk_backend_defrag_duration_seconds_sum")
		st, err := m.Status(tb.Context())
		if err != nil {
			tb.Fatalf("status of %s: %v", m.Name, err)
		}
		term, size = max(term, st.RaftTerm), size+st.DbSize
	}
	ctx, stop := context.WithCancel(tb.Context())
	defer stop()
	var wg sync.WaitGroup
	robin := client(tb, c.Endpoints()...)
	defer robin.Close()
	lost := keepLeases(tb, ctx, robin, &wg)
	wg.Go(func() { load(ctx, robin, "robin", o.rate, r.robin) })
	for _, m := range c.Members {
		cl := client(tb, m.ClientURL)
		defer cl.Close()
		wg.Go(func() { load(ctx, cl, m.Name, pinnedRate, r.pinned) })
	}
	last := ""
	wg.Go(func() {
		for ctx.Err() == nil {
			n := 0
			for _, m := range c.Members {
				if g := metric(http, m, "etcd_disk_defrag_inflight"); g > 0 {
					n += int(g)
					last = m.Name
				}
			}
			r.most = max(r.most, n)
			time.Sleep(50 * time.Millisecond)
		}
	})
	time.Sleep(quiet)
	start := time.Now()
	cmd := exec.CommandContext(ctx, t.bin, append(t.args, "--endpoints", strings.Join(c.Endpoints(), ","))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", t.name, err, out)
	}
	r.seconds = time.Since(start).Seconds()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.peak = u.Maxrss << 10
	}
	time.Sleep(quiet)
	stop()
	wg.Wait()
	r.leasesLost = lost()
	if last == leader.Name {
		r.leaderLast = 1
	}
	for _, m := range c.Members {
		r.longest = max(r.longest, metric(http, m, "etcd_disk_backend_defrag_duration_seconds_sum")-before[m.Name])
		st, err := m.Status(tb.Context())
		if err != nil {
			tb.Fatalf("status of %s: %v", m.Name, err)
		}
		r.terms = max(r.terms, st.RaftTerm-term)
		size -= st.DbSize
	}
	r.reclaimed = size
	return r
}

func client(tb testproc.TB, endpoints ...string) *clientv3.Client {
	cl, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	if err != nil {
		tb.Fatalf("client of %v: %v", endpoints, err)
	}
	return cl
}

// keepLeases grants leases and keeps them alive as clients do; lost tells how many are gone.
func keepLeases(tb testproc.TB, ctx context.Context, cl *clientv3.Client, wg *sync.WaitGroup) (lost func() int) {
	var ids []clientv3.LeaseID
	for range leases {
		g, err := cl.Grant(ctx, leaseTTL)
		if err != nil {
			tb.Fatalf("grant: %v", err)
		}
		ids = append(ids, g.ID)
		alive, err := cl.KeepAlive(ctx, g.ID)
		if err != nil {
			tb.Fatalf("keep alive: %v", err)
		}
		wg.Go(func() {
			for range alive {
			}
		})
	}
	return func() int {
		n := 0
		for _, id := range ids {
			if t, err := cl.TimeToLive(context.WithoutCancel(ctx), id); err != nil || t.TTL <= 0 {
				n++
			}
		}
		return n
	}
}

// metric reads one value; NaN where it cannot be read.
func metric(client *http.Client, m *etcdtest.Member, name string) float64 {
	resp, err := client.Get(m.MetricsURL + "/metrics")
	if err != nil {
		return math.NaN()
	}
	defer resp.Body.Close()
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err == nil {
				return v
			}
		}
	}
	return math.NaN()
}
