package vpa

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// useOf is a sample of which only the memory is known.
func useOf(at time.Time, v float64) Sample {
	s := NewSample(at)
	s.Memory = v
	return s
}

func killAt(at time.Time, limit float64) Sample {
	s := useOf(at, 50*mib) // the new process is small
	s.OOM, s.Limit = true, limit
	return s
}

func TestRecommender_JumpAfterAnOOMKill(t *testing.T) {
	const limit = 2.0 * gib
	tests := []struct {
		name      string
		after     float64       // use an hour after the kill
		until     time.Duration // the jump holds at least so long
		goneAfter time.Duration
	}{
		{"the demand is seen", 2.2 * gib, 11 * time.Hour, 13 * time.Hour},
		{"the demand is not seen again", gib, 14 * 24 * time.Hour, 16 * 24 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecommender(t)
			at := day0
			for range 8 * 24 {
				at = at.Add(time.Hour)
				r.Observe(useOf(at, gib))
			}
			kill := at.Add(time.Minute)
			r.Observe(killAt(kill, limit))
			r.Observe(useOf(kill.Add(time.Hour), tt.after))
			for at := kill.Add(2 * time.Hour); at.Before(kill.Add(tt.goneAfter)); at = at.Add(time.Hour) {
				r.Observe(useOf(at, gib))
				if held := r.oomFloor >= 1.5*limit; !held && at.Sub(kill) < tt.until {
					t.Fatalf("%s after the kill: got no jump, want it for %s", at.Sub(kill), tt.until)
				}
			}
			r.Observe(useOf(kill.Add(tt.goneAfter), gib))
			if r.oomFloor != 0 {
				t.Errorf("%s after the kill: the jump to %s still holds", tt.goneAfter, size(r.oomFloor))
			}
			if got := r.historyTarget().level; got < 0.9*limit {
				t.Errorf("after the jump: got a level of %s, want what was in use at the kill remembered", size(got))
			}
		})
	}
}

// The kernel's count of kills comes with the memory of the process that was
// started anew: the kill itself is what tells the demand.
func TestRecommender_OOMKillOfAKnownLimitIsAPeak(t *testing.T) {
	r := newRecommender(t)
	r.Observe(killAt(day0, 3*gib))
	if got := r.peaks.level(); got != 3*gib {
		t.Errorf("got a level of %s, want the limit at the kill", size(got))
	}
}

func TestReplay_WeeklySpikesAreNotForgotten(t *testing.T) {
	for name, steps := range map[string]int{"of five minutes": 1, "of half an hour": 6, "of three hours": 36} {
		t.Run(name, func(t *testing.T) {
			s := makeSeries(42, func(i int) float64 {
				if at := i % (7 * 288); at >= 3*288 && at < 3*288+steps {
					return 37.5
				}
				return 12.5
			})
			got, err := Replay([]UsageSeries{s}, DefaultReplayOptions())
			if err != nil {
				t.Fatal(err)
			}
			if got.OOMs > 2 || got.Changes > 5 {
				t.Errorf("got %d OOM kills and %d changes in six weeks, want 2 and 5 at most", got.OOMs, got.Changes)
			}
		})
	}
}

// The container's new cgroup counts from 0, so the kubelet alone knows.
func TestSizer_NotesTheKubeletsKill(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 3, 400*mib)
	storm := etcdSample(at.Add(10*time.Second), 900*mib)
	storm.Drivers.RangesInFlight, storm.Drivers.SentBytes = 6, 3*gib
	r.Observe(storm)
	restart := etcdSample(at.Add(30*time.Second), 50*mib)
	restart.Restart = true
	r.Observe(restart)
	if len(r.restarts) != 1 || r.restarts[0].Driver != DriverRange || r.restarts[0].Bytes != 900*mib {
		t.Fatalf("got restarts %+v, want one with the range reads before it", r.restarts)
	}
	registry := prometheus.NewRegistry()
	s := &Sizer{cfg: r.cfg, rec: r, o: SizerOptions{Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(registry)}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "etcd", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}}}}}}
	ended := func(reason string, when time.Time) {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "etcd", LastTerminationState: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: reason, FinishedAt: metav1.NewTime(when)}}}}
	}
	look := func() int {
		if when, limit, ok := oomKilled(pod, "etcd"); ok {
			s.noteKill(when, limit)
		}
		return len(r.events)
	}
	if look() != 0 {
		t.Error("a container that never ended: got a kill")
	}
	ended("Error", at.Add(20*time.Second))
	if look() != 0 {
		t.Error("a container that ended by itself: got a kill")
	}
	ended("OOMKilled", day0.Add(-time.Hour))
	if look() != 0 {
		t.Error("a kill before the history: got it noted")
	}
	ended("OOMKilled", at.Add(20*time.Second))
	for range 3 {
		if got := look(); got != 1 {
			t.Fatalf("got %d kills, want one, however often the status is read", got)
		}
	}
	if e := r.events[0]; e.Driver != DriverRange || e.Bytes != 2*gib || !e.Time.Equal(at.Add(20*time.Second)) {
		t.Errorf("got %+v, want the range reads before the kill at 2 GiB", e)
	}
	if got := r.Limit(at.Add(time.Minute)); got < 3*gib {
		t.Errorf("got a limit of %s, want 1.5 × the one at the kill", size(got))
	}
	const want = `
# HELP etcdkeeper_vpa_oom_kills_total OOM kills of etcd by the driver that was highest before.
# TYPE etcdkeeper_vpa_oom_kills_total counter
etcdkeeper_vpa_oom_kills_total{driver="range",member="0000000000000000"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(strings.ReplaceAll(want, "0000000000000000", s.member.String())), "etcdkeeper_vpa_oom_kills_total"); err != nil {
		t.Error(err)
	}
	// It is not noted again by a keeper that starts anew.
	var file bytes.Buffer
	if err := r.Save(&file); err != nil {
		t.Fatal(err)
	}
	again := newRecommender(t)
	if err := again.Load(&file); err != nil {
		t.Fatal(err)
	}
	if again.NoteKill(at.Add(20*time.Second), 2*gib) || len(again.events) != 1 || len(again.restarts) != 1 {
		t.Errorf("after a restart of the keeper: got kills %+v and restarts %+v, want one of each", again.events, again.restarts)
	}
}
