// Command clean measures bulk deletion side by side on one real control plane: kubectl delete --all, a bare loop of
// DELETE by name, and etcdkeeper clean through the API server and in etcd. It prints a table in Markdown and fails where a
// target is missed.
//
//	go run ./test/bench/clean -binary bin/etcdkeeper -objects 30000
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// What is to be reached.
const (
	apiFactor  = 2.5 // of kubectl
	bareShare  = 0.9 // of the bare loop
	etcdFactor = 10  // of kubectl
	maxProbe   = 100 * time.Millisecond
	maxMemory  = 64 << 20
)

const workers = 8

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	binary := flag.String("binary", "bin/etcdkeeper", "the built binary")
	objects := flag.Int("objects", 30000, "Jobs for each way")
	only := flag.String("only", "", "measure only the ways whose namespace (kubectl, bare, api, raw, etcd) matches this regular expression, and judge nothing")
	large := flag.Int("large", 0, "Jobs of a further run in etcd, for its memory; 0 leaves it out")
	onlyLarge := flag.Bool("only-large", false, "leave everything out but that")
	flag.Parse()
	var result error
	err := testproc.RunProgram(ctx, "clean", func(tb testproc.TB) {
		path, err := filepath.Abs(*binary)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		b := &bench{tb: tb, binary: path, objects: *objects, only: *only}
		result = b.run(*large, *onlyLarge)
	})
	if err := errors.Join(err, result); err != nil {
		fmt.Fprintln(os.Stderr, "clean:", err)
		os.Exit(1)
	}
}

type bench struct {
	tb      testproc.TB
	binary  string
	objects int
	only    string
	etcd    *etcdtest.Cluster
	client  *clientv3.Client
	api     *kubetest.Server // nil where only the large run is made
}

// row is what one way came to.
type row struct {
	name      string
	objects   int
	perSecond float64
	apiGrowth int64 // of the API server's resident memory at its peak; -1 where it was not asked
	tool      int64 // the tool's peak resident memory; -1 where there is none
	p99, max  time.Duration
	api, etcd time.Duration // processor time of an object
}

// way deletes all Jobs of a namespace. It returns the tool's peak memory and the deletions a second.
type way struct {
	name, namespace string
	do              func(namespace string) (int64, float64, error)
}

func (b *bench) run(large int, onlyLarge bool) error {
	b.etcd = etcdtest.Start(b.tb, etcdtest.Options{Versions: []string{etcdtest.V36}})
	b.client = b.etcd.Client(b.tb)
	inEtcd := func(ns string) (int64, float64, error) { return b.apply(ns, "--via", "etcd", "--accept-bypass") }
	var rows []row
	if !onlyLarge {
		b.api = kubetest.Start(b.tb, kubetest.Options{EtcdEndpoints: b.etcd.Endpoints()})
		for _, w := range []way{
			{"`kubectl delete jobs --all --wait=false`", "kubectl", b.kubectl},
			{"bare DELETE loop, 8 workers", "bare", b.bare},
			{"`clean apply --via apiserver --qps 0`", "api", func(ns string) (int64, float64, error) { return b.apply(ns, "--via", "apiserver") }},
			{"bare guarded transactions, 8 workers", "raw", b.raw},
			{"`clean apply --via etcd --qps 0`", "etcd", inEtcd},
		} {
			if ok, err := regexp.MatchString("^("+b.only+")", w.namespace); err != nil || !ok {
				continue
			}
			r, err := b.measure(w.name, w.namespace, b.objects, w.do)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			rows = append(rows, r)
			fmt.Fprintf(os.Stderr, "%s: %.0f/s, probe p99 %s, CPU of the API server %s, of etcd %s an object\n", w.name, r.perSecond, r.p99, r.api, r.etcd)
		}
		b.api.Stop(b.tb)
	}
	judged := rows
	if b.only != "" {
		judged = nil
	}
	if large > 0 {
		r, err := b.measure(fmt.Sprintf("`clean apply --via etcd --qps 0`, %d Jobs, no API server", large), "large", large, inEtcd)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	table(rows)
	return judge(judged, rows)
}

func (b *bench) measure(name, namespace string, n int, do func(string) (int64, float64, error)) (row, error) {
	_, err := seed.Write(b.tb.Context(), b.client, func(yield func(seed.Object, error) bool) {
		for o, err := range seed.Generate(seed.Options{Now: time.Now(), Namespaces: []string{namespace}, Jobs: []seed.JobSet{{Namespace: namespace, Stem: "import", Count: n}}}) {
			if o.Resource == "namespaces" && strings.HasPrefix(o.Name, "kube-") {
				continue
			}
			if !yield(o, err) {
				return
			}
		}
	}, seed.WriteOptions{})
	if err != nil {
		return row{}, err
	}
	r := row{name: name, objects: n, apiGrowth: -1}
	if b.api != nil && b.api.Running() {
		b.api.Restart(b.tb) // each way finds it as it begins
	}
	time.Sleep(5 * time.Second) // for the watch cache to take the seed in
	before := int64(-1)
	if b.api != nil && b.api.Running() {
		before = b.memory("VmRSS")
		// The peak counts from here.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", b.api.PID()), []byte("5"), 0o200); err != nil {
			return r, err
		}
	}
	stop := b.probe(&r)
	etcdBefore, apiBefore := cpu(b.etcd.Members[0].PID()), time.Duration(0)
	if before >= 0 {
		apiBefore = cpu(b.api.PID())
	}
	r.tool, r.perSecond, err = do(namespace)
	stop()
	r.etcd = (cpu(b.etcd.Members[0].PID()) - etcdBefore) / time.Duration(n)
	if before >= 0 {
		r.api = (cpu(b.api.PID()) - apiBefore) / time.Duration(n)
	}
	if err != nil {
		return r, err
	}
	if before >= 0 {
		r.apiGrowth = b.memory("VmHWM") - before
	}
	left, err := b.client.Get(b.tb.Context(), "/registry/jobs/"+namespace+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return r, err
	}
	if left.Count != 0 {
		return r, fmt.Errorf("%d Jobs are left", left.Count)
	}
	return r, nil
}

// probe writes a key fifty times a second, as somebody else would.
func (b *bench) probe(r *row) (stop func()) {
	ctx, cancel := context.WithCancel(b.tb.Context())
	var wg sync.WaitGroup
	var latencies []time.Duration
	wg.Go(func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for ctx.Err() == nil {
			start := time.Now()
			if _, err := b.client.Put(ctx, "/probe", "x"); err == nil {
				latencies = append(latencies, time.Since(start))
			}
			<-t.C
		}
	})
	return func() {
		cancel()
		wg.Wait()
		slices.Sort(latencies)
		if n := len(latencies); n > 0 {
			r.p99, r.max = latencies[(n-1)*99/100], latencies[n-1]
		}
	}
}

// memory is a figure of the API server's in bytes.
func (b *bench) memory(field string) int64 {
	n, err := status(b.api.PID(), field)
	if err != nil {
		b.tb.Fatalf("%v", err)
	}
	return n
}

// status is a figure of /proc/PID/status in bytes.
func status(pid int, field string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d tells no %s", pid, field)
}

// cpu is the processor time that a process has taken, 0 where that cannot be read.
func cpu(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, which may hold anything, ends at the last bracket; user and system time are the 14th and 15th field.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func (b *bench) kubectl(namespace string) (int64, float64, error) {
	start := time.Now()
	cmd := exec.CommandContext(b.tb.Context(), kubetest.Binary(b.tb, "kubectl"), "--kubeconfig", b.api.Kubeconfig, "delete", "jobs", "--all", "--wait=false", "-n", namespace)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	peak, err := runMeasured(cmd)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %.500s", err, out.String())
	}
	return peak, float64(b.objects) / time.Since(start).Seconds(), nil
}

// raw is the floor of what goes through etcd: nothing is read, exported or written down.
func (b *bench) raw(namespace string) (int64, float64, error) {
	return b.eachJob(namespace, func(ctx context.Context, key string, modRevision int64) error {
		_, err := b.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", modRevision)).Then(clientv3.OpDelete(key)).Commit()
		return err
	})
}

// bare is the floor of what goes through the API server.
func (b *bench) bare(namespace string) (int64, float64, error) {
	c, err := kube.Open(kube.Options{Kubeconfig: b.api.Kubeconfig})
	if err != nil {
		return 0, 0, err
	}
	jobs := kube.Resource{Group: "batch", Version: "v1", Plural: "jobs"}
	return b.eachJob(namespace, func(ctx context.Context, key string, _ int64) error {
		return c.Delete(ctx, jobs, namespace, path.Base(key), kube.Preconditions{})
	})
}

// eachJob deletes the namespace's Jobs with all workers, and returns how many a second went.
func (b *bench) eachJob(namespace string, remove func(ctx context.Context, key string, modRevision int64) error) (int64, float64, error) {
	resp, err := b.client.Get(b.tb.Context(), "/registry/jobs/"+namespace+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	g, ctx := errgroup.WithContext(b.tb.Context())
	g.SetLimit(workers)
	for _, kv := range resp.Kvs {
		g.Go(func() error { return remove(ctx, string(kv.Key), kv.ModRevision) })
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	return -1, float64(len(resp.Kvs)) / time.Since(start).Seconds(), nil
}

// apply plans and deletes with the tool; the larger peak of both counts.
func (b *bench) apply(namespace string, flags ...string) (int64, float64, error) {
	plan := filepath.Join(b.tb.TempDir(), "plan.jsonl")
	var used time.Duration
	run := func(args ...string) (int64, []byte, error) {
		cmd := exec.CommandContext(b.tb.Context(), b.binary, append(args, "--endpoints", b.etcd.Endpoints()[0])...)
		cmd.Env = os.Environ()
		if b.api != nil {
			cmd.Env = append(cmd.Env, "KUBECONFIG="+b.api.Kubeconfig)
		}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		peak, err := runMeasured(cmd)
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w: %s", args[1], err, errs.String())
		}
		used += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		return peak, out.Bytes(), nil
	}
	planned, _, err := run("clean", "plan", "--kind", "jobs", "-n", namespace, "-o", plan)
	if err != nil {
		return 0, 0, err
	}
	used = 0
	applied, out, err := run(append([]string{"clean", "apply", plan, "--yes", "-w", "json", "--qps", "0", "--max-orphan-pods", "0"}, flags...)...)
	if err != nil {
		return 0, 0, err
	}
	var res struct{ PerSecond, Deleted float64 }
	if err := json.Unmarshal(out, &res); err != nil {
		return 0, 0, err
	}
	n := max(1, int64(res.Deleted))
	fmt.Fprintf(os.Stderr, "peak memory: plan %.1f MiB, apply %.1f MiB; CPU of the tool %s an object\n", mib(planned), mib(applied), used/time.Duration(n))
	return max(planned, applied), res.PerSecond, nil
}

// runMeasured runs the command and returns its peak resident memory. It is read from /proc while the command runs: what
// the kernel tells afterwards counts the memory of the process that started it.
func runMeasured(cmd *exec.Cmd) (int64, error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	var peak int64
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for {
			if n, err := status(cmd.Process.Pid, "VmHWM"); err == nil {
				peak = max(peak, n)
			}
			select {
			case <-ended:
				return
			case <-t.C:
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	wg.Wait()
	return peak, err
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func table(rows []row) {
	fmt.Println("| way | Jobs | a second | API server's memory | tool's peak memory | probe p99 | probe worst | CPU an object: API server | etcd |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
	size := func(n int64) string {
		if n < 0 {
			return "–"
		}
		return fmt.Sprintf("%.0f MiB", mib(n))
	}
	for _, r := range rows {
		growth := size(r.apiGrowth)
		if r.apiGrowth >= 0 {
			growth = "+" + growth
		}
		fmt.Printf("| %s | %d | %.0f | %s | %s | %d ms | %d ms | %d µs | %d µs |\n", r.name, r.objects, r.perSecond, growth, size(r.tool),
			r.p99.Milliseconds(), r.max.Milliseconds(), r.api.Microseconds(), r.etcd.Microseconds())
	}
}

// judge compares with what is to be reached.
func judge(ways, all []row) error {
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if len(ways) > 0 {
		kubectl, bare, api, etcd := ways[0], ways[1], ways[2], ways[4]
		want(api.perSecond >= apiFactor*kubectl.perSecond, "through the API server: %.1f times kubectl, want %.1f", api.perSecond/kubectl.perSecond, apiFactor)
		want(api.perSecond >= bareShare*bare.perSecond, "through the API server: %.2f of the bare loop, want %.2f", api.perSecond/bare.perSecond, bareShare)
		want(etcd.perSecond >= etcdFactor*kubectl.perSecond, "in etcd: %.1f times kubectl, want %d", etcd.perSecond/kubectl.perSecond, etcdFactor)
		want(etcd.p99 <= maxProbe, "in etcd: the probe's p99 is %s, want %s", etcd.p99, maxProbe)
	}
	for _, r := range all {
		if strings.Contains(r.name, "clean") {
			want(r.tool <= maxMemory, "%s: the tool took %.0f MiB, want %d", r.name, mib(r.tool), maxMemory>>20)
		}
	}
	return errors.Join(errs...)
}
