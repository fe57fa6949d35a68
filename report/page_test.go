package report

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
)

// nasty is what a keyspace may hold as names.
const nasty = `<script>alert("x")</script><img src=http://192.0.2.1/x onerror=alert(1)>`

func sample(file bool) *census.Census {
	c := &census.Census{Taken: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Source: "member " + nasty, Revision: 7, Keys: 1000,
		Largest:    []census.Object{{Resource: "configmaps", Namespace: nasty, Name: nasty, Bytes: 1 << 20}},
		Stems:      []census.Stem{{Group: "batch", Resource: "jobs", Namespace: nasty, Stem: nasty, Keys: 10}},
		Namespaces: []census.Namespace{{Namespace: nasty, Figures: census.Figures{Keys: 10}, Resource: nasty}},
		Findings:   []census.Finding{{ID: "x", Severity: census.Critical, Resource: nasty, Message: nasty, Advice: nasty}},
	}
	for i, bytes := range []int64{60_000_000, 25_000_000, 10_000_000, 4_000_000, 1_000_000, 300} {
		name := []string{"events", "jobs", nasty, "secrets", "pods", "leases"}[i]
		r := census.Resource{Resource: name, Keys: 10, Bytes: bytes, Managers: []census.Manager{{Manager: nasty, Objects: 3}}}
		// No two tiles are alike, so that one in the place of another is seen.
		first := bytes * int64(50+i) / 100
		r.Namespaces = []census.Share{{Namespace: "a" + nasty, Figures: census.Figures{Keys: 6, Bytes: first}}, {Namespace: "b", Figures: census.Figures{Keys: 2, Bytes: bytes / 5}}}
		if name == "pods" {
			r.Namespaces = []census.Share{{Figures: census.Figures{Keys: 10, Bytes: bytes}}} // of none
		}
		c.Bytes += bytes
		c.Resources = append(c.Resources, r)
	}
	if file {
		c.File = &census.File{SizeBytes: 200, LiveBytes: 100, HistoryBytes: 40, TombstoneBytes: 10, OverheadBytes: 20, FreeBytes: 30, Fill: 0.8}
	}
	return c
}

func TestCensus_Escapes(t *testing.T) {
	var b strings.Builder
	if err := Census(&b, sample(true)); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script", "<img", "<link", "@import", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;") {
		t.Error("the names are not on the page")
	}
	if !strings.Contains(page, "history") {
		t.Error("the file's parts are not on the page")
	}
}

// TestCensus_Repins: a page does not tell one revision where there were several.
func TestCensus_Repins(t *testing.T) {
	for repins, want := range map[int64]bool{0: false, 2: true} {
		c := sample(false)
		c.Repins = repins
		var b strings.Builder
		if err := Census(&b, c); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "keys are of several"); got != want {
			t.Errorf("%d repins: told: %v, want %v", repins, got, want)
		}
	}
}

func TestSquarify(t *testing.T) {
	for _, values := range [][]int64{{1}, {6, 6, 4, 3, 2, 2, 1}, {1000000, 1}, {5, 5, 5, 5}, slices.Repeat([]int64{7}, 300)} {
		var tiles []Tile
		for _, v := range values {
			tiles = append(tiles, Tile{Value: v})
		}
		rects := squarify(tiles, rect{0, 0, 600, 400})
		if len(rects) != len(tiles) {
			t.Fatalf("%v: got %d rectangles", values, len(rects))
		}
		for i, r := range rects {
			want := 240000 * float64(values[i]) / float64(sum(tiles))
			if math.Abs(r.w*r.h-want) > 1e-6*240000 {
				t.Errorf("%v: tile %d has the area %f, want %f", values, i, r.w*r.h, want)
			}
			if r.x < -1e-6 || r.y < -1e-6 || r.x+r.w > 600+1e-6 || r.y+r.h > 400+1e-6 {
				t.Errorf("%v: tile %d lies outside: %+v", values, i, r)
			}
			for j, o := range rects[:i] {
				if r.x+1e-6 < o.x+o.w && o.x+1e-6 < r.x+r.w && r.y+1e-6 < o.y+o.h && o.y+1e-6 < r.y+r.h {
					t.Errorf("%v: tiles %d and %d overlap", values, i, j)
				}
			}
		}
	}
}

func TestEmpty(t *testing.T) {
	var b strings.Builder
	if err := Census(&b, &census.Census{}); err != nil {
		t.Fatal(err)
	}
	if got := Chart("x", nil, 0); !strings.Contains(string(got), "too few") {
		t.Errorf("got %s", got)
	}
}
