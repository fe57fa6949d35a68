package vpa

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

const (
	// verifyTimeout is how long the kubelet is given to carry a resize out.
	verifyTimeout = 3 * time.Minute
	// The back-off after a resize that did not work doubles from the first to the
	// last.
	firstBackOff = time.Hour
	lastBackOff  = 24 * time.Hour
	// applyLockTTL is how long the cluster-wide lock outlives this process.
	applyLockTTL = 10 * time.Minute
)

// Pods is what the Applier needs of the API server.
type Pods interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Resize(ctx context.Context, namespace, name string, uid types.UID, container string, r corev1.ResourceRequirements) (*corev1.Pod, error)
	Event(ctx context.Context, pod *corev1.Pod, warning bool, reason, message string) error
}

var _ Pods = (*kube.Client)(nil)

// ApplyReport is what came of applying.
type ApplyReport struct {
	ApplyPlan
	Outcome  string   `json:"outcome"` // nothing, proposed, refused, resized, failed
	Pod      string   `json:"pod"`
	Manifest string   `json:"manifest,omitempty"` // the proposal that was written
	Closed   []string `json:"closedGates,omitempty"`
}

// Outcomes of applying.
const (
	OutcomeNothing  = "nothing"
	OutcomeProposed = "proposed"
	OutcomeRefused  = "refused"
	OutcomeResized  = "resized"
	OutcomeFailed   = "failed"
)

// Applier applies recommendations to the member's own pod. Its methods may be
// called concurrently; one application goes on at a time.
type Applier struct {
	client *cluster.Client
	pods   Pods // nil: no API server
	cfg    Config
	log    *slog.Logger
	holder string
	m      *Metrics

	mu       sync.Mutex
	failures int
	until    time.Time
	wanted   time.Time // since when the leader wants to resize
	told     string    // the last event
	poll     time.Duration
	verify   time.Duration
}

// NewApplier returns an Applier; pods may be nil, and then only manifests are
// proposed. The holder is the name under which it takes the lock.
func NewApplier(c *cluster.Client, pods Pods, cfg Config, holder string, log *slog.Logger, m *Metrics) *Applier {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Applier{client: c, pods: pods, cfg: cfg, log: log, holder: holder, m: m, poll: time.Second, verify: verifyTimeout}
}

// Apply does what the configuration allows with the recommendation of a sizer.
// An error is of the API server or of etcd; a refusal is none and stands in the
// report.
func (a *Applier) Apply(ctx context.Context, s *Sizer, rec Recommendation) (ApplyReport, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rep, err := a.apply(ctx, s, rec)
	if a.m != nil && rep.Outcome != OutcomeNothing {
		a.m.resizes.WithLabelValues(s.member.String(), rep.Outcome).Inc()
	}
	return rep, err
}

func (a *Applier) apply(ctx context.Context, s *Sizer, rec Recommendation) (ApplyReport, error) {
	if a.cfg.Apply == ApplyOff || a.cfg.Apply == "" {
		return ApplyReport{ApplyPlan: PlanApply(ApplyInput{Recommendation: rec}), Outcome: OutcomeNothing}, nil
	}
	v, err := a.client.View(ctx)
	if err != nil {
		return ApplyReport{Outcome: OutcomeFailed}, fmt.Errorf("apply the size of member %s: %w", s.member, err)
	}
	pod, err := a.pod(ctx)
	if err != nil && a.cfg.Apply == ApplyResize {
		return ApplyReport{Outcome: OutcomeFailed}, fmt.Errorf("apply the size of member %s: %w", s.member, err)
	}
	if at, limit, ok := oomKilled(pod, a.cfg.Container); ok {
		s.noteKill(at, limit)
	}
	in, err := a.input(ctx, s, rec, v, pod)
	if err != nil {
		return ApplyReport{Outcome: OutcomeFailed}, err
	}
	plan := PlanApply(in)
	s.setPending(plan.Action == ActionGrow || plan.Action == ActionShrink || plan.Action == ActionRefuse && a.wantsMore(plan))
	rep := ApplyReport{ApplyPlan: plan, Outcome: OutcomeNothing, Pod: podName(pod)}
	switch plan.Action {
	case ActionRefuse:
		rep.Outcome = OutcomeRefused
	case ActionPropose:
		return a.propose(ctx, rep, rec, pod)
	case ActionGrow, ActionShrink:
		return a.resize(ctx, s, rep, pod)
	}
	return rep, nil
}

// wantsMore tells whether a refused plan is of a member that should grow: the
// leader waits for it only until it backed off.
func (a *Applier) wantsMore(p ApplyPlan) bool {
	return p.ToBytes > p.FromBytes && time.Now().After(a.until)
}

func podName(pod *corev1.Pod) string {
	if pod == nil {
		return ""
	}
	return pod.Namespace + "/" + pod.Name
}

func (a *Applier) pod(ctx context.Context) (*corev1.Pod, error) {
	if a.pods == nil || a.cfg.Pod == "" {
		if a.cfg.Apply == ApplyResize {
			return nil, errors.New("the member's pod is not known: set vpa.pod and vpa.namespace, and let the keeper reach the API server")
		}
		return nil, nil
	}
	return a.pods.Pod(ctx, a.cfg.Namespace, a.cfg.Pod)
}

func (a *Applier) input(ctx context.Context, s *Sizer, rec Recommendation, v cluster.View, pod *corev1.Pod) (ApplyInput, error) {
	windows, err := a.cfg.windows()
	if err != nil {
		return ApplyInput{}, err
	}
	now := time.Now()
	in := ApplyInput{
		Mode: a.cfg.Apply, Recommendation: rec, Pod: pod, Container: a.cfg.Container, View: v, Self: s.member.ID,
		HasWindows: len(a.cfg.Windows) > 0, Window: len(a.cfg.Windows) > 0 && windows.Contains(now), InUse: s.inUse(), BackOffUntil: a.until, Now: now,
	}
	if leads(v, s.member.ID) {
		if a.wanted.IsZero() {
			a.wanted = now
		}
		in.Followers = followersPending(s.profiles(ctx), v, s.member.ID, a.wanted, now)
	} else {
		a.wanted = time.Time{}
	}
	return in, nil
}

// followersPending says which follower has not been resized yet. A follower
// without a fresh profile has no keeper that resizes, and is not waited for.
func followersPending(profiles []Profile, v cluster.View, self cluster.ID, wanted, now time.Time) string {
	for _, p := range profiles {
		if p.Member == self.String() || now.Sub(p.At) > 3*ProfileInterval || !p.Applies {
			continue
		}
		for _, m := range v.Members {
			if m.ID.String() != p.Member {
				continue
			}
			if p.Pending {
				return fmt.Sprintf("member %s is still to be resized", m)
			}
			if p.At.Before(wanted) {
				return fmt.Sprintf("member %s has not said yet whether it is to be resized", m)
			}
		}
	}
	return ""
}

// propose writes the manifest and tells of it, each only where it is news.
func (a *Applier) propose(ctx context.Context, rep ApplyReport, rec Recommendation, pod *corev1.Pod) (ApplyReport, error) {
	rep.Outcome = OutcomeProposed
	var errs []error
	if a.cfg.Manifest != "" {
		path := ProposalPath(a.cfg.Manifest)
		old, err := os.ReadFile(a.cfg.Manifest)
		if err == nil {
			var b []byte
			if b, err = rec.FormatManifest(old, a.cfg.Container); err == nil {
				if was, rerr := os.ReadFile(path); rerr != nil || string(was) != string(b) {
					err = atomicfile.Write(path, b, 0o600)
				}
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("propose a manifest: %w", err))
		} else {
			rep.Manifest = path
		}
	}
	a.tell(ctx, pod, false, "EtcdSizeProposed", rec.Memory.Limit.Words)
	if len(errs) > 0 {
		rep.Outcome = OutcomeFailed
	}
	return rep, errors.Join(errs...)
}

// tell sends an Event where it can, and the same one only once.
func (a *Applier) tell(ctx context.Context, pod *corev1.Pod, warning bool, reason, message string) {
	if a.pods == nil || pod == nil || a.told == reason+message {
		return
	}
	if err := a.pods.Event(ctx, pod, warning, reason, message); err != nil {
		a.log.Warn("event not sent", "err", err)
		return
	}
	a.told = reason + message
}

// resize does it under the cluster-wide lock and every gate, and verifies it.
func (a *Applier) resize(ctx context.Context, s *Sizer, rep ApplyReport, pod *corev1.Pod) (ApplyReport, error) {
	lock, err := a.client.Acquire(ctx, cluster.LockRun, a.holder, applyLockTTL)
	var held *cluster.HeldError
	if errors.As(err, &held) {
		rep.Outcome, rep.Closed = OutcomeRefused, []string{cluster.GateLock + ": " + held.Error()}
		return rep, nil
	}
	if err != nil {
		rep.Outcome = OutcomeFailed
		return rep, fmt.Errorf("apply the size of member %s: %w", s.member, err)
	}
	defer lock.Release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(lock.Context(), func() { cancel(context.Cause(lock.Context())) })()
	if rep.Closed = a.gates(ctx); len(rep.Closed) > 0 {
		rep.Outcome = OutcomeRefused
		return rep, nil
	}
	if err := lock.Check(ctx); err != nil {
		rep.Outcome = OutcomeFailed
		return rep, err
	}
	c := findContainer(pod, a.cfg.Container)
	before := c.Resources
	a.log.Info("resizing", "member", s.member.String(), "pod", podName(pod), "action", rep.Action, "reason", rep.Reason)
	_, err = a.pods.Resize(ctx, pod.Namespace, pod.Name, pod.UID, a.cfg.Container, rep.Resources)
	if err == nil {
		err = a.verified(ctx, pod, rep.Resources)
		if errors.Is(err, errInfeasible) {
			// What cannot be done must not stay wished for.
			if _, rerr := a.pods.Resize(ctx, pod.Namespace, pod.Name, pod.UID, a.cfg.Container, before); rerr != nil {
				err = errors.Join(err, fmt.Errorf("taking the wish back: %w", rerr))
			}
		}
	}
	if err != nil {
		a.backOff()
		rep.Outcome, rep.Reason = OutcomeFailed, err.Error()
		a.tell(ctx, pod, true, "EtcdResizeFailed", fmt.Sprintf("%v; the next try is not before %s", err, a.until.UTC().Format(time.RFC3339)))
		return rep, fmt.Errorf("resize member %s: %w", s.member, err)
	}
	a.failures, a.until, a.wanted = 0, time.Time{}, time.Time{}
	rep.Outcome = OutcomeResized
	s.setPending(false)
	a.tell(ctx, pod, false, "EtcdResized", rep.Reason)
	// The next member waits until this one is seen to be well.
	if closed := a.settled(ctx); len(closed) > 0 {
		rep.Closed = closed
		a.log.Warn("the cluster is not well after a resize", "member", s.member.String(), "gates", strings.Join(closed, "; "))
	}
	return rep, nil
}

// gates reads every gate; an empty answer lets a resize through.
func (a *Applier) gates(ctx context.Context) []string {
	v, err := a.client.View(ctx)
	if err != nil {
		return []string{cluster.GateReachable + ": " + err.Error()}
	}
	refusals := append(cluster.Check(v), a.client.CheckPause(ctx)...)
	for _, m := range v.Members {
		for _, alarm := range m.Alarms {
			refusals = append(refusals, cluster.Refusal{Gate: cluster.GateAlarm, Member: m.String(), Reason: "it has the alarm " + alarm})
		}
	}
	if len(refusals) == 0 {
		refusals = a.client.Probe(ctx, v)
	}
	var out []string
	for _, r := range refusals {
		out = append(out, r.String())
	}
	return out
}

// settled waits for the gates to open again after a resize.
func (a *Applier) settled(ctx context.Context) []string {
	end := time.Now().Add(a.verify)
	for {
		closed := a.gates(ctx)
		if len(closed) == 0 || time.Now().After(end) || wait(ctx, a.poll) != nil {
			return closed
		}
	}
}

// backOff doubles the wait before the next try.
func (a *Applier) backOff() {
	d := min(lastBackOff, firstBackOff<<min(a.failures, 5))
	a.failures++
	a.until = time.Now().Add(d)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// errInfeasible is returned when the kubelet says that a resize cannot be done.
var errInfeasible = errors.New("the kubelet finds the resize infeasible")

// verified waits until the pod's status shows the container with the resources.
func (a *Applier) verified(ctx context.Context, pod *corev1.Pod, want corev1.ResourceRequirements) error {
	end := time.Now().Add(a.verify)
	last := "the status does not show them"
	for {
		now, err := a.pods.Pod(ctx, pod.Namespace, pod.Name)
		switch {
		case err != nil && !kube.IsTransient(err):
			return err
		case err == nil && now.UID != pod.UID:
			return fmt.Errorf("pod %s was replaced meanwhile", podName(pod))
		case err == nil:
			done, why, err := resized(now, a.cfg.Container, want)
			if err != nil || done {
				return err
			}
			last = why
		}
		if time.Now().After(end) {
			return fmt.Errorf("pod %s has not got its resources within %s: %s", podName(pod), a.verify, last)
		}
		if err := wait(ctx, a.poll); err != nil {
			return err
		}
	}
}

// resized reads a resize's progress from the pod's status.
func resized(pod *corev1.Pod, container string, want corev1.ResourceRequirements) (done bool, why string, err error) {
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch {
		case c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonInfeasible:
			return false, "", fmt.Errorf("%w: %s", errInfeasible, c.Message)
		case c.Type == corev1.PodResizePending:
			return false, "deferred by the kubelet: " + c.Message, nil
		case c.Type == corev1.PodResizeInProgress && c.Reason == corev1.PodReasonError:
			why = "in progress, with an error: " + c.Message
		case c.Type == corev1.PodResizeInProgress:
			why = "in progress"
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != container || s.Resources == nil {
			continue
		}
		if s.Resources.Limits.Memory().Cmp(*want.Limits.Memory()) == 0 && s.Resources.Requests.Memory().Cmp(*want.Requests.Memory()) == 0 {
			return why == "", why, nil
		}
		return false, fmt.Sprintf("the container still has a memory limit of %s", s.Resources.Limits.Memory()), nil
	}
	if why == "" {
		why = "the status has no resources of the container"
	}
	return false, why, nil
}

// inUse is the memory of the last sample, NaN when not known.
func (s *Sizer) inUse() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest.Memory
}
