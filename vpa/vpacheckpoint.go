package vpa

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// CheckpointVersion is the version of VerticalPodAutoscalerCheckpoint statuses
// that are written and read.
const CheckpointVersion = "v3"

// CheckpointStatus is the status of a VerticalPodAutoscalerCheckpoint
// (autoscaling.k8s.io/v1), field by field.
type CheckpointStatus struct {
	LastUpdateTime    time.Time           `json:"lastUpdateTime,omitzero"`
	Version           string              `json:"version,omitempty"`
	CPUHistogram      HistogramCheckpoint `json:"cpuHistogram,omitzero"`
	MemoryHistogram   HistogramCheckpoint `json:"memoryHistogram,omitzero"`
	FirstSampleStart  time.Time           `json:"firstSampleStart,omitzero"`
	LastSampleStart   time.Time           `json:"lastSampleStart,omitzero"`
	TotalSamplesCount int                 `json:"totalSamplesCount,omitempty"`
}

// CheckpointStatus returns the histograms as the Vertical Pod Autoscaler keeps them.
func (r *Recommender) CheckpointStatus(now time.Time) CheckpointStatus {
	return CheckpointStatus{
		LastUpdateTime: now.UTC().Truncate(time.Second), Version: CheckpointVersion,
		CPUHistogram: r.cpu.Checkpoint(), MemoryHistogram: r.memory.Checkpoint(),
		FirstSampleStart: r.first.UTC(), LastSampleStart: r.last.UTC(), TotalSamplesCount: r.samples,
	}
}

// RestoreCheckpointStatus takes the histograms of a VerticalPodAutoscaler that
// watched the container before. Its percentile stands for the peaks that such
// a checkpoint does not hold, until real ones are seen. On error the
// Recommender is unchanged.
func (r *Recommender) RestoreCheckpointStatus(s CheckpointStatus) error {
	if s.Version != CheckpointVersion {
		return fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: version %q, want %q", s.Version, CheckpointVersion)
	}
	if s.TotalSamplesCount < 0 {
		return errors.New("read the VerticalPodAutoscalerCheckpoint: totalSamplesCount is negative")
	}
	fresh, err := NewRecommender(r.cfg, r.member)
	if err != nil {
		return err
	}
	if err := errors.Join(fresh.cpu.Restore(s.CPUHistogram), fresh.memory.Restore(s.MemoryHistogram)); err != nil {
		return fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: %w", err)
	}
	r.cpu, r.memory = fresh.cpu, fresh.memory
	if r.first.IsZero() || s.FirstSampleStart.Before(r.first) {
		r.first = s.FirstSampleStart
	}
	if s.LastSampleStart.After(r.last) {
		r.last = s.LastSampleStart
	}
	r.samples += s.TotalSamplesCount
	if peak := r.memory.Percentile(1); peak > 0 && len(r.peaks.windows) == 0 && !s.LastSampleStart.IsZero() {
		r.peaks.add(s.LastSampleStart, peak, r.cfg.Policy)
	}
	return nil
}

// ParseCheckpoint reads a VerticalPodAutoscalerCheckpoint, or its status alone,
// from JSON.
func ParseCheckpoint(b []byte) (CheckpointStatus, error) {
	var object struct {
		Kind   string           `json:"kind"`
		Status *json.RawMessage `json:"status"`
	}
	if err := json.Unmarshal(b, &object); err != nil {
		return CheckpointStatus{}, fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: %w", err)
	}
	if object.Kind != "" && object.Kind != "VerticalPodAutoscalerCheckpoint" {
		return CheckpointStatus{}, fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: it is a %s", object.Kind)
	}
	if object.Status != nil {
		b = *object.Status
	}
	var s CheckpointStatus
	if err := json.Unmarshal(b, &s); err != nil {
		return CheckpointStatus{}, fmt.Errorf("read the VerticalPodAutoscalerCheckpoint: %w", err)
	}
	return s, nil
}
