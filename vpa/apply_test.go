package vpa

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// fakePods holds one pod; kubelet makes its status of its spec.
type fakePods struct {
	mu      sync.Mutex
	pod     *corev1.Pod
	kubelet func(*corev1.Pod)
	refuse  error
	resizes int
	events  []string
}

var _ Pods = (*fakePods)(nil)

func (f *fakePods) Pod(context.Context, string, string) (*corev1.Pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kubelet(f.pod)
	return f.pod.DeepCopy(), nil
}

func (f *fakePods) Resize(_ context.Context, _, _ string, uid types.UID, container string, r corev1.ResourceRequirements) (*corev1.Pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resizes++
	if f.refuse != nil {
		return nil, f.refuse
	}
	if uid != f.pod.UID {
		return nil, errors.New("another pod")
	}
	findContainer(f.pod, container).Resources = r
	return f.pod.DeepCopy(), nil
}

func (f *fakePods) Event(_ context.Context, _ *corev1.Pod, warning bool, reason, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, fmt.Sprintf("%s %v", reason, warning))
	return nil
}

// obey carries every resize out.
func obey(p *corev1.Pod) {
	c := findContainer(p, "etcd")
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "etcd", Resources: c.Resources.DeepCopy()}}
}

// ignore leaves the container as it was, and says why where reason is given.
func ignore(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		old := etcdPod("70Mi").Spec.Containers[1].Resources
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "etcd", Resources: &old}}
		if reason != "" {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: "no room on the node"}}
		}
	}
}

func newApplier(t *testing.T, f *fakePods) (*Sizer, *Applier, *cluster.Client) {
	t.Helper()
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	cfg := cluster.DefaultConfig()
	cfg.Endpoints, cfg.CommandTimeout = []string{e.Endpoint}, 30*time.Second
	c, err := cluster.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	v, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size := DefaultConfig()
	size.Apply, size.Namespace, size.Pod = ApplyResize, "kube-system", "etcd-0"
	s, err := NewSizer(c, v.Members[0], size, SizerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := NewApplier(c, f, size, "test", nil, nil)
	a.poll, a.verify = 5*time.Millisecond, time.Minute
	if err := s.Sample(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, a, c
}

func TestApplier_Resize(t *testing.T) {
	f := &fakePods{pod: etcdPod("70Mi"), kubelet: obey}
	s, a, c := newApplier(t, f)
	if _, err := c.SetPause(t.Context(), cluster.Pause{Since: time.Now(), By: "a test", Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	rep, err := a.Apply(t.Context(), s, s.Recommend(t.Context()))
	if err != nil || rep.Outcome != OutcomeRefused || f.resizes != 0 || !strings.Contains(strings.Join(rep.Closed, ";"), "pause") {
		t.Fatalf("paused: got %+v, %v and %d resizes, want the pause's gate closed", rep, err, f.resizes)
	}
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}

	other, err := c.Acquire(t.Context(), cluster.LockRun, "another keeper", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	rep, err = a.Apply(t.Context(), s, s.Recommend(t.Context()))
	if err != nil || rep.Outcome != OutcomeRefused || f.resizes != 0 || !strings.Contains(strings.Join(rep.Closed, ";"), "another keeper") {
		t.Fatalf("beside another keeper: got %+v, %v and %d resizes, want the lock's holder", rep, err, f.resizes)
	}
	other.Release()

	rep, err = a.Apply(t.Context(), s, s.Recommend(t.Context()))
	if err != nil || rep.Outcome != OutcomeResized || rep.Action != ActionGrow || f.resizes != 1 {
		t.Fatalf("got %+v, %v and %d resizes, want one that grew", rep, err, f.resizes)
	}
	if got := float64(f.pod.Spec.Containers[1].Resources.Limits.Memory().Value()); got != float64(rep.ToBytes) || got < 100*mib {
		t.Errorf("got a limit of %s, want %s", size(got), size(float64(rep.ToBytes)))
	}
	if !slices.Equal(f.events, []string{"EtcdResized false"}) {
		t.Errorf("got events %v, want one that it was resized", f.events)
	}
	rep, err = a.Apply(t.Context(), s, s.Recommend(t.Context()))
	if err != nil || rep.Outcome != OutcomeNothing || f.resizes != 1 {
		t.Errorf("once more: got %+v, %v, want nothing to do", rep, err)
	}
}

func TestApplier_ResizeThatDoesNotWork(t *testing.T) {
	for _, tt := range []struct {
		name    string
		kubelet func(*corev1.Pod)
		refuse  error
		want    string
		resizes int // a wish that is infeasible is taken back
	}{
		{"infeasible", ignore(corev1.PodReasonInfeasible), nil, "no room on the node", 2},
		{"deferred", ignore(corev1.PodReasonDeferred), nil, "deferred", 1},
		{"a stale limit", ignore(""), nil, "still has a memory limit of 70Mi", 1},
		{"refused", obey, errors.New("forbidden"), "forbidden", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakePods{pod: etcdPod("70Mi"), kubelet: tt.kubelet, refuse: tt.refuse}
			s, a, c := newApplier(t, f)
			a.verify = 50 * time.Millisecond
			rep, err := a.Apply(t.Context(), s, s.Recommend(t.Context()))
			if err == nil || rep.Outcome != OutcomeFailed || !strings.Contains(rep.Reason, tt.want) {
				t.Fatalf("got %+v, %v, want %q", rep, err, tt.want)
			}
			if tt.resizes == 2 && f.pod.Spec.Containers[1].Resources.Limits.Memory().String() != "70Mi" {
				t.Errorf("got %v in the spec, want the wish taken back", f.pod.Spec.Containers[1].Resources)
			}
			if !slices.Equal(f.events, []string{"EtcdResizeFailed true"}) {
				t.Errorf("got events %v, want one warning", f.events)
			}
			rep, err = a.Apply(t.Context(), s, s.Recommend(t.Context()))
			if tt.resizes == 2 || tt.refuse != nil {
				if err != nil || rep.Outcome != OutcomeRefused || !strings.Contains(rep.Reason, "next try") {
					t.Errorf("at once again: got %+v, %v, want a refusal until the next try", rep, err)
				}
			}
			if f.resizes != tt.resizes {
				t.Errorf("got %d resizes, want %d", f.resizes, tt.resizes)
			}
			lock, err := c.Acquire(t.Context(), cluster.LockRun, "after", time.Minute)
			if err != nil {
				t.Fatalf("the lock was not given back: %v", err)
			}
			lock.Release()
		})
	}
}
