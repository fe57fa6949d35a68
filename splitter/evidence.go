package splitter

import (
	"cmp"
	"slices"
	"time"
)

// Source is where a figure comes from.
type Source string

// Sources, from the surest to the least sure for a rate of writes.
const (
	FromWAL       Source = "wal"       // the member's write-ahead log
	FromWatch     Source = "watch"     // a bounded watch of the whole keyspace
	FromSnapshot  Source = "snapshot"  // every retained revision of a database file
	FromAPIServer Source = "apiserver" // kube-apiserver's own metrics
	FromScan      Source = "scan"      // one pass over the live keyspace
	FromMetrics   Source = "metrics"   // the members' metrics
	FromStatus    Source = "status"    // the members' Status answers
	FromFlag      Source = "flag"      // given by the user
	FromModel     Source = "model"     // computed from other figures
)

// Confidence says how sure a figure is.
type Confidence string

// Confidences.
const (
	Exact     Confidence = "exact"     // counted
	Measured  Confidence = "measured"  // counted over a window, or with a known error
	Estimated Confidence = "estimated" // inferred: may be off by a factor
	Assumed   Confidence = "assumed"   // a default nobody has confirmed
)

// Figure is a number with its source and how sure it is. A nil *Figure is not known.
type Figure struct {
	Value      float64    `json:"value"`
	Source     Source     `json:"source"`
	Confidence Confidence `json:"confidence"`
}

func figure(v float64, s Source, c Confidence) *Figure {
	return &Figure{Value: v, Source: s, Confidence: c}
}

// Or is the value, or other where it is not known.
func (f *Figure) Or(other float64) float64 {
	if f == nil {
		return other
	}
	return f.Value
}

func (f *Figure) source() Source {
	if f == nil {
		return ""
	}
	return f.Source
}

// ResourceEvidence is what is known of one resource's part in the cluster's load.
type ResourceEvidence struct {
	Resource string `json:"resource"` // plural and group, such as leases.coordination.k8s.io
	Movable  bool   `json:"movable"`  // an override reaches it

	Keys         *Figure `json:"keys"`         // live keys
	Bytes        *Figure `json:"bytes"`        // key and value of live keys
	LeasedKeys   *Figure `json:"leasedKeys"`   // live keys that expire with an etcd lease
	Revisions    *Figure `json:"revisions"`    // retained revisions, live ones and tombstones included
	HistoryBytes *Figure `json:"historyBytes"` // key and value of retained revisions that are not live

	// What was counted in the write-ahead log, the file's history or the watch, also where nothing tells over how long.
	Puts     *Figure `json:"puts"`
	PutBytes *Figure `json:"putBytes"` // key and value
	Deletes  *Figure `json:"deletes"`  // tombstones: deleted and expired keys
	Grants   *Figure `json:"grants"`   // of leases, first used for this resource
	Revokes  *Figure `json:"revokes"`

	WritesPerSecond     *Figure `json:"writesPerSecond"` // puts and deletes
	WriteBytesPerSecond *Figure `json:"writeBytesPerSecond"`
	CreatesPerSecond    *Figure `json:"createsPerSecond"`
	DeletesPerSecond    *Figure `json:"deletesPerSecond"` // expired keys included
	GrantsPerSecond     *Figure `json:"grantsPerSecond"`
	RevokesPerSecond    *Figure `json:"revokesPerSecond"`
}

// Stress is how hard the main cluster works, from the member that is worst off.
type Stress struct {
	FsyncP99Seconds      *Figure `json:"fsyncP99Seconds"`
	CommitP99Seconds     *Figure `json:"commitP99Seconds"`
	CompactionSeconds    *Figure `json:"compactionSeconds"` // of one compaction, the mean
	SlowAppliesPerSecond *Figure `json:"slowAppliesPerSecond"`
	PendingProposals     *Figure `json:"pendingProposals"`
	DBSizeBytes          *Figure `json:"dbSizeBytes"`
	DBSizeInUseBytes     *Figure `json:"dbSizeInUseBytes"`
	QuotaBytes           *Figure `json:"quotaBytes"`
	QuotaHorizonSeconds  *Figure `json:"quotaHorizonSeconds"` // until the database fills the quota; nil also where it does not grow
}

// NoisySource is one origin of events: a namespace and the stem of the names of what they are about.
type NoisySource struct {
	Namespace string  `json:"namespace"`
	Stem      string  `json:"stem"`
	Keys      int64   `json:"keys"`
	Bytes     int64   `json:"bytes"`
	Share     float64 `json:"share"` // of the events' keys
}

// Evidence is what a verdict rests on.
type Evidence struct {
	Taken         time.Time          `json:"taken"`
	ClusterID     string             `json:"clusterId,omitempty"`
	Revision      int64              `json:"revision"`
	WindowSeconds *Figure            `json:"windowSeconds"` // over which rates were taken
	Resources     []ResourceEvidence `json:"resources"`     // by bytes, largest first
	Stress        Stress             `json:"stress"`
	EventTTL      *Figure            `json:"eventTTLSeconds"`
	Noisy         []NoisySource      `json:"noisySources"` // of events, noisiest first
	// RevisionsPerSecond is the growth of the store's revision, the writes of all resources together with one count for
	// a transaction.
	RevisionsPerSecond *Figure `json:"revisionsPerSecond"`
	// Unattributed is the part of the writes that no resource could be given, per second.
	Unattributed *Figure  `json:"unattributedWritesPerSecond"`
	Notes        []string `json:"notes"` // what was not there, and what was cut
}

// counted is the number of writes of a resource that were counted, and whether any source counts.
func (r ResourceEvidence) counted() (writes float64, ok bool) {
	return r.Puts.Or(0) + r.Deletes.Or(0), r.Puts != nil
}

// resource finds or adds the evidence of one resource.
func (e *Evidence) resource(name string) *ResourceEvidence {
	for i := range e.Resources {
		if e.Resources[i].Resource == name {
			return &e.Resources[i]
		}
	}
	gr, ok := ParseResource(name)
	e.Resources = append(e.Resources, ResourceEvidence{Resource: name, Movable: ok && gr.Name() == name})
	return &e.Resources[len(e.Resources)-1]
}

// find is the evidence of a resource, empty where there is none.
func (e Evidence) find(name string) ResourceEvidence {
	for _, r := range e.Resources {
		if r.Resource == name {
			return r
		}
	}
	return ResourceEvidence{Resource: name}
}

func (e *Evidence) note(text string) {
	if !slices.Contains(e.Notes, text) {
		e.Notes = append(e.Notes, text)
	}
}

// sort orders resources by bytes, then writes, then name.
func (e *Evidence) sort() {
	slices.SortStableFunc(e.Resources, func(a, b ResourceEvidence) int {
		return cmp.Or(cmp.Compare(b.Bytes.Or(0), a.Bytes.Or(0)), cmp.Compare(b.WritesPerSecond.Or(0), a.WritesPerSecond.Or(0)), cmp.Compare(a.Resource, b.Resource))
	})
}

// rank orders sources by how well they know a rate of writes.
func rank(s Source) int {
	return slices.Index([]Source{FromModel, FromScan, FromAPIServer, FromSnapshot, FromWatch, FromWAL}, s)
}

// Merge fills what e does not know from other, and replaces a rate by a surer one. Sizes are taken from the side that
// has them; e wins where both do.
func (e *Evidence) Merge(other Evidence) {
	keep := func(a **Figure, b *Figure) {
		if *a == nil {
			*a = b
		}
	}
	better := func(a **Figure, b *Figure) {
		if *a == nil || b != nil && rank(b.Source) > rank((*a).Source) {
			*a = b
		}
	}
	better(&e.WindowSeconds, other.WindowSeconds)
	for _, o := range other.Resources {
		r := e.resource(o.Resource)
		r.Movable = r.Movable || o.Movable
		keep(&r.Keys, o.Keys)
		keep(&r.Bytes, o.Bytes)
		keep(&r.LeasedKeys, o.LeasedKeys)
		keep(&r.Revisions, o.Revisions)
		keep(&r.HistoryBytes, o.HistoryBytes)
		better(&r.Puts, o.Puts)
		better(&r.PutBytes, o.PutBytes)
		better(&r.Deletes, o.Deletes)
		better(&r.Grants, o.Grants)
		better(&r.Revokes, o.Revokes)
		better(&r.WritesPerSecond, o.WritesPerSecond)
		better(&r.WriteBytesPerSecond, o.WriteBytesPerSecond)
		better(&r.CreatesPerSecond, o.CreatesPerSecond)
		better(&r.DeletesPerSecond, o.DeletesPerSecond)
		better(&r.GrantsPerSecond, o.GrantsPerSecond)
		better(&r.RevokesPerSecond, o.RevokesPerSecond)
	}
	// Rates of one source only: a resource that the surer source did not see had no writes.
	if w := e.WindowSeconds; w != nil {
		for i := range e.Resources {
			r := &e.Resources[i]
			if r.WritesPerSecond != nil && r.WritesPerSecond.Source != w.Source {
				r.WritesPerSecond, r.WriteBytesPerSecond = figure(0, w.Source, Measured), figure(0, w.Source, Measured)
				r.CreatesPerSecond, r.DeletesPerSecond = figure(0, w.Source, Measured), figure(0, w.Source, Measured)
			}
		}
	}
	keep(&e.EventTTL, other.EventTTL)
	better(&e.RevisionsPerSecond, other.RevisionsPerSecond)
	if e.Unattributed == nil || other.WindowSeconds == e.WindowSeconds && other.Unattributed != nil {
		e.Unattributed = other.Unattributed
	}
	if len(e.Noisy) == 0 {
		e.Noisy = other.Noisy
	}
	if e.Revision == 0 {
		e.Revision = other.Revision
	}
	for _, n := range other.Notes {
		e.note(n)
	}
	e.sort()
}
