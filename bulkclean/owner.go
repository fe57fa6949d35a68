package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// ownerKind is where objects of an owner's kind lie and how the API server serves them.
type ownerKind struct {
	dir     string
	plural  string
	cluster bool // not in a namespace
	// byName marks a controller that takes objects of its name for its own without comparing uids.
	byName bool
}

// ownerKinds are the owners whose fate can be told, by group and kind. What is not here is unknown, and its objects
// are kept.
var ownerKinds = map[string]ownerKind{
	"/Pod":                   {dir: "pods", plural: "pods"},
	"/Node":                  {dir: "minions", plural: "nodes", cluster: true},
	"/Namespace":             {dir: "namespaces", plural: "namespaces", cluster: true},
	"/ReplicationController": {dir: "controllers", plural: "replicationcontrollers"},
	"/Service":               {dir: "services/specs", plural: "services"},
	"/ConfigMap":             {dir: "configmaps", plural: "configmaps"},
	"/Secret":                {dir: "secrets", plural: "secrets"},
	"/ServiceAccount":        {dir: "serviceaccounts", plural: "serviceaccounts"},
	"/PersistentVolumeClaim": {dir: "persistentvolumeclaims", plural: "persistentvolumeclaims"},

	"apps/Deployment":  {dir: "deployments", plural: "deployments"},
	"apps/ReplicaSet":  {dir: "replicasets", plural: "replicasets"},
	"apps/StatefulSet": {dir: "statefulsets", plural: "statefulsets"},
	"apps/DaemonSet":   {dir: "daemonsets", plural: "daemonsets"},

	"batch/Job":     {dir: "jobs", plural: "jobs"},
	"batch/CronJob": {dir: "cronjobs", plural: "cronjobs", byName: true},

	"argoproj.io/Workflow":     {dir: "argoproj.io/workflows", plural: "workflows"},
	"argoproj.io/CronWorkflow": {dir: "argoproj.io/cronworkflows", plural: "cronworkflows", byName: true},

	"sparkoperator.k8s.io/SparkApplication": {dir: "sparkoperator.k8s.io/sparkapplications", plural: "sparkapplications"},
	"sparkoperator.k8s.io/ScheduledSparkApplication": {dir: "sparkoperator.k8s.io/scheduledsparkapplications",
		plural: "scheduledsparkapplications", byName: true},

	"tekton.dev/TaskRun":     {dir: "tekton.dev/taskruns", plural: "taskruns"},
	"tekton.dev/PipelineRun": {dir: "tekton.dev/pipelineruns", plural: "pipelineruns"},
}

// group and version of the owner's API.
func (r OwnerRef) api() (group, version string) {
	group, version, ok := strings.Cut(r.APIVersion, "/")
	if !ok {
		return "", r.APIVersion
	}
	return group, version
}

// known finds the row of an owner, in the table or among the custom resources that were looked up.
func (o *owners) known(r OwnerRef) (ownerKind, kube.Resource, bool) {
	group, version := r.api()
	k, ok := ownerKinds[group+"/"+r.Kind]
	if !ok {
		k = o.custom[group+"/"+r.Kind]
		ok = k.dir != ""
	}
	return k, kube.Resource{Group: group, Version: version, Plural: k.plural, Custom: strings.Contains(group, ".")}, ok
}

// key is the owner's key, "" where its kind is not known.
func (o *owners) key(r OwnerRef, namespace string) string {
	k, _, ok := o.known(r)
	switch {
	case !ok || r.Name == "" || r.UID == "" || strings.Contains(r.Name, "/"):
		return ""
	case k.cluster:
		return o.registry + "/" + k.dir + "/" + r.Name
	}
	return o.registry + "/" + k.dir + "/" + namespace + "/" + r.Name
}

// fateOfOne compares what the object says about its owner with what is there: the uid that the owner's key has now, ""
// where there is no such key, and readable false where it cannot be told.
func (o *owners) fateOfOne(r OwnerRef, uid string, readable bool) OwnerState {
	k, _, ok := o.known(r)
	switch {
	case !ok || !readable || r.UID == "" || r.Name == "":
		return OwnerUnknown
	case uid == "":
		return OwnerGone
	case uid == r.UID:
		return OwnerLive
	case k.byName && r.Controller:
		return OwnerContested
	}
	return OwnerGone
}

// fateOf joins the fates of all owners of an object: any owner that lives keeps it, and any that cannot be told does.
func fateOf(states []OwnerState) OwnerState {
	if len(states) == 0 {
		return OwnerNone
	}
	worst := OwnerGone
	for _, s := range states {
		if rank(s) > rank(worst) {
			worst = s
		}
	}
	return worst
}

func rank(s OwnerState) int {
	switch s {
	case OwnerLive:
		return 3
	case OwnerContested:
		return 2
	case OwnerUnknown:
		return 1
	}
	return 0
}

// ownerCacheSize bounds the owners that are remembered: the Jobs of one owner lie next to each other, so that a small
// cache answers nearly all.
const ownerCacheSize = 4096

// owners looks owners up, after the scan and at or after its revision.
type owners struct {
	reader   Reader
	objects  ObjectReader // for encrypted owners; may be nil
	registry string
	atLeast  int64
	revision int64 // the newest that was read

	uids map[string]ownerUID
	// custom are the kinds of custom resources that were asked for; those that are not to be found have no dir.
	custom map[string]ownerKind
}

type ownerUID struct {
	uid      string
	readable bool
}

// load reads the owners of a batch of objects that are not known yet.
func (o *owners) load(ctx context.Context, batch []*candidate) error {
	if err := o.discover(ctx, batch); err != nil {
		return err
	}
	var keys []string
	refs := map[string]ownedBy{}
	for _, c := range batch {
		for _, r := range c.Owners {
			key := o.key(r, c.Namespace)
			if key == "" {
				continue
			}
			if _, ok := o.uids[key]; ok {
				continue
			}
			if _, ok := refs[key]; !ok {
				refs[key] = ownedBy{namespace: c.Namespace, ref: r}
				keys = append(keys, key)
			}
		}
	}
	if len(keys) > 0 && len(o.uids) > 0 && len(o.uids)+len(keys) > ownerCacheSize {
		o.uids = make(map[string]ownerUID)
		return o.load(ctx, batch)
	}
	if o.reader == nil {
		for _, key := range keys {
			o.uids[key] = o.ask(ctx, refs[key])
		}
		return ctx.Err()
	}
	for len(keys) > 0 {
		n := min(len(keys), ownerBatch)
		items, rev, err := o.reader.Get(ctx, keys[:n])
		if err != nil {
			return fmt.Errorf("read the owners: %w", err)
		}
		if rev < o.atLeast {
			return fmt.Errorf("read the owners: got revision %d, which is older than the scan's %d", rev, o.atLeast)
		}
		o.revision = max(o.revision, rev)
		for i, item := range items {
			o.uids[keys[i]] = o.uid(ctx, refs[keys[i]], item)
		}
		keys = keys[n:]
	}
	return nil
}

type ownedBy struct {
	namespace string
	ref       OwnerRef
}

// ownerBatch bounds one read: owners such as Workflows may be large.
const ownerBatch = 16

func (o *owners) uid(ctx context.Context, by ownedBy, item *Item) ownerUID {
	if item == nil {
		return ownerUID{readable: true}
	}
	uid, err := metaUID(item.Value)
	if errors.Is(err, errEncrypted) && o.objects != nil {
		return o.ask(ctx, by)
	}
	return ownerUID{uid: uid, readable: err == nil}
}

// ask reads an owner through the API server.
func (o *owners) ask(ctx context.Context, by ownedBy) ownerUID {
	k, res, _ := o.known(by.ref)
	ns := by.namespace
	if k.cluster {
		ns = ""
	}
	raw, err := readObject(ctx, o.objects, res, ns, by.ref.Name)
	if kube.IsNotFound(err) {
		return ownerUID{readable: true}
	}
	if err != nil {
		return ownerUID{}
	}
	uid, err := metaUID(raw)
	return ownerUID{uid: uid, readable: err == nil}
}

// fate is what became of the owners of c, loaded before.
func (o *owners) fate(c *candidate) OwnerState {
	states := make([]OwnerState, 0, len(c.Owners))
	for _, r := range c.Owners {
		u := o.uids[o.key(r, c.Namespace)]
		states = append(states, o.fateOfOne(r, u.uid, u.readable))
	}
	return fateOf(states)
}
