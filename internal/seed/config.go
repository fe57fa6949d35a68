package seed

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

func (g *Generator) services(yield emit) bool {
	for i := range g.o.Services {
		ns, name := g.namespace(), fmt.Sprintf("app-%d", i)
		created := g.age(24*time.Hour, 200*24*time.Hour)
		s := &corev1.Service{ObjectMeta: g.meta("services", ns, name, created)}
		s.Spec.Selector = map[string]string{"app": name}
		s.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", i/250%256, 2+i%250)
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		s.Spec.Type = corev1.ServiceTypeClusterIP
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}
		if !yield(g.builtin(core.WithKind("Service"), "services", s)) {
			return false
		}
		//lint:ignore SA1019 clusters still hold Endpoints
		e := &corev1.Endpoints{ObjectMeta: g.meta("endpoints", ns, name, created)}
		//lint:ignore SA1019 clusters still hold Endpoints
		e.Subsets = []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: fmt.Sprintf("10.64.0.%d", i%256)}},
			Ports:     []corev1.EndpointPort{{Name: "http", Port: 8080}},
		}}
		if !yield(g.builtin(core.WithKind("Endpoints"), "endpoints", e)) {
			return false
		}
	}
	for i := range g.o.ServiceAccounts {
		sa := &corev1.ServiceAccount{ObjectMeta: g.meta("serviceaccounts", g.namespace(), fmt.Sprintf("account-%d", i), g.age(24*time.Hour, 200*24*time.Hour))}
		if !yield(g.builtin(core.WithKind("ServiceAccount"), "serviceaccounts", sa)) {
			return false
		}
	}
	return true
}

func (g *Generator) config(yield emit) bool {
	for i := range g.o.ConfigMaps {
		c := &corev1.ConfigMap{ObjectMeta: g.meta("configmaps", g.namespace(), fmt.Sprintf("config-%d", i), g.age(time.Hour, 200*24*time.Hour))}
		c.Data = map[string]string{"config.yaml": string(g.text(orDefault(g.o.ConfigMapBytes, 1024)))}
		if !yield(g.builtin(core.WithKind("ConfigMap"), "configmaps", c)) {
			return false
		}
	}
	for i := range g.o.Secrets {
		s := &corev1.Secret{ObjectMeta: g.meta("secrets", g.namespace(), fmt.Sprintf("credentials-%d", i), g.age(time.Hour, 200*24*time.Hour))}
		s.Type = corev1.SecretTypeOpaque
		s.Data = map[string][]byte{"token": g.text(orDefault(g.o.SecretBytes, 1024))}
		if !yield(g.secret(s)) {
			return false
		}
	}
	for i := range g.o.HelmReleases {
		ns, name := g.namespace(), fmt.Sprintf("release-%d", i)
		for rev := 1; rev <= g.o.HelmRevisions; rev++ {
			status := "superseded"
			if rev == g.o.HelmRevisions {
				status = "deployed"
			}
			full := fmt.Sprintf("sh.helm.release.v1.%s.v%d", name, rev)
			s := &corev1.Secret{ObjectMeta: g.meta("secrets", ns, full, g.age(time.Hour, 200*24*time.Hour))}
			s.Labels = map[string]string{"owner": "helm", "name": name, "status": status, "version": fmt.Sprint(rev)}
			s.Type = "helm.sh/release.v1"
			s.Data = map[string][]byte{"release": g.text(8 * orDefault(g.o.SecretBytes, 1024))}
			if !yield(g.secret(s)) {
				return false
			}
		}
	}
	return true
}

// secret encodes s, as ciphertext where the options say so: the prefix names the provider and its key, the rest is
// opaque.
func (g *Generator) secret(s *corev1.Secret) (Object, error) {
	o, err := g.builtin(core.WithKind("Secret"), "secrets", s)
	if err == nil && g.o.EncryptedSecrets {
		o.Value = append([]byte("k8s:enc:aescbc:v1:key1:"), g.text(len(o.Value)/16*16+32)...)
	}
	return o, err
}

var eventReasons = []struct{ kind, reason, message, component string }{
	{corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", "default-scheduler"},
	{corev1.EventTypeNormal, "Pulled", "Container image for %s/%s already present on machine %s", "kubelet"},
	{corev1.EventTypeNormal, "Created", "Created container of %s/%s on %s", "kubelet"},
	{corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container of %s/%s on %s", "kubelet"},
	{corev1.EventTypeWarning, "FailedScheduling", "0/%[3]s nodes are available for %[1]s/%[2]s: insufficient memory", "default-scheduler"},
	{corev1.EventTypeNormal, "SuccessfulCreate", "Created pod %[2]s in %[1]s", "job-controller"},
}

func (g *Generator) events(yield emit) bool {
	namespaces := g.o.EventNamespaces
	if len(namespaces) == 0 {
		namespaces = g.o.Namespaces
	}
	for i := range g.o.Events + g.o.EventsNoLease {
		ns := namespaces[i%len(namespaces)]
		subject := fmt.Sprintf("app-%d-%s", g.rng.IntN(1000), g.suffix(5))
		r := eventReasons[g.rng.IntN(len(eventReasons))]
		node := nodeName(g.rng.IntN(max(1, g.o.Nodes)))
		at := g.age(0, time.Hour)
		withLease := i < g.o.Events
		if !withLease {
			at = g.age(24*time.Hour, 90*24*time.Hour)
		}
		name := fmt.Sprintf("%s.%016x", subject, uint64(at.UnixNano())+uint64(i))
		e := &corev1.Event{ObjectMeta: g.meta("events", ns, name, at)}
		e.InvolvedObject = corev1.ObjectReference{
			Kind: "Pod", APIVersion: "v1", Namespace: ns, Name: subject, UID: g.uid("pods", ns, subject, 0),
			ResourceVersion: fmt.Sprint(1000 + i), FieldPath: "spec.containers{main}",
		}
		e.Type, e.Reason = r.kind, r.reason
		e.Message = fmt.Sprintf(r.message, ns, subject, node)
		e.Source = corev1.EventSource{Component: r.component, Host: node}
		e.FirstTimestamp, e.LastTimestamp, e.Count = at, at, int32(1+g.rng.IntN(20))
		e.ManagedFields = []metav1.ManagedFieldsEntry{managed(r.component, "Update", "v1", "", at, eventFields)}
		o, err := g.builtin(core.WithKind("Event"), "events", e)
		if withLease {
			if g.lease == 0 || g.onIt == g.o.EventsPerLease {
				g.lease++
				g.onIt = 0
			}
			g.onIt++
			o.Lease = g.lease
		}
		if !yield(o, err) {
			return false
		}
	}
	return true
}

const eventFields = `{"f:count":{},"f:firstTimestamp":{},"f:involvedObject":{},"f:lastTimestamp":{},"f:message":{},"f:reason":{},"f:reportingComponent":{},"f:reportingInstance":{},"f:source":{"f:component":{},"f:host":{}},"f:type":{}}`
