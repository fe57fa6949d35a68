package bulkclean

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// CollectorRate is how many pods a second the controller manager's garbage collector removes: its client is limited to
// 20 requests a second by default (--kube-api-qps).
const CollectorRate = 20.0

// Summary is what a person wants to know of a plan.
type Summary struct {
	Plan          string    `json:"plan"`
	ClusterID     *string   `json:"clusterId"`
	KubeSystemUID *string   `json:"kubeSystemUid"`
	Kind          string    `json:"kind"`
	Namespaces    []string  `json:"namespaces"` // null for all
	Revision      int64     `json:"revision"`
	Made          time.Time `json:"made"`

	Scanned      int64      `json:"scanned"`
	ScannedBytes int64      `json:"scannedBytes"`
	Objects      int64      `json:"objects"`
	Bytes        int64      `json:"bytes"`
	Oldest       *time.Time `json:"oldest"`
	Newest       *time.Time `json:"newest"`
	Dependents   *int64     `json:"dependents"`

	// At the default pace through the API server, and at the garbage collector's.
	ETASeconds           float64  `json:"etaSeconds"`
	DependentsETASeconds *float64 `json:"dependentsEtaSeconds"`

	Stems []StemCount `json:"stems"`
	Kept  []Kept      `json:"kept"`
	Cause []Cause     `json:"cause"`
}

// StemCount is how many selected objects share a namespace and a name stem.
type StemCount struct {
	Namespace string `json:"namespace"`
	Stem      string `json:"stem"`
	Objects   int64  `json:"objects"`
	Bytes     int64  `json:"bytes"`
}

// Cause is who made the objects, how fast, and what would stop them from piling up.
type Cause struct {
	Manager   string   `json:"manager"` // of metadata.managedFields; empty where it does not say
	Namespace string   `json:"namespace"`
	Stem      string   `json:"stem"`
	Objects   int64    `json:"objects"`
	PerHour   *float64 `json:"perHour"` // null where all were created at one time
	Owner     string   `json:"owner,omitempty"`
	Remedy    string   `json:"remedy"`
}

// tallyGroups bounds the groups that are counted: when there are twice as many, the smaller half is forgotten. So a
// group larger than its share of the objects is never lost, and small ones are counted roughly.
const tallyGroups = 2048

const topGroups = 5

// tally counts on the way.
type tally struct {
	kind                  *Kind
	scanned, scannedBytes int64
	dropped               int64
	kept                  map[Class]*keptCount
	oldest, newest        time.Time
	groups                map[groupKey]*groupCount
	liveOwners            map[groupKey]*groupCount
}

type keptCount struct {
	count, bytes int64
	example      string
}

type groupKey struct {
	namespace, stem, manager string
	owner                    string // kind and name's stem; of an owner that lives its kind and name
	ttl                      bool   // of their own
}

type groupCount struct {
	count, bytes int64
	first, last  time.Time
	owner        string // kind and name of one of the owners
	several      bool   // owners
}

func newTally(m *matcher) *tally {
	return &tally{kind: m.kind, kept: map[Class]*keptCount{}, groups: map[groupKey]*groupCount{}, liveOwners: map[groupKey]*groupCount{}}
}

// keep counts an object that stays. The first example that has something to add goes with the class's reason.
func (t *tally) keep(class Class, bytes int64, example string) {
	k := t.kept[class]
	if k == nil {
		k = &keptCount{}
		t.kept[class] = k
	}
	k.count++
	k.bytes += bytes
	if k.example == "" {
		k.example = example
	}
}

// keepOwned is keep for the rule about owners.
func (t *tally) keepOwned(class Class, c *candidate) {
	example := ""
	if len(c.Owners) > 0 {
		example = fmt.Sprintf("%s %s/%s", c.Owners[0].Kind, c.Namespace, c.Owners[0].Name)
	}
	t.keep(class, c.Bytes, example)
	if class == KeptLiveOwner {
		count(t.liveOwners, groupKey{namespace: c.Namespace, manager: c.Manager, owner: c.Owners[0].Kind + " " + c.Owners[0].Name}, c)
	}
}

// take counts an object that is to be deleted.
func (t *tally) take(c *candidate) {
	if t.oldest.IsZero() || c.FinishedAt.Before(t.oldest) {
		t.oldest = c.FinishedAt
	}
	if c.FinishedAt.After(t.newest) {
		t.newest = c.FinishedAt
	}
	owner := ""
	if len(c.Owners) > 0 {
		owner = c.Owners[0].Kind + " " + Stem(c.Owners[0].Name)
	}
	count(t.groups, groupKey{c.Namespace, Stem(c.Name), c.Manager, owner, c.HasTTL}, c)
}

func count(groups map[groupKey]*groupCount, k groupKey, c *candidate) {
	g := groups[k]
	if g == nil {
		if len(groups) >= 2*tallyGroups {
			for _, small := range ranked(groups)[tallyGroups:] {
				delete(groups, small)
			}
		}
		g = &groupCount{first: c.Created, last: c.Created}
		groups[k] = g
	}
	if len(c.Owners) > 0 {
		owner := c.Owners[0].Kind + " " + c.Owners[0].Name
		g.several = g.several || g.count > 0 && g.owner != owner
		g.owner = owner
	}
	g.count++
	g.bytes += c.Bytes
	if c.Created.Before(g.first) {
		g.first = c.Created
	}
	if c.Created.After(g.last) {
		g.last = c.Created
	}
}

// ranked are the keys, the largest group first.
func ranked(groups map[groupKey]*groupCount) []groupKey {
	return slices.SortedFunc(maps.Keys(groups), func(a, b groupKey) int {
		return cmp.Or(-cmp.Compare(groups[a].count, groups[b].count), cmp.Compare(a.namespace, b.namespace),
			cmp.Compare(a.stem, b.stem), cmp.Compare(a.manager, b.manager), cmp.Compare(a.owner, b.owner), -compareBool(a.ttl, b.ttl))
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// keptLines are the plan's lines of what stays, in the order of the rules.
func (t *tally) keptLines() []Kept {
	var out []Kept
	for _, class := range keptOrder {
		k := t.kept[class]
		if k == nil {
			continue
		}
		reason := classReasons[class]
		if k.example != "" {
			reason += " (" + k.example + ")"
		}
		out = append(out, Kept{Type: "kept", Class: class, Count: k.count, Bytes: k.bytes, Reason: reason})
	}
	return out
}

var keptOrder = []Class{KeptRunning, KeptSuspended, KeptUnsettled, KeptDeleting, KeptFinalizers, KeptYoung, KeptTTL, KeptLiveOwner,
	KeptContested, KeptUnknown, KeptOwner, KeptState, KeptName, KeptNewest, KeptLimit, KeptOptOut, KeptManagedBy, KeptLeased,
	KeptSpecial, KeptAge, KeptUnreadable}

// summary describes the finished plan.
func (t *tally) summary(p *Plan) *Summary {
	h := &p.Head
	s := &Summary{
		Plan: p.File, ClusterID: h.ClusterID, KubeSystemUID: h.KubeSystemUID, Kind: h.Selector.Kind, Namespaces: h.Selector.Namespaces,
		Revision: h.Revision, Made: h.Made, Scanned: t.scanned, ScannedBytes: t.scannedBytes, Objects: p.End.Objects, Bytes: p.End.Bytes,
		Dependents: p.End.Dependents, ETASeconds: float64(p.End.Objects) / DefaultAPIQPS, Kept: p.Kept, Cause: []Cause{}, Stems: []StemCount{},
	}
	if s.Kept == nil {
		s.Kept = []Kept{}
	}
	if s.Objects > 0 {
		s.Oldest, s.Newest = &t.oldest, &t.newest
	}
	if s.Dependents != nil {
		eta := float64(*s.Dependents) / CollectorRate
		s.DependentsETASeconds = &eta
	}
	s.Stems = t.stems()
	s.Cause = t.causes()
	return s
}

func (t *tally) stems() []StemCount {
	sums := map[groupKey]*groupCount{}
	for k, g := range t.groups {
		key := groupKey{namespace: k.namespace, stem: k.stem}
		if sums[key] == nil {
			sums[key] = &groupCount{}
		}
		sums[key].count += g.count
		sums[key].bytes += g.bytes
	}
	out := []StemCount{}
	for _, k := range ranked(sums) {
		if len(out) == topGroups {
			break
		}
		out = append(out, StemCount{Namespace: k.namespace, Stem: k.stem, Objects: sums[k].count, Bytes: sums[k].bytes})
	}
	return out
}

func (t *tally) causes() []Cause {
	out := []Cause{}
	for _, k := range ranked(t.groups) {
		if len(out) == topGroups {
			break
		}
		out = append(out, t.cause(k, t.groups[k], k.remedy(t.kind, t.groups[k])))
	}
	// What a live owner keeps is not deleted here, and is often the larger heap.
	for i, k := range ranked(t.liveOwners) {
		if g := t.liveOwners[k]; i == 0 && g.count > manyOfOwner {
			out = append(out, t.cause(k, g, "kept here: lower spec.successfulJobsHistoryLimit and spec.failedJobsHistoryLimit of the "+k.owner))
		}
	}
	return out
}

// manyOfOwner is more than the default history limits of a CronJob (3 and 1) by an order of magnitude.
const manyOfOwner = 40

func (t *tally) cause(k groupKey, g *groupCount, remedy string) Cause {
	c := Cause{Manager: k.manager, Namespace: k.namespace, Stem: k.stem, Objects: g.count, Owner: k.owner, Remedy: remedy}
	if span := g.last.Sub(g.first).Hours(); span > 0 && g.count > 1 {
		rate := float64(g.count-1) / span
		c.PerHour = &rate
	}
	return c
}

// remedy is the setting that would stop the objects of a group from piling up.
func (k groupKey) remedy(kind *Kind, g *groupCount) string {
	switch {
	case k.ttl:
		return "their time to live is over: find out why the controller that should delete them does not"
	case g.owner == "":
		return kind.cause
	case g.several:
		return fmt.Sprintf("they were left behind by owners that are gone, such as %s: delete owners with propagationPolicy=Background, or %s",
			g.owner, kind.cause)
	}
	return fmt.Sprintf("they were left behind by %s, which is gone: delete owners with propagationPolicy=Background, or %s", g.owner, kind.cause)
}
