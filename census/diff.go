package census

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Diff is what changed from one census to another. Its times are those that the censuses are of, whenever their files
// were read.
type Diff struct {
	From          time.Time      `json:"from"`
	To            time.Time      `json:"to"`
	Seconds       float64        `json:"seconds"`
	Keys          Change         `json:"keys"`
	Bytes         Change         `json:"bytes"`
	Revisions     int64          `json:"revisions"`
	Resources     []ResourceDiff `json:"resources"` // by growth in bytes, the largest first
	NewFindings   []Finding      `json:"newFindings"`
	EndedFindings []Finding      `json:"endedFindings"`
	// Notes say why the numbers may not be growth: the censuses are of different keys, or of different clusters.
	Notes []string `json:"notes"`
}

// Change is a number before and after.
type Change struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
	Growth int64 `json:"growth"`
}

// ResourceDiff is the change of one resource.
type ResourceDiff struct {
	Group    string `json:"group"`
	Resource string `json:"resource"`
	Keys     Change `json:"keys"`
	Bytes    Change `json:"bytes"`
	// BytesPerDay is the growth at this pace; nil where no time passed.
	BytesPerDay *float64 `json:"bytesPerDay"`
}

func change(before, after int64) Change { return Change{before, after, after - before} }

// Compare tells what grew from a to b.
func Compare(a, b *Census) Diff {
	from, to := a.time(), b.time()
	d := Diff{From: from, To: to, Seconds: to.Sub(from).Seconds(), Notes: notes(a, b), Keys: change(a.Keys, b.Keys),
		Bytes: change(a.Bytes, b.Bytes), Revisions: b.Revision - a.Revision, Resources: []ResourceDiff{}}
	before := map[resourceName]Resource{}
	for _, r := range a.Resources {
		before[resourceName{r.Group, r.Resource}] = r
	}
	add := func(name resourceName, old, now Resource) {
		r := ResourceDiff{Group: name.group, Resource: name.resource, Keys: change(old.Keys, now.Keys), Bytes: change(old.Bytes, now.Bytes)}
		if d.Seconds > 0 {
			perDay := float64(r.Bytes.Growth) / d.Seconds * 86400
			r.BytesPerDay = &perDay
		}
		d.Resources = append(d.Resources, r)
	}
	for _, r := range b.Resources {
		name := resourceName{r.Group, r.Resource}
		add(name, before[name], r)
		delete(before, name)
	}
	for name, r := range before {
		add(name, r, Resource{})
	}
	slices.SortFunc(d.Resources, func(x, y ResourceDiff) int {
		return cmp.Or(cmp.Compare(y.Bytes.Growth, x.Bytes.Growth), strings.Compare(x.Resource+"."+x.Group, y.Resource+"."+y.Group))
	})
	d.NewFindings, d.EndedFindings = without(b.Findings, a.Findings), without(a.Findings, b.Findings)
	return d
}

// time is what the census is of. Where that is not said, it is when it was taken.
func (c *Census) time() time.Time {
	if c.AsOf.IsZero() {
		return c.Taken
	}
	return c.AsOf
}

func notes(a, b *Census) []string {
	out := []string{}
	if a.Scope != b.Scope {
		out = append(out, fmt.Sprintf("The first census is of %s and the second of %s: what only one of them could read is no growth.", scope(a), scope(b)))
	}
	if a.Prefix != b.Prefix && a.Prefix != "" && b.Prefix != "" {
		out = append(out, fmt.Sprintf("The API server's prefix was %s and then %s: what one census calls a resource is other to the second.", a.Prefix, b.Prefix))
	}
	if earlier, later := a, b; a.time() != b.time() {
		if b.time().Before(a.time()) {
			earlier, later = b, a
		}
		if later.Revision < earlier.Revision {
			out = append(out, "The later census has the lower revision: it is of another cluster, or of one that was restored.")
		}
	}
	return out
}

func scope(c *Census) string {
	if c.Scope == "" {
		return "all keys"
	}
	return "those under " + c.Scope
}

// without is the findings on a resource, and on a subject in it, that others do not have. Of a census whose findings
// name no subjects at all the messages tell them.
func without(findings, others []Finding) []Finding {
	named := func(f Finding) bool { return f.Subject != "" }
	bare := !slices.ContainsFunc(findings, named) || !slices.ContainsFunc(others, named)
	same := func(a, b Finding) bool {
		return a.Subject == b.Subject || bare && (named(b) && strings.Contains(a.Message, b.Subject) || named(a) && strings.Contains(b.Message, a.Subject))
	}
	out := []Finding{}
	for _, f := range findings {
		if !slices.ContainsFunc(others, func(o Finding) bool { return o.ID == f.ID && o.Resource == f.Resource && same(f, o) }) {
			out = append(out, f)
		}
	}
	return out
}
