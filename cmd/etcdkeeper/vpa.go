package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

func newVPACmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpa",
		Short: "Size the etcd container",
		Long: "Requests and limits for the etcd container, from its own history and from what drives etcd's memory. " +
			"Nothing is\nchanged unless apply is asked for.",
	}
	cmd.AddCommand(newVPAApplyCmd(a), newVPARecommendCmd(a), newVPAReplayCmd(a))
	return cmd
}

func newVPAReplayCmd(a *app) *cobra.Command {
	o := vpa.DefaultReplayOptions()
	memoryGiB := o.MemoryBytes / (1 << 30)
	var perSeries bool
	cmd := &cobra.Command{
		Use:   "replay FILE.csv[.gz]",
		Short: "Replay recorded use through the recommender and count OOM kills and waste",
		Long: `Replay recorded use through the recommender and count OOM kills and waste.

FILE has the columns series,step,cpu_percent,memory_percent; "-" is standard input.
After the warm-up, a step whose use is above the limit is one OOM kill, and the
recommender sees the limit as its use; the new limit holds from the next step on.
An empty field or NaN is a gap. Over-provision is max(0, limit - use) summed over
time. Changes of the limit are summed over all series.`,
		Example: "  etcdkeeper vpa replay usage.csv.gz --cores 4 --memory-gib 8 --step 5m --warm-up 24h -w json",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s: want one file, got %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			o.Config = cfg.VPA
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
			return a.print(res, func(w io.Writer) error { return replayTable(w, res) })
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

func replayTable(w io.Writer, r vpa.ReplayResult) error {
	err := writeTable(w, []string{">series", ">ooms", ">series with ooms", ">changes", ">over GiB·h", ">limit/used"}, [][]string{{
		strconv.Itoa(r.Series), strconv.Itoa(r.OOMs), strconv.Itoa(r.SeriesWithOOMs), strconv.Itoa(r.Changes),
		fmt.Sprintf("%.1f", r.OverProvisionedGiBH), r.LimitOverUsed.Format("%.3f", 1),
	}})
	if err != nil {
		return err
	}
	if r.UnknownSteps > 0 || r.SeriesNotJudged > 0 {
		fmt.Fprintf(w, "\n%d steps without a number, %d series not longer than the warm-up\n", r.UnknownSteps, r.SeriesNotJudged)
	}
	if len(r.PerSeries) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, s := range r.PerSeries {
		rows = append(rows, []string{
			s.Name, strconv.Itoa(s.OOMs), strconv.Itoa(s.Changes), fmt.Sprintf("%.1f", s.OverProvisionedGiBH),
			s.LimitOverUsed.Format("%.3f", 1), s.PeakBytes.Format("%.2f", 1<<30), s.LastLimitBytes.Format("%.2f", 1<<30),
		})
	}
	return writeTable(w, []string{"series", ">ooms", ">changes", ">over GiB·h", ">limit/used", ">peak GiB", ">last limit GiB"}, rows)
}
