package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

type planResult struct {
	*splitter.Plan
	Dir   string   `json:"dir"`
	Files []string `json:"files"`
}

func newSplitPlanCmd(a *app) *cobra.Command {
	var (
		f          evidenceFlags
		o          splitter.PlanOptions
		installer  string
		hosts      []string
		dir        string
		noEvidence bool
	)
	cmd := &cobra.Command{
		Use:   "plan --resources RESOURCES --installer INSTALLER -o DIR",
		Short: "Write the plan of a split: flag, manifests, alerts and a runbook",
		Long: "Write the plan of a split into a directory: the exact value of --etcd-servers-overrides, the new members' manifests\n" +
			"sized by the evidence, the change of the API servers' probes, alerts, plan.json for split verify, and a runbook with\n" +
			"a check after each step and what going back costs. The evidence is taken as for split recommend. The new members go\n" +
			"to the machines given by --host, else to those of main's members. A plan is written whatever the verdict is, and says\n" +
			"it. The directory must not exist, or be empty.",
		Example: "  etcdkeeper split plan --resources events --installer kubeadm --endpoints https://10.0.0.1:2379 \\\n" +
			"    --host cp-0=10.0.0.1 --host cp-1=10.0.0.2 --host cp-2=10.0.0.3 -o split-plan",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if dir == "" {
				return usagef("split plan wants -o DIR")
			}
			o.Installer = splitter.Installer(installer)
			for _, h := range hosts {
				name, address, ok := strings.Cut(h, "=")
				if !ok {
					return usagef("--host %q: want NAME=ADDRESS", h)
				}
				o.Hosts = append(o.Hosts, splitter.Host{Name: name, Address: address})
			}
			// What the user typed is checked before the cluster is asked.
			if err := checkPlan(cfg.Split.Policy, o); err != nil {
				return withCode(exitUsage, err)
			}
			if err := emptyDir(dir); err != nil {
				return withCode(exitRefused, err)
			}
			var e splitter.Evidence
			if !noEvidence {
				if e, err = a.evidence(cmd.Context(), cfg, f); err != nil {
					return fmt.Errorf("gather evidence (--no-evidence plans without): %w", err)
				}
			}
			if !noEvidence && f.snapshot == "" || len(o.Hosts) == 0 && a.given("etcd.endpoints") {
				a.describeMain(cmd.Context(), cfg, &o)
			}
			if len(o.MainURLs) == 0 {
				o.MainURLs = cfg.Etcd.Endpoints
			}
			if len(o.Hosts) == 0 {
				return usagef("no machine for the new members: main's members cannot be asked, so give --host NAME=ADDRESS for each, three of them")
			}
			plan, err := splitter.NewPlan(e, cfg.Split.Policy, o)
			if err != nil {
				return withCode(exitUsage, err)
			}
			res, err := writePlan(plan, dir)
			if err != nil {
				return err
			}
			return a.print(res, func(w io.Writer) error { return splitPlanTable(w, res) })
		},
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringSliceVar(&o.Resources, "resources", nil, "resources to move, such as events")
	fs.StringVar(&installer, "installer", "", "how the control plane was set up: static, kubeadm, kops or kubespray")
	fs.StringArrayVar(&hosts, "host", nil, "machine for a new member, as NAME=ADDRESS; once for each (default: main's members' machines)")
	fs.StringVarP(&dir, "output", "o", "", "directory to write")
	fs.IntVar(&o.ClientPort, "client-port", 0, "port for clients of the new members (default: the installer's; 2383 for static pods and kubeadm)")
	fs.IntVar(&o.PeerPort, "peer-port", 0, "port for peers of the new members (default: the installer's; 2382 for static pods and kubeadm)")
	fs.StringVar(&o.Version, "etcd-version", "", "version of the new members (default: main's)")
	fs.StringVar(&o.DataDir, "shard-data-dir", "", "data directory of the new members on their hosts (default: /var/lib/etcd-RESOURCE)")
	fs.StringVar(&o.PKIDir, "pki-dir", "", "directory of etcd's certificates on the hosts (default: the installer's)")
	fs.BoolVar(&noEvidence, "no-evidence", false, "plan without looking at the cluster, with the smallest sizes")
	config.AddFlag(fs, "shard-quota", "split.policy.shardQuota")
	return cmd
}

// checkPlan checks what was typed. Hosts that were not are main's, which are not known yet.
func checkPlan(p splitter.Policy, o splitter.PlanOptions) error {
	if len(o.Hosts) == 0 {
		o.Hosts = []splitter.Host{{Name: "main", Address: "main"}}
	}
	_, err := splitter.NewPlan(splitter.Evidence{}, p, o)
	return err
}

// describeMain takes from the cluster main's version and client URLs, and the hosts where none were given; what is not to
// be had stays as it is.
func (a *app) describeMain(ctx context.Context, cfg *config.Config, o *splitter.PlanOptions) {
	c, err := cluster.New(cfg.Etcd, a.log)
	if err != nil {
		return
	}
	defer c.Close()
	v, err := c.View(ctx)
	if err != nil {
		return
	}
	var hosts []splitter.Host
	for _, m := range v.Members {
		if m.Reachable && o.Version == "" {
			o.Version = m.Version
		}
		if len(m.ClientURLs) == 0 {
			continue
		}
		o.MainURLs = append(o.MainURLs, m.ClientURLs[0])
		u, err := url.Parse(m.ClientURLs[0])
		taken := func(h splitter.Host) bool { return h.Address == u.Hostname() || h.Name == m.Name }
		if err == nil && u.Hostname() != "" && !slices.ContainsFunc(hosts, taken) {
			hosts = append(hosts, splitter.Host{Name: m.Name, Address: u.Hostname()})
		}
	}
	if len(o.Hosts) == 0 {
		o.Hosts, o.OnMain = hosts, true
	}
}

// emptyDir refuses a directory with something in it.
func emptyDir(dir string) error {
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("output directory: %w", err)
	case len(files) > 0:
		return fmt.Errorf("output directory %s is not empty: name another one", dir)
	}
	return nil
}

func writePlan(p *splitter.Plan, dir string) (planResult, error) {
	files, err := p.Files()
	if err != nil {
		return planResult{}, err
	}
	res := planResult{Plan: p, Dir: dir}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return res, fmt.Errorf("write plan: %w", err)
		}
		if err := atomicfile.Write(path, f.Data, 0o644); err != nil {
			return res, fmt.Errorf("write plan: %w", err)
		}
		res.Files = append(res.Files, f.Name)
	}
	return res, nil
}

func splitPlanTable(w io.Writer, p planResult) error {
	fmt.Fprintf(w, "verdict: %s\n  %s\n\n--etcd-servers-overrides='%s'\n\n", p.Verdict, p.Reason, p.Override)
	for _, r := range [][]string{
		{"resources", strings.Join(p.Resources, ", ")},
		{"members", p.InitialCluster},
		{"quota", humanBytes(p.QuotaBytes)},
		{"memory", humanBytes(p.MemoryBytes)},
		{"volume", humanBytes(p.VolumeBytes)},
	} {
		fmt.Fprintf(w, "%-10s %s\n", r[0], r[1])
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "\nwritten to %s; begin with runbook.md:\n", p.Dir)
	for _, f := range p.Files {
		fmt.Fprintf(w, "  %s\n", f)
	}
	return nil
}
