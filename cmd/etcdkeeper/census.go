package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/report"
)

// censusMemory is what Go's memory is held to during a census, so that the process stays below 64 MiB.
const censusMemory = 48 << 20

type censusFlags struct {
	snapshot string
	verify   bool
	by       string
}

func newCensusCmd(a *app) *cobra.Command {
	f := censusFlags{}
	cmd := &cobra.Command{
		Use:   "census",
		Short: "Tell who fills the database",
		Long: "Tell who fills the database: keys, bytes, writes, writers and the largest objects by Kubernetes resource and\n" +
			"namespace, with findings and what to do about them.\n\n" +
			"A running etcd is read from one member at one revision, at a bounded rate. A snapshot, or the database of a\n" +
			"stopped member, costs the cluster nothing and also shows history and free pages.",
		Example: "  etcdkeeper census\n" +
			"  etcdkeeper census --snapshot backup.db --by both\n" +
			"  etcdkeeper census -w html > census.html\n" +
			"  etcdkeeper census -w json > today.json && etcdkeeper census diff yesterday.json today.json",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runCensus(cmd, f) },
	}
	pageCommand(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.snapshot, "snapshot", "", "read this snapshot, or the db or data directory of a stopped member, and no etcd")
	fs.BoolVar(&f.verify, "verify", false, "with --snapshot: check the file's checksum and every page first")
	fs.StringVar(&f.by, "by", "resource", "rows of the table: resource, namespace, both or stem")
	config.AddFlag(fs, "rate", "census.rate")
	config.AddFlag(fs, "from", "census.from")
	config.AddFlag(fs, "prefix", "census.prefix")
	config.AddFlag(fs, "top", "census.top")
	cmd.AddCommand(newCensusDiffCmd(a))
	return cmd
}

func (a *app) runCensus(cmd *cobra.Command, f censusFlags) error {
	cfg, err := a.loadConfig(cmd)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"resource", "namespace", "both", "stem"}, f.by) {
		return usagef("--by %q: want one of resource, namespace, both, stem", f.by)
	}
	if f.snapshot == "" {
		if cmd.Flags().Changed("snapshot") {
			return usagef("--snapshot: want a file: an empty name is none, and no etcd is read instead of it")
		}
		if f.verify {
			return usagef("--verify: want --snapshot FILE with it")
		}
	}
	o := census.Options{Prefix: cfg.Census.Prefix, Top: cfg.Census.Top, Thresholds: cfg.Census.Thresholds}
	// What is read is garbage at once: a limit keeps the collector ahead of it. It is not enforced where it would not do.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(censusMemory))
	var c *census.Census
	if f.snapshot != "" {
		c, err = a.censusOfFile(cmd.Context(), f, o)
	} else {
		c, err = a.censusOfCluster(cmd, cfg.Census, o)
	}
	if err != nil {
		return err
	}
	if a.writeOut == "html" {
		return report.Census(a.stdout, c)
	}
	return a.print(c, func(w io.Writer) error { return censusTable(w, c, f.by) })
}

func (a *app) censusOfFile(ctx context.Context, f censusFlags, o census.Options) (*census.Census, error) {
	file, err := keyspace.OpenFile(f.snapshot)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var sums keyspace.Integrity
	if f.verify {
		stop, err := a.watched(ctx, "verifying "+f.snapshot, file.VerifySteps, file.Verified)
		if err != nil {
			return nil, err
		}
		sums, err = file.Verify(ctx)
		stop()
		if err != nil {
			return nil, err
		}
	}
	written, err := os.Stat(file.Path())
	if err != nil {
		return nil, fmt.Errorf("read the time of the file: %w", err)
	}
	o.Source, o.Modified = f.snapshot, written.ModTime()
	stop, err := a.fileProgress(ctx, file, "reading "+f.snapshot)
	if err != nil {
		return nil, err
	}
	defer stop()
	c, err := census.Take(ctx, file, o)
	if err == nil && f.verify {
		c.File.SHA256, c.File.Hash = hex.EncodeToString(sums.SHA256), fmt.Sprintf("%x", sums.Hash)
	}
	return c, err
}

func (a *app) censusOfCluster(cmd *cobra.Command, cfg census.Config, o census.Options) (*census.Census, error) {
	ctx := cmd.Context()
	client, err := a.connect(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	live, member, err := openLive(ctx, client, cfg.From, cfg.Prefix, int64(cfg.Rate))
	if err != nil {
		return nil, err
	}
	o.Source = "member " + member.String()
	if isTerminal(a.stderr) {
		// Counting first costs the server a walk over its index, and makes the bar honest.
		total, err := live.Count(ctx, o.Range)
		if errors.Is(err, keyspace.ErrPermissionDenied) {
			total, err = live.Count(ctx, keyspace.Prefix(keyspace.NewLayout(o.Prefix).Prefix()))
		}
		if err != nil {
			return nil, err
		}
		bar := a.progress(total, "reading "+o.Source)
		o.Progress = func(keys, _ int64) { _ = bar.Set64(min(keys, total)) }
		defer func() { _ = bar.Finish() }()
	}
	c, err := census.Take(ctx, live, o)
	if err != nil {
		return nil, err
	}
	if st := live.Stats(); st.Repins > 0 || st.BackOff > 0 {
		a.log.Info("the scan was held up", "member", member.String(), "repins", st.Repins, "backOff", st.BackOff)
	}
	return c, nil
}

// openLive makes a scanner over the member that from names.
func openLive(ctx context.Context, client *cluster.Client, from, prefix string, rate int64) (*keyspace.Live, cluster.Member, error) {
	view, err := client.View(ctx)
	if err != nil {
		return nil, cluster.Member{}, err
	}
	member, err := view.Pick(from, client.Config().Endpoints)
	if errors.Is(err, cluster.ErrUnreachable) {
		return nil, member, fmt.Errorf("--from %s: %w", from, err)
	}
	if err != nil {
		return nil, member, usagef("--from %s: %w", from, err)
	}
	etcd, err := client.Member(ctx, member)
	if err != nil {
		return nil, member, err
	}
	live, err := keyspace.NewLive(ctx, etcd, keyspace.LiveOptions{Name: member.String(), Rate: rate,
		PinKey: keyspace.NewLayout(prefix).Prefix(), Pending: client.PendingProposals(member)})
	return live, member, err
}

// asOfWords say what is known of the time that a census is of.
var asOfWords = map[string]string{
	census.AsOfClock:   "the time of reading",
	census.AsOfObjects: "the latest write that its objects tell of",
	census.AsOfFile:    "the file's own time, since its objects tell none",
}

func censusHead(w io.Writer, c *census.Census) error {
	_, err := fmt.Fprintf(w, "%s keys, %s, revision %d, from %s in %s\n", decimal(c.Keys), humanBytes(c.Bytes), c.Revision, c.Source, humanSeconds(c.Seconds))
	if err == nil && c.File != nil {
		_, err = fmt.Fprintf(w, "ages are as of %s, %s\n", c.AsOf.Format(time.RFC3339), asOfWords[c.AsOfBasis])
	}
	if err == nil && c.Repins > 0 {
		_, err = fmt.Fprintf(w, "etcd compacted the revision %s under the scan: keys are of several, the last %d\n", times(c.Repins), c.Revision)
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return decimal(n) + " times"
}

func censusTable(w io.Writer, c *census.Census, by string) error {
	err := censusHead(w, c)
	section := func(title string, header []string, rows [][]string) {
		if err != nil || len(rows) == 0 {
			return
		}
		if title != "" {
			if _, err = fmt.Fprintf(w, "\n%s\n", title); err != nil {
				return
			}
		}
		err = writeTable(w, header, rows)
	}
	var rows [][]string
	switch by {
	case "resource", "both":
		for _, r := range c.Resources {
			rows = append(rows, censusRow(r))
			if by == "both" {
				rows = append(rows, namespaceRows(c, r)...)
			}
		}
		section("", []string{"resource", ">keys", ">bytes", ">share", ">mean", ">largest", ">writes", ">leased", ">encrypted", ">history", ">tombstones"}, rows)
	case "namespace":
		for _, n := range c.Namespaces {
			rows = append(rows, []string{n.Namespace, decimal(n.Keys), humanBytes(n.Bytes), percent(n.Bytes, c.Bytes), humanBytes(n.MeanBytes),
				humanBytes(n.LargestBytes), decimal(n.Versions), decimal(n.Leased), decimal(n.Encrypted), n.Resource})
		}
		if more := c.NamespaceCount - int64(len(c.Namespaces)); more > 0 {
			rows = append(rows, []string{further(more), unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown})
		}
		section("", []string{"namespace", ">keys", ">bytes", ">share", ">mean", ">largest", ">writes", ">leased", ">encrypted", "mostly"}, rows)
	case "stem":
		for _, s := range c.Stems {
			rows = append(rows, []string{s.Stem, keyspace.GroupResource(s.Group, s.Resource), orUnknown(s.Namespace), decimal(s.Keys), humanBytes(s.Bytes)})
		}
		section("", []string{"stem", "resource", "namespace", ">keys", ">bytes"}, rows)
	}
	if c.File != nil {
		f, of := c.File, c.File.SizeBytes
		section("The file", []string{"part", ">bytes", ">share"}, [][]string{
			{"live", humanBytes(f.LiveBytes), percent(f.LiveBytes, of)},
			{"history", humanBytes(f.HistoryBytes), percent(f.HistoryBytes, of)},
			{"tombstones", humanBytes(f.TombstoneBytes), percent(f.TombstoneBytes, of)},
			{"overhead", humanBytes(f.OverheadBytes), percent(f.OverheadBytes, of)},
			{"free", humanBytes(f.FreeBytes), percent(f.FreeBytes, of)},
			{"size", humanBytes(f.SizeBytes), "100 %"},
		})
		if f.SHA256 != "" && err == nil {
			_, err = fmt.Fprintf(w, "whole: sha256 %s, hash %s\n", f.SHA256, f.Hash)
		}
	}
	rows = nil
	for _, o := range c.Largest {
		rows = append(rows, []string{keyspace.GroupResource(o.Group, o.Resource), orUnknown(o.Namespace), o.Name, humanBytes(o.Bytes)})
	}
	section("The largest objects", []string{"resource", "namespace", "name", ">bytes"}, rows)
	if err != nil {
		return err
	}
	for i, f := range c.Findings {
		if i == 0 {
			if _, err := fmt.Fprintf(w, "\nFindings\n"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%-8s  %s\n          %s\n", f.Severity, f.Message, f.Advice); err != nil {
			return err
		}
	}
	return nil
}

// namespaceRows are the namespaces of a resource, and in one row what of it no row of its own has.
func namespaceRows(c *census.Census, r census.Resource) (rows [][]string) {
	rest := census.Figures{Keys: r.Keys, Bytes: r.Bytes, Versions: r.Versions, Leased: r.Leased, Encrypted: r.Encrypted}
	for _, n := range r.Namespaces {
		rest.Keys, rest.Bytes, rest.Versions = rest.Keys-n.Keys, rest.Bytes-n.Bytes, rest.Versions-n.Versions
		rest.Leased, rest.Encrypted = rest.Leased-n.Leased, rest.Encrypted-n.Encrypted
		if n.Namespace != "" || r.NamespaceCount > 1 {
			rows = append(rows, []string{"  " + orUnknown(n.Namespace), decimal(n.Keys), humanBytes(n.Bytes), percent(n.Bytes, c.Bytes), humanBytes(n.MeanBytes),
				humanBytes(n.LargestBytes), decimal(n.Versions), decimal(n.Leased), decimal(n.Encrypted), "", ""})
		}
	}
	if rest.Keys > 0 {
		name := "  further ones" // more than were counted apart
		if more := r.NamespaceCount - int64(len(r.Namespaces)); more > 0 {
			name = "  " + further(more)
		}
		rows = append(rows, []string{name, decimal(rest.Keys), humanBytes(rest.Bytes), percent(rest.Bytes, c.Bytes), humanBytes(rest.Bytes / rest.Keys),
			unknown, decimal(rest.Versions), decimal(rest.Leased), decimal(rest.Encrypted), "", ""})
	}
	return rows
}

func further(n int64) string { return fmt.Sprintf("… and %d more", n) }

func censusRow(r census.Resource) []string {
	history, tombstones := unknown, unknown
	if r.HistoryBytes != nil {
		history, tombstones = humanBytes(*r.HistoryBytes), decimal(*r.Tombstones)
	}
	return []string{r.Name(), decimal(r.Keys), humanBytes(r.Bytes), fmt.Sprintf("%.1f %%", 100*r.Share), humanBytes(r.MeanBytes),
		humanBytes(r.LargestBytes), decimal(r.Versions), decimal(r.Leased), decimal(r.Encrypted), history, tombstones}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func percent(part, of int64) string {
	if of == 0 {
		return unknown
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(of))
}

func newCensusDiffCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Tell what grew between two censuses written with -w json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("census diff: want two files, got %d", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			before, err := readCensus(args[0])
			if err != nil {
				return err
			}
			after, err := readCensus(args[1])
			if err != nil {
				return err
			}
			d := census.Compare(before, after)
			return a.print(d, func(w io.Writer) error { return diffTable(w, d) })
		},
	}
}

func readCensus(path string) (*census.Census, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("read census: %w", err)
	}
	c := new(census.Census)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, usagef("read census %s: %w (want what 'etcdkeeper census -w json' wrote)", path, err)
	}
	if c.Taken.IsZero() || c.Resources == nil {
		return nil, usagef("read census %s: it is no census: want what 'etcdkeeper census -w json' wrote", path)
	}
	return c, nil
}

func diffTable(w io.Writer, d census.Diff) error {
	if _, err := fmt.Fprintf(w, "%s to %s (%s): %+d keys, %s, %+d revisions\n\n", d.From.Format(time.RFC3339), d.To.Format(time.RFC3339),
		humanSeconds(d.Seconds), d.Keys.Growth, signedBytes(d.Bytes.Growth), d.Revisions); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range d.Resources {
		if r.Bytes.Growth == 0 && r.Keys.Growth == 0 {
			continue
		}
		perDay := unknown
		if r.BytesPerDay != nil {
			perDay = signedBytes(int64(*r.BytesPerDay))
		}
		rows = append(rows, []string{keyspace.GroupResource(r.Group, r.Resource), decimal(r.Keys.Before), decimal(r.Keys.After), fmt.Sprintf("%+d", r.Keys.Growth),
			humanBytes(r.Bytes.After), signedBytes(r.Bytes.Growth), perDay})
	}
	if err := writeTable(w, []string{"resource", ">keys before", ">after", ">growth", ">bytes", ">growth", ">a day"}, rows); err != nil {
		return err
	}
	for _, note := range d.Notes {
		if _, err := fmt.Fprintln(w, note); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		word     string
		findings []census.Finding
	}{{"new", d.NewFindings}, {"ended", d.EndedFindings}} {
		for _, f := range l.findings {
			if _, err := fmt.Fprintf(w, "%-8s  %s\n", l.word, f.Message); err != nil {
				return err
			}
		}
	}
	return nil
}

func signedBytes(n int64) string {
	if n > 0 {
		return "+" + humanBytes(n)
	}
	return humanBytes(n)
}
