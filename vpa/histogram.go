package vpa

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// The shape of the Vertical Pod Autoscaler's histograms, so that a checkpoint
// written by either can be read by the other.
const (
	bucketRatio        = 1.05
	histogramEpsilon   = 1e-4
	cpuFirstBucket     = 0.01 // cores
	cpuMaxValue        = 1000
	memoryFirstBucket  = 1e7 // bytes
	memoryMaxValue     = 1e12
	maxDecayExponent   = 100   // shift the reference time before weights overflow
	maxCheckpointValue = 10000 // the largest sparse bucket weight in a checkpoint
)

// Histogram counts values in exponentially growing buckets; the weight of a
// value halves every half-life, so that recent values count for more. The zero
// value is not usable: make one with NewCPUHistogram or NewMemoryHistogram.
type Histogram struct {
	first     float64
	halfLife  time.Duration
	weights   []float64
	total     float64
	reference time.Time
}

// NewCPUHistogram returns an empty histogram of cores, from 0.01 to 1000.
func NewCPUHistogram(halfLife time.Duration) (*Histogram, error) {
	return newHistogram(cpuFirstBucket, cpuMaxValue, halfLife)
}

// NewMemoryHistogram returns an empty histogram of bytes, from 10 MB to 1 TB.
func NewMemoryHistogram(halfLife time.Duration) (*Histogram, error) {
	return newHistogram(memoryFirstBucket, memoryMaxValue, halfLife)
}

func newHistogram(first, limit float64, halfLife time.Duration) (*Histogram, error) {
	if halfLife <= 0 {
		return nil, fmt.Errorf("histogram half-life %s: must be positive", halfLife)
	}
	n := int(math.Ceil(math.Log(limit*(bucketRatio-1)/first+1)/math.Log(bucketRatio))) + 1
	return &Histogram{first: first, halfLife: halfLife, weights: make([]float64, n)}, nil
}

func (h *Histogram) bucket(v float64) int {
	if v < h.first {
		return 0
	}
	b := int(math.Log(v*(bucketRatio-1)/h.first+1) / math.Log(bucketRatio))
	return min(b, len(h.weights)-1)
}

func (h *Histogram) start(b int) float64 {
	return h.first * (math.Pow(bucketRatio, float64(b)) - 1) / (bucketRatio - 1)
}

// Add counts v with weight at time t. Values that are NaN, infinite or
// negative are ignored.
func (h *Histogram) Add(v, weight float64, t time.Time) {
	if !finite(v) || v < 0 || weight <= 0 {
		return
	}
	w := weight * h.factor(t)
	h.weights[h.bucket(v)] += w
	h.total += w
}

// Subtract takes back a value that was added with the same weight and time.
func (h *Histogram) Subtract(v, weight float64, t time.Time) {
	if !finite(v) || v < 0 || weight <= 0 {
		return
	}
	w := weight * h.factor(t)
	b := h.bucket(v)
	h.weights[b] = max(0, h.weights[b]-w)
	h.total = max(0, h.total-w)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// factor is the weight multiplier of time t, moving the reference time when the
// exponent grows too large.
func (h *Histogram) factor(t time.Time) float64 {
	if h.reference.IsZero() || t.After(h.reference.Add(h.halfLife*maxDecayExponent)) {
		h.shift(t)
	}
	return math.Exp2(float64(t.Sub(h.reference)) / float64(h.halfLife))
}

func (h *Histogram) shift(t time.Time) {
	t = t.Round(h.halfLife)
	if !h.reference.IsZero() {
		scale := math.Exp2(float64(h.reference.Sub(t)) / float64(h.halfLife))
		h.total = 0
		for i := range h.weights {
			h.weights[i] *= scale
			h.total += h.weights[i]
		}
	}
	h.reference = t
}

// Empty says whether the histogram holds nothing that still counts.
func (h *Histogram) Empty() bool {
	for _, w := range h.weights {
		if w >= histogramEpsilon {
			return false
		}
	}
	return true
}

// Percentile returns the end of the bucket in which the share p (0 to 1) of the
// weight is reached, and 0 when the histogram is empty.
func (h *Histogram) Percentile(p float64) float64 {
	if h.Empty() {
		return 0
	}
	lowest, highest := -1, 0
	for i, w := range h.weights {
		if w >= histogramEpsilon {
			if lowest < 0 {
				lowest = i
			}
			highest = i
		}
	}
	sum, b := 0.0, lowest
	for ; b < highest; b++ {
		sum += h.weights[b]
		if sum >= p*h.total {
			break
		}
	}
	if b < len(h.weights)-1 {
		return h.start(b + 1)
	}
	return h.start(b)
}

// HistogramCheckpoint is the histogram of a VerticalPodAutoscalerCheckpoint's
// status: sparse weights scaled so that the largest is 10000.
type HistogramCheckpoint struct {
	ReferenceTimestamp time.Time      `json:"referenceTimestamp"`
	BucketWeights      map[int]uint32 `json:"bucketWeights,omitempty"`
	TotalWeight        float64        `json:"totalWeight,omitempty"`
}

// Checkpoint returns the histogram in checkpoint form.
func (h *Histogram) Checkpoint() HistogramCheckpoint {
	c := HistogramCheckpoint{ReferenceTimestamp: h.reference.UTC(), TotalWeight: h.total, BucketWeights: map[int]uint32{}}
	top := 0.0
	for _, w := range h.weights {
		top = max(top, w)
	}
	if top == 0 {
		return c
	}
	for i, w := range h.weights {
		if n := uint32(math.Round(w / top * maxCheckpointValue)); n > 0 {
			c.BucketWeights[i] = n
		}
	}
	return c
}

// Restore replaces the content by a checkpoint's. On error the histogram is
// unchanged.
func (h *Histogram) Restore(c HistogramCheckpoint) error {
	if !finite(c.TotalWeight) || c.TotalWeight < 0 {
		return fmt.Errorf("restore histogram: total weight %v is not a weight", c.TotalWeight)
	}
	sum := 0.0
	for b, w := range c.BucketWeights {
		if b < 0 || b >= len(h.weights) {
			return fmt.Errorf("restore histogram: bucket %d is outside 0 to %d", b, len(h.weights)-1)
		}
		sum += float64(w)
	}
	if sum == 0 && c.TotalWeight > 0 {
		return errors.New("restore histogram: a total weight without bucket weights")
	}
	clear(h.weights)
	h.total = 0
	h.reference = c.ReferenceTimestamp
	for b, w := range c.BucketWeights {
		h.weights[b] = float64(w) / sum * c.TotalWeight
		h.total += h.weights[b]
	}
	return nil
}
