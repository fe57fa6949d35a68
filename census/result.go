package census

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Windows of Activity.
var windows = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}

// result turns the tally into rows.
func (t *tally) result(file bool) *Census {
	c := &Census{Keys: t.keys, Bytes: t.bytes, Folded: t.folded, NamespaceCount: int64(len(t.namespaces)),
		StemsApproximate: t.stems.pruned, Resources: []Resource{}, Namespaces: []Namespace{}}
	edges := t.edges()
	for _, r := range t.resources {
		if r.keys == 0 && r.historyKeys == 0 && r.tombs == 0 {
			continue
		}
		c.Resources = append(c.Resources, t.row(r, file, edges))
	}
	slices.SortFunc(c.Resources, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Keys, a.Keys), strings.Compare(a.Name(), b.Name()))
	})
	for _, ns := range t.namespaces {
		if ns.keys > 0 {
			c.Namespaces = append(c.Namespaces, Namespace{Namespace: Printable(ns.name), Keys: ns.keys, Bytes: ns.bytes, Resource: ns.of})
		}
	}
	slices.SortFunc(c.Namespaces, func(a, b Namespace) int {
		return cmp.Or(cmp.Compare(b.Keys, a.Keys), cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Namespace, b.Namespace))
	})
	c.Namespaces = c.Namespaces[:min(t.top, len(c.Namespaces))]
	c.Largest = t.largest.sorted()
	c.Stems = t.stems.top(t.top)
	return c
}

func (t *tally) row(r *resource, file bool, edges []int) Resource {
	row := Resource{Group: Printable(r.group), Resource: Printable(r.resource), Keys: r.keys, Bytes: r.bytes, ValueBytes: r.valueBytes,
		LargestBytes: r.largest, Versions: r.versions, Leased: r.leased, Encrypted: r.encrypted,
		Namespaces: []Share{}, Managers: r.samples.topManagers(t.top, r.keys), Sampled: r.samples.sampled, Providers: r.providers,
		Activity: []Activity{}}
	if r.keys > 0 {
		row.MeanBytes = r.bytes / r.keys
	}
	if t.bytes > 0 {
		row.Share = float64(r.bytes) / float64(t.bytes)
	}
	if file {
		row.HistoryKeys, row.HistoryBytes, row.Tombstones = &r.historyKeys, &r.historyBytes, &r.tombs
	}
	for _, c := range r.cells {
		if c.keys > 0 {
			row.NamespaceCount++
			row.Namespaces = append(row.Namespaces, Share{Namespace: Printable(c.name), Keys: c.keys, Bytes: c.bytes})
		}
		if c.ns != nil {
			c.ns.keys += c.keys
			c.ns.bytes += c.bytes
			if c.bytes > c.ns.most {
				c.ns.most, c.ns.of = c.bytes, row.Name()
			}
		}
	}
	slices.SortFunc(row.Namespaces, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Namespace, b.Namespace))
	})
	row.Namespaces = row.Namespaces[:min(t.top, len(row.Namespaces))]
	for i, edge := range edges {
		a := Activity{WithinSeconds: windows[i].Seconds()}
		for b := range edge {
			a.Created += int64(r.created[b])
			a.LastWritten += int64(r.written[b])
		}
		row.Activity = append(row.Activity, a)
	}
	return row
}

// edges finds for each window the age, in buckets of revisions, behind which it ends. An object cannot be created
// after the time of its revision, so the latest creation timestamp up to a revision is the best guess of its time.
// Without any timestamp there are none.
func (t *tally) edges() []int {
	latest := int64(0)
	reached := t.times
	for b := ageBuckets - 1; b >= 0; b-- {
		latest = max(latest, reached[b])
		reached[b] = latest
	}
	if latest == 0 {
		return nil
	}
	edges := make([]int, len(windows))
	for i, w := range windows {
		for edges[i] < ageBuckets && reached[edges[i]] >= t.now-int64(w.Seconds()) {
			edges[i]++
		}
	}
	return edges
}
