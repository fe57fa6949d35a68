package splitter

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// WALResource is what the write-ahead log says of one resource.
type WALResource struct {
	Resource string `json:"resource"`
	Puts     int64  `json:"puts"`
	PutBytes int64  `json:"putBytes"` // key and value
	Creates  int64  `json:"creates"`  // puts with an etcd lease: of a resource that expires, its creations
	Deletes  int64  `json:"deletes"`
	Expired  int64  `json:"expired"` // keys deleted by the revocation of a lease, where their puts are in the log
	Grants   int64  `json:"grants"`  // leases first attached to this resource
	Revokes  int64  `json:"revokes"` // of these
}

// WALReport is a reading of a member's write-ahead log.
type WALReport struct {
	Bytes         int64         `json:"bytes"`
	Segments      int           `json:"segments"`
	Entries       uint64        `json:"entries"`
	FirstIndex    uint64        `json:"firstIndex"`
	LastIndex     uint64        `json:"lastIndex"`
	Uncommitted   uint64        `json:"uncommitted"` // entries behind the last commit that the log knows
	Overwritten   uint64        `json:"overwritten"`
	Torn          string        `json:"torn,omitempty"`
	Compactions   int64         `json:"compactions"`
	UnknownLeases int64         `json:"unknownLeases"` // revoked leases that were granted and filled before the log begins
	WindowSeconds *Figure       `json:"windowSeconds"` // nil where nothing in the log tells the time
	Resources     []WALResource `json:"resources"`
}

// maxTrackedLeases bounds the memory of attributing expirations: kube-apiserver reuses a lease for up to 1,000 keys,
// so this is 64 million events.
const maxTrackedLeases = 1 << 16

// leaseUse is what a lease is attached to: one resource for kube-apiserver's, which makes them for events only.
type leaseUse struct {
	resource *WALResource
	keys     int32
}

// ReadWAL attributes the writes in a member's write-ahead log to resources. dataDir is etcd's --data-dir, or its
// member/wal itself. Files are opened for reading; nothing is locked or written, and memory does not grow with the log.
func ReadWAL(ctx context.Context, dataDir string, layout *keyspace.Layout) (*WALReport, error) {
	dir := dataDir
	if filepath.Base(dir) != "wal" {
		dir = filepath.Join(dataDir, "member", "wal")
	}
	t := newWALTally(layout)
	sum, err := etcdfile.ReadWAL(ctx, dir, func(o *etcdfile.WALOp) error { t.op(o); return nil })
	if err != nil {
		return nil, err
	}
	return t.report(sum), nil
}

// walTally counts operations.
type walTally struct {
	layout      *keyspace.Layout
	byDir       map[string]*WALResource // by the key's directory, so that most keys cost one lookup
	byName      map[string]*WALResource
	leases      map[int64]leaseUse
	clock       writeClock
	compactions int64
	unknown     int64
}

func newWALTally(layout *keyspace.Layout) *walTally {
	return &walTally{layout: layout, byDir: map[string]*WALResource{}, byName: map[string]*WALResource{}, leases: map[int64]leaseUse{}}
}

// maxDirs bounds the lookup by directory: beyond it, keys are parsed.
const maxDirs = 1 << 14

// resource finds the tally of a key.
func (t *walTally) resource(key []byte) *WALResource {
	end := len(key)
	for end > 0 && key[end-1] != '/' {
		end--
	}
	if r, ok := t.byDir[string(key[:end])]; ok {
		return r
	}
	p := t.layout.Parts(key)
	name := keyspace.GroupResource(string(p.Group), string(p.Resource))
	r := t.byName[name]
	if r == nil {
		r = &WALResource{Resource: name}
		t.byName[name] = r
	}
	if p.NameAt == end && len(t.byDir) < maxDirs {
		t.byDir[string(key[:end])] = r
	}
	return r
}

func (t *walTally) op(o *etcdfile.WALOp) {
	switch o.Kind {
	case etcdfile.WALPut:
		r := t.resource(o.Key)
		r.Puts++
		r.PutBytes += int64(len(o.Key) + len(o.Value))
		if o.Lease != 0 {
			t.attach(o.Lease, r)
		}
		t.clock.see(r.Resource, o.Value, o.Index)
	case etcdfile.WALDelete:
		t.resource(o.Key).Deletes++
	case etcdfile.WALGrant:
		if len(t.leases) < maxTrackedLeases {
			t.leases[o.Lease] = leaseUse{}
		}
	case etcdfile.WALRevoke:
		use, ok := t.leases[o.Lease]
		if !ok || use.resource == nil {
			t.unknown++
			return
		}
		use.resource.Revokes++
		use.resource.Expired += int64(use.keys)
		delete(t.leases, o.Lease)
	case etcdfile.WALCompact:
		t.compactions++
	}
}

var leasesName = Leases.Name()

// attach counts a key under a lease. The lease's grant belongs to the first resource that uses it.
func (t *walTally) attach(lease int64, r *WALResource) {
	r.Creates++
	use, ok := t.leases[lease]
	if !ok {
		if len(t.leases) >= maxTrackedLeases {
			return
		}
		// Granted before the log begins.
		use.resource = r
	}
	if use.resource == nil {
		use.resource = r
		r.Grants++
	}
	use.keys++
	t.leases[lease] = use
}

func (t *walTally) report(sum etcdfile.WALSummary) *WALReport {
	out := &WALReport{Bytes: sum.Bytes, Segments: sum.Segments, Entries: sum.Entries, FirstIndex: sum.FirstIndex, LastIndex: sum.LastIndex,
		Overwritten: sum.Overwritten, Torn: sum.Torn, Compactions: t.compactions, UnknownLeases: t.unknown, Resources: []WALResource{}}
	if sum.LastIndex > sum.Commit {
		out.Uncommitted = sum.LastIndex - sum.Commit
	}
	if w, ok := t.clock.window(sum.FirstIndex, sum.LastIndex); ok {
		out.WindowSeconds = figure(w.Seconds(), FromWAL, Measured)
	} else if span := sum.LastWritten.Sub(sum.FirstClosed); !sum.FirstClosed.IsZero() && span > time.Second && sum.LastIndex > sum.FirstClosedIndex {
		// The file times bound all segments but the first; the pace is taken to be the same in it.
		share := float64(sum.LastIndex-sum.FirstIndex+1) / float64(sum.LastIndex-sum.FirstClosedIndex)
		out.WindowSeconds = figure(span.Seconds()*share, FromWAL, Estimated)
	}
	for _, r := range t.byName {
		out.Resources = append(out.Resources, *r)
	}
	sortBy(out.Resources, func(a, b WALResource) bool {
		if a.Puts != b.Puts {
			return a.Puts > b.Puts
		}
		return a.Resource < b.Resource
	})
	return out
}

// Calibrate gives a log without a clock its window from the raft index's pace, entries per second, seen elsewhere.
func (w *WALReport) Calibrate(entriesPerSecond float64) {
	if w.WindowSeconds == nil && entriesPerSecond > 0 {
		w.WindowSeconds = figure(float64(w.Entries)/entriesPerSecond, FromWAL, Estimated)
	}
}

// Evidence turns the log's counts into rates. Without a window there are none, only a note.
func (w *WALReport) Evidence() Evidence {
	e := Evidence{Taken: time.Now(), WindowSeconds: w.WindowSeconds}
	if w.Torn != "" {
		e.note("the write-ahead log ends in a half-written record, which was left out: " + w.Torn)
	}
	if w.UnknownLeases > 0 {
		e.note(fmt.Sprintf("%d leases expired whose keys were written before the log begins: their deletions are not counted", w.UnknownLeases))
	}
	count := func(n int64) *Figure { return figure(float64(n), FromWAL, Exact) }
	for _, r := range w.Resources {
		x := e.resource(r.Resource)
		x.Puts, x.PutBytes, x.Deletes, x.Grants, x.Revokes = count(r.Puts), count(r.PutBytes), count(r.Deletes+r.Expired), count(r.Grants), count(r.Revokes)
	}
	e.sort()
	switch {
	case w.Entries == 0:
		e.note("nothing could be read of the write-ahead log: it is empty, no write-ahead log, or on an encrypted volume that is not open here")
		return e
	case w.WindowSeconds == nil:
		e.note("the write-ahead log tells no time (no Lease and no event in clear text, and one segment): its writes are counted, without rates")
		return e
	}
	seconds, conf := w.WindowSeconds.Value, w.WindowSeconds.Confidence
	rate := func(n int64) *Figure { return figure(float64(n)/seconds, FromWAL, conf) }
	for _, r := range w.Resources {
		x := e.resource(r.Resource)
		x.WritesPerSecond = rate(r.Puts + r.Deletes + r.Expired)
		x.WriteBytesPerSecond = rate(r.PutBytes)
		x.DeletesPerSecond = rate(r.Deletes + r.Expired)
		x.GrantsPerSecond = rate(r.Grants)
		x.RevokesPerSecond = rate(r.Revokes)
		if r.Creates > 0 {
			x.CreatesPerSecond = rate(r.Creates)
		}
	}
	return e
}
