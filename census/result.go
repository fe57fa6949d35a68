package census

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// result turns the tally into rows, of which times are told from asOf.
func (t *tally) result(file bool, asOf time.Time) *Census {
	c := &Census{Keys: t.keys, Bytes: t.bytes, StemsApproximate: t.stems.pruned, Resources: []Resource{}, Namespaces: []Namespace{}}
	limits := t.clock.limits(asOf.Unix())
	for _, r := range t.resources {
		if r.keys == 0 && r.historyKeys == 0 && r.tombs == 0 {
			continue
		}
		if r.rest != nil {
			c.Folded += r.rest.keys
		}
		c.Resources = append(c.Resources, t.row(r, file, limits))
	}
	slices.SortFunc(c.Resources, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Keys, a.Keys), strings.Compare(a.Name(), b.Name()))
	})
	c.Namespaces, c.NamespaceCount = t.namespaceRows(limits)
	c.Largest = t.largest.sorted()
	c.Largest = c.Largest[:min(t.top, len(c.Largest))]
	c.Stems = t.stems.top(t.top)
	return c
}

func (t *tally) row(r *resource, file bool, limits []float64) Resource {
	row := Resource{Group: Printable(r.group), Resource: Printable(r.resource), Namespaces: []Share{}, ValueBytes: r.valueBytes,
		Managers: r.samples.topManagers(t.top, r.keys), Sampled: r.samples.sampled, Providers: r.providers}
	if file {
		row.HistoryKeys, row.HistoryBytes, row.Tombstones = &r.historyKeys, &r.historyBytes, &r.tombs
	}
	sum, times := figures{}, newHistogram(t.clock.revision)
	if r.rest != nil {
		sum.add(r.rest.figures)
	}
	times.add(r.times)
	var shown []*cell
	for _, c := range r.cells {
		if c.keys == 0 {
			continue // only history
		}
		shown = append(shown, c)
		sum.add(c.figures)
		if !c.shared {
			times.add(c.times)
		}
		if c.ns == nil {
			continue
		}
		c.ns.figures.add(c.figures)
		if c.bytes > c.ns.most || c.bytes == c.ns.most && row.Name() < c.ns.of {
			c.ns.most, c.ns.of = c.bytes, row.Name()
		}
	}
	row.NamespaceCount = int64(len(shown))
	slices.SortFunc(shown, func(a, b *cell) int { return cmp.Or(cmp.Compare(b.bytes, a.bytes), strings.Compare(a.name, b.name)) })
	for _, c := range shown[:min(t.top, len(shown))] {
		s := Share{Printable(c.name), t.public(c.figures)}
		if !c.shared {
			s.Activity = c.times.activity(limits, t.clock.revision)
		}
		row.Namespaces = append(row.Namespaces, s)
	}
	row.Keys, row.Bytes, row.MeanBytes, row.LargestBytes, row.Share = sum.keys, sum.bytes, sum.mean(), sum.largest, t.part(sum.bytes)
	row.Versions, row.Leased, row.Encrypted = sum.versions, sum.leased, sum.encrypted
	row.Activity = times.activity(limits, t.clock.revision)
	return row
}

// public is what is shown of figures, without activity.
func (t *tally) public(f figures) Figures {
	return Figures{Keys: f.keys, Bytes: f.bytes, MeanBytes: f.mean(), LargestBytes: f.largest, Share: t.part(f.bytes),
		Versions: f.versions, Leased: f.leased, Encrypted: f.encrypted, Activity: []Activity{}}
}

// part is the share of all bytes, 0 to 1.
func (t *tally) part(bytes int64) float64 { return float64(bytes) / float64(max(1, t.bytes)) }

// namespaceRows are the namespaces with most keys, and how many have any. It is called when each resource has its row.
func (t *tally) namespaceRows(limits []float64) ([]Namespace, int64) {
	var shown []*namespace
	for _, ns := range t.namespaces {
		if ns.keys > 0 {
			shown = append(shown, ns)
		}
	}
	count := int64(len(shown))
	slices.SortFunc(shown, func(a, b *namespace) int {
		return cmp.Or(cmp.Compare(b.keys, a.keys), cmp.Compare(b.bytes, a.bytes), strings.Compare(a.name, b.name))
	})
	shown = shown[:min(t.top, len(shown))]
	times, blind := map[*namespace]histogram{}, map[*namespace]bool{}
	for _, ns := range shown {
		times[ns] = newHistogram(t.clock.revision)
	}
	for _, r := range t.resources {
		for _, c := range r.cells {
			switch sum := times[c.ns]; {
			case sum == nil || c.keys == 0:
			case c.shared:
				blind[c.ns] = true
			default:
				sum.add(c.times)
			}
		}
	}
	out := []Namespace{}
	for _, ns := range shown {
		row := Namespace{Printable(ns.name), t.public(ns.figures), ns.of}
		if !blind[ns] {
			row.Activity = times[ns].activity(limits, t.clock.revision)
		}
		out = append(out, row)
	}
	return out, count
}
