package vpa

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

var day0 = time.Date(2025, time.March, 1, 0, 0, 0, 0, time.UTC)

func mustMemory(t *testing.T) *Histogram {
	t.Helper()
	h, err := NewMemoryHistogram(24 * time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHistogram_HasTheVPAShape(t *testing.T) {
	h := mustMemory(t)
	c, err := NewCPUHistogram(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.weights) != 176 || len(c.weights) != 176 {
		t.Errorf("got %d and %d buckets, want 176", len(h.weights), len(c.weights))
	}
	// Bucket ends: 10 MB, 20.5 MB, 31.525 MB.
	for v, want := range map[float64]float64{0: 1e7, 9.9e6: 1e7, 1.01e7: 2.05e7, 2.06e7: 3.1525e7} {
		h := mustMemory(t)
		h.Add(v, 1, day0)
		if got := h.Percentile(0.9); math.Abs(got-want) > 1 {
			t.Errorf("percentile of %v: got %v, want %v", v, got, want)
		}
	}
}

func TestHistogram_Decays(t *testing.T) {
	h := mustMemory(t)
	h.Add(1e9, 1, day0)
	h.Add(2e8, 3, day0.Add(24*time.Hour)) // weighs 6 against 1
	if got := h.Percentile(0.85); got > 2.2e8 {
		t.Errorf("p85: got %v, want the recent value", got)
	}
	if got := h.Percentile(0.9); got < 1e9 {
		t.Errorf("p90: got %v, want the old value", got)
	}
	// Far beyond the exponent's range the old value is gone and nothing overflows.
	h.Add(3e8, 1, day0.Add(400*24*time.Hour))
	if got := h.Percentile(1); got > 3.3e8 || !finite(h.total) {
		t.Errorf("p100 after 400 half-lives: got %v of total %v, want about 3e8", got, h.total)
	}
}

func TestHistogram_IgnoresWhatIsNoNumber(t *testing.T) {
	h := mustMemory(t)
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		h.Add(v, 1, day0)
		h.Subtract(v, 1, day0)
	}
	h.Add(1, 0, day0)
	if !h.Empty() || h.Percentile(0.5) != 0 {
		t.Errorf("got a histogram of total %v, want an empty one", h.total)
	}
}

func TestHistogram_CheckpointRoundTrip(t *testing.T) {
	h := mustMemory(t)
	for i := range 100 {
		h.Add(1e8*float64(1+i%17), 1, day0.Add(time.Duration(i)*time.Hour))
	}
	b, err := json.Marshal(h.Checkpoint())
	if err != nil {
		t.Fatal(err)
	}
	var c HistogramCheckpoint
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	got := mustMemory(t)
	if err := got.Restore(c); err != nil {
		t.Fatal(err)
	}
	for _, p := range []float64{0.1, 0.5, 0.9, 0.95, 1} {
		if got.Percentile(p) != h.Percentile(p) {
			t.Errorf("p%v: got %v, want %v", p*100, got.Percentile(p), h.Percentile(p))
		}
	}
	if math.Abs(got.total-h.total) > 1e-6*h.total {
		t.Errorf("total: got %v, want %v", got.total, h.total)
	}
}

func TestHistogram_RestoreRefuses(t *testing.T) {
	for name, c := range map[string]HistogramCheckpoint{
		"bucket outside":     {BucketWeights: map[int]uint32{176: 1}, TotalWeight: 1},
		"negative bucket":    {BucketWeights: map[int]uint32{-1: 1}, TotalWeight: 1},
		"total not a number": {BucketWeights: map[int]uint32{1: 1}, TotalWeight: math.NaN()},
		"no weights":         {TotalWeight: 1},
	} {
		h := mustMemory(t)
		h.Add(1e9, 1, day0)
		if err := h.Restore(c); err == nil || h.Empty() {
			t.Errorf("%s: got error %v and empty %v, want an error and the old content", name, err, h.Empty())
		}
	}
}
