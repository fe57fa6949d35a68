package main

import "github.com/spf13/cobra"

func newSplitCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "split",
		Short: "Decide, plan and check the move of events (or leases, pods) to an etcd cluster of their own",
		Long: "Decide on measured numbers whether some resources should live in an etcd cluster of their own, plan the move,\n" +
			"prepare the new members' data directories, lint the API server's flag and verify a split that was made.\n" +
			"No command changes an etcd cluster or an API server.",
	}
	cmd.AddCommand(
		newSplitLintCmd(a),
		newSplitPlanCmd(a),
		newSplitPrepareCmd(a),
		newSplitRecommendCmd(a),
		newSplitVerifyCmd(a),
	)
	return cmd
}
