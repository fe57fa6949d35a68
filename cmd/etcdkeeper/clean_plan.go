package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// cleanPlan is the command clean plan.
type cleanPlan struct {
	*app
	sel      bulkclean.Selector
	states   []string
	owners   []string
	snapshot string
	out      string
}

func newCleanPlanCmd(a *app) *cobra.Command {
	p := &cleanPlan{app: a, sel: bulkclean.NewSelector("")}
	cmd := &cobra.Command{
		Use:   "plan --kind KIND -n NAMESPACE[,...] -o plan.jsonl",
		Short: "Write down what would be deleted, and why",
		Long: "Scans etcd, or a snapshot of it, for finished objects and writes a plan: a line for each object that would be\n" +
			"deleted and a line for each class that stays. Nothing is changed, and the API server is not asked for anything\n" +
			"unless values are encrypted at rest.",
		Example: "  etcdkeeper clean plan --kind jobs -n batch --older-than 72h -o plan.jsonl\n" +
			"  etcdkeeper clean plan --kind events --all-namespaces --older-than 24h -o events.jsonl\n" +
			"  etcdkeeper clean plan --kind jobs -n batch --snapshot /backup/last.db -o plan.jsonl",
		RunE: p.run,
	}
	a.kubeFlags(cmd)
	fs := cmd.Flags()
	var kinds []string
	for _, k := range bulkclean.Kinds() {
		kinds = append(kinds, k.Name)
	}
	fs.StringVar(&p.sel.Kind, "kind", "", "what to delete: "+strings.Join(kinds, ", "))
	fs.StringSliceVarP(&p.sel.Namespaces, "namespace", "n", nil, "namespaces, separated by commas")
	fs.BoolVar(&p.sel.AllNamespaces, "all-namespaces", false, "take all namespaces")
	fs.DurationVar(&p.sel.OlderThan, "older-than", p.sel.OlderThan, "least time since the end")
	fs.StringSliceVar(&p.states, "state", []string{"complete", "failed"}, "how they ended: complete, failed")
	fs.StringSliceVar(&p.owners, "owner", []string{"none", "gone"}, "what became of their owner: none, gone; for pods also live")
	fs.StringVar(&p.sel.NameStem, "name-stem", "", "name without its generated end")
	fs.StringVar(&p.sel.NameRegex, "name-regex", "", "regular expression that the name matches; anchor it with ^ and $")
	fs.IntVar(&p.sel.Keep, "keep", 0, "keep the newest so many of each owner, or of each name stem where there is no owner")
	fs.IntVar(&p.sel.Limit, "limit", 0, "take the oldest so many (0 = all)")
	fs.Float64Var(&p.sel.MaxShare, "max-share", p.sel.MaxShare, "refuse to select more than this share of what was scanned")
	fs.BoolVar(&p.sel.Finalizers, "include-finalizers", false, "also take objects with finalizers, which go through the API server only")
	fs.StringVar(&p.sel.Registry, "prefix", p.sel.Registry, "prefix of the API server's keys (its --etcd-prefix)")
	fs.StringVar(&p.sel.Registry, "etcd-prefix", p.sel.Registry, "the same as --prefix")
	fs.StringVar(&p.snapshot, "snapshot", "", "read this snapshot instead of the live etcd")
	fs.StringVarP(&p.out, "output", "o", "", "file that the plan is written to")
	return cmd
}

func (p *cleanPlan) run(cmd *cobra.Command, _ []string) error {
	if err := p.selector(cmd); err != nil {
		return err
	}
	defer limitMemory()()
	ctx := cmd.Context()
	o := bulkclean.PlanOptions{File: p.out, Objects: p.lazyAPI(), Snapshot: p.snapshot}
	scanner, closing, err := p.source(ctx, cmd, &o)
	if err != nil {
		return err
	}
	defer closing()
	bar := p.progress(-1, "scanning "+p.sel.Kind)
	o.Progress = func(n int64) { _ = bar.Set64(n) }
	_, s, err := bulkclean.NewPlan(ctx, scanner, p.sel, time.Now(), o)
	_ = bar.Finish()
	if errors.Is(err, bulkclean.ErrShare) {
		return withCode(exitRefused, err)
	}
	if err != nil {
		return err
	}
	return p.print(s, func(w io.Writer) error { return cleanPlanTable(w, s) })
}

// selector completes and checks the selector. A rule that was given and is empty is no rule.
func (p *cleanPlan) selector(cmd *cobra.Command) error {
	for _, name := range []string{"kind", "namespace", "state", "owner", "name-stem", "name-regex", "prefix", "etcd-prefix", "snapshot", "output"} {
		if f := cmd.Flags().Lookup(name); f.Changed && strings.Trim(f.Value.String(), "[]") == "" {
			return usagef("--%s: an empty rule is refused", name)
		}
	}
	switch {
	case p.sel.Kind == "":
		return usagef("--kind is missing: say what to delete")
	case p.out == "":
		return usagef("-o is missing: say where the plan is to be written")
	case p.out == "-":
		return usagef("-o -: want a file: its journal and export lie beside it")
	}
	p.sel.Registry = bulkclean.Registry(p.sel.Registry)
	p.sel.States, p.sel.Owners = nil, nil
	for _, s := range p.states {
		p.sel.States = append(p.sel.States, bulkclean.State(s))
	}
	for _, s := range p.owners {
		p.sel.Owners = append(p.sel.Owners, bulkclean.OwnerState(s))
	}
	if err := p.sel.Validate(); err != nil {
		return usagef("the selection is not valid:\n%w", err)
	}
	return nil
}

// source is what is scanned: the snapshot, or a member.
func (p *cleanPlan) source(ctx context.Context, cmd *cobra.Command, o *bulkclean.PlanOptions) (keyspace.Scanner, func(), error) {
	if p.snapshot != "" {
		return openSnapshot(p.snapshot)
	}
	c, err := p.connect(ctx, cmd)
	if err != nil {
		return nil, nil, err
	}
	closing := func() { _ = c.Close() }
	live, err := bulkclean.OpenLive(ctx, c, p.sel.Registry, o)
	if err != nil {
		closing()
		return nil, nil, err
	}
	return live, closing, nil
}

// cleanPlanTable is the summary for a person.
func cleanPlanTable(w io.Writer, s *bulkclean.Summary) error {
	where := "all namespaces"
	if len(s.Namespaces) > 0 {
		where = strings.Join(s.Namespaces, ", ")
	}
	fmt.Fprintf(w, "Plan %s: delete %d of %d %s in %s (%s of %s) at revision %d.\n", s.Plan, s.Objects, s.Scanned, s.Kind, where,
		humanBytes(s.Bytes), humanBytes(s.ScannedBytes), s.Revision)
	if s.Oldest != nil {
		fmt.Fprintf(w, "They ended between %s and %s.\n", s.Oldest.Format(time.RFC3339), s.Newest.Format(time.RFC3339))
		fmt.Fprintf(w, "Deleting them takes about %s at the default pace", humanSeconds(s.ETASeconds))
		if s.Dependents != nil {
			fmt.Fprintf(w, "; their %d pods take the garbage collector about %s", *s.Dependents, humanSecondsOr(s.DependentsETASeconds))
		}
		fmt.Fprintln(w, ".")
		fmt.Fprintln(w)
		rows := [][]string{}
		for _, g := range s.Stems {
			rows = append(rows, []string{g.Namespace, g.Stem, fmt.Sprint(g.Objects), humanBytes(g.Bytes)})
		}
		if err := writeTable(w, []string{"namespace", "stem", ">objects", ">size"}, rows); err != nil {
			return err
		}
	}
	if err := keptTable(w, s.Kept); err != nil {
		return err
	}
	if len(s.Cause) > 0 {
		fmt.Fprintf(w, "\nThe cause:\n")
	}
	for _, c := range s.Cause {
		who, rate := "unknown", ""
		if c.Manager != "" {
			who = c.Manager
		}
		if c.PerHour != nil {
			rate = fmt.Sprintf(", %s an hour", humanRate(*c.PerHour))
		}
		what := c.Stem
		if what == "" {
			what = c.Owner
		}
		fmt.Fprintf(w, "  %s/%s: %d made by %s%s: %s.\n", c.Namespace, what, c.Objects, who, rate, c.Remedy)
	}
	if s.Objects > 0 {
		fmt.Fprintf(w, "\nNext: etcdkeeper clean apply %s\n", s.Plan)
	}
	return nil
}

// humanRate is a rate with a digit that says something, however small it is.
func humanRate(r float64) string {
	if r < 0.1 {
		return fmt.Sprintf("%.1g", r)
	}
	return fmt.Sprintf("%.1f", r)
}
