package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// run executes the command line in this process.
func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = execute(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func saveTo(t *testing.T, c *clientv3.Client, path string) {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func parseCensus(t *testing.T, text string) *census.Census {
	t.Helper()
	c := new(census.Census)
	if err := json.Unmarshal([]byte(text), c); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}

func TestCensus(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	put := func(key, value string) {
		t.Helper()
		if _, err := c.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		put("/registry/jobs/ci/nightly-sync-2800"+string(rune('0'+i/10))+string(rune('0'+i%10)), strings.Repeat("x", 100))
	}
	put("/registry/secrets/team-a/token", "k8s:enc:aesgcm:v1:key1:xx")
	put("/registry/secrets/team-b/plain", "k8s\x00")
	put("/registry/configmaps/team-a/<script>alert(1)</script>", strings.Repeat("v", 300<<10))
	put("/registry/minions/node-1", "k8s\x00")
	put("/registry/example.com/widgets/team-a/w", `{"kind":"Widget"}`)
	put("/calico/ipam/v2", "x")
	put("/registry/minions/node-2", "k8s\x00")
	if _, err := c.Delete(t.Context(), "/registry/minions/node-2"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	snapshot := filepath.Join(dir, "snapshot.db")
	saveTo(t, c, snapshot)
	live := []string{"census", "--endpoints", etcd.Endpoint}
	file := []string{"census", "--snapshot", snapshot}

	for name, base := range map[string][]string{"live": live, "file": file} {
		t.Run(name, func(t *testing.T) {
			do := func(args ...string) string {
				t.Helper()
				code, out, errs := run(append(slices.Clone(base), args...)...)
				if code != 0 {
					t.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
				}
				return out
			}
			text := do("-w", "json")
			got := parseCensus(t, text)
			if got.Keys != 36 || got.Revision < 39 || got.Resources[0].Name() != "configmaps" || got.Resources[1].Name() != "jobs.batch" {
				t.Errorf("got %d keys at %d, first %s and %s", got.Keys, got.Revision, got.Resources[0].Name(), got.Resources[1].Name())
			}
			if (got.File != nil) != (name == "file") || strings.Contains(text, `"historyBytes": null`) != (name == "live") {
				t.Error("history is known where it cannot be, or the other way round")
			}
			converted, err := yaml.YAMLToJSON([]byte(do("-w", "yaml")))
			if err != nil {
				t.Fatal(err)
			}
			again := parseCensus(t, string(converted))
			again.Taken, again.AsOf, again.Seconds = got.Taken, got.AsOf, got.Seconds
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("yaml is not what json is:\n%s", diff)
			}
			page := do("-w", "html")
			for _, want := range []string{"<svg", "&lt;script&gt;alert(1)&lt;/script&gt;", "jobs.batch", "</html>"} {
				if !strings.Contains(page, want) {
					t.Errorf("the page has no %s", want)
				}
			}
			if strings.Contains(page, "<script") || strings.Contains(page, "http://") && !strings.Contains(page, "http://www.w3.org/2000/svg") {
				t.Error("the page has a script or an address")
			}
			for by, want := range map[string][]string{
				"resource":  {"RESOURCE", "configmaps", "jobs.batch", "widgets.example.com", "nodes", "other", "Findings", "The largest objects"},
				"namespace": {"NAMESPACE", "team-a", "ci", "MOSTLY"},
				"both":      {"  team-a", "  ci", "  calico"},
				"stem":      {"nightly-sync-…", "jobs.batch", "ci"},
			} {
				out := do("--by", by)
				for _, w := range want {
					if !strings.Contains(out, w) {
						t.Errorf("--by %s: no %q in\n%s", by, w, out)
					}
				}
				if strings.Contains(out, "The file") != (name == "file") {
					t.Errorf("--by %s: the parts of the file are shown where there is none, or the other way round", by)
				}
			}
			if got := parseCensus(t, do("-w", "json", "--top", "1")); len(got.Largest) != 1 || len(got.Namespaces) != 1 || len(got.Stems) != 1 {
				t.Errorf("--top 1: got %d objects, %d namespaces, %d stems", len(got.Largest), len(got.Namespaces), len(got.Stems))
			}
			if out := do("--by", "namespace", "--top", "1"); !strings.Contains(out, "… and 2 more") || strings.Contains(out, "team-b") || strings.Count(out, "KiB") < 3 {
				t.Errorf("--by namespace --top 1: want ci or team-a, and the two others in a row, in\n%s", out)
			}
			if out := do("--by", "both", "--top", "1"); strings.Count(out, "… and 1 more") != 1 || !strings.Contains(out, "  … and 1 more") {
				t.Errorf("--by both --top 1: want a row for the second secret in\n%s", out)
			}
			_, largest, _ := strings.Cut(do("--top", "7"), "The largest objects")
			if largest, _, _ = strings.Cut(largest, "Findings"); strings.Count(largest, "nightly-sync-")+strings.Count(largest, "<script>") != 7 {
				t.Errorf("--top 7: want seven largest objects in\n%s", largest)
			}
			if got := parseCensus(t, do("-w", "json", "--prefix", "/calico")); got.Resources[0].Name() != "other" {
				t.Errorf("--prefix /calico: got %s first, want other", got.Resources[0].Name())
			}
		})
	}

	t.Run("from", func(t *testing.T) {
		for _, from := range []string{"follower", "leader", "local", "default", "default "} {
			code, out, errs := run(append(slices.Clone(live), "--from", from, "--rate", "1GiB")...)
			if want := map[bool]int{true: 2, false: 0}[from == "default "]; code != want {
				t.Errorf("--from %q: got exit code %d, want %d\n%s%s", from, code, want, out, errs)
			}
		}
	})
	t.Run("bad input", func(t *testing.T) {
		for _, c := range []struct {
			args []string
			code int
			word string
		}{
			{append(live, "--by", "pod"), 2, "want one of resource, namespace, both, stem"},
			{append(live, "--rate", "fast"), 2, "--rate"},
			{append(live, "--rate", "-1"), 2, "--rate"},
			{append(live, "--top", "0"), 2, "want 1 to 1000"},
			{append(live, "--from", "learner"), 2, "has none"},
			{append(live, "--from", "nobody"), 2, "want follower, leader, local, learner or one of default"},
			{append(live, "--verify"), 2, "--snapshot"},
			{append(live, "--snapshot", ""), 2, "want a file"},
			{append(live, "-w", "csv"), 2, "want one of table, json, yaml, html"},
			{append(live, "extra"), 2, "extra"},
			{[]string{"census", "--endpoints", "127.0.0.1:1", "--command-timeout", "2s"}, 1, "no endpoint answers"},
			{[]string{"census", "--snapshot", filepath.Join(dir, "none.db")}, 1, "no such file"},
			{[]string{"census", "--snapshot", dir}, 1, "without member/snap/db"},
			{[]string{"census", "--snapshot", etcd.Database()}, 1, "a running etcd holds it"},
			{[]string{"census", "--snapshot", etcd.DataDir}, 1, "a running etcd holds it"},
		} {
			code, out, errs := run(c.args...)
			if code != c.code || !strings.Contains(errs, c.word) || out != "" {
				t.Errorf("%v: got exit code %d and %q, want %d and %q", c.args, code, errs, c.code, c.word)
			}
		}
	})
	t.Run("bad files", func(t *testing.T) {
		whole, err := os.ReadFile(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(whole)
		flipped[bytes.Index(flipped, bytes.Repeat([]byte("v"), 1000))+500] ^= 1
		bad := filepath.Join(dir, "bad.db")
		for name, f := range map[string]struct {
			data []byte
			args []string
			word string
		}{
			"empty":           {nil, nil, "not an etcd database"},
			"text":            {bytes.Repeat([]byte("hello "), 10_000), nil, "not an etcd database"},
			"cut":             {whole[:len(whole)/2], nil, "cut or damaged"},
			"cut by a byte":   {whole[:len(whole)-1], []string{"--verify"}, "checksum"},
			"without its sum": {whole[:len(whole)-32], []string{"--verify"}, "carries no checksum"},
			"a flipped bit":   {flipped, []string{"--verify"}, "sha256"},
		} {
			if err := os.WriteFile(bad, f.data, 0o600); err != nil {
				t.Fatal(err)
			}
			code, out, errs := run(append([]string{"census", "--snapshot", bad}, f.args...)...)
			if code != 1 || out != "" || !strings.Contains(errs, f.word) || !strings.Contains(errs, bad) {
				t.Errorf("%s: got exit code %d, %q and %q, want 1 and %q", name, code, out, errs, f.word)
			}
		}
		before, err := os.Stat(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		code, out, errs := run(append(file, "--verify", "-w", "json")...)
		if code != 0 {
			t.Errorf("--verify of a whole snapshot: exit code %d: %s", code, errs)
		}
		if f := parseCensus(t, out).File; len(f.SHA256) != 64 || len(f.Hash) == 0 {
			t.Errorf("--verify: got the sums %q and %q", f.SHA256, f.Hash)
		}
		after, err := os.Stat(snapshot)
		if err != nil || !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
			t.Errorf("the snapshot was changed (%v)", err)
		}
	})
	t.Run("diff", func(t *testing.T) {
		_, one, _ := run(append(live, "-w", "json")...)
		for range 20 {
			put("/registry/events/team-a/e-"+time.Now().Format("150405.000000000"), strings.Repeat("e", 1000))
		}
		_, two, _ := run(append(live, "-w", "json")...)
		a, b, text := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json"), filepath.Join(dir, "c.json")
		for path, data := range map[string]string{a: one, b: two, text: `{"hello": 1}`} {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		code, out, errs := run("census", "diff", a, b)
		if code != 0 || !strings.Contains(out, "+20 keys") || !strings.Contains(out, "events") || strings.Contains(out, "jobs.batch") || !strings.Contains(out, "events-without-lease") && !strings.Contains(out, "have no lease") {
			t.Errorf("diff: exit code %d\n%s%s", code, out, errs)
		}
		var d census.Diff
		code, out, _ = run("census", "diff", a, b, "-w", "json")
		if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 || d.Keys.Growth != 20 || d.Resources[0].Resource != "events" || len(d.NewFindings) != 1 {
			t.Errorf("diff -w json: exit code %d, %v\n%s", code, err, out)
		}
		if code, out, _ = run("census", "diff", a, b, "-w", "yaml"); code != 0 || !strings.Contains(out, "resource: events") {
			t.Errorf("diff -w yaml: exit code %d\n%s", code, out)
		}
		if code, out, _ = run("census", "diff", b, a); code != 0 || !strings.Contains(out, "-20 keys") || !strings.Contains(out, "ended") {
			t.Errorf("the other way round: exit code %d\n%s", code, out)
		}
		for _, args := range [][]string{{a}, {a, b, a}, {a, filepath.Join(dir, "none.json")}, {a, text}, {a, snapshot}, {a, b, "-w", "html"}} {
			if code, out, errs := run(append([]string{"census", "diff"}, args...)...); code != 2 || out != "" || errs == "" {
				t.Errorf("diff %v: got exit code %d, %q and %q, want 2", args, code, out, errs)
			}
		}
	})
}

// TestCensus_OldFiles: a snapshot of two days ago is judged as of then, and two of them are a day apart however soon
// after each other they are read.
func TestCensus_OldFiles(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	now, dir := time.Now(), t.TempDir()
	var files []string
	for i, at := range []time.Time{now.Add(-48 * time.Hour), now.Add(-24 * time.Hour)} {
		if _, err := seed.Write(t.Context(), c, seed.Generate(seed.Options{Seed: uint64(i), Now: at, Events: 500}), seed.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		snapshot, file := filepath.Join(dir, "snapshot.db"), filepath.Join(dir, at.Format("02")+".json")
		saveTo(t, c, snapshot)
		code, out, errs := run("census", "--snapshot", snapshot, "-w", "json")
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		got := parseCensus(t, out)
		if got.AsOf.After(at) || got.AsOf.Before(at.Add(-15*time.Minute)) || got.Taken.Before(now.Add(-time.Minute)) || got.AsOfBasis != census.AsOfObjects {
			t.Errorf("got as of %s (%s), taken %s; the last event is of shortly before %s", got.AsOf, got.AsOfBasis, got.Taken, at)
		}
		for _, f := range got.Findings {
			if f.ID == "events-past-ttl" && i == 0 {
				t.Errorf("events of the hour before the snapshot: %+v", f)
			}
		}
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		if code, out, _ := run("census", "--snapshot", snapshot); code != 0 || !strings.Contains(out, "ages are as of "+got.AsOf.Format(time.RFC3339)) {
			t.Errorf("the table does not say of what time ages are: exit code %d\n%s", code, out)
		}
		if code, out, _ := run("census", "--snapshot", snapshot, "-w", "html"); code != 0 || !strings.Contains(out, "ages are as of "+got.AsOf.Format(time.RFC3339)) {
			t.Errorf("the page does not say of what time ages are: exit code %d", code)
		}
	}
	code, out, errs := run("census", "diff", files[0], files[1], "-w", "json")
	var d census.Diff
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, errs)
	}
	for _, r := range d.Resources {
		if r.Resource != "events" {
			continue
		}
		if growth := float64(r.Bytes.Growth); growth <= 0 || r.BytesPerDay == nil || math.Abs(*r.BytesPerDay-growth) > 0.02*growth {
			t.Errorf("events: got %v bytes a day of a growth of %v in a day", r.BytesPerDay, growth)
		}
		return
	}
	t.Errorf("no growth of events in %+v", d)
}

// TestCensus_ConfiguredRate: the rate of the configuration holds for the command, and --rate goes before it.
func TestCensus_ConfiguredRate(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	for i := range 200 {
		if _, err := c.Put(t.Context(), fmt.Sprintf("/registry/pods/a/%d", i), strings.Repeat("x", 10<<10)); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"census", "--endpoints", etcd.Endpoint}
	t.Setenv("ETCDKEEPER_CENSUS_RATE", "1KiB") // half an hour for these keys
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if code := execute(ctx, args, strings.NewReader(""), io.Discard, io.Discard); code == exitDone {
		t.Error("the whole keyspace was read at once")
	}
	if code, _, errs := run(append(args, "--rate", "0")...); code != exitDone {
		t.Errorf("--rate 0: exit code %d: %s", code, errs)
	}
}
