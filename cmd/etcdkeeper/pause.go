package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag"
)

func newPauseCmd(a *app) *cobra.Command {
	var d time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Stand every keeper of the cluster down",
		Long: `Stands every keeper of the cluster down at its next gate: a run under way stops before the next member. It holds
until 'etcdkeeper resume', or for as long as --for says. Under the NOSPACE alarm it always holds until it is resumed.`,
		Example: "  etcdkeeper pause --for 2h --reason 'node upgrade'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d < 0 || cmd.Flags().Changed("for") && d < time.Second {
				return usagef("--for %s: want a second or more", d)
			}
			c, err := a.connect(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			p := cluster.Pause{Since: time.Now().UTC().Truncate(time.Second), Reason: reason, By: operator()}
			if d > 0 {
				until := p.Since.Add(d)
				p.Until = &until
			}
			// The other members are learnt from the view, so that a member that hangs does not stop the order.
			if _, err := c.View(cmd.Context()); err != nil {
				return err
			}
			p, err = c.SetPause(cmd.Context(), p)
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, p)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&d, "for", 0, "how long (default: until resumed)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever finds the keepers paused")
	return cmd
}

func newResumeCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "End a pause, and clear the degraded state after failed runs",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.View(ctx); err != nil {
				return err
			}
			was, err := c.Resume(ctx)
			if err != nil {
				return err
			}
			out := struct {
				WasPaused       bool `json:"wasPaused"`
				ClearedFailures int  `json:"clearedFailures"`
			}{WasPaused: was}
			h := defrag.ReadHistory(ctx, c)
			if n, _ := h.Failures(); n > 0 {
				if err := defrag.Clear(ctx, c, operator(), time.Now()); err != nil {
					return err
				}
				out.ClearedFailures = n
			}
			return a.print(out, func(w io.Writer) error {
				text := "the keepers were not paused"
				if was {
					text = "the keepers go on"
				}
				if out.ClearedFailures > 0 {
					text += fmt.Sprintf("; %d failed runs are cleared", out.ClearedFailures)
				}
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	}
}

// operator is who gave an order, for those who find it.
func operator() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	if user := os.Getenv("USER"); user != "" {
		return user + "@" + host
	}
	return host
}
