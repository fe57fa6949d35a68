package keyspace

// builtin is a resource that kube-apiserver stores without its group in the path.
type builtin struct {
	group, resource []byte
	namespaced      bool
}

// builtins is by storage path. Paths are the lower-case plural but for the exceptions compiled into Kubernetes
// (SpecialDefaultResourcePrefixes in pkg/kubeapiserver/default_storage_factory_builder.go). Scopes are those that the
// API's discovery of Kubernetes 1.36 states, with those of resources that older versions stored.
// apiextensions.k8s.io and apiregistration.k8s.io keep their group in the path and need no entry.
var builtins, paths = func() (map[string]builtin, map[string]string) {
	byPath, byName := map[string]builtin{}, map[string]string{}
	add := func(group, path, resource string, namespaced bool) {
		byPath[path] = builtin{[]byte(group), []byte(resource), namespaced}
		byName[GroupResource(group, resource)] = path
	}
	for _, g := range []struct {
		group               string
		namespaced, cluster []string
	}{
		{
			group: "",
			namespaced: []string{"configmaps", "events", "limitranges", "persistentvolumeclaims", "pods", "podtemplates",
				"resourcequotas", "secrets", "serviceaccounts"},
			cluster: []string{"masterleases", "namespaces", "peerserverleases", "persistentvolumes"},
		},
		{group: "admissionregistration.k8s.io", cluster: []string{"mutatingadmissionpolicies",
			"mutatingadmissionpolicybindings", "mutatingwebhookconfigurations", "validatingadmissionpolicies",
			"validatingadmissionpolicybindings", "validatingwebhookconfigurations"}},
		{group: "apps", namespaced: []string{"controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"}},
		{group: "autoscaling", namespaced: []string{"horizontalpodautoscalers"}},
		{group: "batch", namespaced: []string{"cronjobs", "jobs"}},
		{
			group:      "certificates.k8s.io",
			namespaced: []string{"podcertificaterequests"},
			cluster:    []string{"certificatesigningrequests", "clustertrustbundles"},
		},
		{group: "coordination.k8s.io", namespaced: []string{"leasecandidates", "leases"}},
		{group: "discovery.k8s.io", namespaced: []string{"endpointslices"}},
		{group: "flowcontrol.apiserver.k8s.io", cluster: []string{"flowschemas", "prioritylevelconfigurations"}},
		{group: "internal.apiserver.k8s.io", cluster: []string{"storageversions"}},
		{
			group:      "networking.k8s.io",
			namespaced: []string{"networkpolicies"},
			cluster:    []string{"ingressclasses", "ipaddresses", "servicecidrs"},
		},
		{group: "node.k8s.io", cluster: []string{"runtimeclasses"}},
		{group: "policy", namespaced: []string{"poddisruptionbudgets"}},
		{
			group:      "rbac.authorization.k8s.io",
			namespaced: []string{"rolebindings", "roles"},
			cluster:    []string{"clusterrolebindings", "clusterroles"},
		},
		{
			group: "resource.k8s.io",
			namespaced: []string{"podschedulingcontexts", "resourceclaimparameters", "resourceclaims",
				"resourceclaimtemplates", "resourceclassparameters"},
			cluster: []string{"deviceclasses", "devicetaintrules", "resourceclasses", "resourcepoolstatusrequests",
				"resourceslices"},
		},
		{
			group:      "scheduling.k8s.io",
			namespaced: []string{"podgroups", "workloads"},
			cluster:    []string{"priorityclasses"},
		},
		{
			group:      "storage.k8s.io",
			namespaced: []string{"csistoragecapacities"},
			cluster:    []string{"csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"},
		},
		{group: "storagemigration.k8s.io", cluster: []string{"storageversionmigrations"}},
	} {
		for _, r := range g.namespaced {
			add(g.group, r, r, true)
		}
		for _, r := range g.cluster {
			add(g.group, r, r, false)
		}
	}
	add("", "controllers", "replicationcontrollers", true)
	add("", "minions", "nodes", false)
	add("", "ranges", "rangeallocations", false)
	add("", "services/endpoints", "endpoints", true)
	add("", "services/specs", "services", true)
	add("networking.k8s.io", "ingress", "ingresses", true)
	add("policy", "podsecuritypolicy", "podsecuritypolicies", false)
	byName["events.events.k8s.io"] = "events"
	return byPath, byName
}()
