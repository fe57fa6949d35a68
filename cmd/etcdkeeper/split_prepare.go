package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

func newSplitPrepareCmd(a *app) *cobra.Command {
	var o splitter.PrepareOptions
	cmd := &cobra.Command{
		Use:   "prepare --snapshot FILE --data-dir DIR --resources RESOURCES",
		Short: "Make a new member's data directory from a snapshot of main",
		Long: "Make a new member's data directory from a snapshot of main, by etcd's own restore: at a revision above main's, and\n" +
			"marked as compacted up to there, so that clients which watch from one of main's revisions list anew instead of\n" +
			"waiting in vain. For events the keyspace is empty, for other resources it has the moved prefixes.\n" +
			"The revision follows from the snapshot alone: prepare every member from the same one. With --endpoints main's\n" +
			"present revision is compared with it. A directory that exists is refused.",
		Example: "  etcdkeeper split prepare --snapshot main.db --resources events --data-dir etcd-events.data --name etcd-events-0 \\\n" +
			"    --initial-cluster etcd-events-0=https://10.0.0.1:2382 --initial-advertise-peer-urls https://10.0.0.1:2382",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			o.Prefix = cfg.Split.Prefix
			if o.Snapshot == "" || o.DataDir == "" || len(o.Resources) == 0 {
				return usagef("split prepare wants --snapshot FILE, --data-dir DIR and --resources, such as events")
			}
			for _, r := range o.Resources {
				if _, ok := splitter.ParseResource(r); !ok {
					return usagef("--resources %q: overrides move only what kube-apiserver itself stores, such as events, leases or pods", r)
				}
			}
			if a.given("etcd.endpoints") {
				c, err := cluster.New(cfg.Etcd, a.log)
				if err != nil {
					return err
				}
				defer c.Close()
				o.MainRevision = func(ctx context.Context) (int64, error) { return revisionOf(ctx, c) }
			}
			p, err := splitter.Prepare(cmd.Context(), o)
			switch {
			case errors.Is(err, splitter.ErrTargetExists), errors.Is(err, splitter.ErrPastMargin):
				return withCode(exitRefused, err)
			case err != nil:
				return err
			}
			return a.print(p, func(w io.Writer) error { return preparedTable(w, p) })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Snapshot, "snapshot", "", "snapshot of main, as etcdctl snapshot save makes it")
	fs.StringVar(&o.DataDir, "data-dir", "", "directory to make")
	fs.StringSliceVar(&o.Resources, "resources", nil, "resources that move")
	fs.StringVar(&o.Name, "name", "default", "name of the new member")
	fs.StringVar(&o.InitialCluster, "initial-cluster", "", "all new members as NAME=PEERURL,… (default: this one alone)")
	fs.StringVar(&o.Token, "initial-cluster-token", "etcd-cluster", "token of the new cluster")
	fs.StringSliceVar(&o.PeerURLs, "initial-advertise-peer-urls", []string{"http://localhost:2380"}, "the new member's peer URLs")
	fs.Int64Var(&o.Revision, "revision", 0, "revision to begin at (default: the snapshot's, a day's writes, and at least a million)")
	fs.BoolVar(&o.SkipHashCheck, "skip-hash-check", false, "take a file without a snapshot's checksum, such as a copy of a stopped member's database")
	config.AddFlag(fs, "prefix", "split.prefix")
	return cmd
}

// given tells whether a key of the configuration was set anywhere.
func (a *app) given(key string) bool {
	for _, v := range a.loaded.Values {
		if v.Key.Path == key {
			return v.Source != "default"
		}
	}
	return false
}

// revisionOf is the newest revision that a member tells.
func revisionOf(ctx context.Context, c *cluster.Client) (int64, error) {
	v, err := c.View(ctx)
	if err != nil {
		return 0, err
	}
	var rev int64
	for _, m := range v.Members {
		rev = max(rev, m.Revision)
	}
	if rev == 0 {
		return 0, errors.New("no member is reachable")
	}
	return rev, nil
}

func preparedTable(w io.Writer, p *splitter.Prepared) error {
	margin := fmt.Sprintf("%d", p.MarginRevisions)
	if p.MarginSeconds != nil {
		margin += fmt.Sprintf(" (%s at the snapshot's pace)", humanSeconds(*p.MarginSeconds))
	}
	rows := [][]string{
		{"data directory", p.DataDir},
		{"member", p.Name + " of " + p.InitialCluster},
		{"resources", strings.Join(p.Resources, ", ")},
		{"keys", fmt.Sprintf("%d (%s)", p.Keys, humanBytes(p.Bytes))},
		{"snapshot's revision", fmt.Sprint(p.SnapshotRevision)},
		{"begins at revision", fmt.Sprint(p.Revision)},
		{"margin", margin},
		{"main's revision", wholeOr(p.MainRevision)},
		{"left of the margin", wholeOr(p.MainLeftRevisions)},
		{"database", humanBytes(p.DBSizeBytes)},
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-20s %s\n", r[0], r[1])
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return nil
}
