package census_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// TestTake_OddKeys: what is no ordinary object is counted, once, and found under one name.
func TestTake_OddKeys(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	object := func(status string) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "X", "metadata": map[string]any{"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z",
			"managedFields": []any{map[string]any{"manager": "maker", "operation": "Update"}}},
			"status": map[string]any{"phase": status, "conditions": []any{map[string]any{"type": "Complete", "status": "True"}}}}
	}
	text := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	binary := func(v any) string {
		data, err := direct.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return "\xd9\xd9\xf7" + string(data)
	}
	objects := map[string]string{
		"/registry/argoproj.io/workflows/ci/a":            text(object("Succeeded")),
		"/registry/argoproj.io/workflows/ci/b":            binary(object("Failed")),
		"/registry/argoproj.io/workflows/ci/c":            binary(object("Running")),
		"/registry/batch.example/things/one":              "{}",
		"/registry/jobs/ci/a":                             text(object("")),
		"/registry/jobs/ci/b":                             binary(object("")),
		"/registry/minions/n1":                            "k8s\x00",
		"/registry/services/specs/ns/a":                   "k8s\x00",
		"/registry/services/endpoints/ns/a":               "k8s\x00",
		"/registry/newthings/ns/a":                        "k8s\x00",
		"/registry/pods/ns/\xff\xfe\x00":                  "k8s\x00",
		"/registry/pods/ns/<script>alert(1)</script>":     "k8s\x00",
		"/registry/pods":                                  "",
		"/registry/pods/":                                 "x",
		"/registry//x":                                    "x",
		"/registry/":                                      "x",
		"/calico/a":                                       "x",
		"/calico/a/b/c":                                   "x",
		"/calico/ipam/v2/host/n1":                         "x",
		"calico":                                          "x",
		"\x00":                                            "x",
		"\xff\xff\xff":                                    "x",
		"\xff/nodes/n2":                                   "x",
		"compact_rev_key":                                 "1",
		"/kubernetes.io/pods/ns/a":                        "k8s\x00",
		"/registry2/pods/ns/a":                            "k8s\x00",
		"/registry/" + strings.Repeat("deep/", 100) + "x": "x",
	}
	for i, p := range []string{"aescbc:v1:key1:", "aesgcm:v1:key1:", "secretbox:v1:key1:", "kms:v1:plugin:", "kms:v2:plugin:"} {
		objects[fmt.Sprintf("/registry/secrets/ns/s%d", i)] = "k8s:enc:" + p + "\x01\x02"
	}
	bytes := int64(0)
	for k, v := range objects {
		bytes += int64(len(k) + len(v))
		if _, err := c.Put(t.Context(), k, v); err != nil {
			t.Fatal(err)
		}
	}
	file, err := keyspace.OpenFile(save(t, c))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	live, err := keyspace.NewLive(t.Context(), c, keyspace.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]keyspace.Scanner{"live": live, "file": file} {
		th := census.DefaultThresholds()
		th.FinishedWithoutTTL = 2
		got, err := census.Take(t.Context(), s, census.Options{Now: time.Now(), Top: 100, Thresholds: th})
		if err != nil {
			t.Fatal(err)
		}
		if got.Keys != int64(len(objects)) || got.Bytes != bytes {
			t.Errorf("%s: got %d keys and %d bytes, want %d and %d", name, got.Keys, got.Bytes, len(objects), bytes)
		}
		rows := map[string]census.Resource{}
		for _, r := range got.Resources {
			if _, ok := rows[r.Name()]; ok {
				t.Errorf("%s: %s has two rows", name, r.Name())
			}
			rows[r.Name()] = r
			seen := map[string]bool{}
			for _, n := range r.Namespaces {
				if seen[n.Namespace] {
					t.Errorf("%s: %s has two rows for namespace %q", name, r.Name(), n.Namespace)
				}
				seen[n.Namespace] = true
			}
		}
		for resource, keys := range map[string]int64{"workflows.argoproj.io": 3, "things.batch.example": 1, "jobs.batch": 2, "nodes": 1, "services": 1,
			"endpoints": 1, "newthings": 1, "pods": 2, "compact_rev_key": 1, "secrets": 5, "other": 13, "deep": 1} {
			if rows[resource].Keys != keys {
				t.Errorf("%s: %s: got %d keys, want %d", name, resource, rows[resource].Keys, keys)
			}
		}
		if p := strings.Join(rows["secrets"].Providers, " "); rows["secrets"].Encrypted != 5 || p != "aescbc aesgcm secretbox kms" && len(rows["secrets"].Providers) != 4 {
			t.Errorf("%s: secrets: %d encrypted by %s", name, rows["secrets"].Encrypted, p)
		}
		finished := map[string]float64{}
		for _, f := range got.Findings {
			if f.ID == "finished-without-ttl" {
				finished[f.Resource] = f.Value
			}
		}
		if finished["jobs.batch"] != 2 || finished["workflows.argoproj.io"] != 2 {
			t.Errorf("%s: finished without a TTL: got %v, want 2 Jobs and 2 Workflows in JSON and CBOR", name, finished)
		}
		if m := rows["workflows.argoproj.io"].Managers; len(m) != 1 || m[0].Manager != "maker" || m[0].Objects != 3 {
			t.Errorf("%s: managers: %+v", name, m)
		}
	}
}

// TestTake_Empty: lists are empty and not null.
func TestTake_Empty(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	live, err := keyspace.NewLive(t.Context(), c, keyspace.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := census.Take(t.Context(), live, census.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"resources", "namespaces", "largest", "stems", "findings"} {
		if !strings.Contains(string(data), `"`+list+`":[]`) {
			t.Errorf("%s is no empty list in %s", list, data)
		}
	}
}

// TestTake_ManyFindings: what holds for a thousand namespaces or programs is one finding, or a few.
func TestTake_ManyFindings(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	for i := range 40 {
		for j := range 3 {
			for _, key := range []string{"/registry/pods/ns-%02d/pod-%d", "/registry/configmaps/large-%02d/%d", "/program-%02d/x/%d"} {
				size := 1
				if strings.Contains(key, "large") && j == 0 {
					size = 1300 << 10
				}
				if i == 39 && j > 0 && strings.Contains(key, "pods") {
					key += "-second"
					if _, err := c.Put(t.Context(), fmt.Sprintf("/registry/pods/ns-39/pod-more-%d", j), "x"); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := c.Put(t.Context(), fmt.Sprintf(key, i, j), strings.Repeat("x", size)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	live, err := keyspace.NewLive(t.Context(), c, keyspace.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	th := census.DefaultThresholds()
	th.PodsPerNamespace = 2
	got, err := census.Take(t.Context(), live, census.Options{Thresholds: th})
	if err != nil {
		t.Fatal(err)
	}
	counts, keys := map[string]int{}, 0.0
	for _, f := range got.Findings {
		counts[f.ID]++
		switch f.ID {
		case "over-threshold":
			if f.Value != 5 || !strings.Contains(f.Message, "40 namespaces") || !strings.Contains(f.Message, "ns-39 with 5") {
				t.Errorf("got %+v", f)
			}
		case "outside-kubernetes":
			keys += f.Value
		}
	}
	if counts["over-threshold"] != 1 || counts["object-near-limit"] != 10 || counts["outside-kubernetes"] != 6 || keys != 120 {
		t.Errorf("got %v findings, %v keys outside", counts, keys)
	}
}
