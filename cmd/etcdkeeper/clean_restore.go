package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

func newCleanRestoreCmd(a *app) *cobra.Command {
	r := &bulkclean.Restorer{}
	via := ""
	cmd := &cobra.Command{
		Use:   "restore EXPORT",
		Short: "Put deleted objects back",
		Long: "Puts the objects of an export (a file, or the directory of one) back where nothing took their place.\n\n" +
			"--via etcd puts the stored bytes back, status and all: a finished Job stays finished. --via apiserver creates Jobs\n" +
			"again, suspended and without their status, owner and generated labels; other kinds it leaves out, for they would\n" +
			"run. Either way no finished Job runs again.",
		Args: exactlyOne("export"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Via = bulkclean.Via(via)
			if r.Via != bulkclean.ViaAPI && r.Via != bulkclean.ViaEtcd {
				return usagef("--via %q: want etcd or apiserver", via)
			}
			files, err := bulkclean.ExportFiles(args[0])
			if err != nil {
				return withCode(refusedOr(err), err)
			}
			if err := splitKeys(cmd, r, files); err != nil {
				return err
			}
			defer limitMemory()()
			ctx := cmd.Context()
			if r.Via == bulkclean.ViaEtcd {
				c, err := a.connect(ctx, cmd)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
				r.Etcd = bulkclean.NewEtcd(c)
			} else {
				api, err := kube.Open(kube.Options{Kubeconfig: a.kubeconfig, Context: a.context})
				if err != nil {
					return usagef("%w", err)
				}
				r.API = api
			}
			what := "all objects"
			if len(r.Keys) > 0 {
				what = strings.Join(r.Keys, ", ")
			}
			if err := a.confirm(ctx, fmt.Sprintf("Restore %s of %s via %s?", what, strings.Join(files, ", "), via)); err != nil {
				return err
			}
			res, err := r.Restore(ctx, files)
			if err != nil && res.Restored == 0 {
				return withCode(refusedOr(err), err)
			}
			if perr := a.print(res, func(w io.Writer) error { return restoreTable(w, res) }); perr != nil {
				return perr
			}
			switch {
			case err != nil:
				return withCode(exitPartial, fmt.Errorf("%w: restore it again, what is back is left alone", err))
			case res.Failed > 0 && res.Restored > 0:
				return withCode(exitPartial, errors.New("some objects were not restored"))
			case res.Failed > 0 || len(res.Missing) > 0:
				return withCode(exitFailed, fmt.Errorf("not restored: %d failed, %d are not in the export", res.Failed, len(res.Missing)))
			}
			return nil
		},
	}
	a.kubeFlags(cmd)
	cmd.Flags().StringVar(&via, "via", string(bulkclean.ViaEtcd), "the way: etcd (the stored bytes), or apiserver (Jobs, suspended)")
	cmd.Flags().StringArrayVar(&r.Keys, "key", nil, "restore only this key of etcd, written out as in the export; may be repeated. What is not below the export's "+
		"prefix is the client's private key, as everywhere")
	config.AddFlag(cmd.Flags(), "client-key", "etcd.key")
	return cmd
}

// splitKeys tells the two meanings of --key apart: what is below the prefix of an export's keys is a key of etcd, and
// anything else has to be the file of the client's private key.
func splitKeys(cmd *cobra.Command, r *bulkclean.Restorer, files []string) error {
	if len(r.Keys) == 0 {
		return nil
	}
	var prefixes []string
	for _, f := range files {
		h, err := bulkclean.ReadExportHead(f)
		if err != nil {
			return err
		}
		if p := h.Registry + "/"; !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	var keys []string
	for _, k := range r.Keys {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(k, p) }) {
			keys = append(keys, k)
			continue
		}
		if !isFile(k) {
			return usagef("--key %s: neither a key below %s nor the file of a private key", k, strings.Join(prefixes, ", "))
		}
		if err := cmd.Flags().Set("client-key", k); err != nil {
			return usagef("--key %s: %w", k, err)
		}
	}
	r.Keys = keys
	return nil
}

func restoreTable(w io.Writer, r bulkclean.Restored) error {
	fmt.Fprintf(w, "Restored %d; %d exist, %d cannot be restored this way, %d failed.\n", r.Restored, r.Exists, r.Skipped, r.Failed)
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		fmt.Fprintf(w, "  %d: %s\n", r.Reasons[reason], reason)
	}
	for _, k := range r.Missing {
		fmt.Fprintf(w, "  not in the export: %s\n", k)
	}
	return nil
}
