package census

import (
	"bytes"
	"container/heap"
	"math/bits"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// Bounds of what is kept, so that memory does not grow with the keyspace. What does not fit is counted in its resource.
const (
	maxResources  = 4000
	maxCells      = 40_000 // of a resource in a namespace
	maxDirs       = 3 * maxCells
	maxNamespaces = 40_000
)

// tally adds up entries. Entries of one directory (a resource, or a resource in a namespace) mostly follow each other,
// and where they do not, the directory is looked up in a map: keys are parsed once a directory.
type tally struct {
	layout   *keyspace.Layout
	top      int
	revision int64
	now      int64

	keys, bytes, folded          int64
	historyBytes, tombstoneBytes int64

	resources  map[resourceName]*resource
	namespaces map[string]*namespace
	cells      map[string]*cell
	made       int // cells
	lastDir    []byte
	last       *cell
	overflow   *resource

	largest largestHeap
	stems   stems
	times   [ageBuckets]int64 // by age in revisions: the latest creation timestamp seen
}

type resourceName struct{ group, resource string }

type namespace struct {
	name        string
	keys, bytes int64
	most        int64  // bytes of the cell that has most
	of          string // and its resource
}

// cell is a resource in a namespace.
type cell struct {
	res         *resource
	ns          *namespace // nil for what has none, or is folded
	name        string
	keys, bytes int64
	folded      bool // made for one key, since there were too many
}

type resource struct {
	resourceName
	keys, bytes, valueBytes, largest int64
	versions, leased, encrypted      int64
	historyKeys, historyBytes, tombs int64
	cells                            []*cell
	created, written                 [ageBuckets]uint32
	samples                          sampler
	providers                        []string
	large                            int64 // keys of a size worth a finding
}

func newTally(l *keyspace.Layout, o Options, revision int64) *tally {
	t := &tally{layout: l, top: o.Top, revision: revision, now: o.Now.Unix(), resources: map[resourceName]*resource{},
		namespaces: map[string]*namespace{}, cells: map[string]*cell{}}
	t.stems.init()
	t.overflow = &resource{resourceName: resourceName{"", keyspace.Other}}
	t.resources[t.overflow.resourceName] = t.overflow
	t.overflow.samples.limits(o.Thresholds)
	t.largest.n = o.Top
	t.largest.thresholds = o.Thresholds
	return t
}

func (t *tally) add(e *keyspace.Entry) {
	c, nameAt := t.find(e.Key)
	r := c.res
	size := int64(len(e.Key) + len(e.Value))
	switch {
	case e.Tombstone:
		r.tombs++
		t.tombstoneBytes += size
		return
	case e.Superseded:
		r.historyKeys++
		r.historyBytes += size
		t.historyBytes += size
		return
	}
	t.keys++
	t.bytes += size
	c.keys++
	c.bytes += size
	r.keys++
	r.bytes += size
	r.valueBytes += int64(len(e.Value))
	r.versions += e.Version
	if e.Lease != 0 {
		r.leased++
	}
	if size > r.largest {
		r.largest = size
	}
	if size >= int64(t.largest.thresholds.LargeObject) {
		r.large++
	}
	if len(e.Value) > 0 && e.Value[0] == 'k' {
		if p := keyspace.EncryptionProvider(e.Value); p != nil {
			r.encrypt(p)
		}
	}
	created := age(t.revision, e.CreateRevision)
	r.created[created]++
	r.written[age(t.revision, e.ModRevision)]++
	if n := r.samples.due(r.keys); n > 0 {
		if at := r.samples.take(e.Value, n, r.resourceName, t.now); at > t.times[created] && at <= t.now {
			t.times[created] = at
		}
	}
	if size > t.largest.floor {
		t.largest.offer(t.object(e, c, nameAt, size))
	}
	t.stems.add(c, e.Key[nameAt:], size)
}

// find is the cell of a key, and where in the key its name begins.
func (t *tally) find(key []byte) (*cell, int) {
	slash := bytes.LastIndexByte(key, '/') + 1
	if slash == len(key) {
		slash = 0 // no name behind the slash: nothing to go by
	}
	dir := key[:slash]
	if slash > 0 {
		if bytes.Equal(dir, t.lastDir) {
			return t.last, slash
		}
		if c, ok := t.cells[string(dir)]; ok {
			t.lastDir, t.last = append(t.lastDir[:0], dir...), c
			return c, slash
		}
	}
	p := t.layout.Parts(key)
	// A directory is a name for its cell. What a directory alone does not tell, and several may have, is the cell's own
	// name, behind a byte that no directory begins with.
	id := "\xff" + string(p.Group) + "/" + string(p.Resource) + "/" + string(p.Namespace)
	c, ok := t.cells[id]
	if !ok {
		c = t.newCell(p)
		if !c.folded {
			t.cells[id] = c
		}
	}
	if slash > 0 && p.NameAt == slash && !c.folded && len(t.cells) < maxDirs {
		t.cells[string(dir)] = c
	}
	return c, p.NameAt
}

func (t *tally) newCell(p keyspace.Parts) *cell {
	name := resourceName{string(p.Group), string(p.Resource)}
	r := t.resources[name]
	if r == nil {
		if len(t.resources) < maxResources {
			r = &resource{resourceName: name}
			r.samples.limits(t.largest.thresholds)
			t.resources[name] = r
		} else {
			r = t.overflow
		}
	}
	if t.made >= maxCells {
		t.folded++
		return &cell{res: r, folded: true}
	}
	t.made++
	c := &cell{res: r, name: string(p.Namespace)}
	r.cells = append(r.cells, c)
	if len(p.Namespace) == 0 || name.resource == keyspace.Other {
		return c
	}
	c.ns = t.namespaces[c.name]
	if c.ns == nil && len(t.namespaces) < maxNamespaces {
		c.ns = &namespace{name: c.name}
		t.namespaces[c.name] = c.ns
	}
	return c
}

func (r *resource) encrypt(provider []byte) {
	r.encrypted++
	for _, p := range r.providers {
		if p == string(provider) {
			return
		}
	}
	if len(r.providers) < 16 {
		r.providers = append(r.providers, string(provider))
	}
}

func (t *tally) object(e *keyspace.Entry, c *cell, nameAt int, size int64) Object {
	return Object{Group: c.res.group, Resource: c.res.resource, Namespace: Printable(c.name), Name: Printable(string(e.Key[nameAt:])),
		Bytes: size, Version: e.Version, ModRevision: e.ModRevision}
}

// Printable is s, or s as a Go string without its quotes where it holds what cannot be printed: keys may be any bytes.
func Printable(s string) string {
	if utf8.ValidString(s) {
		clean := true
		for _, r := range s {
			if !unicode.IsPrint(r) {
				clean = false
				break
			}
		}
		if clean {
			return s
		}
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// Ages of revisions are kept on a logarithmic scale: eight steps an octave, which is within 12 per cent.
const (
	ageSteps   = 8
	ageBuckets = 44 * ageSteps // more revisions than an etcd makes in a thousand years at 500 a second
)

// age is the bucket of a revision. Bucket 0 is the newest.
func age(now, revision int64) int {
	n := uint64(max(0, now-revision)) + ageSteps
	shift := bits.Len64(n) - 4 // n>>shift is 8 to 15
	return min(ageBuckets-1, shift*ageSteps+int(n>>shift)-ageSteps)
}

type largestHeap struct {
	n          int
	floor      int64 // no smaller object is wanted
	thresholds Thresholds
	objects    []Object
}

func (h *largestHeap) Len() int           { return len(h.objects) }
func (h *largestHeap) Less(i, j int) bool { return h.objects[i].Bytes < h.objects[j].Bytes }
func (h *largestHeap) Swap(i, j int)      { h.objects[i], h.objects[j] = h.objects[j], h.objects[i] }
func (h *largestHeap) Push(x any)         { h.objects = append(h.objects, x.(Object)) }
func (h *largestHeap) Pop() any {
	last := len(h.objects) - 1
	x := h.objects[last]
	h.objects = h.objects[:last]
	return x
}

func (h *largestHeap) offer(o Object) {
	heap.Push(h, o)
	if len(h.objects) > h.n {
		heap.Pop(h)
		h.floor = h.objects[0].Bytes
	}
}

func (h *largestHeap) sorted() []Object {
	out := append([]Object{}, h.objects...)
	slices.SortFunc(out, func(a, b Object) int { return int(b.Bytes - a.Bytes) })
	return out
}
