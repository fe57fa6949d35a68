package vpa

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// oomKilled says when the kubelet last saw the container killed for memory, and
// its limit, NaN where it has none. A container that starts again has a new
// cgroup, whose count of kills begins at 0, so that no sample shows the kill.
func oomKilled(pod *corev1.Pod, container string) (at time.Time, limit float64, ok bool) {
	if pod == nil {
		return time.Time{}, 0, false
	}
	limit = math.NaN()
	if c := findContainer(pod, container); c != nil {
		if q, given := c.Resources.Limits[corev1.ResourceMemory]; given {
			limit = float64(q.Value())
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name != container {
			continue
		}
		for _, ended := range []*corev1.ContainerStateTerminated{status.State.Terminated, status.LastTerminationState.Terminated} {
			if ended != nil && ended.Reason == "OOMKilled" {
				return ended.FinishedAt.Time, limit, true
			}
		}
	}
	return time.Time{}, 0, false
}

// noteKill notes a kill that the kubelet saw.
func (s *Sizer) noteKill(at time.Time, limit float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.rec.NoteKill(at, limit) {
		return
	}
	e := s.rec.events[len(s.rec.events)-1]
	s.o.Log.Warn("etcd was killed for memory", "member", s.member.String(), "at", at, "driver", e.Driver)
	if s.o.Metrics != nil {
		s.o.Metrics.kill(s.member.String(), e.Driver)
	}
}
