//go:build linux

// Command drain measures what clients notice of a rolling defragmentation, plain and with drained clients, in network
// namespaces: make bench-drain.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/netnstest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

type options struct {
	version       string
	keep, runs    int
	rate          int
	api           bool
	lease         int64
	only, settles string
}

// measured is one run.
type measured struct {
	kind                string
	put, get            time.Duration
	requests, failed    int
	elections           int
	leaseLost           bool
	longest, total      float64 // seconds: of a member's defragmentation, of the run
	moves, moved, drain int
	asked               float64
}

func main() {
	var o options
	flag.StringVar(&o.version, "version", "3.6", "of etcd")
	flag.IntVar(&o.keep, "keep", 250, "MiB in use; as much again is deleted before the first run")
	flag.IntVar(&o.runs, "runs", 10, "runs of each kind, taken in turns")
	flag.IntVar(&o.rate, "rate", 400, "requests a second, half of them puts; 50 with -apiserver")
	flag.BoolVar(&o.api, "apiserver", false, "create and get ConfigMaps through a real kube-apiserver instead")
	flag.Int64Var(&o.lease, "lease", 60, "seconds of the lease that is kept meanwhile")
	flag.StringVar(&o.only, "only", "", "plain or drained: that kind alone")
	flag.StringVar(&o.settles, "settle", "2s", "between two members")
	flag.Parse()
	if o.api {
		o.rate = 50
	}
	netnstest.Enter()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	err := testproc.RunProgram(ctx, "bench-drain", func(tb testproc.TB) { bench(tb, o) })
	netnstest.CleanUp()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func bench(tb testproc.TB, o options) {
	l := netnstest.Start(tb, netnstest.Options{Version: o.version})
	start := time.Now()
	l.Fragment(tb, o.keep, o.keep)
	fmt.Fprintf(os.Stderr, "filled in %.0f s\n", time.Since(start).Seconds())
	var s *kubetest.Server
	if o.api {
		s = l.APIServer(tb)
	}
	for _, m := range l.Members {
		m.StartKeeper(tb, true, "ETCDKEEPER_DEFRAG_RULE=dbSize < 0", "ETCDKEEPER_LISTEN_ADDRESS=127.0.0.1:0", "ETCDKEEPER_LISTEN_PROBEADDRESS=127.0.0.1:0",
			"ETCDKEEPER_CENSUS_ENABLED=false", "ETCDKEEPER_SPLIT_ENABLED=false") // which read all keys in the first minutes
	}
	header := "| run | put max | get max | failed of requests | elections | lease lost | leader moves | a member's longest | turned away | keeper's own client |\n|---|---|---|---|---|---|---|---|---|---|"
	if o.api {
		header = strings.Replace(header, "put max", "create max", 1)
	}
	fmt.Println(header)
	kinds := []string{"plain", "drained"}
	if o.only != "" {
		kinds = []string{o.only}
	}
	all := map[string][]measured{}
	for range o.runs {
		for _, kind := range kinds {
			m := once(tb, l, s, o, kind)
			all[kind] = append(all[kind], m)
			fmt.Printf("| %s | %s | %s | %d of %d | %d | %t | %d | %.1f s | %d | %.0f ms |\n", m.kind, ms(m.put), ms(m.get), m.failed, m.requests,
				m.elections, m.leaseLost, m.moves, m.longest, m.moved, 1000*m.asked)
		}
	}
	fmt.Println()
	for _, kind := range kinds {
		summary(kind, all[kind])
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func summary(kind string, runs []measured) {
	var puts, gets []time.Duration
	var longest []float64
	failed, requests, elections, lost, drained := 0, 0, 0, 0, 0
	for _, m := range runs {
		puts, gets, longest = append(puts, m.put), append(gets, m.get), append(longest, m.longest)
		failed, requests, elections = failed+m.failed, requests+m.requests, elections+m.elections
		drained += m.drain
		if m.leaseLost {
			lost++
		}
	}
	slices.Sort(puts)
	slices.Sort(gets)
	slices.Sort(longest)
	n := len(runs)
	fmt.Printf("%s, %d runs: put max median %s, largest %s; get max median %s, largest %s; %d of %d requests failed; %d elections; %d leases lost; a member took %.1f to %.1f s; %d drains\n",
		kind, n, ms(puts[n/2]), ms(puts[n-1]), ms(gets[n/2]), ms(gets[n-1]), failed, requests, elections, lost, longest[0], longest[n-1], drained)
}

// once defragments the whole cluster. Files have no free space left after the first run: what a defragmentation takes
// depends on what is in use.
func once(tb testproc.TB, l *netnstest.Lab, s *kubetest.Server, o options, kind string) measured {
	lost := l.KeepLease(tb, o.lease)
	terms := l.Terms(tb)
	var load *netnstest.Load
	if s != nil {
		load = netnstest.ConfigMaps(tb, s, o.rate)
	} else {
		load = l.RoundRobin(tb, o.rate)
	}
	drain := "never"
	if kind == "drained" {
		drain = "auto"
	}
	// Keepers look at clients every 15 s outside of runs.
	time.Sleep(20 * time.Second)
	cmd := l.Command("defrag", "--rule", "true", "-w", "json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "ETCDKEEPER_DEFRAG_DRAIN="+drain, "ETCDKEEPER_DEFRAG_DRAINABOVE=100ms", "ETCDKEEPER_DEFRAG_SETTLE="+o.settles)
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			tb.Fatalf("%v", err)
		}
	}
	time.Sleep(2 * time.Second)
	got := load.Stop()
	var rep struct {
		Outcome, Reason string
		LeaderMoves     int
		Seconds         float64
		Clients         *struct{ LongestSeconds float64 }
		Members         []struct {
			DrainReason             string
			Seconds, DrainedSeconds *float64
			ConnectionsMoved        *int
		}
	}
	if err := json.Unmarshal(stdout.Bytes(), &rep); err != nil || rep.Outcome != "done" {
		tb.Fatalf("%s run: %v: %s\n%s", kind, err, stdout.String(), stderr.String())
	}
	m := measured{kind: kind, put: got.LongestPut, get: got.LongestGet, requests: got.Requests, failed: len(got.Failed), moves: rep.LeaderMoves, total: rep.Seconds}
	for _, row := range rep.Members {
		if row.Seconds != nil {
			m.longest = max(m.longest, *row.Seconds)
		}
		if row.ConnectionsMoved != nil {
			m.moved += *row.ConnectionsMoved
		}
		if row.DrainedSeconds != nil {
			m.drain++
		} else if kind == "drained" {
			fmt.Fprintln(os.Stderr, "not drained:", row.DrainReason)
		}
	}
	if rep.Clients != nil {
		m.asked = rep.Clients.LongestSeconds
	}
	for i, now := range l.Terms(tb) {
		m.elections = max(m.elections, int(now-terms[i]))
	}
	m.leaseLost = lost()
	for _, err := range got.Failed {
		fmt.Fprintf(os.Stderr, "%s: failed: %v\n", kind, err)
	}
	return m
}
