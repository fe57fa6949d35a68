package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
)

func newCleanStatusCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [plan.jsonl ...]",
		Short: "Show how far plans were carried out",
		Long:  "Shows the journals of the plans, or of all plans in the current directory.",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := journals(args)
			if err != nil {
				return err
			}
			all := make([]*bulkclean.Status, 0, len(files))
			for _, f := range files {
				s, err := bulkclean.ReadStatus(f)
				if err != nil {
					return err
				}
				all = append(all, s)
			}
			if len(args) == 1 {
				return a.print(all[0], func(w io.Writer) error { return cleanStatusTable(w, all) })
			}
			return a.print(all, func(w io.Writer) error { return cleanStatusTable(w, all) })
		},
	}
}

// journals are the journal files of plans, which may themselves be named.
func journals(args []string) ([]string, error) {
	if len(args) == 0 {
		return filepath.Glob("*.journal")
	}
	files := make([]string, len(args))
	for i, f := range args {
		if files[i] = f; !strings.HasSuffix(f, ".journal") {
			files[i] = bulkclean.JournalPath(f)
		}
		if _, err := os.Stat(files[i]); err != nil {
			return nil, fmt.Errorf("plan %s was never applied: there is no %s", f, files[i])
		}
	}
	return files, nil
}

func cleanStatusTable(w io.Writer, all []*bulkclean.Status) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "There is no journal in this directory.")
		return nil
	}
	rows := [][]string{}
	for _, s := range all {
		state := "stopped: apply it again to go on"
		switch {
		case s.Running:
			state = "running"
		case s.Finished && s.Failed > 0:
			state = "finished: apply it again to try those that failed"
		case s.Finished:
			state = "finished"
		}
		rows = append(rows, []string{s.Plan, orUnknown(s.Via), fmt.Sprint(s.Objects), fmt.Sprint(s.Deleted), fmt.Sprint(s.Kept), fmt.Sprint(s.Changed),
			fmt.Sprint(s.Failed), fmt.Sprint(s.Left), humanBytes(s.Bytes), state})
	}
	err := writeTable(w, []string{"plan", "via", ">objects", ">deleted", ">kept", ">changed", ">failed", ">left", ">size", "state"}, rows)
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, reason := range slices.Sorted(maps.Keys(s.Reasons)) {
			fmt.Fprintf(w, "%s: %d not deleted: %s\n", s.Plan, s.Reasons[reason], reason)
		}
	}
	return nil
}
