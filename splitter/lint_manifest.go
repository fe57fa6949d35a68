package splitter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// ErrNoAPIServer is returned when a manifest holds no kube-apiserver.
var ErrNoAPIServer = errors.New("no kube-apiserver in it: want a Pod (or a workload) with a kube-apiserver container, a kubeadm ClusterConfiguration or a kops Cluster")

// LintManifest checks every kube-apiserver of a manifest, YAML or JSON with any number of documents: a static pod or
// another pod template, a kubeadm ClusterConfiguration, or a kops Cluster. It returns ErrNoAPIServer where there is none.
func LintManifest(name string, data []byte) (LintResult, error) {
	servers, err := readManifest(data)
	if err != nil {
		return LintResult{}, fmt.Errorf("read manifest %s: %w", name, err)
	}
	if len(servers) == 0 {
		return LintResult{}, fmt.Errorf("read manifest %s: %w", name, ErrNoAPIServer)
	}
	total := LintResult{Subject: name, Values: []string{}, Overrides: []Override{}, Findings: []Finding{}}
	for _, s := range servers {
		res := s.lint(name)
		for _, f := range res.Findings {
			if f.Where == "" {
				f.Where = s.where
			}
			total.Findings = append(total.Findings, f)
		}
		total.Values = append(total.Values, res.Values...)
		total.Overrides = append(total.Overrides, res.Overrides...)
		if len(servers) == 1 {
			total.Corrected = res.Corrected
		}
	}
	return total, nil
}

// apiServer is one kube-apiserver of a manifest.
type apiServer struct {
	where  string
	flags  map[string][]string
	shell  string // the script, where a shell starts it
	probes []probe
	// plainProbe is set where the manifest's tool makes the probes itself, on /livez.
	plainProbe string
}

type probe struct{ name, target string }

func (s apiServer) lint(name string) LintResult {
	values, given := s.flags["etcd-servers-overrides"]
	if !given {
		return LintResult{Values: []string{}}
	}
	o := LintOptions{MainServers: splitList(s.flags["etcd-servers"]), ServiceCIDRs: splitList(s.flags["service-cluster-ip-range"])}
	if len(s.flags["etcd-servers"]) > 0 {
		all := set(s.flags["etcd-cafile"]) && set(s.flags["etcd-certfile"]) && set(s.flags["etcd-keyfile"])
		o.HasClientCert = &all
	}
	res := lintValues(name, values, o)
	if s.shell != "" && strings.Contains(strings.Join(values, ""), ";") && !quoted(s.shell, values) {
		res.Findings = append(res.Findings, Finding{Rule: "shell", Effect: Broken, Override: strings.Join(values, ","),
			Message: "a shell starts kube-apiserver and the value is not quoted: the shell ends the command at the semicolon",
			Fix:     "put the value in single quotes"})
	}
	res.Findings = append(res.Findings, s.probeFindings(res.Overrides)...)
	return res
}

// probeFindings reports probes that restart the API server when a shard is down.
func (s apiServer) probeFindings(overrides []Override) []Finding {
	var checks []string
	for _, o := range overrides {
		if !slices.Contains(checks, o.Check) {
			checks = append(checks, o.Check)
		}
	}
	if len(checks) == 0 {
		return nil
	}
	var out []Finding
	for _, p := range s.probes {
		missing := missingExclusions(p.target, checks)
		if len(missing) == 0 {
			continue
		}
		path, _, _ := strings.Cut(p.target, "?")
		out = append(out, Finding{Rule: "probe-exclusion", Effect: Risky, Where: s.where + ": " + p.name,
			Message: fmt.Sprintf("%s asks %s, which fails while the shard is down: the API server is then restarted, and every resource is gone with the moved ones", p.name, p.target),
			Fix:     fmt.Sprintf("ask %s?%s", path, exclusions(checks))})
	}
	if s.plainProbe != "" {
		out = append(out, Finding{Rule: "probe-exclusion", Effect: Risky, Where: s.where,
			Message: s.plainProbe + " makes liveness and startup probes on /livez, which fail while the shard is down: the API server is then restarted",
			Fix:     "patch the probes' path to /livez?" + exclusions(checks) + " (kubeadm: patches.directory with kube-apiserver+json.yaml)"})
	}
	return out
}

func exclusions(checks []string) string {
	out := make([]string, len(checks))
	for i, c := range checks {
		out[i] = "exclude=" + c
	}
	return strings.Join(out, "&")
}

// missingExclusions lists the checks that a probe's target counts. Only /livez and /healthz as a whole do: a path below
// them asks for one check.
func missingExclusions(target string, checks []string) []string {
	path, query, _ := strings.Cut(target, "?")
	path = strings.TrimSuffix(path, "/")
	if path != "/livez" && path != "/healthz" && path != "/readyz" {
		if one, ok := strings.CutPrefix(path, "/livez/"); ok && slices.Contains(checks, one) {
			return []string{one}
		}
		return nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return checks
	}
	excluded := values["exclude"]
	if slices.Contains(excluded, "etcd") { // the group that every etcd check is of
		return nil
	}
	var out []string
	for _, c := range checks {
		if !slices.Contains(excluded, c) {
			out = append(out, c)
		}
	}
	return out
}

func set(values []string) bool { return len(values) > 0 && values[len(values)-1] != "" }

func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

// document has the parts of every kind the linter knows.
type document struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec      json.RawMessage   `json:"spec"`
	Items     []json.RawMessage `json:"items"`
	APIServer struct {
		ExtraArgs json.RawMessage `json:"extraArgs"`
	} `json:"apiServer"`
	Etcd struct {
		External *struct {
			Endpoints []string `json:"endpoints"`
		} `json:"external"`
	} `json:"etcd"`
	Networking struct {
		ServiceSubnet string `json:"serviceSubnet"`
	} `json:"networking"`
	Patches struct {
		Directory string `json:"directory"`
	} `json:"patches"`
}

// readManifest finds the API servers of every document.
func readManifest(data []byte) ([]apiServer, error) {
	var out []apiServer
	patched := false
	for i, doc := range splitDocuments(data) {
		found, p, err := readDocument(doc)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		patched = patched || p
		out = append(out, found...)
	}
	if patched {
		for i := range out {
			out[i].plainProbe = ""
		}
	}
	return out, nil
}

func splitDocuments(data []byte) [][]byte {
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	var out [][]byte
	for doc := range bytes.SplitSeq(append([]byte("\n"), data...), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) > 0 {
			out = append(out, doc)
		}
	}
	return out
}

func readDocument(doc []byte) ([]apiServer, bool, error) {
	raw, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, false, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return nil, false, nil
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, false, err
	}
	switch d.Kind {
	case "List":
		var out []apiServer
		for _, item := range d.Items {
			found, _, err := readDocument(item)
			if err != nil {
				return nil, false, err
			}
			out = append(out, found...)
		}
		return out, false, nil
	case "InitConfiguration", "JoinConfiguration", "UpgradeConfiguration":
		return nil, d.Patches.Directory != "", nil
	case "ClusterConfiguration":
		s, err := fromKubeadm(d)
		return []apiServer{s}, false, err
	case "Cluster":
		s, ok, err := fromKops(d)
		if !ok {
			return nil, false, err
		}
		return []apiServer{s}, false, err
	}
	var spec struct {
		corev1.PodSpec
		Template struct {
			Spec corev1.PodSpec `json:"spec"`
		} `json:"template"`
	}
	if len(d.Spec) == 0 || d.Kind == "" {
		return nil, false, nil
	}
	if err := json.Unmarshal(d.Spec, &spec); err != nil {
		if d.Kind == "Pod" {
			return nil, false, err
		}
		return nil, false, nil
	}
	var out []apiServer
	for _, c := range append(spec.Containers, spec.Template.Spec.Containers...) {
		if s, ok := fromContainer(c); ok {
			s.where = strings.TrimSpace(d.Kind + " " + d.Metadata.Name)
			out = append(out, s)
		}
	}
	return out, false, nil
}

func fromKubeadm(d document) (apiServer, error) {
	s := apiServer{where: "ClusterConfiguration apiServer.extraArgs", flags: map[string][]string{}, plainProbe: "kubeadm"}
	if len(d.APIServer.ExtraArgs) > 0 {
		var m map[string]string
		var list []struct{ Name, Value string }
		if err := json.Unmarshal(d.APIServer.ExtraArgs, &m); err == nil {
			for k, v := range m {
				s.flags[k] = []string{v}
			}
		} else if err := json.Unmarshal(d.APIServer.ExtraArgs, &list); err == nil {
			for _, a := range list {
				s.flags[a.Name] = append(s.flags[a.Name], a.Value)
			}
		} else {
			return s, fmt.Errorf("apiServer.extraArgs: want a map (v1beta3) or a list of name and value (v1beta4): %w", err)
		}
	}
	if e := d.Etcd.External; e != nil {
		s.flags["etcd-servers"] = e.Endpoints
		for _, f := range []string{"etcd-cafile", "etcd-certfile", "etcd-keyfile"} {
			s.flags[f] = append(s.flags[f], "kubeadm")
		}
	}
	if subnet := d.Networking.ServiceSubnet; subnet != "" {
		s.flags["service-cluster-ip-range"] = []string{subnet}
	}
	return s, nil
}

func fromKops(d document) (apiServer, bool, error) {
	var spec struct {
		KubeAPIServer *struct {
			EtcdServers          []string `json:"etcdServers"`
			EtcdServersOverrides []string `json:"etcdServersOverrides"`
		} `json:"kubeAPIServer"`
		ServiceClusterIPRange string `json:"serviceClusterIPRange"`
		EtcdClusters          []any  `json:"etcdClusters"`
	}
	if err := json.Unmarshal(d.Spec, &spec); err != nil {
		return apiServer{}, false, err
	}
	if spec.KubeAPIServer == nil && spec.EtcdClusters == nil {
		return apiServer{}, false, nil
	}
	s := apiServer{where: "Cluster " + d.Metadata.Name + " spec.kubeAPIServer", flags: map[string][]string{}}
	if k := spec.KubeAPIServer; k != nil {
		if len(k.EtcdServersOverrides) > 0 {
			s.flags["etcd-servers-overrides"] = k.EtcdServersOverrides
		}
		if len(k.EtcdServers) > 0 {
			s.flags["etcd-servers"] = k.EtcdServers
			s.flags["etcd-cafile"], s.flags["etcd-certfile"], s.flags["etcd-keyfile"] = []string{"kops"}, []string{"kops"}, []string{"kops"}
		}
	}
	if spec.ServiceClusterIPRange != "" {
		s.flags["service-cluster-ip-range"] = []string{spec.ServiceClusterIPRange}
	}
	return s, true, nil
}
