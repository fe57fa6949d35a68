package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/report"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// evidenceFlags are where recommend and plan take their evidence from.
type evidenceFlags struct {
	snapshot             string
	observe, watch       time.Duration
	rate                 int64
	apiServer, token, ca string
	resources            []string
}

func (f *evidenceFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.snapshot, "snapshot", "", "read a snapshot file, or a stopped member's data directory, instead of the cluster")
	fs.DurationVar(&f.observe, "observe", splitter.DefaultObserve, "time between the two looks at a live cluster that give rates")
	fs.DurationVar(&f.watch, "watch", 0, "watch every write for that long, at the price of their bandwidth once (such as 2m)")
	fs.Int64Var(&f.rate, "rate", 0, "limit of the scan in bytes/s; 0: none")
	fs.StringVar(&f.apiServer, "apiserver-metrics", "", "metrics URL of a kube-apiserver, such as https://127.0.0.1:6443/metrics")
	fs.StringVar(&f.token, "apiserver-token-file", "", "file with the bearer token for --apiserver-metrics")
	fs.StringVar(&f.ca, "apiserver-cacert", "", "file with the CA of --apiserver-metrics")
	config.AddFlag(fs, "prefix", "split.prefix")
	config.AddFlag(fs, "event-ttl", "split.policy.eventTTL")
	config.AddFlag(fs, "min-window", "split.policy.minWindow")
}

func newSplitRecommendCmd(a *app) *cobra.Command {
	var f evidenceFlags
	cmd := &cobra.Command{
		Use:   "recommend",
		Short: "Judge on measured numbers whether resources should have an etcd cluster of their own",
		Long: "Judge whether resources (split.policy.resources: events, leases, pods) should have an etcd cluster of their own.\n" +
			"The evidence is, as far as it can be had: a scan of the keyspace and the members' metrics over --observe, the\n" +
			"write-ahead log where --member-data-dir is given, a --watch, a kube-apiserver's metrics, what the daemon kept in\n" +
			"stateDir; or a --snapshot file, alone or with --member-data-dir. Nothing is written.",
		Example: "  etcdkeeper split recommend --endpoints https://10.0.0.1:2379 --member-data-dir /var/lib/etcd\n" +
			"  etcdkeeper split recommend --snapshot backup.db -w json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			p, err := a.propose(cmd.Context(), cfg, f)
			if err != nil {
				return err
			}
			if a.writeOut == "html" {
				return report.Write(a.stdout, report.SplitPage(p))
			}
			return a.print(p, func(w io.Writer) error { return proposalTable(w, p) })
		},
	}
	pageCommand(cmd)
	f.add(cmd)
	cmd.Flags().StringSliceVar(&f.resources, "resources", nil, "resources to judge, instead of split.policy.resources")
	return cmd
}

// propose gathers what the flags allow and judges it.
func (a *app) propose(ctx context.Context, cfg *config.Config, f evidenceFlags) (splitter.Proposal, error) {
	policy := cfg.Split.Policy
	if len(f.resources) > 0 {
		policy.Resources = f.resources
	}
	if err := policy.Validate(); err != nil {
		return splitter.Proposal{}, withCode(exitUsage, err)
	}
	e, err := a.evidence(ctx, cfg, f)
	if err != nil {
		return splitter.Proposal{}, err
	}
	return splitter.Propose(e, policy), nil
}

func (a *app) evidence(ctx context.Context, cfg *config.Config, f evidenceFlags) (splitter.Evidence, error) {
	o := splitter.GatherOptions{Prefix: cfg.Split.Prefix, EventTTL: cfg.Split.Policy.EventTTL, Observe: f.observe, Watch: f.watch,
		Rate: f.rate, DataDir: cfg.Etcd.MemberDataDir, APIServer: f.apiServer}
	if f.snapshot != "" {
		if f.watch > 0 || f.apiServer != "" {
			return splitter.Evidence{}, usagef("--snapshot reads a file alone: --watch and --apiserver-metrics need the cluster")
		}
		e, err := splitter.GatherFile(ctx, f.snapshot, o)
		if err == nil && cfg.Etcd.QuotaBackendBytes > 0 {
			e.Stress.QuotaBytes = &splitter.Figure{Value: float64(cfg.Etcd.QuotaBackendBytes), Source: splitter.FromFlag, Confidence: splitter.Exact}
		}
		return e, err
	}
	var err error
	if o.HTTP, err = f.client(); err != nil {
		return splitter.Evidence{}, withCode(exitUsage, err)
	}
	c, err := cluster.New(cfg.Etcd, a.log)
	if err != nil {
		return splitter.Evidence{}, err
	}
	defer c.Close()
	bar := a.progress(-1, "looking at the cluster")
	e, err := splitter.Gather(ctx, c, o)
	_ = bar.Finish()
	if err != nil || cfg.StateDir == "" {
		return e, err
	}
	h, err := splitter.LoadHistory(cfg.StateDir)
	if err != nil {
		e.Notes = append(e.Notes, err.Error())
		return e, nil
	}
	notes := e.Notes
	h.Add(e, cfg.Split.Keep)
	e, _ = h.Evidence()
	e.Notes = notes
	return e, nil
}

// client is the HTTP client for the API server's metrics.
func (f evidenceFlags) client() (*http.Client, error) {
	if f.token == "" && f.ca == "" {
		return nil, nil
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--apiserver-cacert: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--apiserver-cacert %s: no certificate in it", f.ca)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c := &http.Client{Transport: t}
	if f.token != "" {
		token, err := os.ReadFile(f.token)
		if err != nil {
			return nil, fmt.Errorf("--apiserver-token-file: %w", err)
		}
		c.Transport = bearer{strings.TrimSpace(string(token)), t}
	}
	return c, nil
}

// bearer adds a token to requests.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// topEvidence is how many resources the table shows.
const topEvidence = 12

func proposalTable(w io.Writer, p splitter.Proposal) error {
	verdict := string(p.Verdict)
	if len(p.Resources) > 0 {
		verdict += " " + strings.Join(p.Resources, ", ")
	}
	fmt.Fprintf(w, "verdict: %s\n  %s\n\n", verdict, p.Reason)
	var rows [][]string
	for _, r := range p.Rules {
		rows = append(rows, []string{r.Name, orUnknown(r.Resource), inUnit(r.Value, r.Unit), inUnit(&r.Threshold, r.Unit), string(r.State), orUnknown(string(r.Source)), r.Reason})
	}
	if err := writeTable(w, []string{"rule", "resource", ">value", ">threshold", "state", "source", "because"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for i, r := range p.Evidence.Resources {
		if i == topEvidence {
			fmt.Fprintf(w, "(%d more resources in -w json)\n", len(p.Evidence.Resources)-i)
			break
		}
		source := splitter.Source("")
		if r.WritesPerSecond != nil {
			source = r.WritesPerSecond.Source + ", " + splitter.Source(r.WritesPerSecond.Confidence)
		}
		rows = append(rows, []string{r.Resource, count(r.Keys), sizeOf(r.Bytes), count(r.Revisions), count(r.Puts), count(r.Deletes), perSecond(r.WritesPerSecond), perSecond(r.DeletesPerSecond), orUnknown(string(source))})
	}
	if err := writeTable(w, []string{"resource", ">keys", ">bytes", ">revisions", ">puts", ">deletes", ">writes/s", ">deletes/s", "rates from"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nif %s moved:\n", orUnknown(p.Judged))
	rows = nil
	for _, x := range []struct {
		name string
		of   func(splitter.Prediction) string
	}{
		{"database", func(p splitter.Prediction) string { return humanBytesOr(p.DBSizeBytes) }},
		{"quota", func(p splitter.Prediction) string { return humanBytesOr(p.QuotaBytes) }},
		{"keys", func(p splitter.Prediction) string { return wholeOr(p.Keys) }},
		{"writes/s", func(p splitter.Prediction) string { return floatOr(p.WritesPerSecond) }},
		{"revisions/s", func(p splitter.Prediction) string { return floatOr(p.RevisionsPerSecond) }},
		{"compaction", func(p splitter.Prediction) string { return humanSecondsOr(p.CompactionSeconds) }},
		{"quota lasts", func(p splitter.Prediction) string { return humanSecondsOr(p.QuotaHorizonSeconds) }},
	} {
		rows = append(rows, []string{x.name, x.of(p.Before), x.of(p.Main), x.of(p.Shard)})
	}
	if err := writeTable(w, []string{"", ">today", ">main", ">shard"}, rows); err != nil {
		return err
	}
	if len(p.Remedies) > 0 {
		fmt.Fprintln(w, "\ncheaper, in this order:")
		for i, r := range p.Remedies {
			saves := ""
			if r.SavedBytes != nil {
				saves += ", saves " + humanBytes(*r.SavedBytes)
			}
			if r.SavedWritesPerSecond != nil {
				saves += fmt.Sprintf(", saves %.1f writes/s", *r.SavedWritesPerSecond)
			}
			fmt.Fprintf(w, "  %d. %s: %s (%s%s)\n", i+1, r.Name, r.What, r.Effect, saves)
		}
	}
	fmt.Fprintln(w, "\na split costs:")
	for _, c := range p.Costs {
		fmt.Fprintf(w, "  - %s\n", c)
	}
	if len(p.CannotMove) > 0 {
		names := make([]string, len(p.CannotMove))
		for i, x := range p.CannotMove {
			names[i] = x.Resource
		}
		fmt.Fprintf(w, "\noverrides cannot move: %s\n", strings.Join(names, ", "))
	}
	for _, n := range p.Evidence.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return nil
}

func inUnit(v *float64, unit string) string {
	switch {
	case v == nil:
		return unknown
	case unit == "share":
		return fmt.Sprintf("%.1f %%", 100**v)
	case unit == "seconds" && *v < 1:
		return fmt.Sprintf("%.1fms", 1000**v)
	}
	return humanSeconds(*v)
}

func count(f *splitter.Figure) string {
	if f == nil {
		return unknown
	}
	return fmt.Sprintf("%.0f", f.Value)
}

func sizeOf(f *splitter.Figure) string {
	if f == nil {
		return unknown
	}
	return humanBytes(int64(f.Value))
}

func perSecond(f *splitter.Figure) string {
	if f == nil {
		return unknown
	}
	return floatOr(&f.Value)
}

func floatOr(v *float64) string {
	if v == nil {
		return unknown
	}
	return fmt.Sprintf("%.1f", *v)
}

func wholeOr(v *int64) string {
	if v == nil {
		return unknown
	}
	return fmt.Sprint(*v)
}
