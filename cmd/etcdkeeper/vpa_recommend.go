package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/daemon"
	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

type vpaRecommendFlags struct {
	format, manifest, out        string
	propose                      bool
	prometheus, selector         string
	instance, since              string
	observe                      time.Duration
	proc, cgroup, checkpointFile string
	censuses                     []string
	target                       vpa.Target
}

// defaultManifest is where kubeadm puts etcd's static pod.
const defaultManifest = "/etc/kubernetes/manifests/etcd.yaml"

// The formats of --format.
var vpaFormats = []string{"patch", "vpa", "podresources", "manifest", "checkpoint"}

func newVPARecommendCmd(a *app) *cobra.Command {
	var f vpaRecommendFlags
	cmd := &cobra.Command{
		Use:   "recommend",
		Short: "Recommend requests, limits, GOMEMLIMIT, quota and volume of etcd",
		Long: `Recommends requests and limits, GOMEMLIMIT, the backend quota and the volume, each explained as a sum of its parts.

It takes the history of the daemon's state directory, of Prometheus, or of a VerticalPodAutoscalerCheckpoint, and
samples that it takes itself from etcd's metrics and, with a shared process namespace, from /proc and the cgroup.
A census tells how long the keys are and whose; two of them, how fast their bytes grow.
With little history the confidence is low, and it says so.`,
		Example: `  etcdkeeper vpa recommend --prometheus http://prometheus:9090 --selector 'job="etcd"' --instance 10.0.0.1:2381
  etcdkeeper vpa recommend --format patch | kubectl patch pod -n kube-system etcd-cp1 --subresource resize --patch-file /dev/stdin
  etcdkeeper vpa recommend --format manifest --manifest /etc/kubernetes/manifests/etcd.yaml --propose`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.vpaRecommend(cmd, f) },
	}
	fs := cmd.Flags()
	config.AddFlag(fs, "member", "etcd.member")
	config.AddFlag(fs, "state-dir", "stateDir")
	fs.StringVar(&f.format, "format", "", "write YAML for kubectl instead: "+strings.Join(vpaFormats, ", "))
	fs.StringVar(&f.manifest, "manifest", "", "static pod manifest to take over with --format manifest (default vpa.manifest of the configuration, else "+defaultManifest+")")
	fs.BoolVar(&f.propose, "propose", false, "write the manifest beside the old one, under a name that the kubelet passes over")
	fs.StringVar(&f.out, "out", "", "write to this file instead of standard output")
	fs.StringVar(&f.prometheus, "prometheus", "", "URL of a Prometheus to take history from")
	fs.StringVar(&f.selector, "selector", "", `matchers of etcd's series in Prometheus, such as 'job="etcd"'`)
	fs.StringVar(&f.instance, "instance", "", "instance label of the member in Prometheus")
	fs.StringVar(&f.since, "since", "14d", "how far back to ask Prometheus, such as 36h or 14d")
	fs.DurationVar(&f.observe, "observe", 2*time.Second, "how long to take samples, one a second")
	fs.StringVar(&f.proc, "proc", "/proc", "where etcd's process is looked for; empty: not at all")
	fs.StringVar(&f.cgroup, "cgroup", "", "cgroup v2 folder of the etcd container, where it is not found by its process")
	fs.StringVar(&f.checkpointFile, "vpa-checkpoint", "", "VerticalPodAutoscalerCheckpoint (JSON or YAML) to take history from")
	fs.StringArrayVar(&f.censuses, "census", nil, "census written by 'etcdkeeper census -w json', for the index; given twice, for the growth too")
	fs.StringVar(&f.target.Namespace, "namespace", "kube-system", "namespace in what --format writes")
	fs.StringVar(&f.target.Kind, "target-kind", "", "kind in what --format writes: Pod, StatefulSet, Deployment or DaemonSet (default Pod; with --format vpa StatefulSet)")
	fs.StringVar(&f.target.Name, "target-name", "etcd", "name in what --format writes")
	fs.StringVar(&f.target.Container, "container", "etcd", "name of the container")
	fs.BoolVar(&f.target.InPlace, "in-place", false, "with --format vpa: update mode InPlace instead of Off")
	return cmd
}

func (f vpaRecommendFlags) check() (since time.Duration, err error) {
	known := f.format == ""
	for _, name := range vpaFormats {
		known = known || f.format == name
	}
	switch {
	case !known:
		return 0, usagef("--format %q: want one of %s", f.format, strings.Join(vpaFormats, ", "))
	case f.manifest != "" && f.format != "manifest":
		return 0, usagef("--manifest goes with --format manifest")
	case f.propose && f.format != "manifest":
		return 0, usagef("--propose goes with --format manifest")
	case f.propose && f.out != "":
		return 0, usagef("--propose names the file itself: leave --out away")
	case len(f.censuses) > 2:
		return 0, usagef("--census: want one file, or two that show the growth, got %d", len(f.censuses))
	case f.observe < 0 || f.observe > time.Hour:
		return 0, usagef("--observe %s: want 0s to 1h", f.observe)
	}
	switch f.target.Kind {
	case "", "Pod", "StatefulSet", "Deployment", "DaemonSet":
	default:
		return 0, usagef("--target-kind %q: want Pod, StatefulSet, Deployment or DaemonSet", f.target.Kind)
	}
	if f.format == "vpa" && f.target.Kind == "Pod" {
		return 0, usagef("--format vpa: a VerticalPodAutoscaler needs a workload: give --target-kind StatefulSet and --target-name")
	}
	since, err = vpa.ParseSince(f.since)
	if err != nil {
		return 0, usagef("--since: %w", err)
	}
	return since, nil
}

// setDefaults fills what depends on the format.
func (f *vpaRecommendFlags) setDefaults(cfg *config.Config) {
	if f.target.Kind == "" {
		f.target.Kind = "Pod"
		if f.format == "vpa" {
			f.target.Kind = "StatefulSet"
		}
	}
	if f.format == "manifest" && f.manifest == "" {
		f.manifest = cmp.Or(cfg.VPA.Manifest, defaultManifest)
	}
}

// vpaAnswer is what is printed: the recommendation and where it came from.
type vpaAnswer struct {
	vpa.Recommendation
	Sources []vpa.SourceReport `json:"sources"`
}

func (a *app) vpaRecommend(cmd *cobra.Command, f vpaRecommendFlags) error {
	since, err := f.check()
	if err != nil {
		return err
	}
	cfg, err := a.loadConfig(cmd)
	if err != nil {
		return err
	}
	f.setDefaults(cfg)
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
	censuses, err := readKeyspace(s, f.censuses)
	if err != nil {
		return err
	}
	sources, err := a.vpaHistory(ctx, s, f, since)
	if err != nil {
		return err
	}
	sources = append(sources, censuses...)
	rec := s.Recommend(ctx)
	if f.format == "" {
		answer := vpaAnswer{rec, sources}
		return a.print(answer, func(w io.Writer) error { return vpaTable(w, answer) })
	}
	b, err := f.write(s, rec)
	if err != nil {
		return err
	}
	if a.writeOut == "json" && f.out == "" && !f.propose {
		if b, err = yaml.YAMLToJSON(b); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	if f.propose {
		f.out = vpa.ProposalPath(f.manifest)
	}
	if f.out == "" {
		_, err = a.stdout.Write(b)
		return err
	}
	if err := atomicfile.Write(f.out, b, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "written to %s\n", f.out)
	return nil
}

// newSizer makes the sizer of the member beside, else of the leader. Where no
// member answers, it is that of the one endpoint that is given: its page of
// metrics, its process and its cgroup may be there nevertheless.
func (a *app) newSizer(ctx context.Context, c *cluster.Client, cfg *config.Config, f vpaRecommendFlags) (*vpa.Sizer, error) {
	o := vpa.SizerOptions{Log: a.log, StateDir: cfg.StateDir, Proc: f.proc, CgroupDir: f.cgroup}
	v, err := c.View(ctx)
	if err != nil {
		a.log.Warn("etcd does not answer: only what else there is counts", "err", err)
		m := cluster.Member{Name: cfg.Etcd.Member}
		if given := c.Config().Endpoints; len(given) == 1 {
			m.Endpoint, o.Local = given[0], f.proc != ""
		}
		return vpa.NewSizer(c, m, cfg.VPA, o)
	}
	m, beside := v.Beside(cfg.Etcd)
	if !beside {
		var ok bool
		if m, ok = v.Leader(); !ok {
			return nil, errors.New("the members do not agree on a leader: name a member by --member")
		}
	}
	sizes := cfg.VPA
	if sizes.Members == 0 {
		sizes.Members = len(v.Voters())
	}
	o.Local = beside && f.proc != ""
	return vpa.NewSizer(c, m, sizes, o)
}

// vpaHistory gathers what there is, and fails where there is nothing at all.
func (a *app) vpaHistory(ctx context.Context, s *vpa.Sizer, f vpaRecommendFlags, since time.Duration) ([]vpa.SourceReport, error) {
	var reports []vpa.SourceReport
	note := func(name, gives string, err error) {
		r := vpa.SourceReport{Name: name, Gives: gives, OK: err == nil}
		if err != nil {
			r.Error = err.Error()
		}
		reports = append(reports, r)
	}
	if f.checkpointFile != "" {
		err := restoreCheckpointFile(s, f.checkpointFile)
		if err != nil {
			return nil, err
		}
		note("checkpoint", "histograms of a VerticalPodAutoscaler; no drivers and no hourly peaks", nil)
	}
	if f.prometheus != "" {
		n, err := s.BackFill(ctx, vpa.Prometheus{URL: f.prometheus, Selector: f.selector, Instance: f.instance}, since)
		note("prometheus", fmt.Sprintf("%d samples of history; peaks shorter than its scrape interval are not in it", n), err)
	}
	end := time.Now().Add(f.observe)
	for {
		err := s.Sample(ctx)
		var none *vpa.NoSourceError
		if errors.As(err, &none) || time.Now().After(end) {
			break
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, withCode(exitInterrupted, ctx.Err())
		case <-time.After(time.Second):
		}
	}
	reports = append(reports, s.Sources()...)
	for _, r := range reports {
		if r.OK {
			return reports, nil
		}
	}
	return nil, &vpa.NoSourceError{Reports: reports}
}

// readKeyspace tells the sizer what the censuses found.
func readKeyspace(s *vpa.Sizer, files []string) ([]vpa.SourceReport, error) {
	if len(files) == 0 {
		return nil, nil
	}
	var taken []*census.Census
	for _, file := range files {
		c, err := readCensus(file)
		if err != nil {
			return nil, err
		}
		taken = append(taken, c)
	}
	slices.SortFunc(taken, func(a, b *census.Census) int { return a.Taken.Compare(b.Taken) })
	var series census.Series
	for _, c := range taken {
		series.Add(c)
	}
	latest := taken[len(taken)-1]
	s.SetKeyspace(daemon.Keyspace(latest, series.Growth(-1)))
	return []vpa.SourceReport{{
		Name: "census", OK: true,
		Gives: fmt.Sprintf("%d keys, their lengths and whose they are, at %s; no memory", latest.Keys, latest.Taken.Format(time.RFC3339)),
	}}, nil
}

func restoreCheckpointFile(s *vpa.Sizer, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: %w", err)
	}
	if b, err = yaml.YAMLToJSON(b); err != nil {
		return fmt.Errorf("read the VerticalPodAutoscalerCheckpoint %s: %w", path, err)
	}
	status, err := vpa.ParseCheckpoint(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return s.RestoreCheckpoint(status)
}

func (f vpaRecommendFlags) write(s *vpa.Sizer, rec vpa.Recommendation) ([]byte, error) {
	switch f.format {
	case "patch":
		return rec.FormatPatch(f.target)
	case "vpa":
		return rec.FormatVPA(f.target)
	case "podresources":
		return rec.FormatPodResources()
	case "checkpoint":
		return s.FormatCheckpoint(f.target)
	}
	old, err := os.ReadFile(filepath.Clean(f.manifest))
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w; --manifest names another", err)
	}
	return rec.FormatManifest(old, f.target.Container)
}

func vpaTable(w io.Writer, r vpaAnswer) error {
	size := func(n vpa.Number) string { return humanBytesOr(n.Bytes()) }
	rows := [][]string{
		{"CPU request", r.CPU.Request.Format("%.3f cores", 1), r.CPU.Words},
		{"CPU limit", "none", r.CPU.NoLimit},
		{"memory request", size(r.Memory.Request.Bytes), r.Memory.Request.Words},
		{"memory limit", size(r.Memory.Limit.Bytes), r.Memory.Limit.Words},
		{"bounds", size(r.Memory.Lower) + " – " + size(r.Memory.Upper), "a limit below the first grows at once, one above the second may shrink"},
		{"live heap", size(r.LiveHeap.Bytes), r.LiveHeap.Words},
		{"GOMEMLIMIT", size(r.GoMemLimit.Bytes), r.GoMemLimit.Words},
		{"quota", size(r.Quota.Bytes), r.Quota.Words},
		{"volume", size(r.Volume.Bytes), r.Volume.Words},
		{"confidence", r.Confidence.Format("%.2f", 1), r.ConfidenceWords},
	}
	for _, k := range r.OOMs {
		rows = append(rows, []string{"OOM kill", size(k.Bytes), fmt.Sprintf("at %s; highest driver: %s", k.Time.UTC().Format(time.RFC3339), k.Driver)})
	}
	for _, k := range r.Restarts {
		rows = append(rows, []string{"restart", size(k.Bytes), fmt.Sprintf("at %s; highest driver: %s", k.Time.UTC().Format(time.RFC3339), k.Driver)})
	}
	for _, s := range r.Sources {
		state := "read"
		if !s.OK {
			state = s.Error
		}
		rows = append(rows, []string{"source " + s.Name, orUnknown(""), state})
	}
	fmt.Fprintf(w, "member %s\n\n", orUnknown(r.Name))
	return writeTable(w, []string{"what", ">value", "why"}, rows)
}
