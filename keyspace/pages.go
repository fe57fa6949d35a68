package keyspace

import (
	"bytes"
	"math"
	"math/bits"
)

// pager chooses the ranges of pages so that the server counts little.
//
// A server without streams counts all keys up to the end of a request's range, whatever the limit; with one fixed end
// that is quadratic in the number of keys. So each page gets an end of its own, not far behind what the limit lets
// through. The end is guessed from the keys read so far: keys form a tree by their bytes, and a subtree is expected to
// hold about as many keys as the sibling before it. A wrong guess costs time and never correctness: too near an end
// gives a short page, too far an end a longer count.
type pager struct {
	limit int64 // keys a page

	target   int64  // bytes a page
	expected []byte // the directory that holds the resources, if it is known
	last     []byte // the last key seen
	mean     int64  // bytes an entry, of the last page
	seen     int64
	dir      int       // last[:dir] is the directory of the resource
	dirFirst int64     // which key was the first in it
	whole    bool      // there is a whole one
	firstAt  []int64   // by depth d: which key was the first with last[:d+1] as its prefix
	finished []int64   // by depth: keys of the last subtree of that depth that was left behind, 0 for none yet
	bytes    []byteSet // by depth: the bytes seen there
	wraps    []bool    // by depth: the subtree above has been left behind once, so that its bytes are known
	anywhere byteSet
	empty    int // pages without a key, one after another
	beside   int // of those, behind the resource
	tried    int // the depth of the last guess since the last key
}

// Sizes of pages in keys. A scan begins small since the first values may be the largest of all; so does every
// resource, since values of one resource say nothing about those of the next.
const (
	firstLimit = 64
	maxLimit   = 10_000 // what kube-apiserver asks for at most
	growth     = 4
)

func newPager(target int, expected string) *pager {
	return &pager{limit: firstLimit, target: int64(target), expected: []byte(expected)}
}

// halve answers a page that was too large to be received.
func (p *pager) halve() { p.limit = max(1, p.limit/2) }

// learn takes in the entries of a page, in key order.
func (p *pager) learn(entries []Entry, size int) {
	if len(entries) == 0 {
		p.empty++
		return
	}
	p.empty, p.beside, p.tried = 0, 0, math.MaxInt
	for i := range entries {
		p.note(entries[i].Key)
	}
	p.mean = max(1, int64(size/len(entries)))
	p.limit = min(p.limit*growth, max(1, p.target/p.mean), maxLimit)
}

// most is how many keys are asked for: more than the limit, for a subtree that is a little larger to come at once, once
// the sizes of values are known.
func (p *pager) most() int64 {
	if p.limit <= firstLimit {
		return p.limit
	}
	return p.limit + p.limit/4
}

// want is how many keys a page's range should hold.
func (p *pager) want() int64 { return p.limit + p.limit/8 }

// begin is the end of a page from start on where no key has been seen yet: the directory that is expected to hold the
// resources, and in it some letters, so that not all keys are counted at once, for which puts would wait.
func (p *pager) begin(start, stop []byte) []byte {
	switch {
	case len(p.expected) > 0 && bytes.Compare(start, p.expected) < 0:
		return nearer(p.expected, stop)
	case p.enters(start):
		return nearer(p.outside(start), stop)
	}
	return stop
}

// enters tells whether start lies in the directory that is expected to hold the resources, of which no key was seen.
func (p *pager) enters(start []byte) bool {
	return len(p.expected) > 0 && bytes.HasPrefix(start, p.expected) && !bytes.HasPrefix(p.last, p.expected)
}

// rest is the end of the next page, for keys from behind the last one on, of which there are n up to stop. An empty
// stop is the end of all.
func (p *pager) rest(n int64, stop []byte) []byte {
	end := stop
	if !p.inResource(stop) {
		end = nearer(successor(p.last[:p.dir]), stop)
	}
	if n > p.most() {
		if guess := p.guess(); guess != nil {
			end = nearer(guess, stop)
		}
	}
	return end
}

// after is the end of a page from start on, where all keys before start have been seen.
func (p *pager) after(start, stop []byte) []byte {
	if !p.inResource(start) {
		p.limit = min(p.limit, firstLimit)
		return nearer(p.outside(start), stop)
	}
	if _, known := p.size(len(start) - 1); p.empty == 0 || known && p.empty == 1 {
		p.tried = len(start)
		return nearer(p.beyond(start), stop)
	}
	return nearer(p.sibling(start), stop)
}

// sibling is the end of a page from start on where a subtree has ended: it reaches into the next one that is expected,
// on the deepest level that has not been tried since the last key. Behind the last one it is the end of the resource.
func (p *pager) sibling(start []byte) []byte {
	same := commonPrefix(p.last, start)
	for d := min(p.tried, len(p.last)) - 1; d >= p.dir; d-- {
		if d > same || p.finished[d] == 0 {
			continue // start lies behind that level, or there was one subtree on it only
		}
		c := int(p.last[d]) + 1
		if d == same && d < len(start) {
			c = max(c, int(start[d]))
		}
		next, ok := p.byteFrom(d, c)
		if !ok {
			continue
		}
		p.tried = d
		return p.beyond(append(bytes.Clone(p.last[:d]), next))
	}
	return successor(p.last[:p.dir])
}

// outside is the end of a page from start on, where start lies behind the resource and nothing is known of what comes:
// some bytes further below the directory that holds resources, twice as many after each page without a key, so that no
// count goes over much more than the next resource.
func (p *pager) outside(start []byte) []byte {
	above := p.dir
	for above > 0 {
		above = 1 + bytes.LastIndexByte(p.last[:above-1], '/')
		if bytes.HasPrefix(start, p.last[:above]) {
			break
		}
	}
	next := 0
	if p.enters(start) {
		above, next = len(p.expected), 'a'
	}
	step := 1 << min(p.beside, 8)
	p.beside++
	if len(start) > above {
		next = int(start[above])
	}
	if next == 0 || next+step > 0xff {
		return successor(start[:above])
	}
	return append(bytes.Clone(start[:above]), byte(next+step))
}

// ahead is the end of a page from start on, where keys before start are still on their way; false where too little is
// known for a guess.
func (p *pager) ahead(start, stop []byte) (end []byte, ok bool) {
	if p.seen == 0 || p.empty > 0 || !p.inResource(start) {
		return nil, false
	}
	if _, known := p.size(len(start) - 1); !known {
		return nil, false
	}
	end = p.beyond(start)
	if len(end) == 0 || !p.inResource(end) {
		return nil, false
	}
	return nearer(end, stop), true
}

// nearer is the lesser of two ends, of which an empty one is the end of all.
func nearer(a, b []byte) []byte {
	if len(a) == 0 || len(b) > 0 && bytes.Compare(a, b) > 0 {
		return b
	}
	return a
}

// note learns from a key.
func (p *pager) note(key []byte) {
	same := commonPrefix(p.last, key)
	for d := same; d < len(p.firstAt) && d < len(p.last); d++ {
		p.finished[d] = p.seen - p.firstAt[d]
		p.wraps[d] = p.wraps[d] || d > same && same >= p.dir
	}
	for len(p.firstAt) < len(key) {
		p.firstAt, p.finished, p.bytes = append(p.firstAt, p.seen), append(p.finished, 0), append(p.bytes, byteSet{})
		p.wraps = append(p.wraps, false)
	}
	for d := same; d < len(key); d++ {
		p.firstAt[d] = p.seen
		p.bytes[d].add(key[d])
		p.anywhere.add(key[d])
	}
	if dir, whole := resourceDir(key); p.seen == 0 || same < p.dir || whole && !p.whole {
		// Names of another resource are of another make.
		p.dir, p.whole, p.dirFirst = dir, whole, p.seen
		clear(p.finished)
		clear(p.bytes)
		clear(p.wraps)
	}
	p.last = append(p.last[:0], key...)
	p.seen++
}

// size is how many keys a subtree of depth d holds, as far as is known.
func (p *pager) size(d int) (n int64, known bool) {
	// All keys of the resource so far share a prefix: how many more do is not known.
	if d >= len(p.last) || p.firstAt[d] <= p.dirFirst {
		return 0, false
	}
	return max(p.finished[d], p.seen-p.firstAt[d]), true
}

// guess is an end not far behind the last key, nil where too little has been learnt.
func (p *pager) guess() (end []byte) {
	want := p.want()
	// The deepest subtrees are the smallest: go up while what the last key's subtree still holds is expected to fit.
	for d := len(p.last) - 1; d > 0; d-- {
		size, known := p.size(d)
		rest := size - (p.seen - p.firstAt[d])
		if !known || rest > want {
			break
		}
		end = p.past(p.last[:d], p.last[d], 1+(want-rest)/size)
		if size > want {
			break
		}
	}
	return end
}

// past is the end of n subtrees below prefix, the first of which begins with c. Bytes that were never seen in that
// place are not counted as subtrees.
func (p *pager) past(prefix []byte, c byte, n int64) []byte {
	for ; n > 1; n-- {
		next, ok := p.byteFrom(len(prefix), int(c)+1)
		if !ok {
			return successor(prefix)
		}
		c = next
	}
	if c == 0xff {
		return successor(prefix)
	}
	return append(bytes.Clone(prefix), c+1)
}

// beyond is an end for the keys from start on, of which none is known.
func (p *pager) beyond(start []byte) []byte {
	want := p.want()
	prefix, c := start[:len(start)-1], start[len(start)-1]
	for {
		if len(prefix) < p.dir || len(prefix) >= len(p.bytes) {
			return successor(prefix)
		}
		next, ok := p.byteFrom(len(prefix), int(c))
		if ok {
			c = next
			break
		}
		up := successor(prefix)
		if len(up) == 0 {
			return nil
		}
		prefix, c = up[:len(up)-1], up[len(up)-1]
	}
	for {
		d := len(prefix)
		size, known := p.size(d)
		if known && size <= want {
			return p.past(prefix, c, max(1, want/size))
		}
		if d+1 >= len(p.last) {
			return p.past(prefix, c, 1)
		}
		least, ok := p.byteFrom(d+1, 0)
		if !ok {
			return p.past(prefix, c, 1)
		}
		prefix, c = append(bytes.Clone(prefix), c), least
	}
}

// byteFrom is the least byte from c on that is expected at depth d: of those seen there, or, as long as what was seen
// there may be a part of all, of those seen anywhere.
func (p *pager) byteFrom(d, c int) (byte, bool) {
	if next, ok := p.bytes[d].from(c); ok || p.wraps[d] {
		return next, ok
	}
	return p.anywhere.from(c)
}

// byteSet is a set of byte values.
type byteSet [4]uint64

func (s *byteSet) add(c byte) { s[c/64] |= 1 << (c % 64) }

// from is the least member that is at least c.
func (s *byteSet) from(c int) (byte, bool) {
	for w := c / 64; w < len(s); w++ {
		rest := s[w]
		if w == c/64 {
			rest &= ^uint64(0) << (c % 64)
		}
		if rest != 0 {
			return byte(w*64 + bits.TrailingZeros64(rest)), true
		}
	}
	return 0, false
}

// inResource tells whether key lies in the directory of the last key's resource.
func (p *pager) inResource(key []byte) bool { return bytes.HasPrefix(key, p.last[:p.dir]) }

// resourceDir is how many bytes of the key are its resource's directory: up to the third slash, as in
// /registry/pods/, or, not whole, the last one where there are fewer, as in /registry/health.
func resourceDir(key []byte) (dir int, whole bool) {
	slashes := 0
	for i, c := range key {
		if c == '/' {
			dir = i + 1
			if slashes++; slashes == 3 {
				return dir, true
			}
		}
	}
	return dir, false
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// successor is the first key behind all that begin with p; nil for none.
func successor(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			end := bytes.Clone(p[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}
