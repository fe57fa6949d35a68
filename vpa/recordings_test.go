package vpa

import (
	"compress/gzip"
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// recordedSamples are those of a recording of a real etcd, one a second.
func recordedSamples(t *testing.T, file string) []Sample {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(gz).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	c := NewCollector()
	var out []Sample
	for _, row := range rows[1:] {
		v := map[string]float64{}
		for i, name := range rows[0] {
			n, err := strconv.ParseFloat(row[i], 64)
			if err != nil {
				n = math.NaN()
			}
			v[name] = n
		}
		if known(v["anon"]) {
			out = append(out, c.Sample(RecordedReading(v)))
		}
	}
	return out
}

// Watchers, growth, a compaction, storms of reads, a snapshot, a defragmentation
// and restarts within seven minutes: the limit must be ahead of them without
// moving at every step.
func TestRecommender_RecordedEtcd(t *testing.T) {
	files, err := filepath.Glob("testdata/recordings/etcd-*.csv.gz")
	if err != nil || len(files) != 3 {
		t.Fatalf("got %v, %v, want three recordings", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Horizon = 24 * time.Hour
			r, err := NewRecommender(cfg, "")
			if err != nil {
				t.Fatal(err)
			}
			samples := recordedSamples(t, file)
			limit, changes := math.NaN(), 0
			for i, s := range samples {
				if s.Anon > limit {
					t.Fatalf("second %d: %s of anonymous memory over a limit of %s: an OOM kill", i, size(s.Anon), size(limit))
				}
				r.Observe(s)
				if i < len(samples)/10 {
					continue
				}
				if next := r.Limit(s.Time); next != limit {
					changes++
					limit = next
				}
			}
			if changes > 15 {
				t.Errorf("got %d limits in %d s, want 15 at most", changes, len(samples))
			}
		})
	}
}
