package report

import (
	"fmt"
	"html/template"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// SplitPage is the page of one verdict.
func SplitPage(p splitter.Proposal) Page {
	return Page{
		Title:    "Should events leave?",
		Subtitle: splitSubject(p.Evidence) + ", " + p.Evidence.Taken.UTC().Format("2006-01-02 15:04 UTC"),
		Sections: SplitSections(p),
	}
}

// SplitSections are the verdict, its rules, the load before and after, what is cheaper and what cannot move.
func SplitSections(p splitter.Proposal) []Section {
	verdict := string(p.Verdict)
	if len(p.Resources) > 0 {
		verdict += " " + strings.Join(p.Resources, ", ")
	}
	var rules [][]string
	for _, r := range p.Rules {
		rules = append(rules, []string{r.Name, r.Resource, unit(r.Value, r.Unit), unit(&r.Threshold, r.Unit), string(r.State), string(r.Source), r.Reason})
	}
	out := []Section{
		{ID: "split-verdict", Title: "Verdict", Body: template.HTML(fmt.Sprintf(`<div class="finding"><p><strong>%s</strong></p><p>%s</p></div>`, escape(verdict), escape(p.Reason))) +
			Table("Rules", []string{"Rule", "Resource", ">Value", ">Threshold", "State", "Source", "Because"}, rules)},
		{ID: "split-move", Title: "If " + p.Judged + " moved", Body: beforeAfter(p)},
	}
	var remedies [][]string
	for _, r := range p.Remedies {
		saved := Unknown
		if r.SavedBytes != nil {
			saved = Size(*r.SavedBytes)
		}
		remedies = append(remedies, []string{r.Name, r.What, r.Effect, saved})
	}
	out = append(out, Section{ID: "split-remedies", Title: "Cheaper, in this order", Body: Table("Remedies", []string{"Remedy", "What to do", "Effect", ">Saves"}, remedies)})
	var costs, cannot [][]string
	for _, c := range p.Costs {
		costs = append(costs, []string{c})
	}
	for _, x := range p.CannotMove {
		bytes, share := Unknown, Unknown
		if x.Bytes != nil {
			bytes = Size(int64(*x.Bytes))
		}
		if x.WriteShare != nil {
			share = unit(x.WriteShare, "share")
		}
		cannot = append(cannot, []string{x.Resource, bytes, share})
	}
	return append(out,
		Section{ID: "split-costs", Title: "What a split costs", Body: Table("Costs", []string{"Cost"}, costs)},
		Section{ID: "split-cannot", Title: "What overrides cannot move", Body: Table("Resources that cannot move", []string{"Resource", ">Bytes", ">Writes"}, cannot)})
}

// beforeAfter draws the database and the writes today, and divided between main and shard.
func beforeAfter(p splitter.Proposal) template.HTML {
	var b template.HTML
	size := func(n *int64) int64 {
		if n == nil {
			return 0
		}
		return *n
	}
	if p.Before.DBSizeBytes != nil && p.Main.DBSizeBytes != nil && p.Shard.DBSizeBytes != nil {
		b += "<p>Database today</p>" + Bar("Database today", []Part{{"main", size(p.Before.DBSizeBytes)}}) +
			"<p>Database afterwards</p>" + Bar("Database afterwards", []Part{{"main", size(p.Main.DBSizeBytes)}, {"shard", size(p.Shard.DBSizeBytes)}})
	}
	row := func(name string, of func(splitter.Prediction) string) []string {
		return []string{name, of(p.Before), of(p.Main), of(p.Shard)}
	}
	bytes := func(n *int64) string {
		if n == nil {
			return Unknown
		}
		return Size(*n)
	}
	rate := func(f *float64) string {
		if f == nil {
			return Unknown
		}
		return fmt.Sprintf("%.1f/s", *f)
	}
	return b + Table("Before and after", []string{"", ">Today", ">Main", ">Shard"}, [][]string{
		row("database", func(p splitter.Prediction) string { return bytes(p.DBSizeBytes) }),
		row("quota", func(p splitter.Prediction) string { return bytes(p.QuotaBytes) }),
		row("writes", func(p splitter.Prediction) string { return rate(p.WritesPerSecond) }),
		row("revisions", func(p splitter.Prediction) string { return rate(p.RevisionsPerSecond) }),
		row("compaction", func(p splitter.Prediction) string { return unit(p.CompactionSeconds, "seconds") }),
		row("quota lasts", func(p splitter.Prediction) string { return unit(p.QuotaHorizonSeconds, "seconds") }),
	})
}

func unit(v *float64, unit string) string {
	switch {
	case v == nil:
		return Unknown
	case unit == "share":
		return fmt.Sprintf("%.1f %%", 100**v)
	case *v < 1:
		return fmt.Sprintf("%.1f ms", 1000**v)
	case *v < 172800:
		return fmt.Sprintf("%.0f s", *v)
	}
	return fmt.Sprintf("%.0f d", *v/86400)
}

// splitSubject is what was looked at: a file does not tell its cluster.
func splitSubject(e splitter.Evidence) string {
	if e.ClusterID == "" {
		return "A snapshot file"
	}
	return "Cluster " + e.ClusterID
}
