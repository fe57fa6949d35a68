package vpa

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Target names what a recommendation is written for.
type Target struct {
	Namespace string
	Kind      string // Pod, StatefulSet, Deployment or DaemonSet
	Name      string
	Container string
	// InPlace makes a VerticalPodAutoscaler resize in place; else its mode is Off.
	InPlace bool
}

// ErrNothingRecommended is returned by the formats when a number that they need
// is not known.
var ErrNothingRecommended = errors.New("there is no recommendation to write: a number is not known yet")

type object = map[string]any

// resources is the container's resources: no CPU limit, on purpose.
func (r Recommendation) resources() (object, error) {
	if !known(float64(r.Memory.Limit.Bytes)) || !known(float64(r.Memory.Request.Bytes)) {
		return nil, ErrNothingRecommended
	}
	requests := object{"memory": quantity(r.Memory.Request.Bytes)}
	if known(float64(r.CPU.Request)) {
		requests["cpu"] = cores(r.CPU.Request)
	}
	return object{"requests": requests, "limits": object{"memory": quantity(r.Memory.Limit.Bytes)}}, nil
}

// quantity is a size as Kubernetes writes it, rounded up to a MiB.
func quantity(n Number) string { return fmt.Sprintf("%.0fMi", math.Ceil(float64(n)/mib)) }

// cores is a CPU as Kubernetes writes it, rounded up to a thousandth.
func cores(n Number) string { return fmt.Sprintf("%.0fm", max(1, math.Ceil(float64(n)*1000-1e-9))) }

// FormatPodResources is the resources of the container alone.
func (r Recommendation) FormatPodResources() ([]byte, error) {
	res, err := r.resources()
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(object{"resources": res})
}

// FormatPatch is a strategic merge patch: of a pod, what `kubectl patch pod
// --subresource resize` takes; of a workload, its template, with GOMEMLIMIT.
func (r Recommendation) FormatPatch(t Target) ([]byte, error) {
	res, err := r.resources()
	if err != nil {
		return nil, err
	}
	container := object{"name": t.Container, "resources": res}
	spec := object{"containers": []any{container}}
	if t.Kind == "Pod" {
		return yaml.Marshal(object{"spec": spec})
	}
	if v := r.goMemLimitEnv(); v != nil {
		container["env"] = []any{v}
	}
	return yaml.Marshal(object{"spec": object{"template": object{"spec": spec}}})
}

func (r Recommendation) goMemLimitEnv() object {
	if !known(float64(r.GoMemLimit.Bytes)) {
		return nil
	}
	return object{"name": "GOMEMLIMIT", "value": fmt.Sprintf("%.0fMiB", math.Ceil(float64(r.GoMemLimit.Bytes)/mib))}
}

// FormatVPA is a VerticalPodAutoscaler that keeps the container within the
// recommendation's bounds.
func (r Recommendation) FormatVPA(t Target) ([]byte, error) {
	res, err := r.resources()
	if err != nil {
		return nil, err
	}
	if t.Kind == "Pod" {
		return nil, errors.New("a VerticalPodAutoscaler needs a workload as its target, such as --target-kind StatefulSet")
	}
	mode := "Off"
	if t.InPlace {
		mode = "InPlace"
	}
	requests := res["requests"].(object)
	least, most := object{"memory": requests["memory"]}, object{"memory": quantity(max(r.Memory.Upper, r.Memory.Limit.Bytes))}
	if cpu, ok := requests["cpu"]; ok {
		least["cpu"] = cpu
	}
	return yaml.Marshal(object{
		"apiVersion": "autoscaling.k8s.io/v1", "kind": "VerticalPodAutoscaler",
		"metadata": object{"name": t.Name, "namespace": t.Namespace},
		"spec": object{
			"targetRef":    object{"apiVersion": "apps/v1", "kind": t.Kind, "name": t.Name},
			"updatePolicy": object{"updateMode": mode},
			"resourcePolicy": object{"containerPolicies": []any{
				object{
					"containerName": t.Container, "controlledResources": []any{"cpu", "memory"},
					"controlledValues": "RequestsAndLimits", "minAllowed": least, "maxAllowed": most,
				},
				object{"containerName": "*", "mode": "Off"},
			}},
		},
	})
}

// FormatManifest returns a static pod's manifest with the recommendation in it;
// everything else stays, but for comments.
func (r Recommendation) FormatManifest(manifest []byte, container string) ([]byte, error) {
	res, err := r.resources()
	if err != nil {
		return nil, err
	}
	var pod object
	if err := yaml.Unmarshal(manifest, &pod); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if pod["kind"] != "Pod" {
		return nil, fmt.Errorf("read the manifest: kind %v, want Pod", pod["kind"])
	}
	spec, _ := pod["spec"].(object)
	containers, _ := spec["containers"].([]any)
	for _, c := range containers {
		c, ok := c.(object)
		if !ok || c["name"] != container {
			continue
		}
		c["resources"] = mergeResources(c["resources"], res)
		if v := r.goMemLimitEnv(); v != nil {
			c["env"] = mergeEnv(c["env"], v)
		}
		return yaml.Marshal(pod)
	}
	return nil, fmt.Errorf("read the manifest: it has no container %q", container)
}

// mergeResources keeps what is not recommended, such as ephemeral storage and
// claims, and takes a CPU limit away.
func mergeResources(old any, res object) object {
	out := object{}
	if o, ok := old.(object); ok {
		for k, v := range o {
			out[k] = v
		}
	}
	for _, kind := range []string{"requests", "limits"} {
		merged := object{}
		if o, ok := out[kind].(object); ok {
			for k, v := range o {
				merged[k] = v
			}
		}
		for k, v := range res[kind].(object) {
			merged[k] = v
		}
		if kind == "limits" {
			delete(merged, "cpu")
		}
		out[kind] = merged
	}
	return out
}

func mergeEnv(old any, v object) []any {
	list, _ := old.([]any)
	out := make([]any, 0, len(list)+1)
	for _, e := range list {
		if e, ok := e.(object); ok && e["name"] == v["name"] {
			continue
		}
		out = append(out, e)
	}
	return append(out, v)
}

// FormatCheckpoint is a VerticalPodAutoscalerCheckpoint with the recommender's
// histograms.
func (r *Recommender) FormatCheckpoint(t Target, now time.Time) ([]byte, error) {
	status := r.CheckpointStatus(now)
	return yaml.Marshal(object{
		"apiVersion": "autoscaling.k8s.io/v1", "kind": "VerticalPodAutoscalerCheckpoint",
		"metadata": object{"name": t.Name + "-" + t.Container, "namespace": t.Namespace},
		"spec":     object{"vpaObjectName": t.Name, "containerName": t.Container},
		"status": object{
			"lastUpdateTime": status.LastUpdateTime, "version": status.Version, "totalSamplesCount": status.TotalSamplesCount,
			"firstSampleStart": status.FirstSampleStart.Truncate(time.Second), "lastSampleStart": status.LastSampleStart.Truncate(time.Second),
			"cpuHistogram": histogramObject(status.CPUHistogram), "memoryHistogram": histogramObject(status.MemoryHistogram),
		},
	})
}

func histogramObject(h HistogramCheckpoint) object {
	weights := object{}
	for b, w := range h.BucketWeights {
		weights[strconv.Itoa(b)] = w
	}
	return object{"referenceTimestamp": h.ReferenceTimestamp.Truncate(time.Second), "bucketWeights": weights, "totalWeight": h.TotalWeight}
}

// ProposalPath is where the proposal for a static pod manifest goes: beside it,
// under a name that begins with a dot, which the kubelet passes over. Any other
// name in that directory would start a second etcd.
func ProposalPath(manifest string) string {
	dir, name := filepath.Split(manifest)
	return filepath.Join(dir, "."+strings.TrimSuffix(strings.TrimSuffix(name, ".yaml"), ".yml")+".proposed.yaml")
}
