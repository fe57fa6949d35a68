package splitter

import (
	"slices"
	"strings"
)

// GroupResource names a resource the way --etcd-servers-overrides does. The core group is "".
type GroupResource struct {
	Group    string
	Resource string
}

// String is the flag's form: "group/resource", "/events" for the core group.
func (gr GroupResource) String() string { return gr.Group + "/" + gr.Resource }

// Name is the form people use: "events", "leases.coordination.k8s.io".
func (gr GroupResource) Name() string {
	if gr.Group == "" {
		return gr.Resource
	}
	return gr.Resource + "." + gr.Group
}

// Events, Leases and Pods are the resources that are moved in practice.
var (
	Events = GroupResource{"", "events"}
	Leases = GroupResource{"coordination.k8s.io", "leases"}
	Pods   = GroupResource{"", "pods"}
)

// stored are the resources that kube-apiserver 1.36 keeps in etcd through its storage factory, which are exactly those
// that --etcd-servers-overrides can move (pkg/registry/*/rest of k8s.io/kubernetes v1.36.3). The two entries in camel
// case are the API servers' own endpoint leases (pkg/controlplane/instance.go and apiserver/peer.go).
var stored = map[string]string{
	"": "apiServerIPInfo apiServerPeerIPInfo configmaps endpoints events limitranges namespaces nodes " +
		"persistentvolumeclaims persistentvolumes pods podtemplates replicationcontrollers resourcequotas secrets " +
		"serviceaccounts services",
	"admissionregistration.k8s.io": "mutatingadmissionpolicies mutatingadmissionpolicybindings mutatingwebhookconfigurations " +
		"validatingadmissionpolicies validatingadmissionpolicybindings validatingwebhookconfigurations",
	"apps":                         "controllerrevisions daemonsets deployments replicasets statefulsets",
	"autoscaling":                  "horizontalpodautoscalers",
	"batch":                        "cronjobs jobs",
	"certificates.k8s.io":          "certificatesigningrequests clustertrustbundles podcertificaterequests",
	"coordination.k8s.io":          "leasecandidates leases",
	"discovery.k8s.io":             "endpointslices",
	"flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
	"internal.apiserver.k8s.io":    "storageversions",
	"networking.k8s.io":            "ingressclasses ingresses ipaddresses networkpolicies servicecidrs",
	"node.k8s.io":                  "runtimeclasses",
	"policy":                       "poddisruptionbudgets",
	"rbac.authorization.k8s.io":    "clusterrolebindings clusterroles rolebindings roles",
	"resource.k8s.io":              "deviceclasses devicetaintrules resourceclaims resourceclaimtemplates resourcepoolstatusrequests resourceslices",
	"scheduling.k8s.io":            "podgroups priorityclasses workloads",
	"storage.k8s.io":               "csidrivers csinodes csistoragecapacities storageclasses volumeattachments volumeattributesclasses",
	"storagemigration.k8s.io":      "storageversionmigrations",
	"authentication.k8s.io":        "",
	"authorization.k8s.io":         "",
	"events.k8s.io":                "",
	"extensions":                   "",
	"apiextensions.k8s.io":         "",
	"apiregistration.k8s.io":       "",
}

// cohabiting maps a resource whose override is never looked at to the one whose override is: the API server stores
// both at one place and asks for the first group of the pair that is enabled.
var cohabiting = map[GroupResource]GroupResource{
	{"events.k8s.io", "events"}:              Events,
	{"extensions", "ingresses"}:              {"networking.k8s.io", "ingresses"},
	{"extensions", "networkpolicies"}:        {"networking.k8s.io", "networkpolicies"},
	{"extensions", "deployments"}:            {"apps", "deployments"},
	{"extensions", "daemonsets"}:             {"apps", "daemonsets"},
	{"extensions", "replicasets"}:            {"apps", "replicasets"},
	{"extensions", "replicationcontrollers"}: {"", "replicationcontrollers"},
}

// virtual resources are served and never stored.
var virtual = map[GroupResource]bool{
	{"", "bindings"}:                                      true,
	{"", "componentstatuses"}:                             true,
	{"authentication.k8s.io", "tokenreviews"}:             true,
	{"authentication.k8s.io", "selfsubjectreviews"}:       true,
	{"authorization.k8s.io", "subjectaccessreviews"}:      true,
	{"authorization.k8s.io", "selfsubjectaccessreviews"}:  true,
	{"authorization.k8s.io", "localsubjectaccessreviews"}: true,
	{"authorization.k8s.io", "selfsubjectrulesreviews"}:   true,
}

// otherStores are stored by the extension and aggregation servers inside kube-apiserver, which take the etcd options
// without the overrides.
var otherStores = map[GroupResource]bool{
	{"apiextensions.k8s.io", "customresourcedefinitions"}: true,
	{"apiregistration.k8s.io", "apiservices"}:             true,
}

// shortNames are kubectl's.
var shortNames = map[string]string{
	"cm": "configmaps", "cs": "componentstatuses", "csr": "certificatesigningrequests", "cj": "cronjobs",
	"deploy": "deployments", "ds": "daemonsets", "ep": "endpoints", "ev": "events", "hpa": "horizontalpodautoscalers",
	"ing": "ingresses", "limits": "limitranges", "netpol": "networkpolicies", "no": "nodes", "ns": "namespaces",
	"pc": "priorityclasses", "pdb": "poddisruptionbudgets", "po": "pods", "pv": "persistentvolumes",
	"pvc": "persistentvolumeclaims", "quota": "resourcequotas", "rc": "replicationcontrollers", "rs": "replicasets",
	"sa": "serviceaccounts", "sc": "storageclasses", "sts": "statefulsets", "svc": "services",
	// Storage prefixes that are not the resource's name.
	"minions": "nodes", "controllers": "replicationcontrollers", "masterleases": "apiServerIPInfo",
	"peerserverleases": "apiServerPeerIPInfo",
}

// specialPrefixes are the storage prefixes under /registry/ that are not the resource's name, or more than one.
var specialPrefixes = map[GroupResource][]string{
	{"", "replicationcontrollers"}:     {"controllers/"},
	{"", "endpoints"}:                  {"services/endpoints/"},
	{"", "nodes"}:                      {"minions/"},
	{"", "services"}:                   {"services/specs/", "ranges/"},
	{"networking.k8s.io", "ingresses"}: {"ingress/"},
	{"", "apiServerIPInfo"}:            {"masterleases/"},
	{"", "apiServerPeerIPInfo"}:        {"peerserverleases/"},
}

// Overridable tells whether an override of gr moves anything in kube-apiserver 1.36.
func Overridable(gr GroupResource) bool {
	return gr.Resource != "" && slices.Contains(strings.Fields(stored[gr.Group]), gr.Resource)
}

// knownGroup tells whether the group is one of kube-apiserver's own.
func knownGroup(group string) bool {
	_, ok := stored[group]
	return ok
}

// Prefixes are the key prefixes that gr lives under, below the storage prefix root ("/registry").
func Prefixes(root string, gr GroupResource) []string {
	root = "/" + strings.Trim(root, "/") + "/"
	if special, ok := specialPrefixes[gr]; ok {
		out := make([]string, len(special))
		for i, p := range special {
			out[i] = root + p
		}
		return out
	}
	return []string{root + gr.Resource + "/"}
}

// byName finds the overridable resources that a person may mean by name: its plural, singular, kind, short name or
// storage prefix, in any case. Core comes first.
func byName(name string) []GroupResource {
	name = strings.ToLower(name)
	candidates := []string{name}
	if full, ok := shortNames[name]; ok {
		candidates = append(candidates, full)
	}
	switch {
	case strings.HasSuffix(name, "ss"), strings.HasSuffix(name, "x"):
		candidates = append(candidates, name+"es")
	case strings.HasSuffix(name, "y"):
		candidates = append(candidates, strings.TrimSuffix(name, "y")+"ies")
	case strings.HasSuffix(name, "s"):
	default:
		candidates = append(candidates, name+"s")
	}
	var out []GroupResource
	for group, list := range stored {
		for r := range strings.FieldsSeq(list) {
			if slices.ContainsFunc(candidates, func(c string) bool { return strings.EqualFold(c, r) }) {
				out = append(out, GroupResource{group, r})
			}
		}
	}
	slices.SortFunc(out, func(a, b GroupResource) int { return strings.Compare(a.Group, b.Group) })
	return out
}

// ParseResource reads what a person types for --resources: events, pods, leases, leases.coordination.k8s.io,
// coordination.k8s.io/leases or /events. It is false where no overridable resource is meant.
func ParseResource(s string) (GroupResource, bool) {
	s = strings.TrimSpace(s)
	if group, resource, ok := strings.Cut(s, "/"); ok {
		gr := GroupResource{group, resource}
		if to, ok := cohabiting[gr]; ok {
			return to, true
		}
		return gr, Overridable(gr)
	}
	if resource, group, ok := strings.Cut(s, "."); ok {
		gr := GroupResource{group, resource}
		if to, ok := cohabiting[gr]; ok {
			return to, true
		}
		return gr, Overridable(gr)
	}
	if found := byName(s); len(found) > 0 {
		return found[0], true
	}
	return GroupResource{}, false
}
