package seed

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	core         = schema.GroupVersion{Version: "v1"}
	apps         = schema.GroupVersion{Group: "apps", Version: "v1"}
	coordination = schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}
)

const systemNamespace = "kube-system"

func (g *Generator) meta(resource, namespace, name string, created metav1.Time) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: namespace, UID: g.uid(resource, namespace, name, 0), CreationTimestamp: created,
	}
}

// namespaces yields each namespace that anything is put into, and kube-system, whose uid names the cluster.
func (g *Generator) namespaces(yield emit) bool {
	if g.empty() {
		return true
	}
	seen := map[string]bool{}
	names := append([]string{systemNamespace, "kube-node-lease"}, g.o.Namespaces...)
	for _, s := range g.o.Jobs {
		names = append(names, s.Namespace)
	}
	for _, s := range g.o.CronJobs {
		names = append(names, s.Namespace)
	}
	names = append(names, g.o.EventNamespaces...)
	for _, name := range names {
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		ns := &corev1.Namespace{ObjectMeta: g.meta("namespaces", "", name, g.age(400*24*time.Hour, 500*24*time.Hour))}
		ns.Labels = map[string]string{"kubernetes.io/metadata.name": name}
		ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
		ns.Status.Phase = corev1.NamespaceActive
		if !yield(g.builtin(core.WithKind("Namespace"), "namespaces", ns)) {
			return false
		}
	}
	return true
}

// empty tells whether the options ask for no Kubernetes object at all.
func (g *Generator) empty() bool {
	o := g.o
	return o.Nodes+o.Deployments+o.Services+o.ServiceAccounts+o.Secrets+o.HelmReleases+o.ConfigMaps+o.LeaderLeases+
		o.Events+o.EventsNoLease+len(o.CronJobs)+len(o.Jobs)+len(o.Workflows)+len(o.SparkApplications)+len(o.Custom) == 0
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func (g *Generator) nodes(yield emit) bool {
	for i := range g.o.Nodes {
		n := &corev1.Node{ObjectMeta: g.meta("nodes", "", nodeName(i), g.age(30*24*time.Hour, 300*24*time.Hour))}
		n.Labels = map[string]string{
			"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": n.Name,
			"topology.kubernetes.io/zone": fmt.Sprintf("zone-%c", 'a'+i%3),
		}
		n.Spec.PodCIDR = fmt.Sprintf("10.%d.%d.0/24", 64+i/256, i%256)
		capacity := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"),
			corev1.ResourcePods: resource.MustParse("110"),
		}
		beat := g.age(0, 5*time.Minute)
		n.Status = corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.%d.%d", i/256, i%256)}},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: "v1.36.3", ContainerRuntimeVersion: "containerd://2.2.1", OSImage: "Linux",
				KernelVersion: "6.18.0", OperatingSystem: "linux", Architecture: "amd64",
			},
		}
		for _, c := range []corev1.NodeConditionType{
			corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady,
		} {
			status := corev1.ConditionFalse
			if c == corev1.NodeReady {
				status = corev1.ConditionTrue
			}
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: c, Status: status, LastHeartbeatTime: beat, LastTransitionTime: n.CreationTimestamp,
				Reason: "Kubelet" + string(c), Message: "reported by the kubelet",
			})
		}
		for j := range 30 {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
				Names:     []string{fmt.Sprintf("registry.example/team/app-%d@sha256:%x", j, g.text(32)), fmt.Sprintf("registry.example/team/app-%d:v1.%d", j, i%20)},
				SizeBytes: int64(20<<20 + g.rng.IntN(200<<20)),
			})
		}
		if !yield(g.builtin(core.WithKind("Node"), "nodes", n)) {
			return false
		}
		lease := g.coordinationLease("kube-node-lease", n.Name, n.Name, 40)
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
		if !yield(g.builtin(coordination.WithKind("Lease"), "leases", lease)) {
			return false
		}
	}
	return true
}

func (g *Generator) coordinationLease(namespace, name, holder string, seconds int32) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: g.meta("leases", namespace, name, g.age(24*time.Hour, 90*24*time.Hour))}
	renewed := metav1.NewMicroTime(g.age(0, 10*time.Second).Time)
	l.Spec.HolderIdentity = &holder
	l.Spec.LeaseDurationSeconds = &seconds
	l.Spec.RenewTime = &renewed
	return l
}

func (g *Generator) leaderLeases(yield emit) bool {
	for i := range g.o.LeaderLeases {
		name := fmt.Sprintf("controller-%d", i)
		l := g.coordinationLease(systemNamespace, name, name+"_"+g.suffix(8), 15)
		if !yield(g.builtin(coordination.WithKind("Lease"), "leases", l)) {
			return false
		}
	}
	return true
}

func (g *Generator) workloads(yield emit) bool {
	for i := range g.o.Deployments {
		ns, name := g.namespace(), fmt.Sprintf("app-%d", i)
		selector := map[string]string{"app": name}
		created := g.age(24*time.Hour, 200*24*time.Hour)
		d := &appsv1.Deployment{ObjectMeta: g.meta("deployments", ns, name, created)}
		d.Labels = selector
		d.Spec.Replicas = ptr(int32(g.o.PodsPerReplica))
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: selector}
		d.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selector}, Spec: g.podSpec(name, "")}
		if !yield(g.builtin(apps.WithKind("Deployment"), "deployments", d)) {
			return false
		}
		for r := range g.o.OldReplicaSets + 1 {
			hash := g.suffix(10)
			rs := &appsv1.ReplicaSet{ObjectMeta: g.meta("replicasets", ns, name+"-"+hash, created)}
			rs.Labels = map[string]string{"app": name, "pod-template-hash": hash}
			rs.OwnerReferences = []metav1.OwnerReference{controllerRef("apps/v1", "Deployment", name, d.UID)}
			rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: rs.Labels}
			rs.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: rs.Labels}, Spec: g.podSpec(name, "")}
			replicas := 0
			if r == g.o.OldReplicaSets {
				replicas = g.o.PodsPerReplica
			}
			rs.Spec.Replicas = ptr(int32(replicas))
			rs.Status.Replicas = int32(replicas)
			if !yield(g.builtin(apps.WithKind("ReplicaSet"), "replicasets", rs)) {
				return false
			}
			for range replicas {
				pod := g.pod(ns, rs.Name+"-"+g.suffix(5), controllerRef("apps/v1", "ReplicaSet", rs.Name, rs.UID), rs.Labels, corev1.PodRunning, created)
				if !yield(g.builtin(core.WithKind("Pod"), "pods", pod)) {
					return false
				}
			}
		}
	}
	return true
}

func controllerRef(apiVersion, kind, name string, uid types.UID) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: ptr(true), BlockOwnerDeletion: ptr(true),
	}
}
