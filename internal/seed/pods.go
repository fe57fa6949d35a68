package seed

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (g *Generator) podSpec(name string, restart corev1.RestartPolicy) corev1.PodSpec {
	if restart == "" {
		restart = corev1.RestartPolicyAlways
	}
	env := []corev1.EnvVar{{Name: "CONFIG", Value: "/etc/app/config.yaml"}, {Name: "GOMAXPROCS", Value: "2"}}
	return corev1.PodSpec{
		RestartPolicy: restart, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: corev1.DefaultSchedulerName,
		TerminationGracePeriodSeconds: ptr(int64(30)), SecurityContext: &corev1.PodSecurityContext{},
		Containers: []corev1.Container{{
			Name: "main", Image: "registry.example/team/" + name + ":v1.4.2", Env: env,
			Command: []string{"/app/" + name, "--config", "/etc/app/config.yaml"},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			ImagePullPolicy: corev1.PullIfNotPresent,
		}},
	}
}

const podFields = `{"f:metadata":{"f:labels":{".":{}},"f:ownerReferences":{".":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:command":{},"f:env":{".":{}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{".":{},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}`

const podStatusFields = `{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:reason":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:reason":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:startTime":{}}}`

// pod is a pod that was scheduled and has started, or ended where phase says so.
func (g *Generator) pod(namespace, name string, owner metav1.OwnerReference, labels map[string]string, phase corev1.PodPhase, created metav1.Time) *corev1.Pod {
	restart := corev1.RestartPolicyAlways
	if owner.Kind == "Job" {
		restart = corev1.RestartPolicyNever
	}
	p := &corev1.Pod{ObjectMeta: g.meta("pods", namespace, name, created), Spec: g.podSpec(owner.Name, restart)}
	p.Labels = labels
	p.OwnerReferences = []metav1.OwnerReference{owner}
	p.Spec.NodeName = nodeName(g.rng.IntN(max(1, g.o.Nodes)))
	p.Spec.ServiceAccountName = "default"
	p.ManagedFields = []metav1.ManagedFieldsEntry{
		managed("kube-controller-manager", "Update", "v1", "", created, podFields),
		managed("kubelet", "Update", "v1", "status", created, podStatusFields),
	}
	done := phase == corev1.PodSucceeded || phase == corev1.PodFailed
	ready, reason := corev1.ConditionTrue, ""
	if done {
		ready, reason = corev1.ConditionFalse, "PodCompleted"
	}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		status, why := corev1.ConditionTrue, ""
		if c == corev1.PodReady || c == corev1.ContainersReady {
			status, why = ready, reason
		}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: status, Reason: why, LastTransitionTime: created})
	}
	cs := corev1.ContainerStatus{
		Name: "main", Image: p.Spec.Containers[0].Image, Ready: !done,
		ImageID:     fmt.Sprintf("registry.example/team/app@sha256:%x", g.text(32)),
		ContainerID: fmt.Sprintf("containerd://%x", g.text(32)),
	}
	if done {
		code := int32(0)
		if phase == corev1.PodFailed {
			code = 1
		}
		cs.State.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: "Completed", StartedAt: created, FinishedAt: metav1.NewTime(created.Add(time.Minute)),
		}
	} else {
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: created}
		cs.Started = ptr(true)
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{cs}
	p.Status.Phase = phase
	p.Status.HostIP = "10.0.0.10"
	p.Status.PodIP = fmt.Sprintf("10.64.%d.%d", g.rng.IntN(256), g.rng.IntN(256))
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.StartTime = &created
	p.Status.QOSClass = corev1.PodQOSBurstable
	return p
}
