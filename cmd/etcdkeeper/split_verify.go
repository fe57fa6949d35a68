package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

func newSplitVerifyCmd(a *app) *cobra.Command {
	var (
		o     splitter.VerifyOptions
		f     evidenceFlags
		shard []string
		plan  string
	)
	cmd := &cobra.Command{
		Use:   "verify --endpoints MAIN --shard SHARD --resources RESOURCES",
		Short: "Check a split that was made, or with --before a shard that is about to be used",
		Long: "Check a split: both clusters are healthy and not full, the revisions are in the right order, the shard holds nothing\n" +
			"else, new writes of the resources go to the shard and none to main for --watch, both are compacted. What is left in\n" +
			"main is shown with its expiry. With --plan the prediction is compared with what is measured.\n" +
			"The shard is reached with main's certificates, as the API server reaches it. Any red check ends with 1; what was not\n" +
			"seen is unknown, and does not.",
		Example: "  etcdkeeper split verify --endpoints https://10.0.0.1:2379 --shard https://10.0.0.1:2383 --resources events --plan split-plan/plan.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if len(shard) == 0 || len(o.Resources) == 0 {
				return usagef("split verify wants --shard URL,… and --resources, such as events")
			}
			for _, r := range o.Resources {
				if _, ok := splitter.ParseResource(r); !ok {
					return usagef("--resources %q: overrides move only what kube-apiserver itself stores, such as events, leases or pods", r)
				}
			}
			if plan != "" {
				data, err := os.ReadFile(plan)
				if err != nil {
					return usagef("--plan: %w", err)
				}
				if o.Plan, err = splitter.ReadPlan(data); err != nil {
					return usagef("--plan %s: %w", plan, err)
				}
			}
			o.Prefix, o.CompactEvery = cfg.Split.Prefix, cfg.Split.Policy.CompactEvery
			if o.HTTP, err = f.client(); err != nil {
				return withCode(exitUsage, err)
			}
			main, err := cluster.New(cfg.Etcd, a.log)
			if err != nil {
				return err
			}
			defer main.Close()
			other := cfg.Etcd
			other.Endpoints, other.MetricsURLs, other.Member, other.MemberDataDir = shard, nil, "", ""
			if err := other.Validate(); err != nil {
				return usagef("--shard: %w", err)
			}
			second, err := cluster.New(other, a.log)
			if err != nil {
				return err
			}
			defer second.Close()
			v, err := splitter.Verify(cmd.Context(), main, second, o)
			if errors.Is(err, splitter.ErrOneCluster) {
				return usagef("%w", err)
			}
			if err != nil {
				return err
			}
			if err := a.print(v, func(w io.Writer) error { return verifyTable(w, v) }); err != nil {
				return err
			}
			if !v.Green {
				return withCode(exitFailed, nil)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&shard, "shard", nil, "client URLs of the shard")
	fs.StringSliceVar(&o.Resources, "resources", nil, "resources that moved")
	fs.DurationVar(&o.Watch, "watch", splitter.DefaultVerifyWatch, "how long writes are watched in both clusters; above 10m compaction is seen to advance")
	fs.BoolVar(&o.Before, "before", false, "check a shard that no API server uses yet")
	fs.StringVar(&plan, "plan", "", "plan.json of split plan, to compare the prediction with")
	fs.StringSliceVar(&o.APIServers, "apiserver", nil, "URL of each API server, to look for the override in its /readyz")
	fs.StringVar(&f.token, "apiserver-token-file", "", "file with the bearer token for --apiserver")
	fs.StringVar(&f.ca, "apiserver-cacert", "", "file with the CA of --apiserver")
	config.AddFlag(fs, "prefix", "split.prefix")
	config.AddFlag(fs, "compact-every", "split.policy.compactEvery")
	return cmd
}

func verifyTable(w io.Writer, v *splitter.Verification) error {
	verdict := "green"
	if !v.Green {
		verdict = "red"
	}
	fmt.Fprintf(w, "%s\n\n", verdict)
	var rows [][]string
	for _, c := range v.Checks {
		rows = append(rows, []string{string(c.State), c.Name, c.Reason})
	}
	if err := writeTable(w, []string{"state", "check", "because"}, rows); err != nil {
		return err
	}
	for _, r := range v.Remains {
		if r.Keys == 0 {
			continue
		}
		expiry := "they do not expire: remove them by plan with etcdkeeper clean"
		if r.ExpiresSeconds != nil {
			expiry = "the sampled ones expire within " + time.Duration(*r.ExpiresSeconds*float64(time.Second)).String()
		}
		fmt.Fprintf(w, "\nleft in main under %s: %d keys; %s\n", r.Prefix, r.Keys, expiry)
	}
	if len(v.Scorecard) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	rows = nil
	for _, s := range v.Scorecard {
		deviation := unknown
		if s.Deviation != nil {
			deviation = fmt.Sprintf("%+.0f %%", 100**s.Deviation)
		}
		rows = append(rows, []string{s.Name, scoreValue(s.Predicted, s.Unit), scoreValue(s.Measured, s.Unit), deviation})
	}
	return writeTable(w, []string{"", ">predicted", ">measured", ">deviation"}, rows)
}

func scoreValue(v *float64, unit string) string {
	switch {
	case v == nil:
		return unknown
	case unit == "bytes":
		return humanBytes(int64(*v))
	case unit == "seconds":
		return inUnit(v, unit)
	}
	return fmt.Sprintf("%.1f/s", *v)
}
