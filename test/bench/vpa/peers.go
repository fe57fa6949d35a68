package main

import (
	"math"
	"time"

	vpatypes "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/logic"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// autoscaler is the Vertical Pod Autoscaler's own recommender with its updater's
// rule in front.
type autoscaler struct {
	state   *model.AggregateContainerState
	c       *model.ContainerState
	rec     logic.PodResourceRecommender
	limit   float64
	changed time.Time
	oomAt   time.Time
}

// vpaOptions are the flags of the recommender that are varied.
type vpaOptions struct {
	halfLife   time.Duration
	percentile float64
	margin     float64
}

func newAutoscaler(o vpaOptions) *autoscaler {
	// The histograms share their options with the configuration, which is global.
	cfg := model.NewAggregationsConfig(model.DefaultMemoryAggregationInterval, model.DefaultMemoryAggregationIntervalCount, o.halfLife,
		o.halfLife, model.DefaultOOMBumpUpRatio, model.DefaultOOMMinBumpUp)
	model.InitializeAggregationsConfig(cfg)
	mode := vpatypes.UpdateModeOff
	state := model.NewAggregateContainerState()
	state.UpdateMode = &mode
	return &autoscaler{
		state: state,
		c:     model.NewContainerState(model.Resources{}, state),
		rec: logic.CreatePodResourceRecommender(logic.RecommendationConfig{
			SafetyMarginFraction: o.margin, PodMinCPUMillicores: 25, PodMinMemoryMb: 250,
			TargetCPUPercentile: 0.9, LowerBoundCPUPercentile: 0.5, UpperBoundCPUPercentile: 0.95, ConfidenceIntervalCPU: 24 * time.Hour,
			TargetMemoryPercentile: o.percentile, LowerBoundMemoryPercentile: 0.5, UpperBoundMemoryPercentile: max(0.95, o.percentile),
			ConfidenceIntervalMemory: 24 * time.Hour,
		}),
		limit: math.NaN(),
	}
}

func (a *autoscaler) Observe(s vpa.Sample) {
	if s.CPU >= 0 {
		a.c.AddSample(&model.ContainerUsageSample{MeasureStart: s.Time, Usage: model.CPUAmountFromCores(s.CPU), Resource: model.ResourceCPU})
	}
	if s.Demand() >= 0 {
		a.c.AddSample(&model.ContainerUsageSample{MeasureStart: s.Time, Usage: model.MemoryAmountFromBytes(s.Demand()), Resource: model.ResourceMemory})
	}
	if s.OOM {
		a.oomAt = s.Time
		_ = a.c.RecordOOM(s.Time, model.MemoryAmountFromBytes(a.limit))
	}
}

// Limit follows the updater: a pod is updated when its limit is outside the
// bounds, when 12 h have passed and the target differs by more than 10 percent,
// or after an OOM kill.
func (a *autoscaler) Limit(now time.Time) float64 {
	r := a.rec.GetRecommendedPodResources(model.ContainerNameToAggregateStateMap{"etcd": a.state})["etcd"]
	bytes := func(r model.Resources) float64 { return model.BytesFromMemoryAmount(r[model.ResourceMemory]) }
	target := bytes(r.Target)
	differs := math.Abs(target-a.limit)/a.limit > 0.1
	switch {
	case math.IsNaN(a.limit),
		a.limit < bytes(r.LowerBound), a.limit > bytes(r.UpperBound),
		differs && now.Sub(a.changed) > 12*time.Hour,
		target > a.limit && !a.oomAt.IsZero() && now.Sub(a.oomAt) < 10*time.Minute:
		if a.limit != target {
			a.limit, a.changed = target, now
		}
	}
	return a.limit
}

// krr is the rule of robusta-dev/krr's simple strategy: the maximum of two weeks
// and 15 percent, or 25 percent more than the limit of an OOM kill, 100 MB at
// least. Whoever uses it applies it once a run; here that is at every step.
type krr struct {
	values []sized
	oom    float64
}

type sized struct {
	at    time.Time
	bytes float64
}

func (k *krr) Observe(s vpa.Sample) {
	if s.OOM {
		k.oom = max(k.oom, s.Limit*1.25)
	}
	if v := s.Demand(); v >= 0 {
		k.values = append(k.values, sized{s.Time, v})
	}
}

func (k *krr) Limit(now time.Time) float64 {
	top := 0.0
	for len(k.values) > 0 && now.Sub(k.values[0].at) > 14*24*time.Hour {
		k.values = k.values[1:]
	}
	for _, v := range k.values {
		top = max(top, v.bytes)
	}
	return max(top*1.15, k.oom, 100e6)
}

// static is a limit that was known before.
type static float64

func (static) Observe(vpa.Sample)        {}
func (s static) Limit(time.Time) float64 { return float64(s) }
