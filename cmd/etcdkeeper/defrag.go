package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/defrag"
)

type defragFlags struct {
	dryRun, wait, breakLock, noLock, allowSmall bool
	offline                                     string
	ifNeeded                                    bool
}

func newDefragCmd(a *app) *cobra.Command {
	var f defragFlags
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Defragment the members in turn, the leader last",
		Long: `Defragments the members that the rule matches, one after another and the leader last. Every safety gate is read
before every member; what is closed is waited for or stops the run. Maintenance windows and cooldowns do not count,
since somebody asked. --dry-run prints exactly what a run would do.

A defragmentation goes on in the server whatever happens here: the first Ctrl-C waits for the member under way and
stops before the next one, a second one stops waiting.`,
		Example: `  etcdkeeper defrag --endpoints 10.0.0.1:2379 --dry-run
  etcdkeeper defrag --rule 'dbSizeFree > 200*1024*1024 || dbQuotaUsage > 0.8'
  etcdkeeper defrag --rule true --wait
  etcdkeeper defrag --offline /var/lib/etcd --if-needed`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if f.offline != "" {
				return a.defragOffline(cmd.Context(), cfg, f)
			}
			if f.ifNeeded {
				return usagef("--if-needed goes with --offline: elsewhere the rule says what is needed")
			}
			return a.defrag(cmd, cfg, f)
		},
	}
	fs := cmd.Flags()
	config.AddFlag(fs, "rule", "defrag.rule")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print what a run would do, and do nothing (exit code 5 where there is work)")
	fs.BoolVar(&f.wait, "wait", false, "wait while another keeper holds the lock")
	fs.BoolVar(&f.breakLock, "break-lock", false, "take the lock from its holder once no member has been in defragmentation for 30 s")
	fs.BoolVar(&f.noLock, "no-lock", false, "run without the lock, where none can be made: make sure that nobody else defragments")
	fs.BoolVar(&f.allowSmall, "allow-small", false, "also defragment a cluster of fewer than three voters")
	fs.StringVar(&f.offline, "offline", "", "data directory of a stopped member to defragment instead")
	fs.BoolVar(&f.ifNeeded, "if-needed", false, "with --offline: a directory without a database is nothing to do (for an init container)")
	cmd.MarkFlagsMutuallyExclusive("no-lock", "break-lock")
	cmd.MarkFlagsMutuallyExclusive("no-lock", "wait")
	return cmd
}

func (a *app) defrag(cmd *cobra.Command, cfg *config.Config, f defragFlags) error {
	ctx := cmd.Context()
	c, err := a.connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	abandon := secondSignal(ctx)
	r, err := defrag.NewRunner(defrag.Client{Client: c}, cfg.Defrag, defrag.Options{
		Log: a.log, By: keeperName("defrag"), Manual: true, DryRun: f.dryRun, AllowSmall: f.allowSmall,
		Wait: f.wait, BreakLock: f.breakLock, NoLock: f.noLock, Abandon: abandon,
		Situation: func(v cluster.View) defrag.Situation {
			return defrag.Situation{DiskFree: defrag.MemberDisk(c.Config(), v)}
		},
		Progress: a.defragProgress(),
	})
	if err != nil {
		return withCode(exitUsage, err)
	}
	rep, err := r.Run(ctx)
	if perr := a.print(rep, func(w io.Writer) error { return defragTable(w, rep) }); perr != nil {
		return perr
	}
	return defragExit(ctx, rep, err)
}

// defragExit is the exit code that a report stands for.
func defragExit(ctx context.Context, rep defrag.Report, err error) error {
	switch rep.Outcome {
	case defrag.Planned:
		return withCode(exitFindings, nil)
	case defrag.Refused:
		if ctx.Err() != nil {
			return withCode(exitInterrupted, fmt.Errorf("interrupted, nothing was changed"))
		}
		return withCode(exitRefused, fmt.Errorf("refused, nothing was changed: %s", rep.Reason))
	case defrag.Partial:
		return withCode(exitPartial, fmt.Errorf("stopped part-way: %s", rep.Reason))
	case defrag.Failed:
		if errors.Is(err, cluster.ErrDifferentClusters) {
			return withCode(exitRefused, err)
		}
		if ctx.Err() != nil {
			return withCode(exitInterrupted, fmt.Errorf("interrupted, nothing was changed"))
		}
		return withCode(exitFailed, err)
	}
	return err
}

// secondSignal is closed by the first interrupt that comes after ctx has ended.
func secondSignal(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	context.AfterFunc(ctx, func() {
		sig := make(chan os.Signal, 1)
		signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
		<-sig
		close(done)
	})
	return done
}

// keeperName tells other keepers who holds the lock.
func keeperName(what string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("etcdkeeper %s on %s (pid %d)", what, host, os.Getpid())
}

// defragProgress tells on a terminal how far a member is.
func (a *app) defragProgress() func(defrag.MemberReport, time.Duration) {
	if !isTerminal(a.stderr) {
		return nil
	}
	return func(m defrag.MemberReport, elapsed time.Duration) {
		fmt.Fprintf(a.stderr, "\r%s: %.0f s of about %.0f s\033[K", m.Name, elapsed.Seconds(), *m.PredictedSeconds)
	}
}

func defragTable(w io.Writer, rep defrag.Report) error {
	rows := make([][]string, 0, len(rep.Members))
	for _, m := range rep.Members {
		name := m.Name
		if name == "" {
			name = m.ID.String()
		}
		rows = append(rows, []string{name, m.Action, m.Leader, humanBytesOr(m.BeforeBytes), humanBytesOr(m.InUseBytes),
			humanBytesOr(m.AfterBytes), humanSecondsOr(m.PredictedSeconds), humanSecondsOr(m.Seconds), m.Reason + aboutClients(m)})
	}
	if len(rows) > 0 {
		if err := writeTable(w, []string{"member", "action", "leader", ">before", ">in use", ">after", ">predicted", ">took", "reason"}, rows); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s: %s\n", rep.Outcome, rep.Reason)
	if rep.DryRun && rep.Outcome == defrag.Planned {
		fmt.Fprintf(w, "a client of one member waits for at most about %s (%s)\n", humanSeconds(rep.PredictedSeconds), rep.PredictionBasis)
	}
	if !rep.DryRun && rep.Outcome != defrag.Nothing && rep.Outcome != defrag.Refused {
		fmt.Fprintf(w, "%s given back in %s, %d leader moves\n", humanBytes(rep.ReclaimedBytes), humanSeconds(rep.Seconds), rep.LeaderMoves)
	}
	if rep.Hash != nil && rep.Hash.Result != defrag.HashOff {
		fmt.Fprintf(w, "hashes: %s (%s)\n", rep.Hash.Result, rep.Hash.Reason)
	}
	if rep.Snapshot != "" {
		fmt.Fprintf(w, "snapshot: %s\n", rep.Snapshot)
	}
	for i, r := range rep.Refusals {
		if i > 0 || rep.Reason != r.String() {
			fmt.Fprintf(w, "gate: %s\n", r)
		}
	}
	for _, n := range rep.Notes {
		fmt.Fprintf(w, "note: %s\n", strings.TrimSpace(n))
	}
	return nil
}

// aboutClients says of a row that its member's clients are, or were, turned away; why they are not is noted once.
func aboutClients(m defrag.MemberReport) string {
	switch {
	case m.DrainedSeconds != nil:
		return fmt.Sprintf("; clients were turned away for %s (connections: %s, %s afterwards)", humanSeconds(*m.DrainedSeconds), countOr(m.ConnectionsMoved), countOr(m.ConnectionsBack))
	case m.Drain && !m.Done:
		return "; clients are turned away meanwhile: " + m.DrainReason
	}
	return ""
}

func countOr(n *int) string {
	if n == nil {
		return unknown
	}
	return strconv.Itoa(*n)
}

func (a *app) defragOffline(ctx context.Context, cfg *config.Config, f defragFlags) error {
	for name, set := range map[string]bool{"wait": f.wait, "break-lock": f.breakLock, "no-lock": f.noLock, "allow-small": f.allowSmall} {
		if set {
			return usagef("--%s has no meaning with --offline: a stopped member is not part of a run", name)
		}
	}
	rule, err := defrag.ParseRule(cfg.Defrag.Rule)
	if err != nil {
		return withCode(exitUsage, err)
	}
	rep, err := defrag.Offline(ctx, f.offline, rule, defrag.OfflineOptions{Quota: int64(cfg.Etcd.QuotaBackendBytes), DryRun: f.dryRun, IfNeeded: f.ifNeeded})
	if perr := a.print(rep, func(w io.Writer) error { return defragTable(w, rep) }); perr != nil {
		return perr
	}
	return defragExit(ctx, rep, err)
}
