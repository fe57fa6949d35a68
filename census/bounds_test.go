package census_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// TestTake_FinishedJobs: the Jobs of a CronJob are deleted by its history limits, and are a finding only where there are
// more than these would leave.
func TestTake_FinishedJobs(t *testing.T) {
	of := func(crons int, owner seed.JobOwner, jobs, owners int) *census.Census {
		f := &fakeLive{}
		f.seed(t, seed.Options{Now: readAt, CronJobs: []seed.CronJobSet{{Namespace: "a", Stem: "nightly", Count: crons}},
			Jobs: []seed.JobSet{{Namespace: "a", Stem: "nightly", Count: jobs, Owner: owner, Owners: owners}}})
		return take(t, f, census.Options{Now: readAt})
	}
	for name, c := range map[string]struct {
		census         *census.Census
		nobodys, crons float64 // about
		severity       string
	}{
		"of CronJobs":              {census: of(150, seed.OwnerCronJob, 600, 150)},
		"of nobody":                {census: of(150, seed.OwnerNone, 600, 1), nobodys: 600},
		"of an unknown controller": {census: of(150, seed.OwnerUnknownKind, 600, 1), nobodys: 600},
		"of a CronJob's backlog":   {census: of(2, seed.OwnerCronJobGone, 600, 2), crons: 600, severity: census.Warning},
		"CronJobs elsewhere":       {census: of(0, seed.OwnerCronJob, 600, 2), crons: 600, severity: census.Info},
	} {
		for id, want := range map[string]float64{"finished-without-ttl": c.nobodys, "finished-past-history": c.crons} {
			got := find(c.census, id)
			if want == 0 && len(got) != 0 || want > 0 && (len(got) != 1 || math.Abs(got[0].Value-want) > 20) {
				t.Errorf("%s: %s: got %+v, want about %v", name, id, got, want)
			}
			if id == "finished-past-history" && len(got) == 1 && got[0].Severity != c.severity {
				t.Errorf("%s: got %+v, want %s", name, got[0], c.severity)
			}
		}
	}
}

// TestTake_OnlyHistory: what has no current key counts as no namespace and as no folded key.
func TestTake_OnlyHistory(t *testing.T) {
	f := &fakeFile{}
	f.live.add("/registry/pods/alive/a", "x")
	for i := range 5 {
		f.live.add(fmt.Sprintf("/registry/pods/gone-%d/a", i), "x").Superseded = true
		f.live.add(fmt.Sprintf("/registry/pods/gone-%d/a", i), "").Tombstone = true
	}
	c := take(t, f, census.Options{})
	r := row(t, c, "pods")
	if c.NamespaceCount != 1 || len(c.Namespaces) != 1 || r.NamespaceCount != 1 || r.Keys != 1 || *r.HistoryKeys != 5 || *r.Tombstones != 5 {
		t.Errorf("got %d namespaces, %+v", c.NamespaceCount, r)
	}
	// More namespaces than are kept, and then history in further ones.
	const kept = 40_000
	for i := range kept + 19 {
		e := f.live.add(fmt.Sprintf("/registry/pods/ns-%05d/a", i), "xx")
		e.Lease, e.Version = 1, 3
	}
	for i := range 10 {
		f.live.add(fmt.Sprintf("/registry/pods/dead-%05d/a", i), "x").Superseded = true
	}
	f.live.add("/registry/pods/ns-99999/large", strings.Repeat("x", 100))
	c = take(t, f, census.Options{Top: 1})
	r = row(t, c, "pods")
	if want := int64(21 + 5); c.Folded != want { // five of those kept are of namespaces without current keys
		t.Errorf("got %d folded keys, want %d", c.Folded, want)
	}
	if want := int64(kept + 19 + 2); r.Keys != want || r.Versions != 3*(want-2)+2 || r.Leased != want-2 || r.LargestBytes != 129 || c.Keys != want {
		t.Errorf("got %+v, want %d keys", r, want)
	}
	if o := c.Largest[0]; o.Namespace != "ns-99999" || o.Name != "large" {
		t.Errorf("the largest object: got %+v", o)
	}
}

// TestTake_ManyResources: what is beyond the bound on resources is counted as other, and is no foreign program.
func TestTake_ManyResources(t *testing.T) {
	f := &fakeLive{}
	for i := range 4100 {
		f.add(fmt.Sprintf("/registry/group-%04d.example/things/team/a", i), "x")
	}
	f.add("/elsewhere/a", "x")
	c := take(t, f, census.Options{})
	got := find(c, "outside-kubernetes")
	if len(got) != 1 || got[0].Subject != "elsewhere" || got[0].Value != 1 {
		t.Errorf("got %+v, want the one program", got)
	}
	if c.Keys != 4101 || row(t, c, "other").Keys != c.Folded+1 || c.Folded < 100 {
		t.Errorf("got %d keys, %d folded, other %d", c.Keys, c.Folded, row(t, c, "other").Keys)
	}
}

// TestTake_SmallTop: how many rows are shown does not change what is found.
func TestTake_SmallTop(t *testing.T) {
	f := &fakeLive{}
	for i := range 12 {
		f.add(fmt.Sprintf("/registry/configmaps/a/%02d", i), strings.Repeat("x", 1400<<10))
	}
	c := take(t, f, census.Options{Top: 1})
	near, large := find(c, "object-near-limit"), find(c, "large-objects")
	if len(c.Largest) != 1 || len(near) != 10 || near[0].Subject == near[1].Subject {
		t.Errorf("got %d largest objects and %+v, want 1 and ten findings on different objects", len(c.Largest), near)
	}
	if len(large) != 1 || large[0].Value != 12 || large[0].Threshold != 1 {
		t.Errorf("got %+v, want 12 objects where 1 is a finding", large)
	}
}

// TestTake_LongPrefix: keys that share only the first element of the prefix are not the API server's own.
func TestTake_LongPrefix(t *testing.T) {
	f := &fakeLive{}
	f.add("/k8s/prod/pods/a/b", "x")
	f.add("/k8s/prod/odd", "x")
	f.add("/k8s/prod/", "x")
	for i := range 3 {
		f.add(fmt.Sprintf("/k8s/staging/pods/a/%d", i), "x")
	}
	c := take(t, f, census.Options{Prefix: "/k8s/prod"})
	got := map[string]float64{}
	for _, f := range find(c, "outside-kubernetes") {
		got[f.Subject] = f.Value
		if own := strings.Contains(f.Message, "API server's own prefix"); own != (f.Subject == "/k8s/prod/") {
			t.Errorf("got %+v", f)
		}
	}
	if len(got) != 2 || got["/k8s/prod/"] != 2 || got["k8s"] != 3 || c.Prefix != "/k8s/prod/" {
		t.Errorf("got %v, want 2 keys below the prefix and 3 outside", got)
	}
}

// TestTake_Repins: a scan that went on at a newer revision says so.
func TestTake_Repins(t *testing.T) {
	f := &fakeLive{repins: 2}
	f.add("/registry/pods/a/b", "x")
	if c := take(t, f, census.Options{}); c.Repins != 2 {
		t.Errorf("got %d repins, want 2", c.Repins)
	}
}

// TestTake_StemDivider: a stem ends as the names do where they are cut.
func TestTake_StemDivider(t *testing.T) {
	f := &fakeLive{}
	for i := range 3 {
		f.add(fmt.Sprintf("/registry/secrets/a/sh.helm.release.v1.shop.v%d", i), "x")
		f.add(fmt.Sprintf("/registry/secrets/a/job-%d", i), "x")
	}
	var got []string
	for _, s := range take(t, f, census.Options{}).Stems {
		got = append(got, s.Stem)
	}
	if strings.Join(got, " ") != "sh.helm.release.v1.shop.… job-…" {
		t.Errorf("got %q", got)
	}
}

// TestCompare_Unlike: what makes two censuses hard to compare is said, and findings on different things are told apart.
func TestCompare_Unlike(t *testing.T) {
	finding := func(subject string) []census.Finding {
		return []census.Finding{{ID: "outside-kubernetes", Resource: "other", Subject: subject}}
	}
	a := &census.Census{AsOf: readAt, Prefix: "/registry/", Revision: 10, Findings: finding("calico")}
	b := &census.Census{AsOf: readAt.Add(time.Hour), Prefix: "/registry/", Revision: 20, Findings: finding("cilium")}
	if d := census.Compare(a, b); len(d.Notes) != 0 || d.Notes == nil || len(d.NewFindings) != 1 || len(d.EndedFindings) != 1 || d.Seconds != 3600 {
		t.Errorf("got %+v", d)
	}
	b.Scope, b.Prefix, b.Revision = "/registry/", "/k8s/", 5
	for _, d := range []census.Diff{census.Compare(a, b), census.Compare(b, a)} {
		if notes := strings.Join(d.Notes, "\n"); len(d.Notes) != 3 || !strings.Contains(notes, "all keys") || !strings.Contains(notes, "those under /registry/") ||
			!strings.Contains(notes, "/k8s/") || !strings.Contains(notes, "lower revision") {
			t.Errorf("got %q", d.Notes)
		}
	}
}

// TestCompare_Subjects: a finding is the same one where one census names its subject in the message only.
func TestCompare_Subjects(t *testing.T) {
	of := func(subjects bool, namespaces ...string) *census.Census {
		c := &census.Census{Taken: readAt, Resources: []census.Resource{}}
		for _, ns := range namespaces {
			f := census.Finding{ID: "one-namespace", Resource: "pods", Message: "Namespace " + ns + " holds most."}
			if subjects {
				f.Subject = ns
			}
			c.Findings = append(c.Findings, f)
		}
		return c
	}
	for name, c := range map[string]struct {
		before, after *census.Census
		added, ended  int
	}{
		"both name them":       {of(true, "a1", "b1"), of(true, "b1", "c1"), 1, 1},
		"the first does not":   {of(false, "a1", "b1"), of(true, "b1", "c1"), 1, 1},
		"the second does not":  {of(true, "a1", "b1"), of(false, "b1", "c1"), 1, 1},
		"nothing was there":    {of(true), of(true, "b1"), 1, 0},
		"one of the rest only": {of(true, "a1", "", "ns"), of(true, "a1", "", "h"), 1, 1},
	} {
		d := census.Compare(c.before, c.after)
		if len(d.NewFindings) != c.added || len(d.EndedFindings) != c.ended {
			t.Errorf("%s: got %d new and %d ended, want %d and %d: %+v", name, len(d.NewFindings), len(d.EndedFindings), c.added, c.ended, d)
		}
	}
}
