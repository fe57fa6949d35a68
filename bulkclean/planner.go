package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// PlanOptions are what a plan needs besides the keyspace and the selector.
type PlanOptions struct {
	// File is where the plan is written, atomically. Temporary files lie beside it.
	File string
	// Reader reads the owners, after the scan. Nil: the scanner's own revision.
	Reader Reader
	// Leases tells how long events were to live. Nil: objects with a lease are kept.
	Leases LeaseReader
	// Objects reads objects whose values are encrypted. Nil: they are kept as unreadable.
	Objects ObjectReader
	// ClusterID is etcd's, in hexadecimal; empty for a snapshot.
	ClusterID string
	// Snapshot is the file that is read instead of a live etcd; empty for a live one.
	Snapshot string
	// Progress is called now and then with what was scanned so far; may be nil.
	Progress func(scanned int64)
}

// ErrShare is returned when more than the selector's share of the objects would be deleted.
var ErrShare = errors.New("the selection is too large a share")

// NewPlan scans the keyspace for the selector's objects and writes a plan. The memory it takes does not grow with the
// number of objects: what must be sorted or read twice goes through temporary files.
func NewPlan(ctx context.Context, s keyspace.Scanner, sel Selector, now time.Time, o PlanOptions) (*Plan, *Summary, error) {
	m, err := sel.matcher()
	if err != nil {
		return nil, nil, err
	}
	p := &planner{matcher: m, scanner: s, opts: o, now: now, dir: filepath.Dir(o.File), hash: newHasher(), tally: newTally(m)}
	if o.Reader == nil {
		p.opts.Reader = NewScanReader(s)
	}
	defer p.close()
	if err := p.scan(ctx); err != nil {
		return nil, nil, fmt.Errorf("scan %s: %w", sel.Kind, err)
	}
	if err := p.resolve(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.choose(); err != nil {
		return nil, nil, err
	}
	dependents, err := p.dependents(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("count the pods: %w", err)
	}
	head, err := p.head(ctx)
	if err != nil {
		return nil, nil, err
	}
	err = atomicfile.WriteFunc(o.File, 0o600, func(w io.Writer) error { return p.write(w, head, dependents) })
	if err != nil {
		return nil, nil, fmt.Errorf("write plan %s: %w", o.File, err)
	}
	plan, err := OpenPlan(o.File)
	if err != nil {
		return nil, nil, err
	}
	return plan, p.tally.summary(plan), nil
}

// candidate is an object on its way through the rules.
type candidate struct {
	Object
	Owners    []OwnerRef `json:"o,omitempty"`
	Created   time.Time  `json:"c"`
	Manager   string     `json:"m,omitempty"`
	HasTTL    bool       `json:"t,omitempty"`
	Encrypted bool       `json:"e,omitempty"`
	LeaseOver bool       `json:"l,omitempty"`
}

type planner struct {
	*matcher
	scanner keyspace.Scanner
	opts    PlanOptions
	now     time.Time
	dir     string
	hash    hasher
	tally   *tally
	leases  map[int64]int64

	scanned  *spool  // what the rules about the object alone let pass
	selected *spool  // what the owners let pass too
	order    *sorter // by owner or stem, then the newest first
	dropped  bitmap  // of the selected, those that keep and limit take out again
	limited  bitmap  // of those, the ones that limit took out
	count    int64   // of the selected that are not dropped
	ownerRev int64
	pods     int64
}

func (p *planner) close() {
	for _, s := range []*spool{p.scanned, p.selected} {
		if s != nil {
			s.file.Close()
		}
	}
	if p.order != nil {
		p.order.close()
	}
}

// prefixes are what is scanned.
func (p *planner) prefixes(k *Kind) []string {
	if p.AllNamespaces {
		return []string{k.prefix(p.Registry, "")}
	}
	var out []string
	seen := map[string]bool{}
	for _, ns := range p.Namespaces {
		if !seen[ns] {
			out = append(out, k.prefix(p.Registry, ns))
		}
		seen[ns] = true
	}
	return out
}

// scan applies the rules about the object alone.
func (p *planner) scan(ctx context.Context) (err error) {
	if p.scanned, err = newSpool(p.dir); err != nil {
		return err
	}
	err = keyspace.Guarded(p.scanner, func() error { return p.scanPrefixes(ctx) })
	if err != nil {
		return err
	}
	return p.scanned.flush()
}

func (p *planner) scanPrefixes(ctx context.Context) error {
	for _, prefix := range p.prefixes(p.kind) {
		for e, err := range p.scanner.Scan(ctx, keyspace.Prefix(prefix)) {
			if err != nil {
				return err
			}
			if err := p.entry(ctx, &e); err != nil {
				return err
			}
			if n := p.tally.scanned; p.opts.Progress != nil && n%1000 == 0 {
				p.opts.Progress(n)
			}
		}
	}
	return nil
}

func (p *planner) entry(ctx context.Context, e *keyspace.Entry) error {
	c := candidate{Object: Object{Key: string(e.Key), ModRevision: e.ModRevision, Bytes: int64(len(e.Key) + len(e.Value))}}
	p.tally.scanned++
	p.tally.scannedBytes += c.Bytes
	var ok bool
	c.Namespace, c.Name, ok = p.kind.split(p.Registry, c.Key)
	if !ok {
		p.tally.keep(KeptUnreadable, c.Bytes, "the key is not that of an object")
		return nil
	}
	if e.Lease == 0 {
		c.LeaseOver = true
	} else if p.kind.leased {
		over, err := p.leaseOver(ctx, e)
		if err != nil {
			return err
		}
		c.LeaseOver = over
	}
	f, err := p.kind.decode(e.Value)
	switch {
	case errors.Is(err, errEncrypted) && p.opts.Objects != nil && p.named(c.Name):
		c.Encrypted = true
		return p.scanned.add(&c)
	case err != nil:
		p.tally.keep(KeptUnreadable, c.Bytes, err.Error())
		return nil
	}
	if !p.judge(&c, f) {
		return nil
	}
	return p.scanned.add(&c)
}

// judge fills c in and applies the rules about the object alone.
func (p *planner) judge(c *candidate, f *Facts) bool {
	if f.Name != c.Name || f.Namespace != c.Namespace || f.UID == "" {
		p.tally.keep(KeptUnreadable, c.Bytes, fmt.Sprintf("the value is of %s/%s with uid %q", f.Namespace, f.Name, f.UID))
		return false
	}
	class, reason := p.decide(f, p.now, c.LeaseOver)
	if class != "" {
		p.tally.keep(class, c.Bytes, reason)
		return false
	}
	c.UID, c.FinishedAt, c.Finalizers, c.Reason = f.UID, f.FinishedAt, f.Finalizers, reason
	c.Owners, c.Created, c.Manager, c.HasTTL = f.Owners, f.Created, f.Manager, f.HasTTL
	if p.kind.leased {
		c.Reason += ", and no lease will end it"
	}
	return true
}

// leaseOver tells whether an object with a lease outlived it by far: it was last written more than twice the lease's
// time to live ago, and the selector's age besides.
func (p *planner) leaseOver(ctx context.Context, e *keyspace.Entry) (bool, error) {
	if p.opts.Leases == nil {
		return false, nil
	}
	ttl, ok := p.leases[e.Lease]
	if !ok {
		var err error
		if ttl, err = p.opts.Leases.LeaseSeconds(ctx, e.Lease); err != nil {
			return false, err
		}
		if p.leases == nil || len(p.leases) >= ownerCacheSize {
			p.leases = make(map[int64]int64)
		}
		p.leases[e.Lease] = ttl
	}
	if ttl == 0 {
		return true, nil // the lease is gone, and the key is still there
	}
	f, err := p.kind.decode(e.Value)
	if err != nil {
		return false, nil // the caller reports it
	}
	return p.now.Sub(f.FinishedAt) > 2*time.Duration(ttl)*time.Second, nil
}

// head describes the plan and the cluster it is for.
func (p *planner) head(ctx context.Context) (*Head, error) {
	h := &Head{Type: "plan", Version: planVersion, Revision: p.scanner.Revision(), OwnerRevision: p.ownerRev,
		Snapshot: p.opts.Snapshot, Selector: p.Selector, OlderThan: p.OlderThan.Seconds(), Made: p.now.UTC()}
	if p.opts.ClusterID != "" {
		h.ClusterID = &p.opts.ClusterID
	}
	uid, err := KubeSystemUID(ctx, p.opts.Reader, p.opts.Objects, p.Registry)
	if err != nil {
		return nil, err
	}
	if uid == "" && p.kind == eventKind && p.opts.Objects != nil {
		uid = p.askForCluster(ctx)
	}
	if uid != "" {
		h.KubeSystemUID = &uid
	}
	if h.ClusterID == nil && h.KubeSystemUID == nil {
		return nil, errors.New("the plan would be of no cluster: there is neither a cluster id nor a namespace kube-system")
	}
	return h, nil
}

// askPatience bounds a question without whose answer the plan is good enough.
const askPatience = 5 * time.Second

// askForCluster asks the API server for the uid of kube-system, because events may live in an etcd of their own, without
// namespaces. It is empty where nobody answers: such a plan can be applied in etcd.
func (p *planner) askForCluster(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	raw, err := readObject(ctx, p.opts.Objects, kubeSystem, "", "kube-system")
	if err != nil {
		return ""
	}
	uid, _ := metaUID(raw)
	return uid
}

// write writes the plan file.
func (p *planner) write(w io.Writer, h *Head, dependents *int64) error {
	out := newPlanWriter(w)
	if err := out.line(h); err != nil {
		return err
	}
	i := 0
	for c, err := range p.selected.all() {
		if err != nil {
			return err
		}
		if p.dropped.has(i) {
			class := KeptNewest
			if p.limited.has(i) {
				class = KeptLimit
			}
			p.tally.kept[class].bytes += c.Bytes // when it was counted its size was not at hand
		} else {
			p.tally.take(c)
			if err := out.object(&c.Object); err != nil {
				return err
			}
		}
		i++
	}
	for _, k := range p.tally.keptLines() {
		if err := out.line(k); err != nil {
			return err
		}
	}
	out.end.Dependents, out.end.Pods = dependents, p.pods
	return out.close()
}
