package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
)

// Census writes a census as a page.
func Census(w io.Writer, c *census.Census) error {
	subtitle := fmt.Sprintf("%d keys, %s, revision %d, read from %s at %s", c.Keys, Size(c.Bytes), c.Revision, c.Source, c.Taken.Format(time.RFC3339))
	if c.File != nil && !c.AsOf.IsZero() {
		subtitle += "; ages are as of " + c.AsOf.Format(time.RFC3339)
	}
	if c.Repins > 0 {
		subtitle += "; etcd compacted the revision under the scan, so that keys are of several, and this is the last"
	}
	return Write(w, Page{Title: "Who fills the database", Subtitle: subtitle, Sections: CensusSections(c)})
}

// CensusSections are the sections of a census, for pages that show more.
func CensusSections(c *census.Census) []Section {
	sections := []Section{
		{"findings", "Findings", Findings(c.Findings)},
		{"map", "Bytes by resource and namespace", CensusMap(c)},
	}
	if c.File != nil {
		f := c.File
		sections = append(sections, Section{"file", "The file", Bar("What the file is made of", []Part{
			{"live", f.LiveBytes}, {"history", f.HistoryBytes}, {"tombstones", f.TombstoneBytes}, {"overhead", f.OverheadBytes}, {"free", f.FreeBytes},
		}) + template.HTML("<p>"+escape(fmt.Sprintf("%s in all; the used pages are %.0f %% full of keys and values.", Size(f.SizeBytes), 100*f.Fill))+"</p>")})
	}
	return append(sections,
		Section{"resources", "Resources", resourceTable(c)},
		Section{"namespaces", "Namespaces with the most objects", namespaceTable(c)},
		Section{"largest", "The largest objects", largestTable(c)},
		Section{"stems", "Families of names", stemTable(c)},
		Section{"writers", "Who writes", writerTable(c)},
	)
}

// CensusMap is the treemap of a census.
func CensusMap(c *census.Census) template.HTML {
	var tiles []Tile
	for _, r := range c.Resources {
		t := Tile{Name: r.Name(), Value: r.Bytes}
		for _, n := range r.Namespaces {
			if n.Namespace != "" {
				t.Children = append(t.Children, Tile{Name: n.Namespace, Value: n.Bytes, Note: fmt.Sprintf("%s in %d keys", Size(n.Bytes), n.Keys)})
			}
		}
		tiles = append(tiles, t)
	}
	return Treemap("Bytes by resource and namespace; the table of resources has the numbers", tiles)
}

// Findings draws findings, the gravest first as they are.
func Findings(list []census.Finding) template.HTML {
	if len(list) == 0 {
		return "<p>Nothing stands out.</p>"
	}
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, `<div class="finding %s"><p><strong>%s</strong> %s</p><p class="advice">%s</p></div>`,
			escape(f.Severity), escape(f.Severity), escape(f.Message), escape(f.Advice))
	}
	return template.HTML(b.String())
}

func number(n *int64) string {
	if n == nil {
		return Unknown
	}
	return fmt.Sprint(*n)
}

func resourceTable(c *census.Census) template.HTML {
	var rows [][]string
	for _, r := range c.Resources {
		history := Unknown
		if r.HistoryBytes != nil {
			history = Size(*r.HistoryBytes)
		}
		day, written := inADay(r.Activity)
		rows = append(rows, []string{r.Name(), fmt.Sprint(r.Keys), Size(r.Bytes), fmt.Sprintf("%.1f %%", 100*r.Share), Size(r.MeanBytes),
			Size(r.LargestBytes), fmt.Sprint(r.Versions), fmt.Sprint(r.Leased), fmt.Sprint(r.Encrypted), day, written, history, number(r.Tombstones)})
	}
	return Table("Resources", []string{"resource", ">keys", ">bytes", ">share", ">mean", ">largest", ">writes to live keys", ">leased", ">encrypted",
		">created in a day", ">last written in a day", ">history", ">tombstones"}, rows)
}

// inADay are how many keys were created and how many last written within a day.
func inADay(list []census.Activity) (created, written string) {
	for _, a := range list {
		if a.WithinSeconds == 86400 {
			return fmt.Sprint(a.Created), fmt.Sprint(a.LastWritten)
		}
	}
	return Unknown, Unknown
}

func namespaceTable(c *census.Census) template.HTML {
	var rows [][]string
	for _, n := range c.Namespaces {
		day, written := inADay(n.Activity)
		rows = append(rows, []string{n.Namespace, fmt.Sprint(n.Keys), Size(n.Bytes), fmt.Sprintf("%.1f %%", 100*n.Share), Size(n.MeanBytes),
			Size(n.LargestBytes), fmt.Sprint(n.Versions), fmt.Sprint(n.Leased), fmt.Sprint(n.Encrypted), day, written, n.Resource})
	}
	return Table("Namespaces", []string{"namespace", ">keys", ">bytes", ">share", ">mean", ">largest", ">writes to live keys", ">leased", ">encrypted",
		">created in a day", ">last written in a day", "mostly"}, rows)
}

func largestTable(c *census.Census) template.HTML {
	var rows [][]string
	for _, o := range c.Largest {
		rows = append(rows, []string{o.ResourceName(), o.Namespace, o.Name, Size(o.Bytes), fmt.Sprint(o.Version)})
	}
	return Table("The largest objects", []string{"resource", "namespace", "name", ">bytes", ">writes"}, rows)
}

func stemTable(c *census.Census) template.HTML {
	var rows [][]string
	for _, s := range c.Stems {
		rows = append(rows, []string{s.Stem, s.ResourceName(), s.Namespace, fmt.Sprint(s.Keys), Size(s.Bytes)})
	}
	return Table("Families of names", []string{"name", "resource", "namespace", ">keys", ">bytes"}, rows)
}

func writerTable(c *census.Census) template.HTML {
	var rows [][]string
	for _, r := range c.Resources {
		var names []string
		for _, m := range r.Managers[:min(4, len(r.Managers))] {
			names = append(names, fmt.Sprintf("%s (%d)", m.Manager, m.Objects))
		}
		if len(names) > 0 {
			rows = append(rows, []string{r.Name(), strings.Join(names, ", "), fmt.Sprint(r.Sampled)})
		}
	}
	return Table("Who writes", []string{"resource", "managers, with about how many objects", ">values looked into"}, rows)
}
