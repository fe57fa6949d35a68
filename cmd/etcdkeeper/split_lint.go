package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/splitter"
)

func newSplitLintCmd(a *app) *cobra.Command {
	var o splitter.LintOptions
	var pasted string
	cmd := &cobra.Command{
		Use:   "lint VALUE|MANIFEST|-",
		Short: "Check a value of --etcd-servers-overrides, or a manifest it stands in",
		Long: "Check a value of kube-apiserver's --etcd-servers-overrides, or the manifest it stands in: a static pod or another\n" +
			"pod template, a kubeadm ClusterConfiguration, a kops Cluster; - reads a manifest from standard input.\n" +
			"Each finding says what kube-apiserver makes of it, and the fix:\n" +
			"  refused  it does not start\n" +
			"  broken   it starts, and cannot reach or keep the shard\n" +
			"  inert    it starts, and the override moves nothing\n" +
			"  risky    it works, and endangers the control plane",
		Example: "  etcdkeeper split lint '/events#https://10.0.0.1:2379;https://10.0.0.2:2379'\n" +
			"  etcdkeeper split lint /etc/kubernetes/manifests/kube-apiserver.yaml",
		Args: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("etcd-servers-overrides") {
				return exactlyOne("VALUE or MANIFEST")(c, args)
			}
			if len(args) > 0 {
				return usagef("%s: --etcd-servers-overrides is the VALUE, so no other is wanted, got %q", c.CommandPath(), args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var res splitter.LintResult
			if len(args) == 0 {
				res = splitter.LintValue(pasted, o)
			} else {
				var err error
				if res, err = a.lint(args[0], o); err != nil {
					return err
				}
			}
			if err := a.print(res, func(w io.Writer) error { return lintTable(w, res) }); err != nil {
				return err
			}
			if len(res.Findings) > 0 {
				return withCode(exitFindings, nil)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&pasted, "etcd-servers-overrides", "", "VALUE, for the API server's flag as it stands in its command line")
	cmd.Flags().StringSliceVar(&o.MainServers, "etcd-servers", nil, "the API server's --etcd-servers, to compare a VALUE with")
	cmd.Flags().StringSliceVar(&o.ServiceCIDRs, "service-cluster-ip-range", nil, "the API server's --service-cluster-ip-range, to compare a VALUE with")
	return cmd
}

// exactlyOne wants one argument and names it.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s: want one %s, got %d arguments", c.CommandPath(), what, len(args))
		}
		return nil
	}
}

// lint tells a manifest from a value: a manifest is -, a file that exists, or has the name of one.
func (a *app) lint(arg string, o splitter.LintOptions) (splitter.LintResult, error) {
	var data []byte
	var err error
	name := arg
	switch {
	case arg == "-":
		name = "standard input"
		data, err = io.ReadAll(a.stdin)
	case isFile(arg) || !strings.ContainsAny(arg, "#\n") && hasSuffix(arg, ".yaml", ".yml", ".json", ".manifest"):
		data, err = os.ReadFile(arg)
	default:
		return splitter.LintValue(arg, o), nil
	}
	if err != nil {
		return splitter.LintResult{}, usagef("read manifest: %w", err)
	}
	res, err := splitter.LintManifest(name, data)
	if errors.Is(err, splitter.ErrNoAPIServer) {
		return res, usagef("%w", err)
	}
	return res, err
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func hasSuffix(s string, suffixes ...string) bool {
	for _, x := range suffixes {
		if strings.HasSuffix(s, x) {
			return true
		}
	}
	return false
}

func lintTable(w io.Writer, res splitter.LintResult) error {
	for _, o := range res.Overrides {
		moves := strings.Join(o.Moves, ", ")
		if moves == "" {
			moves = "nothing"
		}
		fmt.Fprintf(w, "%s moves %s to %s (health check %s)\n", o.Resource, moves, strings.Join(o.Servers, ", "), o.Check)
	}
	if len(res.Overrides) == 0 && len(res.Findings) == 0 {
		fmt.Fprintln(w, "no override: everything is stored in the main cluster")
	}
	if len(res.Findings) == 0 {
		_, err := fmt.Fprintln(w, "no findings")
		return err
	}
	var rows [][]string
	for _, f := range res.Findings {
		where := f.Where
		if where == "" {
			where = f.Override
		}
		rows = append(rows, []string{string(f.Effect), f.Rule, orUnknown(where), f.Message, f.Fix})
	}
	fmt.Fprintln(w)
	if err := writeTable(w, []string{"effect", "rule", "where", "finding", "fix"}, rows); err != nil {
		return err
	}
	if res.Corrected != nil {
		_, err := fmt.Fprintf(w, "\ncorrected: --etcd-servers-overrides='%s'\n", *res.Corrected)
		return err
	}
	return nil
}
