package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"runtime/debug"
)

// leaf is a page of elements.
type leaf struct {
	page  uint64
	count int
	at    int64  // where in the file body begins
	body  []byte // the page with its overflow, header included
}

type element struct {
	flags      uint32
	key, value []byte
	valueAt    int64 // where in the file value begins
}

func (l leaf) element(i int) (element, error) {
	at := pageHeader + i*elementSize
	b := l.body[at:]
	pos, ksize, vsize := uint64(binary.LittleEndian.Uint32(b[4:])), uint64(binary.LittleEndian.Uint32(b[8:])), uint64(binary.LittleEndian.Uint32(b[12:]))
	key := uint64(at) + pos
	value, end := key+ksize, key+ksize+vsize
	if end > uint64(len(l.body)) || ksize == 0 || pos < elementSize {
		return element{}, fmt.Errorf("page %d: element %d lies outside of it: %w", l.page, i, ErrDamaged)
	}
	return element{
		flags:   binary.LittleEndian.Uint32(b),
		key:     l.body[key:value:value],
		value:   l.body[value:end:end],
		valueAt: l.at + int64(value),
	}, nil
}

// inline is the page of a bucket that is small enough to lie in its parent's page, behind the bucket's header.
func (d *DB) inline(page uint64, e element) (leaf, error) {
	const bucketHeader = 16
	body := e.value[bucketHeader:]
	if len(body) < pageHeader || binary.LittleEndian.Uint16(body[8:])&flagLeaf == 0 {
		return leaf{}, fmt.Errorf("page %d: bucket %q has no page: %w", page, e.key, ErrDamaged)
	}
	l := leaf{page: page, count: int(binary.LittleEndian.Uint16(body[10:])), at: e.valueAt + bucketHeader, body: body}
	if pageHeader+l.count*elementSize > len(body) {
		return leaf{}, fmt.Errorf("page %d: bucket %q is cut: %w", page, e.key, ErrDamaged)
	}
	return l, nil
}

// visited marks pages.
type visited []uint64

func (v visited) mark(page uint64) bool {
	w, bit := &v[page/64], uint64(1)<<(page%64)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	return true
}

type walker struct {
	d       *DB
	seen    visited
	used    uint64
	reverse bool
	visit   func(leaf) error
}

// walk visits the leaves of a bucket in order, or in reverse, and tells how many pages the bucket has.
func (d *DB) walk(b bucket, reverse bool, visit func(leaf) error) (pages uint64, err error) {
	if b.root == 0 {
		return 0, visit(b.inline)
	}
	w := walker{d: d, seen: make(visited, d.high/64+1), reverse: reverse, visit: visit}
	err = w.node(b.root, 0, bounds{})
	return w.used, err
}

// bounds are what the keys of a page lie in: from is the first one that may be there, to the first that may not; nil for
// no bound.
type bounds struct{ from, to []byte }

func (b bounds) hold(page uint64, key []byte) error {
	if bytes.Compare(key, b.from) < 0 || b.to != nil && bytes.Compare(key, b.to) >= 0 {
		return fmt.Errorf("page %d: key %x does not belong there: %w", page, key, ErrDamaged)
	}
	return nil
}

// branchKey is the first key below a branch's element.
func branchKey(page uint64, body []byte, i int) ([]byte, error) {
	at := pageHeader + i*elementSize
	key := uint64(at) + uint64(binary.LittleEndian.Uint32(body[at:]))
	end := key + uint64(binary.LittleEndian.Uint32(body[at+4:]))
	if end > uint64(len(body)) || key == end {
		return nil, fmt.Errorf("page %d: element %d lies outside of it: %w", page, i, ErrDamaged)
	}
	return body[key:end], nil
}

// elements checks that the page has as many elements as its header says: bbolt writes the first one's data right behind
// the last element.
func elements(page uint64, body []byte, flags, count uint16) error {
	end := int(count) * elementSize
	if pageHeader+end > len(body) {
		return fmt.Errorf("page %d: %d elements do not fit: %w", page, count, ErrDamaged)
	}
	if count == 0 {
		return nil
	}
	field := pageHeader // a branch's element begins with the position of its data, a leaf's with flags before it
	if flags == flagLeaf {
		field += 4
	}
	if first := binary.LittleEndian.Uint32(body[field:]); first != uint32(end) {
		return fmt.Errorf("page %d: %d elements are said to be there, and the data begin at %d: %w", page, count, first, ErrDamaged)
	}
	return nil
}

// page checks the header of a page and gives its bytes, with those of the pages that it flows over into.
func (d *DB) page(id uint64) (body []byte, flags, count uint16, overflow uint64, err error) {
	if id < 2 || id >= d.high {
		return nil, 0, 0, 0, fmt.Errorf("page %d does not exist: %w", id, ErrDamaged)
	}
	at := id * d.pageSize
	h := d.data[at : at+pageHeader]
	flags, count = binary.LittleEndian.Uint16(h[8:]), binary.LittleEndian.Uint16(h[10:])
	overflow = uint64(binary.LittleEndian.Uint32(h[12:]))
	if own := binary.LittleEndian.Uint64(h); own != id {
		return nil, 0, 0, 0, fmt.Errorf("page %d calls itself %d: %w", id, own, ErrDamaged)
	}
	if id+overflow >= d.high {
		return nil, 0, 0, 0, fmt.Errorf("page %d goes on behind the last page: %w", id, ErrDamaged)
	}
	return d.data[at : at+(overflow+1)*d.pageSize], flags, count, overflow, nil
}

func (w *walker) node(id uint64, depth int, b bounds) error {
	body, flags, count, overflow, err := w.d.page(id)
	if err != nil {
		return err
	}
	for p := id; p <= id+overflow; p++ {
		if !w.seen.mark(p) {
			return fmt.Errorf("page %d is used twice: %w", p, ErrDamaged)
		}
	}
	w.used += overflow + 1
	switch {
	case flags != flagLeaf && flags != flagBranch:
		return fmt.Errorf("page %d is of type %#x where keys are expected: %w", id, flags, ErrDamaged)
	case depth == maxDepth || count == 0 && (depth > 0 || flags == flagBranch):
		return fmt.Errorf("page %d: the tree is too deep or empty: %w", id, ErrDamaged)
	}
	if err := elements(id, body, flags, count); err != nil {
		return err
	}
	if flags == flagLeaf {
		l := leaf{page: id, count: int(count), at: int64(id * w.d.pageSize), body: body}
		for _, i := range []int{0, l.count - 1} {
			if l.count == 0 {
				break
			}
			e, err := l.element(i)
			if err != nil {
				return err
			}
			if err := b.hold(id, e.key); err != nil {
				return err
			}
		}
		return w.visit(l)
	}
	for i := range int(count) {
		if w.reverse {
			i = int(count) - 1 - i
		}
		below := b
		if below.from, err = branchKey(id, body, i); err != nil {
			return err
		}
		if err := b.hold(id, below.from); err != nil {
			return err
		}
		if i+1 < int(count) {
			if below.to, err = branchKey(id, body, i+1); err != nil {
				return err
			}
		}
		child := binary.LittleEndian.Uint64(body[pageHeader+i*elementSize+8:])
		if err := w.node(child, depth+1, below); err != nil {
			return err
		}
	}
	return nil
}

// Leaves counts the pages that hold keys, for a bar: of a tree whose leaves are all at one depth, only those above the
// leaves are read. Walked reaches it at the end of Records.
func (d *DB) Leaves(ctx context.Context) (n int64, err error) {
	seen := make(visited, d.high/64+1)
	var count func(id uint64, depth int) (leaf bool, err error)
	count = func(id uint64, depth int) (bool, error) {
		body, flags, elements, _, err := d.page(id)
		if err != nil || flags != flagBranch {
			return true, err
		}
		if !seen.mark(id) || depth == maxDepth || pageHeader+int(elements)*elementSize > len(body) {
			return false, fmt.Errorf("page %d: the tree is broken: %w", id, ErrDamaged)
		}
		for i := range int(elements) {
			leaf, err := count(binary.LittleEndian.Uint64(body[pageHeader+i*elementSize+8:]), depth+1)
			if err != nil {
				return false, err
			}
			if leaf {
				n += int64(elements)
				return false, ctx.Err()
			}
		}
		return false, ctx.Err()
	}
	err = guard(func() error {
		root := d.bucket("key").root
		if root == 0 {
			n = 1
			return nil
		}
		leaf, err := count(root, 0)
		if leaf {
			n = 1
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read database %s: %w", d.path, err)
	}
	return n, nil
}

// Walked is how many of the Leaves the latest Records has read.
func (d *DB) Walked() int64 { return d.walked.Load() }

// Guard runs f, which uses the slices of Records, and gives ErrDamaged where they cannot be read any more: the file was cut
// meanwhile, or its disk failed. Without it that is a fault which ends the process. f must read in its own goroutine.
func (d *DB) Guard(f func() error) error {
	var own error
	err := guard(func() error { own = f(); return nil })
	if err == nil && own == nil {
		err = d.unchanged() // behind the end of a cut file its last page reads as zeros
	}
	if err != nil {
		return fmt.Errorf("read database %s: %w", d.path, err)
	}
	return own
}

// unchanged tells whether the file still has the size that it was opened with.
func (d *DB) unchanged() error {
	if info, err := d.file.Stat(); err != nil || info.Size() != int64(len(d.data)) {
		return fmt.Errorf("the file was changed while it was read: %w", ErrDamaged)
	}
	return nil
}

// guard makes an error of a fault on the mapped file: it was cut while it was read, or its disk failed.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			error
			Addr() uintptr
		}:
			err = fmt.Errorf("the file could not be read to its end (%w): %w", r, ErrDamaged)
		default:
			panic(r)
		}
	}()
	return f()
}
