package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// bypassed is what --accept-bypass accepts.
const bypassed = "Deleting in etcd bypasses the API server: authorization (RBAC), admission, audit, finalizers, graceful deletion\n" +
	"and flow control. Watchers see the deletions; nobody is asked for leave."

// cleanApply is the command clean apply.
type cleanApply struct {
	*app
	via          string
	exec         bulkclean.Executor
	acceptBypass bool
	thenDefrag   bool
	compactWait  time.Duration
}

func newCleanApplyCmd(a *app) *cobra.Command {
	p := &cleanApply{app: a}
	cmd := &cobra.Command{
		Use:   "apply plan.jsonl",
		Short: "Delete what a plan says",
		Long: "Deletes the objects of a plan, each only in the state in which it was planned. Every object is exported before it\n" +
			"is deleted, and everything is written to a journal beside the plan: run the same command again after it was\n" +
			"stopped, however it was stopped, and it goes on.\n\n" +
			"With --via etcd: " + bypassed,
		Args: exactlyOne("plan"),
		RunE: p.run,
	}
	a.kubeFlags(cmd)
	fs := cmd.Flags()
	fs.StringVar(&p.via, "via", string(bulkclean.ViaAPI), "the way: apiserver, or etcd for the day the API server is down")
	fs.BoolVar(&p.acceptBypass, "accept-bypass", false, "with --via etcd: accept what that bypasses")
	fs.Float64Var(&p.exec.QPS, "qps", 0, "most deletions a second (default 200 through the API server, 2000 in etcd; 0 = no ceiling)")
	fs.IntVar(&p.exec.Workers, "workers", 0, "deletions in flight (default 8 through the API server, 32 in etcd)")
	fs.StringVar(&p.exec.Export, "export", "", "directory for the export (default: the plan's name with .export)")
	fs.StringVar(&p.exec.Journal, "journal", "", "journal file (default: the plan's name with .journal)")
	fs.DurationVar(&p.exec.MaxPlanAge, "max-plan-age", bulkclean.DefaultMaxPlanAge, "refuse an older plan")
	fs.Int64Var(&p.exec.MaxOrphanPods, "max-orphan-pods", bulkclean.DefaultMaxOrphanPods, "wait while more pods than this wait for the garbage collector (0 = do not look; with --via etcd the default is 0)")
	fs.DurationVar(&p.exec.Patience, "patience", bulkclean.DefaultPatience, "longest outage that is waited out")
	fs.BoolVar(&p.thenDefrag, "then-defrag", false, "hand over to the rolling defragmentation afterwards")
	fs.DurationVar(&p.compactWait, "compact-wait", 0, "with --then-defrag: longest wait for the API server to compact the deletions")
	return cmd
}

func (p *cleanApply) run(cmd *cobra.Command, args []string) error {
	if err := p.check(cmd); err != nil {
		return err
	}
	defer limitMemory()()
	plan, err := bulkclean.OpenPlan(args[0])
	if err != nil {
		return withCode(refusedOr(err), err)
	}
	ctx := cmd.Context()
	if p.exec.Export == "" {
		p.exec.Export = plan.File + ".export"
	}
	c, err := p.connections(ctx, cmd, plan.Head.Selector.Registry)
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		return err
	}
	question := fmt.Sprintf("Delete %d %s (%s) that were planned %s ago, via %s?", plan.End.Objects, plan.Head.Selector.Kind,
		humanBytes(plan.End.Bytes), humanSeconds(time.Since(plan.Head.Made).Seconds()), p.via)
	if err := p.exec.Check(ctx, plan); err != nil {
		return withCode(refusedOr(err), err)
	}
	if err := p.confirm(ctx, question); err != nil {
		return err
	}
	bar := p.progress(plan.End.Objects, "deleting")
	p.exec.Progress = func(s bulkclean.Progress) { showProgress(bar, s) }
	res, err := p.exec.Execute(ctx, plan)
	_ = bar.Finish()
	out := applied{Result: res}
	err = p.ended(ctx, args[0], res, err)
	if err == nil && p.thenDefrag {
		out.Defrag, err = p.defragment(cmd, c, plan)
	}
	perr := p.print(out, func(w io.Writer) error {
		if err := applyTable(w, plan, res); err != nil || out.Defrag == nil {
			return err
		}
		fmt.Fprintln(w)
		return defragTable(w, *out.Defrag)
	})
	if perr != nil {
		return perr
	}
	p.afterwards(res)
	return err
}

// applied is what clean apply prints.
type applied struct {
	bulkclean.Result
	Defrag *defrag.Report `json:"defrag,omitempty"`
}

// check looks at the flags.
func (p *cleanApply) check(cmd *cobra.Command) error {
	p.exec.Via = bulkclean.Via(p.via)
	ceiling := bulkclean.DefaultAPIQPS
	switch p.exec.Via {
	case bulkclean.ViaAPI:
	case bulkclean.ViaEtcd:
		ceiling = bulkclean.DefaultEtcdQPS
		if !p.acceptBypass {
			return usagef("%s\nGive --accept-bypass to accept that", bypassed)
		}
	default:
		return usagef("--via %q: want apiserver or etcd", p.via)
	}
	if !cmd.Flags().Changed("qps") {
		p.exec.QPS = ceiling
	}
	if p.exec.Via == bulkclean.ViaEtcd && !cmd.Flags().Changed("max-orphan-pods") {
		p.exec.MaxOrphanPods = 0 // without an API server nobody collects
	}
	switch {
	case p.exec.QPS < 0:
		return usagef("--qps: want 0 (no ceiling) or more, got %v", p.exec.QPS)
	case cmd.Flags().Changed("workers") && (p.exec.Workers < 1 || p.exec.Workers > maxCleanWorkers):
		return usagef("--workers: want 1 to %d, got %d", maxCleanWorkers, p.exec.Workers)
	case p.exec.MaxPlanAge <= 0:
		return usagef("--max-plan-age: want more than 0, got %s", p.exec.MaxPlanAge)
	case p.exec.MaxOrphanPods < 0:
		return usagef("--max-orphan-pods: want 0 (do not look) or more, got %d", p.exec.MaxOrphanPods)
	case p.exec.Patience <= 0:
		return usagef("--patience: want more than 0, got %s", p.exec.Patience)
	}
	return nil
}

// maxCleanWorkers is where more workers only make everybody else wait.
const maxCleanWorkers = 64

// connections makes what the chosen way needs. Through the API server etcd is still read where it can be, for the
// export and the collector's backlog.
func (p *cleanApply) connections(ctx context.Context, cmd *cobra.Command, registry string) (*cluster.Client, error) {
	c, err := p.connect(ctx, cmd)
	if err != nil {
		return nil, err
	}
	p.exec.Log = p.log
	etcd := bulkclean.NewEtcd(c)
	if p.exec.Via == bulkclean.ViaAPI {
		api, err := kube.Open(kube.Options{Kubeconfig: p.kubeconfig, Context: p.context})
		if err != nil {
			return c, usagef("%w", err)
		}
		p.exec.API = api
		if _, _, err := etcd.ClusterID(ctx, registry); err != nil {
			p.log.Warn("etcd cannot be read: the export is made through the API server and can only be created again, not put back byte by byte", "err", err)
			return c, nil
		}
	}
	p.exec.Etcd = etcd
	p.exec.Pressure = bulkclean.MembersLoad(c)
	return c, nil
}

// refusedOr is the exit code of an error that came before anything was changed.
func refusedOr(err error) int {
	var plan *bulkclean.PlanError
	for _, refusal := range []error{bulkclean.ErrOtherCluster, bulkclean.ErrOldPlan, bulkclean.ErrMostlyChanged, bulkclean.ErrBusy} {
		if errors.Is(err, refusal) {
			return exitRefused
		}
	}
	switch {
	case errors.As(err, &plan):
		return exitRefused
	case errors.Is(err, os.ErrNotExist):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

// ended makes the exit code of a run.
func (p *cleanApply) ended(ctx context.Context, file string, res bulkclean.Result, err error) error {
	via := p.via
	if p.acceptBypass {
		via += " --accept-bypass"
	}
	resume := fmt.Sprintf("run the same command again to go on (etcdkeeper clean apply %s --via %s); etcdkeeper clean status %s shows the journal",
		file, via, file)
	switch {
	case err == nil && res.Failed > 0:
		return withCode(exitPartial, fmt.Errorf("%d of %d objects could not be deleted: %s", res.Failed,
			res.Deleted+res.Kept+res.Changed+res.Failed, resume))
	case err == nil:
		return nil
	case !res.Started():
		if ctx.Err() != nil {
			return withCode(exitInterrupted, errors.New("interrupted, nothing was changed"))
		}
		return withCode(refusedOr(err), err)
	case ctx.Err() != nil:
		return withCode(exitPartial, fmt.Errorf("stopped with %d objects left: %s", res.Left, resume))
	}
	return withCode(exitPartial, fmt.Errorf("%w\nstopped with %d objects left: %s", err, res.Left, resume))
}

func showProgress(bar *progressbar.ProgressBar, s bulkclean.Progress) {
	what := fmt.Sprintf("deleting, %.0f/s", s.Rate)
	if s.ETA > 0 {
		what += ", " + humanSeconds(s.ETA.Seconds()) + " left"
	}
	if s.PodsETA > 0 {
		what += ", pods " + humanSeconds(s.PodsETA.Seconds())
	}
	if s.Waiting != "" {
		what += " (" + s.Waiting + ")"
	}
	bar.Describe(what)
	_ = bar.Set64(s.Done)
}

func applyTable(w io.Writer, plan *bulkclean.Plan, r bulkclean.Result) error {
	fmt.Fprintf(w, "Deleted %d of %d %s (%s) via %s", r.Deleted, plan.End.Objects, plan.Head.Selector.Kind, humanBytes(r.Bytes), r.Via)
	if r.PerSecond > 0 {
		fmt.Fprintf(w, " in %s, %.0f a second", humanSeconds(r.Seconds), r.PerSecond)
	}
	fmt.Fprintf(w, "; kept %d, changed %d, failed %d, left %d.\n", r.Kept, r.Changed, r.Failed, r.Left)
	if r.Resumed {
		fmt.Fprintln(w, "The counts are those of all runs over this plan.")
	}
	if len(r.Reasons) > 0 {
		fmt.Fprintln(w)
		rows := [][]string{}
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			rows = append(rows, []string{fmt.Sprint(r.Reasons[reason]), reason})
		}
		if err := writeTable(w, []string{">objects", "not deleted because"}, rows); err != nil {
			return err
		}
	}
	if r.DependentsETASeconds != nil && *r.DependentsETASeconds > 0 {
		fmt.Fprintf(w, "\nThe garbage collector removes their pods at its own pace: about %s.\n", humanSeconds(*r.DependentsETASeconds))
	}
	fmt.Fprintf(w, "\nExport:  %s\nJournal: %s\n", r.Export, r.Journal)
	return nil
}

// afterwards says what the freed space still needs.
func (p *cleanApply) afterwards(res bulkclean.Result) {
	if res.Deleted == 0 || p.thenDefrag {
		return
	}
	fmt.Fprintln(p.stderr, "etcd reuses the space once the deletions are compacted, which the API server does every five minutes. The files\n"+
		"shrink when the members are defragmented after that: etcdkeeper defrag.")
}

// defragment hands over to the rolling run. Compacting is left to the API server: watchers that have not seen a
// deletion yet would lose it. Until it has compacted the rule may find nothing to reclaim, so --compact-wait gives it
// time.
func (p *cleanApply) defragment(cmd *cobra.Command, c *cluster.Client, plan *bulkclean.Plan) (*defrag.Report, error) {
	ctx := cmd.Context()
	ended := time.Now()
	_, deletedBy, err := bulkclean.NewEtcd(c).ClusterID(ctx, plan.Head.Selector.Registry)
	if err == nil {
		err = p.compacted(ctx, c, deletedBy)
	}
	if err != nil {
		return nil, withCode(exitPartial, fmt.Errorf("the objects are deleted; interrupted before the members were defragmented: %w", err))
	}
	r, err := defrag.NewRunner(defrag.Client{Client: c}, p.loaded.Config.Defrag, defrag.Options{
		Log: p.log, By: keeperName("clean"), Manual: true, Abandon: secondSignal(ctx), Progress: p.defragProgress(),
		Situation: func(v cluster.View) defrag.Situation {
			return defrag.Situation{DiskFree: defrag.MemberDisk(c.Config(), v)}
		},
		Revision: drained(plan.Head.Revision, deletedBy, ended),
	})
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	rep, err := r.Run(ctx)
	if err != nil && rep.Outcome == "" {
		return nil, withCode(exitPartial, fmt.Errorf("the objects are deleted, the members were not defragmented: %w", err))
	}
	err = defragExit(ctx, rep, err)
	if exitCode(err) != exitDone {
		// Something was changed: the objects are gone.
		err = withCode(exitPartial, fmt.Errorf("the objects are deleted; defragmenting: %w", err))
	}
	return &rep, err
}

// drained tells the rolling run, which compacts under a NOSPACE alarm, to which revision that may be: where the deletions
// ended at the asked time or before, to theirs, and else to the plan's, which no deletion is older than. So watchers have
// the run's margin of time to see every deletion.
func drained(planned, deletedBy int64, ended time.Time) func(time.Time) (int64, bool) {
	return func(at time.Time) (int64, bool) {
		if at.Before(ended) {
			return planned, true
		}
		return deletedBy, true
	}
}

// compacted waits until the deletions are compacted, for --compact-wait at most.
func (p *cleanApply) compacted(ctx context.Context, c *cluster.Client, deletedBy int64) error {
	if p.compactWait <= 0 {
		return nil
	}
	p.log.Info("waiting for the deletions to be compacted", "revision", deletedBy, "longest", p.compactWait)
	for end := time.Now().Add(p.compactWait); time.Now().Before(end); {
		v, err := c.View(ctx)
		if err != nil {
			return err
		}
		for _, m := range v.Members {
			if rev, ok := c.CompactRevision(ctx, m); m.Reachable && ok && rev >= deletedBy {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
	p.log.Warn("the deletions are not compacted yet: defragmenting may find little to reclaim")
	return nil
}
