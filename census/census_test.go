package census_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

type sums struct{ Keys, Bytes int64 }

func save(t *testing.T, c *clientv3.Client) string {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTake compares a census, live and from a file, with what was written.
func TestTake(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	ctx := t.Context()
	now := time.Now()
	o := seed.Demo(now)
	o.EncryptedSecrets = true
	st, err := seed.Write(ctx, c, seed.Generate(o), seed.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(k, v string) {
		t.Helper()
		if _, err := c.Put(ctx, k, v); err != nil {
			t.Fatal(err)
		}
	}
	put("/elsewhere/a/b", strings.Repeat("x", 1000))
	put("/elsewhere/c", "y")
	put("/registry/configmaps/team-a/<script>alert(1)</script>", strings.Repeat("x", 1400<<10))
	for range 5 {
		put("/registry/secrets/team-a/plain", "k8s\x00")
	}
	put("/registry/secrets/team-a/gone", "k8s\x00")
	if _, err := c.Delete(ctx, "/registry/secrets/team-a/gone"); err != nil {
		t.Fatal(err)
	}

	want := map[string]sums{}
	all, err := c.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	total := sums{}
	exact := newTruth()
	for _, kv := range all.Kvs {
		exact.add(t, kv)
		// The first two or three elements of the path name a resource, spelled otherwise than in a Layout.
		parts := strings.Split(string(kv.Key), "/")
		name := "other"
		if len(parts) > 3 && parts[1] == "registry" {
			name = parts[2]
			if strings.Contains(name, ".") || name == "services" {
				name += "/" + parts[3]
			}
		} else if string(kv.Key) == "compact_rev_key" {
			name = "compact_rev_key"
		}
		s := want[name]
		n := int64(len(kv.Key) + len(kv.Value))
		want[name] = sums{s.Keys + 1, s.Bytes + n}
		total.Keys++
		total.Bytes += n
	}
	path := map[string]string{"nodes": "minions", "endpoints": "services/endpoints", "services": "services/specs", "rangeallocations": "ranges"}

	check := func(t *testing.T, got *census.Census) {
		t.Helper()
		if diff := cmp.Diff(total, sums{got.Keys, got.Bytes}); diff != "" {
			t.Errorf("total (-want +got):\n%s", diff)
		}
		have := map[string]sums{}
		for _, r := range got.Resources {
			name := r.Resource
			if p, ok := path[name]; ok {
				name = p
			} else if strings.Contains(r.Group, ".") && !slices.Contains([]string{"coordination.k8s.io", "discovery.k8s.io", "rbac.authorization.k8s.io"}, r.Group) {
				name = r.Group + "/" + r.Resource
			}
			have[name] = sums{r.Keys, r.Bytes}
			inNamespaces := sums{}
			for _, n := range r.Namespaces {
				inNamespaces.Keys += n.Keys
				inNamespaces.Bytes += n.Bytes
			}
			if inNamespaces != (sums{r.Keys, r.Bytes}) {
				t.Errorf("%s: its namespaces have %+v, it has %d keys and %d bytes", r.Name(), inNamespaces, r.Keys, r.Bytes)
			}
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("resources (-want +got):\n%s", diff)
		}
		if jobs := st.Of("batch", "jobs"); have["jobs"] != (sums{jobs.Keys, jobs.Bytes}) {
			t.Errorf("jobs: got %+v, the seeder wrote %+v", have["jobs"], jobs)
		}
		ids := map[string]census.Finding{}
		for _, f := range got.Findings {
			ids[f.ID+" "+f.Resource] = f
			if f.Message == "" || f.Advice == "" || f.Value == 0 {
				t.Errorf("finding %s: something is missing: %+v", f.ID, f)
			}
		}
		for _, id := range []string{"object-near-limit configmaps", "large-objects configmaps", "finished-without-ttl jobs.batch", "finished-past-history jobs.batch",
			"events-without-lease events", "unencrypted-secrets secrets", "outside-kubernetes other"} {
			if _, ok := ids[id]; !ok {
				t.Errorf("no finding %q in %v", id, got.Findings)
			}
		}
		if f := ids["events-without-lease events"]; f.Value != 300 {
			t.Errorf("events without a lease: got %v, want 300", f.Value)
		}
		if f := ids["unencrypted-secrets secrets"]; f.Value != 1 {
			t.Errorf("unencrypted secrets: got %v, want 1", f.Value)
		}
		if f := ids["finished-without-ttl jobs.batch"]; f.Value < 1050 || f.Value > 1400 {
			t.Errorf("finished Jobs without a TTL: got %v, want about 1,227", f.Value)
		}
		if f := ids["finished-past-history jobs.batch"]; f.Value < 2650 || f.Value > 3050 {
			t.Errorf("finished Jobs of CronJobs: got %v, want about 2,860", f.Value)
		}
		if s := got.Stems[0]; s.Resource != "jobs" || s.Namespace != "batch-prod" || s.Stem != "nightly-sync-…" || s.Keys != 2840 {
			t.Errorf("the first stem: got %+v, want the 2,840 nightly-sync Jobs", s)
		}
		if l := got.Largest[0]; l.Name != "<script>alert(1)</script>" || l.Namespace != "team-a" {
			t.Errorf("the largest object: got %+v", l)
		}
		if !slices.IsSortedFunc(got.Largest, func(a, b census.Object) int { return int(b.Bytes - a.Bytes) }) {
			t.Error("the largest objects are not in order")
		}
		if got.Namespaces[0].Namespace != "batch-prod" {
			t.Errorf("the namespace with most objects: got %+v", got.Namespaces[0])
		}
		for _, r := range got.Resources {
			if r.Resource == "secrets" && (r.Encrypted != r.Keys-1 || r.Providers[0] != "aescbc") {
				t.Errorf("secrets: got %d of %d encrypted by %v", r.Encrypted, r.Keys, r.Providers)
			}
			if r.Resource == "jobs" && (len(r.Managers) == 0 || r.Sampled < 64 || r.Sampled > 1000) {
				t.Errorf("jobs: got managers %v from %d samples", r.Managers, r.Sampled)
			}
		}
		data, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		back := new(census.Census)
		if err := json.Unmarshal(data, back); err != nil {
			t.Fatal(err)
		}
		if d := census.Compare(got, back); d.Bytes.Growth != 0 || len(d.NewFindings)+len(d.EndedFindings) != 0 {
			t.Errorf("a census and itself differ: %+v", d)
		}
	}

	t.Run("live", func(t *testing.T) {
		live, err := keyspace.NewLive(ctx, c, keyspace.LiveOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := census.Take(ctx, live, census.Options{Source: "member a", Now: now})
		if err != nil {
			t.Fatal(err)
		}
		check(t, got)
		exact.check(t, "live", take(t, live, census.Options{Now: now, Top: 1000}))
		if got.File != nil || got.Resources[0].HistoryBytes != nil || got.Resources[0].Tombstones != nil {
			t.Error("a live census claims to know history")
		}
	})
	t.Run("file", func(t *testing.T) {
		path := save(t, c)
		file, err := keyspace.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		exact.history(t, path)
		exact.check(t, "file", take(t, file, census.Options{Now: now, Top: 1000}))
		got, err := census.Take(ctx, file, census.Options{Source: "file", Now: now})
		if err != nil {
			t.Fatal(err)
		}
		check(t, got)
		f := got.File
		if f.LiveBytes+f.HistoryBytes+f.TombstoneBytes+f.OverheadBytes+f.FreeBytes != f.SizeBytes || f.OverheadBytes <= 0 || f.FreeBytes < 0 {
			t.Errorf("the file does not add up: %+v", f)
		}
		key := len("/registry/secrets/team-a/plain")
		if want := int64(4*(key+4) + key - 1 + 4); f.HistoryBytes != want {
			t.Errorf("history: got %d bytes, want %d", f.HistoryBytes, want)
		}
		if want := int64(key - 1); f.TombstoneBytes != want {
			t.Errorf("tombstones: got %d bytes, want %d", f.TombstoneBytes, want)
		}
		for _, r := range got.Resources {
			if r.Resource == "secrets" && (*r.HistoryKeys != 5 || *r.Tombstones != 1) {
				t.Errorf("secrets: got %d superseded and %d tombstones, want 5 and 1", *r.HistoryKeys, *r.Tombstones)
			}
		}
	})
}

func TestCompare(t *testing.T) {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	a := &census.Census{Taken: at, Keys: 10, Bytes: 100, Revision: 5, Resources: []census.Resource{
		{Resource: "pods", Keys: 5, Bytes: 50}, {Resource: "events", Keys: 5, Bytes: 50}},
		Findings: []census.Finding{{ID: "x", Resource: "pods"}}}
	b := &census.Census{Taken: at.Add(12 * time.Hour), Keys: 20, Bytes: 300, Revision: 50, Resources: []census.Resource{
		{Group: "batch", Resource: "jobs", Keys: 10, Bytes: 200}, {Resource: "events", Keys: 10, Bytes: 100}}}
	d := census.Compare(a, b)
	var got []string
	for _, r := range d.Resources {
		got = append(got, fmt.Sprintf("%s %+d %+d %.0f", r.Resource, r.Keys.Growth, r.Bytes.Growth, *r.BytesPerDay))
	}
	want := []string{"jobs +10 +200 400", "events +5 +50 100", "pods -5 -50 -100"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(d.EndedFindings) != 1 || len(d.NewFindings) != 0 || d.Revisions != 45 {
		t.Errorf("got %+v", d)
	}
}

func TestStemOf(t *testing.T) {
	for name, want := range map[string]string{
		"nightly-sync-28391040":                "nightly-sync",
		"nightly-20260101":                     "nightly",
		"nightly-20260101t0300":                "nightly",
		"web-7d4b9c6f5d-x2x7z":                 "web",
		"web-bcdfg":                            "web",
		"web-3":                                "web",
		"etl-daily-9f8a7b6c":                   "etl-daily",
		"sh.helm.release.v1.shop.v12":          "sh.helm.release.v1.shop",
		"web-0.17e3a5b2c4d6e8f0":               "web",
		"7b0f1a2c-1111-4222-8333-123456789abc": "7b0f1a2c",
		"coredns":                              "coredns",
		"kube-root-ca.crt":                     "kube-root-ca.crt",
		"system:node":                          "system:node",
		"db-backup":                            "db-backup",
		"-":                                    "-",
		"":                                     "",
		"12345":                                "12345",
		"front-end":                            "front-end",
	} {
		if got := string(census.StemOf([]byte(name))); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func FuzzStemOf(f *testing.F) {
	f.Add("nightly-sync-28391040")
	f.Fuzz(func(t *testing.T, name string) {
		if got := string(census.StemOf([]byte(name))); !strings.HasPrefix(name, got) || got == "" && name != "" {
			t.Errorf("%q: got %q", name, got)
		}
	})
}
