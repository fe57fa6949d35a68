package census

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Severities of findings.
const (
	Info     = "info"
	Warning  = "warning"
	Critical = "critical"
)

// finder collects findings.
type finder struct {
	c   *Census
	t   *tally
	th  Thresholds
	out []Finding
}

// findings looks at a census for what is worth a person's time.
func findings(c *Census, t *tally, o Options) []Finding {
	f := &finder{c: c, t: t, th: o.Thresholds, out: []Finding{}}
	f.sizes()
	f.counts()
	f.finished()
	f.events()
	f.secrets()
	f.namespaces()
	f.outside()
	rank := map[string]int{Critical: 0, Warning: 1, Info: 2}
	slices.SortStableFunc(f.out, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	return f.out
}

// add takes a finding that lacks its message.
func (f *finder) add(finding Finding, format string, args ...any) {
	finding.Message = fmt.Sprintf(format, args...)
	f.out = append(f.out, finding)
}

func (f *finder) resource(group, name string) (row Resource, tally *resource) {
	for _, r := range f.c.Resources {
		if r.Group == group && r.Resource == name {
			return r, f.t.resources[resourceName{group, name}]
		}
	}
	return Resource{Group: group, Resource: name}, &resource{}
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func human(n int64) string { return bytesize.Bytes(n).Human() }

func (f *finder) sizes() {
	near := int64(f.th.NearLimit * float64(f.th.ObjectLimit))
	for i, o := range f.t.largest.sorted() {
		if o.Bytes < near || i == maxNearLimit {
			break
		}
		f.add(Finding{ID: "object-near-limit", Severity: Critical, Resource: o.ResourceName(), Subject: nameOf(o), Value: float64(o.Bytes), Threshold: float64(near),
			Advice: "Split the object or move its data elsewhere before the next update is refused."},
			"%s %s has %s and etcd refuses requests above %s: an update that makes it larger fails.",
			o.ResourceName(), nameOf(o), human(o.Bytes), human(int64(f.th.ObjectLimit)))
	}
	for _, r := range f.c.Resources {
		if t := f.t.resources[resourceName{r.Group, r.Resource}]; t != nil && t.large > 0 {
			f.add(Finding{ID: "large-objects", Severity: Warning, Resource: r.Name(), Value: float64(t.large), Threshold: 1,
				Advice: "See the list of largest objects. Keep blobs out of etcd: an object store, an image, a volume."},
				"%s of %s of %s or more, the largest %s: each update writes and sends all of it, and history keeps every copy until compaction.",
				count(t.large, "object"), r.Name(), human(int64(f.th.LargeObject)), human(r.LargestBytes))
		}
	}
}

// maxNearLimit bounds the findings on single objects; the list of the largest has more.
const maxNearLimit = 10

func nameOf(o Object) string {
	if o.Namespace == "" {
		return o.Name
	}
	return o.Namespace + "/" + o.Name
}

func (f *finder) counts() {
	for _, c := range []struct {
		group, resource string
		limit           int64
	}{{"", "nodes", f.th.Nodes}, {"", "namespaces", f.th.Namespaces}, {"", "pods", f.th.Pods}, {"", "services", f.th.Services}} {
		if r, _ := f.resource(c.group, c.resource); c.limit > 0 && r.Keys > c.limit {
			f.add(Finding{ID: "over-threshold", Severity: Warning, Resource: r.Name(), Value: float64(r.Keys), Threshold: float64(c.limit),
				Advice: "Plan for a second cluster, or prove that yours holds its service levels above the threshold."},
				"%d %s are more than the %d up to which Kubernetes is tested to keep its service levels.", r.Keys, r.Name(), c.limit)
		}
	}
	for _, c := range []struct {
		group, resource string
		limit           int64
	}{{"", "pods", f.th.PodsPerNamespace}, {"", "services", f.th.ServicesPerNamespace}, {"apps", "deployments", f.th.DeploymentsPerNamespace}} {
		_, t := f.resource(c.group, c.resource)
		over := most(t.cells, func(cell *cell) bool { return c.limit > 0 && cell.keys > c.limit })
		if len(over) == 0 {
			continue
		}
		name := keyspace.GroupResource(c.group, c.resource)
		message := fmt.Sprintf("Namespace %s has %d %s, more than the %d a namespace up to which Kubernetes is tested.", Printable(over[0].name), over[0].keys, name, c.limit)
		if len(over) > 1 {
			message = fmt.Sprintf("%d namespaces have more %s than the %d a namespace up to which Kubernetes is tested, most of all %s with %d.",
				len(over), name, c.limit, Printable(over[0].name), over[0].keys)
		}
		f.add(Finding{ID: "over-threshold", Severity: Warning, Resource: name, Subject: Printable(over[0].name), Value: float64(over[0].keys), Threshold: float64(c.limit),
			Advice: "Spread the workload over more namespaces: controllers work through a namespace at a time."}, "%s", message)
	}
}

// most are the cells that pass, those with most keys first.
func most(cells []*cell, pass func(*cell) bool) (out []*cell) {
	for _, c := range cells {
		if pass(c) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *cell) int { return cmp.Or(cmp.Compare(b.keys, a.keys), cmp.Compare(a.name, b.name)) })
	return out
}

func (f *finder) finished() {
	for _, k := range []struct{ group, resource, cron, crons, setting, limits string }{
		{"batch", "jobs", "cronjobs", "CronJob",
			"Set spec.ttlSecondsAfterFinished; clear the backlog with 'etcdkeeper clean plan'.",
			"Look at the CronJobs' successfulJobsHistoryLimit and failedJobsHistoryLimit, and at the log of kube-controller-manager; 'etcdkeeper clean plan' tells which CronJobs are gone."},
		{"argoproj.io", "workflows", "cronworkflows", "CronWorkflow",
			"Set spec.ttlStrategy, or a default one in the controller's workflowDefaults; clear the backlog with 'etcdkeeper clean plan'.",
			"Look at the CronWorkflows' successfulJobsHistoryLimit and failedJobsHistoryLimit, and at the log of the workflow controller; 'etcdkeeper clean plan' clears the backlog."},
	} {
		r, t := f.resource(k.group, k.resource)
		if n := t.samples.scale(t.samples.noTTL, t.keys); n >= max(1, f.th.FinishedWithoutTTL) {
			f.add(Finding{ID: "finished-without-ttl", Severity: Warning, Resource: r.Name(), Value: float64(n), Threshold: float64(f.th.FinishedWithoutTTL), Advice: k.setting},
				"About %d of %d %s are finished, have no TTL and belong to no %s: they stay until somebody deletes them or their owner, and every list of them grows (estimated from %d values).",
				n, r.Keys, r.Name(), k.crons, r.Sampled)
		}
		crons, _ := f.resource(k.group, k.cron)
		limit := max(1, f.th.FinishedWithoutTTL, f.th.FinishedPerCron*crons.Keys)
		n := t.samples.scale(t.samples.ofCron, t.keys)
		if f.th.FinishedPerCron <= 0 || n < limit {
			continue
		}
		severity, where := Warning, fmt.Sprintf("there are %d", crons.Keys)
		if crons.Keys == 0 {
			severity, where = Info, "none is stored here" // they may be in another etcd
		}
		f.add(Finding{ID: "finished-past-history", Severity: severity, Resource: r.Name(), Value: float64(n), Threshold: float64(limit), Advice: k.limits},
			"About %d of %d %s are finished and belong to a %s, of which %s: more than history limits leave, so these are high, the owners are gone, or nothing acts on them (estimated from %d values).",
			n, r.Keys, r.Name(), k.crons, where, r.Sampled)
	}
}

func (f *finder) events() {
	r, t := f.resource("", "events")
	if n := r.Keys - r.Leased; n >= max(1, f.th.EventsWithoutLease) {
		f.add(Finding{ID: "events-without-lease", Severity: Warning, Resource: r.Name(), Value: float64(n), Threshold: float64(f.th.EventsWithoutLease),
			Advice: "Check --event-ttl (0 means never) and delete them: no controller will."},
			"%d of %d events have no lease: they never expire.", n, r.Keys)
	}
	if f.th.EventTTL <= 0 {
		return
	}
	old := int64(f.th.EventTTL.Seconds() * f.th.EventTTLFactor)
	n := t.samples.scale(t.samples.writtenBefore(f.c.AsOf.Unix()-old), t.keys)
	if limit := f.th.EventsPastTTL * float64(r.Keys); n > 0 && float64(n) > limit {
		f.add(Finding{ID: "events-past-ttl", Severity: Warning, Resource: r.Name(), Value: float64(n), Threshold: limit,
			Advice: "Check --event-ttl, and whether the leader changes more often than it: each change gives every lease its time anew."},
			"About %d of %d events were last written more than %s ago although they should live for %s (estimated from %d values).",
			n, r.Keys, schedule.FormatDuration(time.Duration(old)*time.Second), schedule.FormatDuration(f.th.EventTTL), r.Sampled)
	}
}

func (f *finder) secrets() {
	r, _ := f.resource("", "secrets")
	if n := r.Keys - r.Encrypted; n >= max(1, f.th.UnencryptedSecrets) {
		f.add(Finding{ID: "unencrypted-secrets", Severity: Warning, Resource: r.Name(), Value: float64(n), Threshold: float64(f.th.UnencryptedSecrets),
			Advice: "Switch encryption at rest on (--encryption-provider-config) and write all Secrets once; protect backups until then."},
			"%d of %d Secrets are not encrypted: who holds a snapshot or a disk can read them.", n, r.Keys)
	}
	if f.th.Secrets > 0 && r.Keys >= f.th.Secrets {
		f.add(Finding{ID: "many-secrets", Severity: Warning, Resource: r.Name(), Value: float64(r.Keys), Threshold: float64(f.th.Secrets),
			Advice: "Find who makes them in the list of stems and managers (Helm releases, tokens) and limit their history."},
			"%d Secrets of %s: each controller that watches Secrets of the whole cluster holds all of them in memory.", r.Keys, human(r.Bytes))
	}
}

func (f *finder) namespaces() {
	for _, r := range f.c.Resources {
		if r.Resource == keyspace.Other {
			continue
		}
		t := f.t.resources[resourceName{r.Group, r.Resource}]
		if t == nil {
			continue
		}
		for _, cell := range t.cells {
			share := float64(cell.keys) / float64(max(1, r.Keys))
			if cell.name == "" || cell.keys < max(1, f.th.NamespaceKeys) || share < f.th.NamespaceShare || r.Resource == "leases" && cell.name == nodeLeases {
				continue
			}
			f.add(Finding{ID: "one-namespace", Severity: Warning, Resource: r.Name(), Subject: Printable(cell.name), Value: share, Threshold: f.th.NamespaceShare,
				Advice: "See its stems and managers for what makes them; a ResourceQuota with count/" + r.Name() + " bounds it."},
				"Namespace %s holds %d of %d %s (%.0f %%).", Printable(cell.name), cell.keys, r.Keys, r.Name(), 100*share)
		}
	}
}

// nodeLeases is the namespace that holds one lease for each node, by design.
const nodeLeases = "kube-node-lease"

// ownDir is where the keepers of a cluster keep what they share.
const ownDir = "etcdkeeper"

func (f *finder) outside() {
	_, t := f.resource("", keyspace.Other)
	var programs []*cell
	var ownKeys, ownBytes int64
	for _, c := range t.cells {
		ownKeys, ownBytes = ownKeys+c.underKeys, ownBytes+c.underBytes
		if rest := c.keys - c.underKeys; c.name != ownDir && rest >= max(1, f.th.OutsideKeys) {
			programs = append(programs, &cell{name: c.name, figures: figures{keys: rest, bytes: c.bytes - c.underBytes}})
		}
	}
	programs = most(programs, func(*cell) bool { return true })
	const advice = "Give other programs an etcd of their own; if these are Kubernetes' under another prefix, give --prefix."
	add := func(subject string, keys int64, format string, args ...any) {
		f.add(Finding{ID: "outside-kubernetes", Severity: Info, Resource: keyspace.Other, Subject: subject, Value: float64(keys), Threshold: float64(f.th.OutsideKeys),
			Advice: advice}, format, args...)
	}
	// Below its own prefix the API server has one key that is no object, by which it asks whether etcd is well.
	if ownKeys > 1 && ownKeys >= f.th.OutsideKeys {
		prefix := f.t.layout.Prefix()
		add(prefix, ownKeys, "%s of %s under the API server's own prefix %q are laid out as no object is.", count(ownKeys, "key"), human(ownBytes), prefix)
	}
	for _, c := range programs[:min(maxPrograms, len(programs))] {
		name := Printable(c.name)
		add(name, c.keys, "%s of %s under %q are not Kubernetes' own: they share its quota and its latency.", count(c.keys, "key"), human(c.bytes), name)
	}
	if len(programs) <= maxPrograms {
		return
	}
	var keys, bytes int64
	for _, c := range programs[maxPrograms:] {
		keys, bytes = keys+c.keys, bytes+c.bytes
	}
	add("", keys, "%s of %s under %d further first elements of a path are not Kubernetes' own.", count(keys, "key"), human(bytes), len(programs)-maxPrograms)
}

// maxPrograms bounds the findings on keys of other programs, of which a keyspace without any Kubernetes has thousands.
const maxPrograms = 5
