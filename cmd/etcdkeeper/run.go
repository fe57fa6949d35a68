package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/daemon"
)

// memoryShare of the container's memory limit is what Go's runtime aims to stay below; the rest is for what it does not
// count.
const memoryShare = 0.9

// forgetEvery is how often the executable's pages are given back. What a task of every minute needs comes back in less
// than a millisecond.
const forgetEvery = time.Minute

// forgetPages gives the executable's pages back that only the start, or a task that runs seldom, needed.
func forgetPages(ctx context.Context, log *slog.Logger) {
	ticker := time.NewTicker(forgetEvery)
	defer ticker.Stop()
	for {
		if err := forgetExecutablePages(); err != nil {
			log.Debug("the executable's pages stay resident", "err", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func newRunCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon beside a member, or for a whole cluster",
		Long: "Run the daemon: it watches the members, keeps their databases defragmented, measures who fills them, and serves\n" +
			"metrics, a status page and probes. Without a configuration it looks after the member at 127.0.0.1:2379 and waits\n" +
			"for it to come up.\n\n" +
			"SIGHUP reads the configuration again; a bad one is refused and the old one stays. SIGTERM ends the daemon in an\n" +
			"orderly way, with exit code 0.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd) },
	}
	fs := cmd.Flags()
	config.AddFlag(fs, "listen", "listen.address")
	config.AddFlag(fs, "probe-listen", "listen.probeAddress")
	config.AddFlag(fs, "web-config-file", "listen.webConfigFile")
	config.AddFlag(fs, "member", "etcd.member")
	config.AddFlag(fs, "state-dir", "stateDir")
	config.AddFlag(fs, "watch-interval", "watch.interval")
	config.AddFlag(fs, "pprof", "listen.pprof")
	a.kubeFlags(cmd)
	return cmd
}

func (a *app) run(cmd *cobra.Command) error {
	cfg, err := a.loadConfig(cmd)
	if err != nil {
		return err
	}
	if _, err := memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(memoryShare), memlimit.WithProvider(memlimit.FromCgroup)); err != nil {
		a.log.Debug("no memory limit from the control group", "err", err)
	}
	d, err := daemon.New(daemon.Options{
		Config:     *cfg,
		Log:        a.log,
		Version:    buildVersion().Version,
		Kubeconfig: a.kubeconfig,
		Context:    a.context,
		Load: func() (config.Config, error) {
			l, err := config.Load(a.configOptions(cmd))
			if err != nil {
				return config.Config{}, err
			}
			return l.Config, nil
		},
		Loaded: func(c config.Config) { a.level.Set(logLevel(c.Log)) },
	})
	if err != nil {
		return withCode(exitUsage, fmt.Errorf("bad configuration:\n%w", err))
	}
	ctx := cmd.Context()
	go forgetPages(ctx, a.log)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				_ = d.Reload() // it logs its error and keeps the old configuration
			}
		}
	}()
	return d.Run(ctx)
}
