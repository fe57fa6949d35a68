package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/kube"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

func newVPAApplyCmd(a *app) *cobra.Command {
	var f vpaRecommendFlags
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Apply the recommendation to the member's own pod now",
		Long: `Applies the recommendation to the member's own pod once, as the daemon does with vpa.apply.

"propose" writes a manifest beside the old one and sends an Event. "resize" changes the etcd container in place, under
the cluster-wide lock and with every safety gate open, followers first and the leader last, and verifies it from the
pod's status. A limit grows at any time, and shrinks in a window only and never with fewer than three voting members.
A static pod cannot be resized: a manifest is proposed, and the report says why.`,
		Example: `  etcdkeeper vpa apply --mode propose --manifest /etc/kubernetes/manifests/etcd.yaml
  etcdkeeper vpa apply --mode resize --namespace kube-system --pod etcd-0 --state-dir /var/lib/etcdkeeper --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.vpaApply(cmd, f) },
	}
	fs := cmd.Flags()
	config.AddFlag(fs, "member", "etcd.member")
	config.AddFlag(fs, "state-dir", "stateDir")
	config.AddFlag(fs, "mode", "vpa.apply")
	config.AddFlag(fs, "namespace", "vpa.namespace")
	config.AddFlag(fs, "pod", "vpa.pod")
	config.AddFlag(fs, "container", "vpa.container")
	config.AddFlag(fs, "manifest", "vpa.manifest")
	fs.DurationVar(&f.observe, "observe", 2*time.Second, "how long to take samples, one a second")
	fs.StringVar(&f.proc, "proc", "/proc", "where etcd's process is looked for; empty: not at all")
	fs.StringVar(&f.cgroup, "cgroup", "", "cgroup v2 folder of the etcd container, where it is not found by its process")
	a.kubeFlags(cmd)
	return cmd
}

func (a *app) vpaApply(cmd *cobra.Command, f vpaRecommendFlags) error {
	cfg, err := a.loadConfig(cmd)
	if err != nil {
		return err
	}
	if f.observe < 0 || f.observe > time.Hour {
		return usagef("--observe %s: want 0s to 1h", f.observe)
	}
	if cfg.VPA.Apply == vpa.ApplyOff {
		return usagef("vpa.apply is off: give --mode propose or --mode resize")
	}
	if cfg.VPA.Apply == vpa.ApplyPropose && cfg.VPA.Manifest == "" && cfg.VPA.Pod == "" {
		return usagef("there is nothing to propose to: give --manifest, or --pod for an Event")
	}
	var pods vpa.Pods
	if cfg.VPA.Pod != "" {
		client, err := kube.Open(kube.Options{Kubeconfig: a.kubeconfig, Context: a.context})
		if err != nil {
			return err
		}
		pods = client
	}
	ctx := cmd.Context()
	c, err := a.connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := a.newSizer(ctx, c, cfg, f)
	if err != nil {
		return err
	}
	if _, err := a.vpaHistory(ctx, s, f, 0); err != nil {
		return err
	}
	rec := s.Recommend(ctx)
	if cfg.VPA.Apply == vpa.ApplyResize {
		if err := a.confirm(cmd.Context(), fmt.Sprintf("Resize container %s of pod %s/%s? %s.", cfg.VPA.Container, cfg.VPA.Namespace, cfg.VPA.Pod, rec.Memory.Limit.Words)); err != nil {
			return err
		}
	}
	rep, err := vpa.NewApplier(c, pods, cfg.VPA, keeperName("vpa apply"), a.log, nil).Apply(ctx, s, rec)
	if rep.Outcome != "" {
		if perr := a.print(rep, func(w io.Writer) error { return vpaApplyTable(w, rep) }); perr != nil && err == nil {
			err = perr
		}
	}
	switch {
	case err != nil:
		return err
	case rep.Outcome == vpa.OutcomeRefused:
		return withCode(exitRefused, nil)
	}
	return nil
}

func vpaApplyTable(w io.Writer, r vpa.ApplyReport) error {
	rows := [][]string{
		{"outcome", r.Outcome}, {"pod", orUnknown(r.Pod)},
		{"limit now", humanBytesOr(r.FromBytes.Bytes())}, {"limit wanted", humanBytesOr(r.ToBytes.Bytes())}, {"reason", r.Reason},
	}
	if r.Manifest != "" {
		rows = append(rows, []string{"proposal", r.Manifest})
	}
	for _, g := range r.Closed {
		rows = append(rows, []string{"closed gate", g})
	}
	return writeTable(w, []string{"what", "value"}, rows)
}
