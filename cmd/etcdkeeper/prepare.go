package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
)

// prepare checks the global flags before the command's own code runs.
func (a *app) prepare(cmd *cobra.Command) error {
	a.fromEnv(cmd, "config", &a.configFile)
	a.fromEnv(cmd, "write-out", &a.writeOut)
	a.fromEnv(cmd, "kubeconfig", &a.kubeconfig)
	a.fromEnv(cmd, "context", &a.context)
	formats := []string{"table", "json", "yaml"}
	if cmd.Annotations[pageAnnotation] != "" {
		formats = append(formats, "html")
	}
	for _, f := range formats {
		if a.writeOut == f {
			return nil
		}
	}
	return usagef("--write-out %q: want one of %s", a.writeOut, strings.Join(formats, ", "))
}

// fromEnv takes a flag that is no configuration key from its variable where it was not given.
func (a *app) fromEnv(cmd *cobra.Command, flag string, to *string) {
	f := cmd.Flags().Lookup(flag)
	if f == nil || f.Changed {
		return
	}
	if v := os.Getenv(config.EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))); v != "" {
		*to = v
	}
}

// loadConfig composes the configuration from flags, environment, file and defaults, and sets the logger up. Its errors
// end the command with exitUsage.
func (a *app) loadConfig(cmd *cobra.Command) (*config.Config, error) {
	l, err := config.Load(a.configOptions(cmd))
	if err != nil {
		return nil, withCode(exitUsage, fmt.Errorf("bad configuration:\n%w", err))
	}
	a.loaded = l
	a.level.Set(logLevel(l.Config.Log))
	a.log = newLogger(a.stderr, &a.level, l.Config.Log.Format)
	for _, w := range l.Warnings {
		a.log.Warn(w)
	}
	return &l.Config, nil
}

// configOptions is where a command's configuration comes from.
func (a *app) configOptions(cmd *cobra.Command) config.Options {
	return config.Options{File: a.configFile, Flags: config.BoundFlags(cmd.Flags())}
}

func logLevel(c config.Log) slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return slog.LevelInfo
	}
	return level
}

func newLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// confirm asks a question on the terminal; --yes answers it. Where there is no terminal the command is refused.
func (a *app) confirm(ctx context.Context, question string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.stdin) {
		return usagef("%s There is no terminal to ask on: give --yes to go on", question)
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answered := make(chan string, 1)
	go func() { // ends with the process where nobody answers
		answer, err := bufio.NewReader(a.stdin).ReadString('\n')
		if err != nil && answer == "" {
			close(answered)
			return
		}
		answered <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return withCode(exitInterrupted, errors.New("interrupted, nothing was changed"))
	case answer, ok := <-answered:
		switch {
		case !ok:
			return withCode(exitInterrupted, errors.New("no answer, nothing was changed"))
		case answer == "y", answer == "yes":
			return nil
		}
	}
	return withCode(exitRefused, errors.New("not confirmed, nothing was changed"))
}

// isTerminal tells whether a person sits at the stream.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// connect makes the client of the configured cluster, loading the configuration where that was not done yet. It waits
// for no member: the first call that needs one says that it cannot be reached.
func (a *app) connect(_ context.Context, cmd *cobra.Command) (*cluster.Client, error) {
	if a.loaded == nil {
		if _, err := a.loadConfig(cmd); err != nil {
			return nil, err
		}
	}
	cfg := a.loaded.Config.Etcd
	cfg.Endpoints = slices.Clone(cfg.Endpoints) // the client normalises its own
	c, err := cluster.New(cfg, a.log)
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	return c, nil
}
