package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

func newVPACmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpa",
		Short: "Sizes the etcd container",
		Long:  "Requests and limits for the etcd container from its own history and from what drives etcd's memory.\n\n" + exitHelp,
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newVPAReplayCmd(a))
	return cmd
}

func newVPAReplayCmd(a *app) *cobra.Command {
	o := vpa.DefaultReplayOptions()
	memoryGiB := o.MemoryBytes / (1 << 30)
	var perSeries bool
	cmd := &cobra.Command{
		Use:   "replay FILE.csv[.gz]",
		Short: "Replays recorded use through the recommender and counts OOM kills and waste",
		Long: `Replays recorded use through the recommender and counts OOM kills and waste.

FILE has the columns series,step,cpu_percent,memory_percent; "-" is standard input.
After the warm-up, a step with use above the limit is one OOM kill, and what the
recommender sees of it is the limit; the new limit holds from the next step on.
An empty field or NaN is a gap. Over-provision is the sum of max(0, limit - use)
over time, and limit changes are summed over all series.

` + exitHelp,
		Example: "  etcdkeeper vpa replay usage.csv.gz --cores 4 --memory-gib 8 --step 5m --warm-up 24h -w json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("vpa replay: expected one file, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			o.MemoryBytes = memoryGiB * (1 << 30)
			if err := o.Validate(); err != nil {
				return withCode(exitUsage, err)
			}
			series, err := readUsageFile(a.stdin, args[0])
			if err != nil {
				return err
			}
			res, err := vpa.Replay(series, o)
			if err != nil {
				return err
			}
			if !perSeries {
				res.PerSeries = nil
			}
			return writeReplay(a.stdout, a.writeOut, res)
		},
	}
	f := cmd.Flags()
	f.Float64Var(&o.Cores, "cores", o.Cores, "cores that are 100 percent of CPU")
	f.Float64Var(&memoryGiB, "memory-gib", memoryGiB, "GiB that are 100 percent of memory")
	f.DurationVar(&o.Step, "step", o.Step, "time between two steps")
	f.DurationVar(&o.WarmUp, "warm-up", o.WarmUp, "history before the first limit, not judged")
	f.BoolVar(&perSeries, "per-series", false, "show every series too")
	return cmd
}

func readUsageFile(stdin io.Reader, path string) ([]vpa.UsageSeries, error) {
	if path == "-" {
		return vpa.ReadUsage(stdin, "standard input")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read recorded use: %w", err)
	}
	defer f.Close()
	return vpa.ReadUsage(f, path)
}

func writeReplay(w io.Writer, format string, r vpa.ReplayResult) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "yaml":
		b, err := yaml.Marshal(r)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	case "table":
	default:
		return usagef("write-out %q: expected table, json or yaml", format)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SERIES\tOOMS\tSERIES WITH OOMS\tCHANGES\tOVER GIB·H\tLIMIT/USED\t")
	fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%.1f\t%s\t\n", r.Series, r.OOMs, r.SeriesWithOOMs, r.Changes, r.OverProvisionedGiBH, r.LimitOverUsed.Format("%.3f", 1))
	if err := t.Flush(); err != nil {
		return err
	}
	if r.UnknownSteps > 0 || r.SeriesNotJudged > 0 {
		fmt.Fprintf(w, "%d steps without a number, %d series not longer than the warm-up\n", r.UnknownSteps, r.SeriesNotJudged)
	}
	if len(r.PerSeries) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SERIES\tOOMS\tCHANGES\tOVER GIB·H\tLIMIT/USED\tPEAK GIB\tLAST LIMIT GIB\t")
	for _, s := range r.PerSeries {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%s\t%s\t%s\t\n", s.Name, s.OOMs, s.Changes, s.OverProvisionedGiBH,
			s.LimitOverUsed.Format("%.3f", 1), s.PeakBytes.Format("%.2f", 1<<30), s.LastLimitBytes.Format("%.2f", 1<<30))
	}
	return t.Flush()
}
