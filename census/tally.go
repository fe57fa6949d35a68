package census

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// Bounds of what is kept, so that memory does not grow with the keyspace. What does not fit is counted in its resource,
// or as "other" where there are too many of those.
const (
	maxResources  = 4000
	maxCells      = 40_000 // of a resource in a namespace
	maxDirs       = 3 * maxCells
	maxNamespaces = 40_000
	// maxHistograms is how many cells have activity of their own, at one to two kilobytes each.
	maxHistograms = 6000
)

// tally adds up entries. Entries of one directory (a resource, or a resource in a namespace) mostly follow each other,
// and where they do not, the directory is looked up in a map: keys are parsed once a directory.
type tally struct {
	layout *keyspace.Layout
	prefix []byte
	large  int64 // size from which on an object is worth a finding
	top    int
	clock  clock

	keys, bytes                  int64
	historyBytes, tombstoneBytes int64

	resources  map[resourceName]*resource
	namespaces map[string]*namespace
	cells      map[string]*cell
	made       int // cells
	histograms int // of cells
	lastDir    []byte
	last       *cell
	overflow   *resource

	largest largestHeap
	stems   stems
}

type resourceName struct{ group, resource string }

// figures are what is counted of current keys, wherever they are.
type figures struct{ keys, bytes, largest, versions, leased, encrypted int64 }

func (f *figures) add(o figures) {
	f.keys += o.keys
	f.bytes += o.bytes
	f.largest = max(f.largest, o.largest)
	f.versions += o.versions
	f.leased += o.leased
	f.encrypted += o.encrypted
}

func (f *figures) mean() int64 { return f.bytes / max(1, f.keys) }

// namespace is added up from its cells.
type namespace struct {
	name string
	figures
	most int64  // bytes of the cell that has most
	of   string // and its resource
}

// cell is a resource in a namespace.
type cell struct {
	res  *resource
	ns   *namespace // nil for what has none
	name string
	figures
	times  histogram
	shared bool // times is that of the resource
	folded bool // it is for all keys of the resource that have no cell, since there were too many

	underKeys, underBytes int64 // of keys that are no objects, those below the API server's own prefix
}

type resource struct {
	resourceName
	keys, valueBytes                 int64
	historyKeys, historyBytes, tombs int64
	cells                            []*cell
	rest                             *cell     // what has no cell of its own; nil for nothing
	times                            histogram // of cells that have none of their own; nil for none
	samples                          sampler
	providers                        []string
	large                            int64 // keys of a size worth a finding
	other                            bool  // its keys are no objects
}

// newTally makes a tally of a keyspace at a revision. Nothing in it can be of a time behind latest.
func newTally(l *keyspace.Layout, o Options, revision int64, latest time.Time) *tally {
	t := &tally{layout: l, prefix: []byte(l.Prefix()), large: int64(o.Thresholds.LargeObject), top: o.Top,
		resources: map[resourceName]*resource{}, namespaces: map[string]*namespace{}, cells: map[string]*cell{}}
	t.clock.revision, t.clock.bound, t.clock.now = revision, latest.Unix(), o.Now.Unix()
	t.stems.init()
	t.overflow = t.newResource(resourceName{"", keyspace.Other})
	t.largest.n = max(o.Top, maxNearLimit)
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
	r.keys++
	r.valueBytes += int64(len(e.Value))
	c.keys++
	c.bytes += size
	c.versions += e.Version
	if e.Lease != 0 {
		c.leased++
	}
	if size > c.largest {
		c.largest = size
	}
	if size >= t.large {
		r.large++
	}
	if len(e.Value) > 0 && e.Value[0] == 'k' {
		if p := keyspace.EncryptionProvider(e.Value); p != nil {
			c.encrypted++
			r.provider(p)
		}
	}
	if r.other && bytes.HasPrefix(e.Key, t.prefix) {
		c.underKeys++
		c.underBytes += size
	}
	c.times[age(t.clock.revision, max(0, e.CreateRevision))][created]++
	c.times[age(t.clock.revision, max(0, e.ModRevision))][written]++
	if n := r.samples.due(r.keys); n > 0 {
		made, wrote := r.samples.take(e.Value, n, r.resourceName)
		t.clock.saw(e.CreateRevision, made)
		t.clock.saw(e.ModRevision, wrote)
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
	// name, with a byte behind it that no directory ends with.
	id := string(p.Group) + "/" + string(p.Resource) + "/" + string(p.Namespace) + "\x00"
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

func (t *tally) newResource(name resourceName) *resource {
	r := &resource{resourceName: name, other: name.resource == keyspace.Other}
	t.resources[name] = r
	return r
}

// newCell makes the cell of a key, or gives that of all keys that can have none.
func (t *tally) newCell(p keyspace.Parts) *cell {
	name := resourceName{string(p.Group), string(p.Resource)}
	r := t.resources[name]
	if r == nil {
		if len(t.resources) >= maxResources {
			return t.restOf(t.overflow)
		}
		r = t.newResource(name)
	}
	if t.made >= maxCells {
		return t.restOf(r)
	}
	t.made++
	c := &cell{res: r, name: string(p.Namespace)}
	if t.histograms < maxHistograms {
		t.histograms++
		c.times = newHistogram(t.clock.revision)
	} else {
		t.share(c)
	}
	r.cells = append(r.cells, c)
	if len(p.Namespace) == 0 || r.other {
		return c
	}
	c.ns = t.namespaces[c.name]
	if c.ns == nil && len(t.namespaces) < maxNamespaces {
		c.ns = &namespace{name: c.name}
		t.namespaces[c.name] = c.ns
	}
	return c
}

func (t *tally) restOf(r *resource) *cell {
	if r.rest == nil {
		r.rest = &cell{res: r, folded: true}
		t.share(r.rest)
	}
	return r.rest
}

// share has a cell count its activity in that of its resource.
func (t *tally) share(c *cell) {
	if c.res.times == nil {
		c.res.times = newHistogram(t.clock.revision)
	}
	c.times, c.shared = c.res.times, true
}

// provider notes who encrypted a value.
func (r *resource) provider(name []byte) {
	for _, p := range r.providers {
		if p == string(name) {
			return
		}
	}
	if len(r.providers) < 16 {
		r.providers = append(r.providers, string(name))
	}
}

func (t *tally) object(e *keyspace.Entry, c *cell, nameAt int, size int64) Object {
	o := Object{Group: Printable(c.res.group), Resource: Printable(c.res.resource), Namespace: Printable(c.name), Name: Printable(string(e.Key[nameAt:])),
		Bytes: size, Version: e.Version, ModRevision: e.ModRevision}
	if c.folded {
		p := t.layout.Parts(e.Key)
		o.Group, o.Resource, o.Namespace = Printable(string(p.Group)), Printable(string(p.Resource)), Printable(string(p.Namespace))
	}
	return o
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

type largestHeap struct {
	n       int
	floor   int64 // no smaller object is wanted
	objects []Object
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
	slices.SortFunc(out, func(a, b Object) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Group, b.Group),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}
