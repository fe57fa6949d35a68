package keyspace

import (
	"bytes"
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// readPages reads r by unary requests. While one page is consumed the next is on its way.
func (l *Live) readPages(ctx context.Context, r Range, send func([]*mvccpb.KeyValue) error) error {
	p := newPager(r, l.opts.PageBytes)
	for !p.done {
		key, end := bounds(Range{Start: p.start, End: p.end})
		l.requests.Add(1)
		resp, err := l.member.Get(ctx, string(key), append(l.readOptions(end, r), clientv3.WithLimit(p.limit))...)
		if tooLarge(err) && p.limit > 1 {
			p.halve()
			continue
		}
		if err != nil {
			return err
		}
		l.indexed.Add(resp.Count)
		p.got(resp.Kvs, resp.Count)
		if err := send(resp.Kvs); err != nil {
			return err
		}
	}
	return nil
}

// pager chooses the ranges of pages so that the server counts little.
//
// A server without streams counts all keys up to the end of a request's range, whatever the limit; with one fixed end
// that is quadratic in the number of keys. So each page gets an end of its own, not far behind what the limit lets
// through. The end is guessed from the keys read so far: keys form a tree by their bytes, and a subtree is expected to
// hold about as many keys as the sibling before it. A wrong guess costs time and never correctness: too near an end
// gives a short page, too far an end a longer count.
type pager struct {
	start, end, stop []byte // the next request's range; stop is the end of all, empty for none
	limit            int64
	done             bool

	target   int64  // bytes a page
	last     []byte // the last key seen
	mean     int64  // bytes an entry, of the last page
	seen     int64
	dir      int     // last[:dir] is the directory of the resource
	dirFirst int64   // which key was the first in it
	firstAt  []int64 // by depth d: which key was the first with last[:d+1] as its prefix
	finished []int64 // by depth: keys of the last subtree of that depth that was left behind, 0 for none yet
}

// Sizes of pages in keys. A scan begins small since the first values may be the largest of all; so does every
// resource, since values of one resource say nothing about those of the next.
const (
	firstLimit = 64
	maxLimit   = 10_000 // what kube-apiserver asks for at most
	growth     = 4
)

func newPager(r Range, target int) *pager {
	return &pager{start: r.Start, end: r.End, stop: r.End, limit: firstLimit, target: int64(target)}
}

// halve answers a page that was too large to be received.
func (p *pager) halve() { p.limit = max(1, p.limit/2) }

// got takes the answer to the request and prepares the next one. count is the number of keys in its range.
func (p *pager) got(kvs []*mvccpb.KeyValue, count int64) {
	size := int64(0)
	for _, kv := range kvs {
		p.note(kv.Key)
		size += int64(len(kv.Key) + len(kv.Value))
	}
	if n := int64(len(kvs)); n > 0 {
		p.mean = max(1, size/n)
	}
	rest := count - int64(len(kvs))
	if rest <= 0 || len(kvs) == 0 {
		p.leave(int64(len(kvs)))
		return
	}
	p.limit = min(p.limit*growth, max(1, p.target/p.mean), maxLimit)
	p.start = append(bytes.Clone(p.last), 0)
	if !p.inResource(p.end) {
		p.aim(successor(p.last[:p.dir]))
	}
	if rest > p.limit+p.limit/4 {
		p.nearer()
	}
}

// note learns from a key.
func (p *pager) note(key []byte) {
	same := commonPrefix(p.last, key)
	for d := same; d < len(p.firstAt) && d < len(p.last); d++ {
		p.finished[d] = p.seen - p.firstAt[d]
	}
	for len(p.firstAt) < len(key) {
		p.firstAt, p.finished = append(p.firstAt, p.seen), append(p.finished, 0)
	}
	for d := same; d < len(key); d++ {
		p.firstAt[d] = p.seen
	}
	if same < p.dir || p.seen == 0 {
		p.dir, p.dirFirst = resourceDir(key), p.seen
	}
	p.last = append(p.last[:0], key...)
	p.seen++
}

// nearer moves the end toward the last key, where what has been learnt gives a nearer one.
func (p *pager) nearer() {
	want := p.limit - p.limit/10
	// The deepest subtrees are the smallest: go up while the siblings at that depth still fit.
	best, size := -1, int64(0)
	for d := len(p.last) - 1; d > 0; d-- {
		n := max(p.finished[d], p.seen-p.firstAt[d])
		// All keys of the resource so far share this prefix: how many more do is not known.
		if p.firstAt[d] <= p.dirFirst || n > want {
			break
		}
		if p.last[d] == 0xff {
			continue
		}
		best, size = d, n
	}
	if best < 0 {
		return
	}
	steps := max(1, want/max(1, size))
	end := append([]byte(nil), p.last[:best+1]...)
	end[best] = byte(min(0xff, int64(end[best])+steps))
	p.aim(end)
}

// leave goes on behind the end of the last request, all of whose keys have been read.
func (p *pager) leave(n int64) {
	if len(p.end) == 0 || bytes.Equal(p.end, p.stop) {
		p.done = true
		return
	}
	p.start = p.end
	d := len(p.end) - 1
	if n >= p.limit/2 && d < len(p.last) && p.inResource(p.end) {
		// The guess was good: the next siblings.
		size := max(p.finished[d], 1)
		steps := max(1, (p.limit-p.limit/10)/size)
		if next := int64(p.end[d]) + steps; next <= 0xff {
			end := bytes.Clone(p.end)
			end[d] = byte(next)
			p.aim(end)
			return
		}
	}
	if !p.inResource(p.end) {
		p.limit = firstLimit
	}
	// Too little was left: one level up.
	p.aim(successor(p.end[:d]))
}

// aim sets the end, which never passes the end of all. An empty one is the end of all.
func (p *pager) aim(end []byte) {
	if len(end) == 0 || len(p.stop) > 0 && bytes.Compare(end, p.stop) > 0 {
		end = p.stop
	}
	p.end = end
}

// inResource tells whether key lies in the directory of the last key's resource.
func (p *pager) inResource(key []byte) bool { return bytes.HasPrefix(key, p.last[:p.dir]) }

// resourceDir is how many bytes of the key are its resource's directory: up to the third slash, as in
// /registry/pods/, or the last one where there are fewer.
func resourceDir(key []byte) int {
	dir, slashes := 0, 0
	for i, c := range key {
		if c == '/' {
			dir = i + 1
			if slashes++; slashes == 3 {
				break
			}
		}
	}
	return dir
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
