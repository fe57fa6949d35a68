package etcdfile

import (
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
	err = w.node(b.root, 0)
	return w.used, err
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

func (w *walker) node(id uint64, depth int) error {
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
	if pageHeader+int(count)*elementSize > len(body) {
		return fmt.Errorf("page %d: %d elements do not fit: %w", id, count, ErrDamaged)
	}
	switch {
	case flags == flagLeaf:
		return w.visit(leaf{page: id, count: int(count), at: int64(id * w.d.pageSize), body: body})
	case flags != flagBranch:
		return fmt.Errorf("page %d is of type %#x where keys are expected: %w", id, flags, ErrDamaged)
	case depth == maxDepth || count == 0:
		return fmt.Errorf("page %d: the tree is too deep or empty: %w", id, ErrDamaged)
	}
	for i := range int(count) {
		if w.reverse {
			i = int(count) - 1 - i
		}
		child := binary.LittleEndian.Uint64(body[pageHeader+i*elementSize+8:])
		if err := w.node(child, depth+1); err != nil {
			return err
		}
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
