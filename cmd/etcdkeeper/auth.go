package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
)

// grant is one command of etcdctl, and why it is needed.
type grant struct {
	Command string `json:"command"`
	Why     string `json:"why"`
}

// rootCall is a call that etcd allows to the root role only.
type rootCall struct {
	Call  string `json:"call"`
	Since string `json:"since"` // the versions in which it needs root
	Why   string `json:"why"`
}

type grants struct {
	User      string     `json:"user"`
	Role      string     `json:"role"`
	NeedsRoot bool       `json:"needsRoot"`
	RootCalls []rootCall `json:"rootCalls"`
	Commands  []grant    `json:"commands"`
}

func newAuthCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "auth", Short: "Show the rights that the keeper needs in etcd"}
	var show bool
	var user, prefix string
	sub := &cobra.Command{
		Use:   "grant",
		Short: "Print the etcd role and user for what is switched on",
		Long: `Prints the etcdctl commands that make a role and a user with the least rights for what the configuration switches
on, and says which calls need the root role and why. It runs none of them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !show {
				return usagef("the keeper grants nothing by itself: give --print and run what it prints as root")
			}
			if user == "" || user == "root" {
				return usagef("--for-user %q: want a user of the keeper's own", user)
			}
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("prefix") {
				prefix = ""
			}
			g := grantsFor(cfg, user, prefix)
			return a.print(g, g.table)
		},
	}
	sub.Flags().BoolVar(&show, "print", false, "print the commands")
	sub.Flags().StringVar(&user, "for-user", "etcdkeeper", "name of the user and of the role")
	sub.Flags().StringVar(&prefix, "prefix", "/registry/", "the API server's --etcd-prefix, instead of the configuration's")
	cmd.AddCommand(sub)
	return cmd
}

// reading is what the tasks that are switched on read of Kubernetes' keys: the tasks by prefix. An API server's prefix
// that is given stands for those of the configuration.
func reading(cfg *config.Config, given string) map[string][]string {
	prefixes := map[string][]string{}
	add := func(task, prefix string) {
		if given != "" {
			prefix = given
		}
		prefix = "/" + strings.Trim(prefix, "/") + "/"
		prefixes[prefix] = append(prefixes[prefix], task)
	}
	if cfg.Census.Enabled {
		add("census", cfg.Census.Prefix)
	}
	if cfg.Split.Enabled {
		add("split", cfg.Split.Prefix)
	}
	for _, p := range cfg.Clean.Policies {
		add("the clean policy "+p.Name, p.Rights().Read)
	}
	return prefixes
}

// grantsFor lists what a configuration needs. What needs root is what etcd's own maintenance service guards with it.
func grantsFor(cfg *config.Config, user, prefix string) grants {
	g := grants{User: user, Role: user, RootCalls: []rootCall{}}
	add := func(why, format string, args ...any) {
		g.Commands = append(g.Commands, grant{fmt.Sprintf(format, args...), why})
	}
	add("the keeper's own role", "etcdctl role add %s", user)
	add("lock, pause, announcements and the last runs; nothing of Kubernetes lies there", "etcdctl role grant-permission %s --prefix=true readwrite %s", user, cluster.Root)
	prefixes := reading(cfg, prefix)
	for _, p := range slices.Sorted(maps.Keys(prefixes)) {
		add(strings.Join(prefixes[p], ", ")+": keys and values are read; whoever has this reads every Secret that is not encrypted at rest",
			"etcdctl role grant-permission %s --prefix=true read %s", user, p)
	}
	for _, p := range cfg.Clean.Policies {
		for _, w := range p.Rights().Write {
			add("the clean policy "+p.Name+" deletes in etcd (via: etcd)", "etcdctl role grant-permission %s --prefix=true readwrite %s", user, w)
		}
	}
	add("asks for the password; with client certificates give --no-password and use the name as common name", "etcdctl user add %s", user)
	add("", "etcdctl user grant-role %s %s", user, user)
	if cfg.Defrag.Enabled {
		g.NeedsRoot = true
		root := func(call, since, why string) { g.RootCalls = append(g.RootCalls, rootCall{call, since, why}) }
		root("Defragment", "all", "the main job")
		root("Alarm (disarm)", "3.5.35, 3.6.16, 3.7.3 on", "after a run under the NOSPACE alarm")
		if cfg.Defrag.HashCheck {
			root("HashKV", "all", "the members' data are compared at the end of a run (defrag.hashCheck)")
		}
		if cfg.Defrag.SnapshotDir != "" {
			root("Snapshot", "all", "a snapshot before each run (defrag.snapshotDir)")
		}
		if cfg.Defrag.CompactOnNoSpace {
			root("Compact", "3.5.35, 3.6.16, 3.7.3 on", "under NOSPACE the API server cannot compact (defrag.compactOnNoSpace)")
		}
		if cfg.Defrag.MoveLeader != "never" {
			root("MoveLeader", "3.5.35, 3.6.16, 3.7.3 on", "where leases would be lost in place (defrag.moveLeader)")
		}
		add("etcd allows the calls listed as root calls to this role only: it can read and write every key", "etcdctl user grant-role %s root", user)
	}
	return g
}

func (g grants) table(w io.Writer) error {
	for _, c := range g.Commands {
		if c.Why != "" {
			fmt.Fprintf(w, "# %s\n", c.Why)
		}
		fmt.Fprintln(w, c.Command)
	}
	if !slices.ContainsFunc(g.Commands, func(c grant) bool { return strings.Contains(c.Command, " read ") }) {
		fmt.Fprintln(w, "\n# Nothing that is switched on reads Kubernetes' keys; by hand, the commands census, split and clean do.")
	}
	if !g.NeedsRoot {
		_, err := fmt.Fprintln(w, "\n# Nothing that is switched on needs the root role.")
		return err
	}
	fmt.Fprintln(w, "\n# Calls that need the root role:")
	for _, c := range g.RootCalls {
		if _, err := fmt.Fprintf(w, "#   %-15s %-26s %s\n", c.Call, "("+c.Since+")", c.Why); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, "# Without it the keeper watches and plans only: set defrag.enabled to false.")
	return err
}
