package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
)

// app is what every command shares: the streams and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	writeOut   string // table, json, yaml; html where there is a page
	configFile string
	yes        bool   // every question is answered with yes
	kubeconfig string // set where kubeFlags was called
	context    string

	log     *slog.Logger
	level   slog.LevelVar  // of log; a reload may change it
	loaded  *config.Loaded // set by loadConfig
	started bool           // the command's own code runs: errors are no longer those of the command line
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, log: slog.New(slog.DiscardHandler)}
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var e *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
	case !a.started:
		err = withCode(exitUsage, err)
	case errors.Is(err, cluster.ErrDifferentClusters):
		err = withCode(exitRefused, err)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = withCode(exitInterrupted, errors.New("interrupted, nothing was changed"))
	}
	if !errors.As(err, &e) || e.err != nil {
		fmt.Fprintln(stderr, "etcdkeeper:", err)
	}
	return exitCode(err)
}

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "etcdkeeper",
		Short: "Keeps the etcd of a Kubernetes control plane healthy",
		Long: "etcdkeeper keeps the etcd of a Kubernetes control plane healthy: it defragments the members in turn, tells who\n" +
			"fills the database, recommends splitting events off and the size of the container, and cleans up in bulk.",
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
	}
	a.globalFlags(root)
	// One line a command, in alphabetical order.
	root.AddCommand(
		newCensusCmd(a),
		newCleanCmd(a),
		newAuthCmd(a),
		newConfigCmd(a),
		newDefragCmd(a),
		newPauseCmd(a),
		newResumeCmd(a),
		newStatusCmd(a),
		newRunCmd(a),
		newSplitCmd(a),
		newVersionCmd(a),
		newVPACmd(a),
	)
	root.AddCommand(demoCommands(a)...)
	root.InitDefaultCompletionCmd()
	a.finish(root)
	return root
}

// globalFlags declares what every command understands.
func (a *app) globalFlags(root *cobra.Command) {
	fs := root.PersistentFlags()
	fs.SortFlags = false
	fs.StringVar(&a.configFile, "config", "", "configuration file in YAML")
	fs.StringVarP(&a.writeOut, "write-out", "w", "table", "output format: table, json or yaml; html where there is a page")
	fs.BoolVar(&a.yes, "yes", false, "answer every question with yes")
	config.AddFlag(fs, "endpoints", "etcd.endpoints")
	config.AddFlag(fs, "cacert", "etcd.cacert")
	config.AddFlag(fs, "cert", "etcd.cert")
	config.AddFlag(fs, "key", "etcd.key")
	config.AddFlag(fs, "user", "etcd.user")
	config.AddFlag(fs, "password", "etcd.password")
	config.AddFlag(fs, "insecure-skip-tls-verify", "etcd.insecureSkipTLSVerify")
	config.AddFlag(fs, "dial-timeout", "etcd.dialTimeout")
	config.AddFlag(fs, "command-timeout", "etcd.commandTimeout")
	config.AddFlag(fs, "metrics-url", "etcd.metricsURLs")
	config.AddFlag(fs, "member-data-dir", "etcd.memberDataDir")
	config.AddFlag(fs, "quota-backend-bytes", "etcd.quotaBackendBytes")
	config.AddFlag(fs, "log-level", "log.level")
	config.AddFlag(fs, "log-format", "log.format")
}

// kubeFlags declares the flags of a command that speaks to the API server.
func (a *app) kubeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, ~/.kube/config, or the pod's service account)")
	cmd.Flags().StringVar(&a.context, "context", "", "context of the kubeconfig (default: its current one)")
}

// pageCommand marks a command that also writes a page: -w html.
func pageCommand(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[pageAnnotation] = "true"
}

const pageAnnotation = "page"

// finish gives every command below cmd the same manners: exit codes in the help, wrong arguments and unknown commands
// end with exitUsage, formats are checked before any work is done.
func (a *app) finish(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, c.CommandPath())
	})
	cmd.CompletionOptions.HiddenDefaultCmd = false
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += "\n\n" + exitHelp
	switch {
	case cmd.Args != nil:
	case cmd.HasSubCommands() && cmd.RunE == nil:
		cmd.Args = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q%s", args[0], c.CommandPath(), didYouMean(c, args[0]))
			}
			return nil
		}
		if cmd.HasParent() {
			cmd.RunE = func(c *cobra.Command, _ []string) error {
				return usagef("%s: a command is missing: want one of %s", c.CommandPath(), childNames(c))
			}
		} else {
			cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	default:
		cmd.Args = cobra.NoArgs
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if err := a.prepare(c); err != nil {
				return err
			}
			a.started = true
			return run(c, args)
		}
	}
	for _, child := range cmd.Commands() {
		a.finish(child)
	}
}

func didYouMean(c *cobra.Command, word string) string {
	var names []string
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	if near := config.Nearest(word, names); near != "" {
		return fmt.Sprintf(": did you mean %s?", near)
	}
	return fmt.Sprintf(" (see %s --help)", c.CommandPath())
}

func childNames(c *cobra.Command) string {
	out := ""
	for _, child := range c.Commands() {
		if !child.IsAvailableCommand() {
			continue
		}
		if out != "" {
			out += ", "
		}
		out += child.Name()
	}
	return out
}
