package splitter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// File is one file of a plan.
type File struct {
	Name string
	Data []byte
}

// Files are the plan's files: the runbook, the override's value, the installer's manifests, alerts, and the plan as
// JSON.
func (p *Plan) Files() ([]File, error) {
	data, err := p.JSON()
	if err != nil {
		return nil, err
	}
	files := []File{{"plan.json", data}, {"etcd-servers-overrides.txt", []byte(p.Override + "\n")}}
	var more []File
	switch p.Installer {
	case StaticPods:
		more, err = p.staticFiles()
	case Kubeadm:
		more, err = p.kubeadmFiles()
	case Kops:
		more, err = p.kopsFiles()
	case Kubespray:
		more, err = p.kubesprayFiles()
	}
	if err != nil {
		return nil, err
	}
	files = append(files, more...)
	alerts, err := p.alerts()
	if err != nil {
		return nil, err
	}
	files = append(files, File{"alerts.yaml", alerts})
	return append(files, File{"runbook.md", p.runbook()}), nil
}

func toYAML(v any) ([]byte, error) {
	data, err := yaml.Marshal(v)
	if err != nil {
		return nil, err
	}
	// metav1 prints fields that mean nothing in a manifest.
	var out []string
	for line := range strings.Lines(string(data)) {
		if s := strings.TrimSpace(line); s == "creationTimestamp: null" || s == "status: {}" {
			continue
		}
		out = append(out, line)
	}
	return []byte(strings.Join(out, "")), nil
}

// Pod is the static pod of the shard's member on a host. It listens on the host's network, uses main's certificate
// files and reads its members from the data directory that split prepare made.
func (p *Plan) Pod(h Host) *corev1.Pod {
	name := p.member(h)
	client, peer := "https://"+hostPort(h.Address, p.ClientPort), "https://"+hostPort(h.Address, p.PeerPort)
	pki := func(file string) string { return p.PKIDir + "/" + strings.ReplaceAll(file, "HOST", h.Name) }
	dir := corev1.HostPathDirectoryOrCreate
	probe := func(path string, failures int32) *corev1.Probe {
		return &corev1.Probe{FailureThreshold: failures, PeriodSeconds: 10, TimeoutSeconds: 15,
			ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Path: path, Port: intstr.FromInt32(shardMetricsPort), Scheme: corev1.URISchemeHTTP}}}
	}
	listen := fmt.Sprintf("https://127.0.0.1:%d", p.ClientPort)
	if client != listen {
		listen += "," + client
	}
	command := []string{"etcd",
		"--name=" + name,
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=" + listen,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + p.InitialCluster,
		"--initial-cluster-token=" + p.Token,
		"--initial-cluster-state=new",
		fmt.Sprintf("--listen-metrics-urls=http://127.0.0.1:%d", shardMetricsPort),
		fmt.Sprintf("--quota-backend-bytes=%d", p.QuotaBytes),
		"--auto-compaction-mode=periodic", "--auto-compaction-retention=" + p.retention(),
		"--client-cert-auth=true", "--peer-client-cert-auth=true",
		"--trusted-ca-file=" + pki(p.way.ca), "--cert-file=" + pki(p.way.serverCert), "--key-file=" + pki(p.way.serverKey),
		"--peer-trusted-ca-file=" + pki(p.way.ca), "--peer-cert-file=" + pki(p.way.peerCert), "--peer-key-file=" + pki(p.way.peerKey),
		"--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s",
	}
	if strings.HasPrefix(p.EtcdVersion, "3.5.") {
		command[len(command)-2], command[len(command)-1] = "--experimental-initial-corrupt-check=true", "--experimental-watch-progress-notify-interval=5s"
	}
	livePath, readyPath := "/livez", "/readyz"
	if strings.HasPrefix(p.EtcdVersion, "3.5.") {
		livePath, readyPath = "/health?exclude=NOSPACE&serializable=true", "/health?serializable=false"
	}
	readiness := probe(readyPath, 3)
	readiness.PeriodSeconds = 1
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: "kube-system", Labels: map[string]string{"component": p.Name, "tier": "control-plane"}},
		Spec: corev1.PodSpec{
			HostNetwork: true, PriorityClassName: "system-node-critical",
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "etcd", Image: "registry.k8s.io/etcd:" + p.EtcdVersion + "-0", ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU:    *resource.NewMilliQuantity(p.CPUMillis, resource.DecimalSI),
					corev1.ResourceMemory: *resource.NewQuantity(p.MemoryBytes, resource.BinarySI),
				}},
				LivenessProbe: probe(livePath, 8), ReadinessProbe: readiness, StartupProbe: probe(readyPath, 24),
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/var/lib/etcd"}, {Name: "pki", MountPath: p.PKIDir, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: p.DataDir, Type: &dir}}},
				{Name: "pki", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: p.PKIDir, Type: &dir}}},
			},
		},
	}
}

// retention is AutoCompactionSeconds as etcd reads it.
func (p *Plan) retention() string {
	return fmt.Sprintf("%.0fm", p.AutoCompactionSeconds/60)
}

func (p *Plan) podFiles() ([]File, error) {
	var out []File
	for _, h := range p.Hosts {
		data, err := toYAML(p.Pod(h))
		if err != nil {
			return nil, err
		}
		out = append(out, File{"manifests/" + h.Name + "/" + p.Name + ".yaml", data})
	}
	return out, nil
}

// probePatch is a JSON patch of kube-apiserver's pod, for kubeadm's --patches directory and for kubectl patch --local.
// The flag itself is an element of its own, so that it does not depend on the others' order.
func (p *Plan) probePatch(withFlag bool) ([]byte, error) {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	ops := []op{
		{"replace", "/spec/containers/0/livenessProbe/httpGet/path", "/livez?" + p.exclusion()},
		{"replace", "/spec/containers/0/startupProbe/httpGet/path", "/livez?" + p.exclusion()},
	}
	if withFlag {
		ops = append(ops, op{"add", "/spec/containers/0/command/-", "--etcd-servers-overrides=" + p.Override})
	}
	return json.MarshalIndent(ops, "", "  ")
}

func (p *Plan) staticFiles() ([]File, error) {
	files, err := p.podFiles()
	if err != nil {
		return nil, err
	}
	patch, err := p.probePatch(true)
	if err != nil {
		return nil, err
	}
	return append(files, File{"kube-apiserver.patch.json", append(patch, '\n')}), nil
}

func (p *Plan) kubeadmFiles() ([]File, error) {
	files, err := p.podFiles()
	if err != nil {
		return nil, err
	}
	patch, err := p.probePatch(false)
	if err != nil {
		return nil, err
	}
	config, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration",
		"apiServer": map[string]any{"extraArgs": []map[string]string{{"name": "etcd-servers-overrides", "value": p.Override}}},
	})
	if err != nil {
		return nil, err
	}
	return append(files, File{"patches/kube-apiserver+json.json", append(patch, '\n')}, File{"cluster-configuration.yaml", config}), nil
}

func (p *Plan) kopsFiles() ([]File, error) {
	var members []map[string]any
	for _, h := range p.Hosts {
		members = append(members, map[string]any{"name": h.Name, "instanceGroup": "control-plane-" + h.Name, "encryptedVolume": true,
			"volumeSize": p.VolumeBytes >> 30})
	}
	shard := strings.TrimPrefix(p.Name, "etcd-")
	spec := map[string]any{"etcdClusters": []any{map[string]any{
		"name": shard, "version": p.EtcdVersion, "cpuRequest": fmt.Sprintf("%dm", p.CPUMillis), "memoryRequest": fmt.Sprintf("%dMi", p.MemoryBytes>>20),
		"etcdMembers": members,
		"manager": map[string]any{"env": []map[string]string{{"name": "ETCD_QUOTA_BACKEND_BYTES", "value": fmt.Sprint(p.QuotaBytes)},
			{"name": "ETCD_AUTO_COMPACTION_MODE", "value": "periodic"}, {"name": "ETCD_AUTO_COMPACTION_RETENTION", "value": p.retention()}}},
	}}}
	data, err := yaml.Marshal(map[string]any{"apiVersion": "kops.k8s.io/v1alpha2", "kind": "Cluster", "spec": spec})
	return []File{{"cluster-spec.yaml", data}}, err
}

// kubesprayFiles are group variables. kubespray has one quota for all its etcd clusters, so that it is the larger one of
// main's and the shard's, and is left alone where main's is not known.
func (p *Plan) kubesprayFiles() ([]File, error) {
	probe := map[string]any{"httpGet": map[string]any{"path": "/livez?" + p.exclusion()}}
	vars := map[string]any{"kubeadm_patches": []any{map[string]any{"target": "kube-apiserver", "type": "strategic", "patch": map[string]any{
		"spec": map[string]any{"containers": []any{map[string]any{"name": "kube-apiserver", "livenessProbe": probe, "startupProbe": probe}}}}}}}
	var files []File
	var err error
	if p.way.fixed {
		vars["etcd_events_cluster_enabled"] = true
		if q := p.Before.QuotaBytes; q != nil {
			vars["etcd_quota_backend_bytes"] = fmt.Sprint(max(*q, p.QuotaBytes))
		}
	} else {
		vars["kube_kubeadm_apiserver_extra_args"] = map[string]string{"etcd-servers-overrides": p.Override}
		if files, err = p.podFiles(); err != nil {
			return nil, err
		}
	}
	data, err := yaml.Marshal(vars)
	return append(files, File{"group_vars/all/" + p.Name + ".yml", data}), err
}

// alerts are Prometheus rules for the shard. The job label is what the scrape configuration names it.
func (p *Plan) alerts() ([]byte, error) {
	job := fmt.Sprintf(`job="%s"`, p.Name)
	rule := func(name, expr, hold, severity, summary string) map[string]any {
		return map[string]any{"alert": name, "expr": expr, "for": hold,
			"labels": map[string]string{"severity": severity}, "annotations": map[string]string{"summary": summary}}
	}
	quorum := len(p.Hosts)/2 + 1
	data, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": p.Name, "rules": []any{
		rule("EtcdShardNoQuorum", fmt.Sprintf(`sum(up{%s}) < %d`, job, quorum), "1m", "critical", p.Name+" has no quorum: "+strings.Join(p.Resources, ", ")+" cannot be written"),
		rule("EtcdShardMemberDown", fmt.Sprintf(`up{%s} == 0`, job), "5m", "warning", "a member of "+p.Name+" is down"),
		rule("EtcdShardQuota", fmt.Sprintf(`etcd_mvcc_db_total_size_in_bytes{%s} / etcd_server_quota_backend_bytes{%s} > 0.8`, job, job), "10m", "warning", p.Name+" is at 80 % of its quota"),
		rule("EtcdShardNotCompacted", fmt.Sprintf(`increase(etcd_debugging_mvcc_db_compaction_keys_total{%s}[30m]) == 0 and increase(etcd_mvcc_put_total{%s}[30m]) > 0`, job, job), "10m", "warning", "nothing compacts "+p.Name+": no API server has it in its override, or its compactor is another cluster's"),
		rule("EtcdShardSlowFsync", fmt.Sprintf(`histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket{%s}[5m])) > 0.5`, job), "10m", "warning", "the disk of "+p.Name+" is slow"),
		rule("ApiServerOverrideUnhealthy", `kubernetes_healthcheck{name=~"etcd-override-.*",type="readyz"} == 0`, "2m", "critical", "an API server does not reach its shard and is not ready"),
	}}}})
	return bytes.TrimSpace(data), err
}
