package vpa

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

const podYAML = `
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, annotations: {%s}}
spec:
  nodeName: node1
  containers:
  - name: etcd
    image: etcd
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 70Mi}}
`

// kubelet stands in for the real one: it carries resizes out, or does what it
// is told about a pod.
type kubelet struct {
	t      *testing.T
	client kubernetes.Interface

	mu     sync.Mutex
	hold   map[string]bool // leaves the status as it is
	refuse map[string]bool // marks the resize infeasible
	order  []string        // pods in the order of their resizes
	most   int             // resizes at the same time
}

func (k *kubelet) run(ctx context.Context) {
	for ctx.Err() == nil {
		k.round(ctx)
		time.Sleep(50 * time.Millisecond)
	}
}

func (k *kubelet) round(ctx context.Context) {
	list, err := k.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	inFlight := 0
	for _, p := range list.Items {
		c := p.Spec.Containers[0]
		if p.Annotations[mirrorAnnotation] != "" {
			continue
		}
		if len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Resources != nil {
			if p.Status.ContainerStatuses[0].Resources.Limits.Memory().Cmp(*c.Resources.Limits.Memory()) == 0 {
				continue
			}
			inFlight++
			k.note(p.Name)
		}
		k.mu.Lock()
		hold, refuse := k.hold[p.Name], k.refuse[p.Name]
		k.mu.Unlock()
		if hold {
			continue
		}
		status := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: c.Name, Image: c.Image, Resources: &c.Resources}}}
		if refuse {
			status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible, Message: "node1 has no such memory"}}}
		}
		body, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			k.t.Error(err)
			return
		}
		if _, err := k.client.CoreV1().Pods("default").Patch(ctx, p.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status"); err != nil && ctx.Err() == nil {
			k.t.Logf("patch the status of %s: %v", p.Name, err)
		}
	}
	k.mu.Lock()
	k.most = max(k.most, inFlight)
	k.mu.Unlock()
}

func (k *kubelet) note(pod string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.order); n == 0 || k.order[n-1] != pod {
		k.order = append(k.order, pod)
	}
}

func (k *kubelet) set(m map[string]bool, pod string, v bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m[pod] = v
}

type controlPlane struct {
	etcd    *etcdtest.Cluster
	server  *kubetest.Server
	client  kubernetes.Interface
	pods    *kube.Client
	kubelet *kubelet
}

func startControlPlane(t *testing.T) controlPlane {
	t.Helper()
	etcd := etcdtest.Start(t, etcdtest.Options{})
	server := kubetest.Start(t, kubetest.Options{EtcdEndpoints: etcd.Endpoints()})
	client, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	pods, err := kube.Open(kube.Options{Kubeconfig: server.Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("100")}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: corev1.NodeStatus{Capacity: room, Allocatable: room}}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k := &kubelet{t: t, client: client, hold: map[string]bool{}, refuse: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return controlPlane{etcd, server, client, pods, k}
}

// makePod creates a pod and waits until the kubelet has said what it has.
func (c controlPlane) makePod(t *testing.T, name, annotations string) {
	t.Helper()
	c.server.KubectlInput(t, fmt.Sprintf(podYAML, name, annotations), "create", "-f", "-")
	if annotations != "" {
		return
	}
	within(t, "the kubelet knows pod "+name, func() bool {
		p, err := c.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Resources != nil
	})
}

func (c controlPlane) limit(t *testing.T, pod string) int64 {
	t.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Spec.Containers[0].Resources.Limits.Memory().Value()
}

func (c controlPlane) wantEvent(t *testing.T, pod, reason, kind string) {
	t.Helper()
	within(t, "event "+reason+" of pod "+pod, func() bool {
		list, err := c.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == pod && e.Reason == reason && e.Type == kind && e.Message != "" {
				return true
			}
		}
		return false
	})
}

// The environment of the keeper that is killed.
const (
	envKeeperEtcd = "VPA_TEST_KEEPER_ETCD"
	envKeeperKube = "VPA_TEST_KEEPER_KUBECONFIG"
	envKeeperPod  = "VPA_TEST_KEEPER_POD"
)

// TestKeeperProcess is the body of a keeper in a process of its own, and
// nothing in an ordinary run.
func TestKeeperProcess(t *testing.T) {
	if os.Getenv(envKeeperEtcd) == "" {
		return
	}
	pods, err := kube.Open(kube.Options{Kubeconfig: os.Getenv(envKeeperKube)})
	if err != nil {
		t.Fatal(err)
	}
	s, a, c := keeperOf(t, &etcdtest.Member{ClientURL: os.Getenv(envKeeperEtcd)}, pods, os.Getenv(envKeeperPod))
	for t.Context().Err() == nil {
		_, _ = once(t.Context(), s, a, c)
		time.Sleep(100 * time.Millisecond)
	}
}

func TestReal_ThreeKeepersResize(t *testing.T) {
	testproc.RequireReal(t)
	cp := startControlPlane(t)
	leader := cp.etcd.Leader(t)
	podOf := map[string]string{}
	for _, m := range cp.etcd.Members {
		podOf[m.Name] = "etcd-" + m.Name
		cp.makePod(t, podOf[m.Name], "")
	}
	victim := cp.etcd.Followers(t)[0]
	before := cp.limit(t, podOf[victim.Name])

	// A keeper is killed while its resize is under way.
	cp.kubelet.set(cp.kubelet.hold, podOf[victim.Name], true)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKeeperProcess$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), envKeeperEtcd+"="+victim.ClientURL, envKeeperKube+"="+cp.server.Kubeconfig, envKeeperPod+"="+podOf[victim.Name])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	within(t, "the resize of the keeper that is killed", func() bool { return cp.limit(t, podOf[victim.Name]) > before })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	type keeper struct {
		s *Sizer
		a *Applier
		c *cluster.Client
	}
	keepers := map[string]keeper{}
	for _, m := range cp.etcd.Members {
		s, a, c := keeperOf(t, m, cp.pods, podOf[m.Name])
		keepers[m.Name] = keeper{s, a, c}
	}
	// Its lock outlives it: nobody else resizes meanwhile.
	other := cp.etcd.Followers(t)[1]
	k := keepers[other.Name]
	rep, err := once(t.Context(), k.s, k.a, k.c)
	if err != nil || rep.Outcome != OutcomeRefused || len(rep.Closed) == 0 || !strings.Contains(rep.Closed[0], "vpa of "+podOf[victim.Name]) {
		t.Fatalf("beside a dead keeper's lock: got %+v, %v, want a refusal that names it", rep, err)
	}
	if got := cp.limit(t, podOf[other.Name]); got != before {
		t.Errorf("got limit %d of pod %s, want %d still", got, podOf[other.Name], before)
	}
	cp.kubelet.set(cp.kubelet.hold, podOf[victim.Name], false)
	if err := k.c.BreakLock(t.Context(), cluster.LockRun, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, k := range keepers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := once(ctx, k.s, k.a, k.c); err != nil && ctx.Err() == nil {
					t.Logf("a round of a keeper: %v", err)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	within(t, "every pod is resized", func() bool {
		for _, pod := range podOf {
			if cp.limit(t, pod) <= before {
				return false
			}
		}
		return true
	})
	cancel()
	wg.Wait()
	cp.kubelet.mu.Lock()
	defer cp.kubelet.mu.Unlock()
	if cp.kubelet.most > 1 {
		t.Errorf("%d resizes at the same time, want one", cp.kubelet.most)
	}
	if now := cp.etcd.Leader(t); now == leader {
		for i, pod := range cp.kubelet.order {
			if pod == podOf[leader.Name] && i < 2 {
				t.Errorf("got the order %v, want the leader's pod %s last", cp.kubelet.order, podOf[leader.Name])
			}
		}
	}
}

func TestReal_RefusedResizes(t *testing.T) {
	testproc.RequireReal(t)
	cp := startControlPlane(t)
	member := cp.etcd.Followers(t)[0]

	t.Run("infeasible", func(t *testing.T) {
		cp.makePod(t, "refused", "")
		before := cp.limit(t, "refused")
		cp.kubelet.set(cp.kubelet.refuse, "refused", true)
		s, a, c := keeperOf(t, member, cp.pods, "refused")
		rep, err := once(t.Context(), s, a, c)
		if err == nil || rep.Outcome != OutcomeFailed || !strings.Contains(rep.Reason, "node1 has no such memory") {
			t.Fatalf("got %+v, %v, want the kubelet's reason", rep, err)
		}
		if got := cp.limit(t, "refused"); got != before {
			t.Errorf("got limit %d in the spec, want the wish taken back to %d", got, before)
		}
		cp.wantEvent(t, "refused", "EtcdResizeFailed", corev1.EventTypeWarning)
		if rep, err := once(t.Context(), s, a, c); err != nil || rep.Outcome != OutcomeRefused || !strings.Contains(rep.Reason, "next try") {
			t.Errorf("at once again: got %+v, %v, want a refusal", rep, err)
		}
	})
	t.Run("no answer of the kubelet", func(t *testing.T) {
		cp.makePod(t, "silent", "")
		cp.kubelet.set(cp.kubelet.hold, "silent", true)
		s, a, c := keeperOf(t, member, cp.pods, "silent")
		a.verify = time.Second
		if rep, err := once(t.Context(), s, a, c); err == nil || !strings.Contains(rep.Reason, "still has a memory limit of 70Mi") {
			t.Errorf("got %+v, %v, want what the status says", rep, err)
		}
	})
	t.Run("paused", func(t *testing.T) {
		cp.makePod(t, "paused", "")
		s, a, c := keeperOf(t, member, cp.pods, "paused")
		if _, err := c.SetPause(t.Context(), cluster.Pause{Since: time.Now(), By: "a test", Reason: "a test"}); err != nil {
			t.Fatal(err)
		}
		rep, err := once(t.Context(), s, a, c)
		if err != nil || rep.Outcome != OutcomeRefused || !strings.Contains(strings.Join(rep.Closed, ";"), "pause") {
			t.Errorf("got %+v, %v, want the pause's gate closed", rep, err)
		}
		if _, err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("static pod", func(t *testing.T) {
		cp.makePod(t, "static", mirrorAnnotation+": x")
		manifest := filepath.Join(t.TempDir(), "etcd.yaml")
		if err := os.WriteFile(manifest, fmt.Appendf(nil, podYAML, "static", ""), 0o600); err != nil {
			t.Fatal(err)
		}
		s, a, c := keeperOf(t, member, cp.pods, "static")
		a.cfg.Manifest = manifest
		rep, err := once(t.Context(), s, a, c)
		if err != nil || rep.Outcome != OutcomeProposed || rep.Manifest != ProposalPath(manifest) || !strings.Contains(rep.Reason, "static pod") {
			t.Errorf("got %+v, %v, want a proposal with the reason", rep, err)
		}
		if b, err := os.ReadFile(rep.Manifest); err != nil || !strings.Contains(string(b), "GOMEMLIMIT") {
			t.Errorf("got the proposal %s, %v", b, err)
		}
		cp.wantEvent(t, "static", "EtcdSizeProposed", corev1.EventTypeNormal)
	})
	t.Run("custom resources", func(t *testing.T) { customResources(t, cp) })
	t.Run("kubectl takes the formats", func(t *testing.T) { kubectlFormats(t, cp) })
}

// keeperOf makes what a keeper beside a member has, sharing at once.
func keeperOf(t *testing.T, m *etcdtest.Member, pods Pods, pod string) (*Sizer, *Applier, *cluster.Client) {
	t.Helper()
	c, _, beside := clientOf(t, m)
	cfg := DefaultConfig()
	cfg.Apply, cfg.Namespace, cfg.Pod, cfg.Members = ApplyResize, "default", pod, 3
	s, err := NewSizer(c, beside, cfg, SizerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.every = 0
	a := NewApplier(c, pods, cfg, "vpa of "+pod, nil, nil)
	a.poll = 100 * time.Millisecond
	return s, a, c
}

// once is one round of a keeper's task.
func once(ctx context.Context, s *Sizer, a *Applier, c *cluster.Client) (ApplyReport, error) {
	if err := s.Sample(ctx); err != nil {
		return ApplyReport{}, err
	}
	rep, err := a.Apply(ctx, s, s.Recommend(ctx))
	if v, verr := c.View(ctx); verr == nil {
		_ = s.Share(ctx, v)
	}
	return rep, err
}
