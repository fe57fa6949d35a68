package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

func newCleanCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Delete finished objects that Kubernetes can no longer list",
		Long: "Reads the names of finished Jobs, pods, events, Workflows or SparkApplications from etcd, writes a plan with a\n" +
			"reason for every object, and deletes them by the plan: one guarded deletion at a time, exported first.",
	}
	cmd.AddCommand(newCleanPlanCmd(a), newCleanApplyCmd(a), newCleanStatusCmd(a), newCleanRestoreCmd(a))
	return cmd
}

// cleanMemory is Go's memory limit of the commands that read whole objects: what is read is garbage at once, and the limit
// keeps the collector ahead of it. It is not enforced where it would not do. With the pages of the executable that are in
// use the process stays below 64 MiB.
const cleanMemory = 28 << 20

// limitMemory applies cleanMemory until the returned function is called.
func limitMemory() (restore func()) {
	before := debug.SetMemoryLimit(cleanMemory)
	_ = forgetExecutablePages() // where that cannot be done they stay
	return func() { debug.SetMemoryLimit(before) }
}

// lazyAPI connects to the API server when it is first needed, so that a plan of unencrypted objects never does.
type lazyAPI struct {
	open   func() (*kube.Client, error)
	once   sync.Once
	client *kube.Client
	err    error
}

func (a *app) lazyAPI() *lazyAPI {
	return &lazyAPI{open: func() (*kube.Client, error) {
		return kube.Open(kube.Options{Kubeconfig: a.kubeconfig, Context: a.context})
	}}
}

// Object is bulkclean.ObjectReader.
func (l *lazyAPI) Object(ctx context.Context, r kube.Resource, namespace, name string) ([]byte, error) {
	l.once.Do(func() { l.client, l.err = l.open() })
	if l.err != nil {
		return nil, cannotOpen{l.err}
	}
	return bulkclean.APIObjects{Client: l.client}.Object(ctx, r, namespace, name)
}

// cannotOpen hides what is inside from those who would try again.
type cannotOpen struct{ err error }

func (c cannotOpen) Error() string { return c.err.Error() }
func (c cannotOpen) Unwrap() error { return context.Canceled }

// keptTable tells what stays.
func keptTable(w io.Writer, kept []bulkclean.Kept) error {
	if len(kept) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	rows := make([][]string, 0, len(kept))
	for _, k := range kept {
		rows = append(rows, []string{string(k.Class), fmt.Sprint(k.Count), humanBytes(k.Bytes), k.Reason})
	}
	return writeTable(w, []string{"kept", ">objects", ">size", "because"}, rows)
}
