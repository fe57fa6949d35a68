//go:build !nodemo && unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkeeper/etcdkeeper/internal/embedded"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// demoQuota is small enough that the tour's keyspace is a visible part of it, and large enough never to be reached.
const demoQuota = 1 << 30

// The churn leaves about 140 MiB free in each member's file: more than the 90 MiB and 45 % at which the default rule
// acts.
const (
	churnKeys  = 1120
	churnBytes = 128 << 10
)

func demoCommands(a *app) []*cobra.Command {
	return []*cobra.Command{newDemoCmd(a), newDemoMemberCmd()}
}

const demoMemberCommand = "demo-member"

// newDemoMemberCmd is what the demo starts its etcd members with.
func newDemoMemberCmd() *cobra.Command {
	return &cobra.Command{
		Use:    demoMemberCommand,
		Short:  "One member of the demo's etcd, started by demo itself",
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return embedded.RunMember(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func newDemoCmd(a *app) *cobra.Command {
	d := &demo{app: a}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a throw-away etcd with a Kubernetes-like keyspace and show the whole tour on it",
		Long: "demo starts three etcd members on free loopback ports, fills them with a keyspace like that of a Kubernetes\n" +
			"cluster in trouble, and runs the commands of etcdkeeper on it one after another, as you would type them. It needs\n" +
			"nothing installed, listens on 127.0.0.1 only, and takes everything away when it ends, also on Ctrl-C. It never\n" +
			"looks at an etcd of yours: ETCDKEEPER_* and ETCDCTL_* variables and --endpoints are left out of account.",
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&d.once, "once", false, "end after the tour instead of keeping the page and the metrics up until Ctrl-C")
	return cmd
}

// demo is one tour.
type demo struct {
	*app
	once bool

	cluster *embedded.Cluster
	client  *clientv3.Client
	number  int
}

// demoStep is one command of the tour.
type demoStep struct {
	title string // what the reader is going to see and why
	args  []string
	codes []int // exit codes that are fine here; 0 always is
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := demoEnv(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("demo: find the running binary, which is also that of the members: %w", err)
	}
	began := time.Now()
	d.say("Starting three etcd members on free loopback ports.")
	d.cluster, err = embedded.Start(ctx, embedded.Options{
		QuotaBytes: demoQuota,
		Command:    func() *exec.Cmd { return exec.Command(exe, demoMemberCommand) },
	})
	if err != nil {
		return d.ended(ctx, err)
	}
	defer func() {
		err = errors.Join(err, d.cluster.Stop())
		if err == nil {
			fmt.Fprintf(d.stdout, "\nThe members are stopped and their files removed.\n")
		}
	}()
	for _, m := range d.cluster.Members() {
		fmt.Fprintf(d.stdout, "  %s  %s  pid %d\n", m.Name, m.ClientURL, m.PID)
	}
	d.client, err = clientv3.New(clientv3.Config{Endpoints: d.cluster.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("demo: connect to its etcd: %w", err)
	}
	defer d.client.Close()
	if err := d.fill(ctx); err != nil {
		return d.ended(ctx, err)
	}
	for _, s := range d.tour() {
		if err := d.step(ctx, s); err != nil {
			return d.ended(ctx, err)
		}
	}
	fmt.Fprintf(d.stdout, "\nThe tour is over, after %s.\n", time.Since(began).Round(time.Second))
	if d.once {
		return nil
	}
	return d.stay(ctx)
}

// ended makes a Ctrl-C what it is, whatever error it came out as.
func (d *demo) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return withCode(exitInterrupted, errors.New("demo: interrupted; nothing of it is left"))
	}
	return err
}

// demoEnv keeps the commands of the tour from the user's own etcd, credentials and files, and the tour short.
func demoEnv() error {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "ETCDCTL_") || strings.HasPrefix(name, "ETCDKEEPER_") {
			if err := os.Unsetenv(name); err != nil {
				return fmt.Errorf("demo: leave %s out of account: %w", name, err)
			}
		}
	}
	if err := os.Setenv(demoSettle, "1s"); err != nil {
		return fmt.Errorf("demo: set %s: %w", demoSettle, err)
	}
	return nil
}

// demoSettle is the pause after each member, which is longer where somebody depends on the cluster.
const demoSettle = "ETCDKEEPER_DEFRAG_SETTLE"

func (d *demo) say(format string, args ...any) {
	d.number++
	fmt.Fprintf(d.stdout, "\n== %d. %s\n", d.number, fmt.Sprintf(format, args...))
}

// fill writes the keyspace and makes free pages.
func (d *demo) fill(ctx context.Context) error {
	d.say("Filling it with what a Kubernetes cluster in trouble keeps in etcd.")
	stats, err := seed.Write(ctx, d.client, seed.Generate(seed.Demo(time.Now())), seed.WriteOptions{})
	if err != nil {
		return fmt.Errorf("demo: fill its etcd: %w", err)
	}
	names := make([]string, 0, len(stats.Resources))
	for name := range stats.Resources {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y string) int { return int(stats.Resources[y].Bytes - stats.Resources[x].Bytes) })
	fmt.Fprintf(d.stdout, "  %d keys, %s: ", stats.Total.Keys, humanBytes(stats.Total.Bytes))
	for i, name := range names[:min(6, len(names))] {
		if i > 0 {
			fmt.Fprint(d.stdout, ", ")
		}
		group, resource, _ := strings.Cut(name, "/")
		if group != "" {
			resource += "." + group
		}
		fmt.Fprintf(d.stdout, "%d %s", stats.Resources[name].Keys, resource)
	}
	fmt.Fprintln(d.stdout, " and more")
	d.say("Writing and deleting %s, then compacting: the files keep their size, most of it is free pages now.", humanBytes(churnKeys*churnBytes))
	if err := seed.Churn(ctx, d.client, "/churn/", 1, churnKeys, churnBytes); err != nil {
		return fmt.Errorf("demo: fragment its etcd: %w", err)
	}
	return d.compacted(ctx)
}

// compacted waits until every member has finished the compaction, which goes on in each of them by itself. Pages that it
// freed count as free only after two more commits, so it makes some. A member that takes very long is not waited for:
// the keeper's own gates are.
func (d *demo) compacted(ctx context.Context) error {
	const key = "/churn/commit"
	for end := time.Now().Add(compactionWait); time.Now().Before(end); {
		free := 0
		for _, endpoint := range d.cluster.Endpoints() {
			s, err := d.client.Status(ctx, endpoint)
			if err != nil {
				return fmt.Errorf("demo: ask %s for its size: %w", endpoint, err)
			}
			if s.DbSizeInUse < s.DbSize/2 {
				free++
			}
		}
		if free == len(d.cluster.Endpoints()) {
			break
		}
		if _, err := d.client.Put(ctx, key, ""); err != nil {
			return fmt.Errorf("demo: write to its etcd: %w", err)
		}
		if err := pause(ctx, compactionPoll); err != nil {
			return err
		}
	}
	if _, err := d.client.Delete(ctx, key); err != nil {
		return fmt.Errorf("demo: write to its etcd: %w", err)
	}
	return nil
}

// compactionWait is many times what the compaction of a few thousand revisions takes.
const compactionWait = 20 * time.Second

// compactionPoll is etcd's interval between two commits.
const compactionPoll = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// tour are the commands in the order in which somebody in trouble would type them.
func (d *demo) tour() []demoStep {
	plan := filepath.Join(d.cluster.Dir(), "plan.jsonl")
	return []demoStep{
		{"How are the members? Size, what of it is in use, quota, and whether something is to be done.", []string{"status"}, nil},
		{"What would a rolling defragmentation do, and why? Nothing is changed.", []string{"defrag", "--dry-run"}, []int{exitFindings}},
		{"Do it: one member at a time, the leader last, every gate read before each (" + demoSettle + "=1s keeps the tour short).", []string{"defrag"}, nil},
		{"And now?", []string{"status"}, nil},
		{"Who fills the database?", []string{"census"}, nil},
		{
			"Thousands of finished Jobs without labels. Which of them may go, and which stay? Nothing is changed.",
			[]string{"clean", "plan", "--kind", "jobs", "--namespace", "batch-prod", "--older-than", "24h", "--output", plan}, nil,
		},
		{
			"Carry the plan out. There is no API server here, so in etcd itself; every object is exported before it goes.",
			[]string{"clean", "apply", plan, "--via", "etcd", "--accept-bypass", "--yes"}, nil,
		},
		{"Would an etcd of its own for events pay?", []string{"split", "recommend"}, nil},
		{"How much memory and CPU should the etcd container have?", []string{"vpa", "recommend"}, nil},
	}
}

// step runs one command of the tour in this process, as the user would type it.
func (d *demo) step(ctx context.Context, s demoStep) error {
	d.say("%s", s.title)
	fmt.Fprintf(d.stdout, "$ etcdkeeper %s --endpoints %s\n", strings.Join(s.args, " "), strings.Join(d.cluster.Endpoints(), ","))
	code := execute(ctx, d.args(s.args), strings.NewReader(""), d.stdout, d.stderr)
	if code != exitDone && !slices.Contains(s.codes, code) {
		return fmt.Errorf("demo: etcdkeeper %s ended with exit code %d", strings.Join(s.args, " "), code)
	}
	return ctx.Err()
}

func (d *demo) args(args []string) []string {
	return append(slices.Clone(args), "--endpoints", strings.Join(d.cluster.Endpoints(), ","), "--log-level", "warn")
}

// stay runs the daemon on the cluster until Ctrl-C, under a little churn.
func (d *demo) stay(ctx context.Context) error {
	listen, probes := freeAddress("127.0.0.1:9379"), freeAddress("127.0.0.1:9380")
	d.say("The keeper now runs as a daemon. Press Ctrl-C to end everything.")
	fmt.Fprintf(d.stdout, "$ etcdkeeper run --endpoints %s --listen %s\n", strings.Join(d.cluster.Endpoints(), ","), listen)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		args := d.args([]string{"run", "--listen", listen, "--probe-listen", probes, "--watch-interval", "5s"})
		ended <- execute(ctx, args, strings.NewReader(""), d.stdout, d.stderr)
	}()
	churned := make(chan struct{})
	go func() {
		defer close(churned)
		for pause(ctx, churnPause) == nil {
			// Its failure shows on the page; the churn is there for its curves only.
			_ = seed.Churn(ctx, d.client, "/churn/", 1, 64, 64<<10)
		}
	}()
	defer func() { <-churned }()
	defer cancel()
	if err := d.serving(ctx, "http://"+probes+"/livez"); err == nil {
		fmt.Fprintf(d.stdout, "  page     http://%[1]s/\n  metrics  http://%[1]s/metrics\n  etcd     export ETCDCTL_ENDPOINTS=%[2]s\n",
			listen, strings.Join(d.cluster.Endpoints(), ","))
	}
	if code := <-ended; code != exitDone {
		return fmt.Errorf("demo: etcdkeeper run ended with exit code %d", code)
	}
	return nil
}

// churnPause leaves the members mostly idle.
const churnPause = 5 * time.Second

// serving waits until url is answered.
func (d *demo) serving(ctx context.Context, url string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return nil
		}
		if err := pause(ctx, compactionPoll); err != nil {
			return err
		}
	}
}

// freeAddress is wanted where nobody listens there, else a free port of the same host.
func freeAddress(wanted string) string {
	host, _, _ := net.SplitHostPort(wanted)
	for _, address := range []string{wanted, net.JoinHostPort(host, "0")} {
		if l, err := net.Listen("tcp", address); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	return wanted
}
