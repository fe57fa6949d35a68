// Package etcdfile reads etcd's files: snapshots and the database of a stopped member. It opens everything read-only.
//
// Databases are read by a page reader of its own and not by bbolt: bbolt trusts every page number and length that it
// finds, so that a cut or damaged file ends the process with a fault or an endless loop. Here each is checked, no page
// is read twice, and what is wrong is an error that names the page.
package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

var (
	// ErrInUse is returned for the database of a member that runs.
	ErrInUse = errors.New("a running etcd holds it: stop the member first, or use a snapshot")
	// ErrNotDatabase is returned for a file that etcd did not write.
	ErrNotDatabase = errors.New("not an etcd database or snapshot")
	// ErrDamaged is returned for an etcd database that is cut or corrupt.
	ErrDamaged = errors.New("the database is cut or damaged")
)

// The format of bbolt, which has been version 2 for as long as etcd has used it.
const (
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	noFreelist    = ^uint64(0)
	pageHeader    = 16
	elementSize   = 16
	metaSize      = 64 // up to and with the checksum
	flagBranch    = 0x01
	flagLeaf      = 0x02
	flagMeta      = 0x04
	flagFreelist  = 0x10
	elementBucket = 0x01 // of a leaf element: its value is a bucket
	maxDepth      = 64   // branches above a leaf; with two children each that is more pages than a file can have
	checksumSize  = 32   // the sha256 behind a snapshot
	sectorSize    = 512
)

// DB is an open database file. It is safe for concurrent use; Close ends it.
type DB struct {
	path     string
	file     *os.File
	data     []byte // the whole file, mapped
	size     int64  // of the database itself, without a checksum behind it
	snapshot bool   // a checksum follows
	pageSize uint64
	root     uint64 // of the tree of buckets
	high     uint64 // the first page number that was never used
	freelist uint64
	buckets  []bucket
	keyPages atomic.Uint64 // pages of the keys' bucket, once it has been walked; 0 before
	walked   atomic.Int64  // leaves of the keys' bucket
	verified atomic.Int64  // pages that were summed up, and leaves of the keys' bucket that were checked
}

type bucket struct {
	name   []byte
	root   uint64
	inline leaf // with root 0, the bucket lies within its parent's page
}

// Open opens a snapshot, the database of a stopped member, or that in the data directory of one. The file is locked
// against a member's start until Close.
func Open(path string) (*DB, error) {
	d, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return d, nil
}

func open(path string) (_ *DB, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, plain(err)
	}
	if info.IsDir() {
		inner := filepath.Join(path, "member", "snap", "db")
		if info, err = os.Stat(inner); err != nil {
			return nil, fmt.Errorf("a directory without member/snap/db: %w", ErrNotDatabase)
		}
		path = inner
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file: %w", ErrNotDatabase)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	d := &DB{path: path, file: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	// A member locks its database exclusively for as long as it runs.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	if info, err = f.Stat(); err != nil {
		return nil, plain(err)
	}
	if info.Size() < pageHeader+metaSize {
		return nil, fmt.Errorf("%d bytes are too few: %w", info.Size(), ErrNotDatabase)
	}
	d.data, err = syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	d.size = info.Size()
	if d.size%sectorSize == checksumSize {
		d.size -= checksumSize
		d.snapshot = true
	}
	return d, guard(func() error {
		if err := d.readMeta(); err != nil {
			return err
		}
		return d.readBuckets()
	})
}

// plain takes the path out of an error that will be said with one.
func plain(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Close unmaps the file: nothing that was read from it may be used any more.
func (d *DB) Close() error {
	var errs []error
	if d.data != nil {
		errs = append(errs, syscall.Munmap(d.data))
		d.data = nil
	}
	return errors.Join(append(errs, d.file.Close())...)
}

// Path is the file that was opened.
func (d *DB) Path() string { return d.path }

// FileSize is the size of the file in bytes, a snapshot's checksum included.
func (d *DB) FileSize() int64 { return int64(len(d.data)) }

// Snapshot tells whether a checksum follows the database, as it does in a file that was saved as a snapshot.
func (d *DB) Snapshot() bool { return d.snapshot }

// meta is one of the two pages that say where everything is.
type meta struct {
	pageSize             uint32
	root, freelist, high uint64
	tx                   uint64
}

func (d *DB) readMeta() error {
	first, firstErr := d.metaAt(0)
	m, err := first, firstErr
	if firstErr == nil {
		if second, e := d.metaAt(int64(first.pageSize)); e == nil && second.tx > first.tx {
			m = second
		}
	} else if errors.Is(firstErr, ErrDamaged) {
		// The first is torn: the second tells, wherever the page size puts it.
		for size := int64(1024); size <= 1<<16; size <<= 1 {
			if second, e := d.metaAt(size); e == nil && int64(second.pageSize) == size {
				m, err = second, nil
				break
			}
		}
	}
	if err != nil {
		return err
	}
	d.pageSize, d.high, d.freelist = uint64(m.pageSize), m.high, m.freelist
	if want := m.high * d.pageSize; m.high > uint64(d.size) || want > uint64(d.size) {
		return fmt.Errorf("the file has %d bytes and its pages go to %d: %w", len(d.data), want, ErrDamaged)
	}
	// 32 bytes behind a sector's end may also be a cut: only a whole number of pages stands before a checksum.
	if d.snapshot && uint64(d.size)%d.pageSize != 0 {
		return fmt.Errorf("%d bytes are no whole number of pages: %w", d.size, ErrDamaged)
	}
	d.root = m.root
	return nil
}

func (d *DB) metaAt(at int64) (m meta, err error) {
	if at+pageHeader+metaSize > d.size {
		return m, fmt.Errorf("no second meta page: %w", ErrDamaged)
	}
	b := d.data[at+pageHeader : at+pageHeader+metaSize]
	if binary.LittleEndian.Uint32(b) != boltMagic || binary.LittleEndian.Uint16(d.data[at+8:])&flagMeta == 0 {
		if bytes.Count(b, []byte{0}) == len(b) {
			return m, fmt.Errorf("the meta page is empty: %w", ErrDamaged)
		}
		return m, ErrNotDatabase
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != boltVersion {
		return m, fmt.Errorf("format version %d, want %d: %w", v, boltVersion, ErrNotDatabase)
	}
	h := fnv.New64a()
	_, _ = h.Write(b[:56])
	if h.Sum64() != binary.LittleEndian.Uint64(b[56:]) {
		return m, fmt.Errorf("a meta page has a wrong checksum: %w", ErrDamaged)
	}
	m = meta{
		pageSize: binary.LittleEndian.Uint32(b[8:]),
		root:     binary.LittleEndian.Uint64(b[16:]),
		freelist: binary.LittleEndian.Uint64(b[32:]),
		high:     binary.LittleEndian.Uint64(b[40:]),
		tx:       binary.LittleEndian.Uint64(b[48:]),
	}
	if m.pageSize < 512 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0 {
		return m, fmt.Errorf("page size %d: %w", m.pageSize, ErrDamaged)
	}
	return m, nil
}

func (d *DB) readBuckets() error {
	_, err := d.walk(bucket{root: d.root}, false, func(l leaf) error {
		for i := range l.count {
			e, err := l.element(i)
			if err != nil {
				return err
			}
			if e.flags&elementBucket == 0 || len(e.value) < 16 {
				return fmt.Errorf("page %d: the root holds something that is no bucket: %w", l.page, ErrDamaged)
			}
			b := bucket{name: e.key, root: binary.LittleEndian.Uint64(e.value)}
			if b.root == 0 {
				if b.inline, err = d.inline(l.page, e); err != nil {
					return err
				}
			}
			d.buckets = append(d.buckets, b)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if d.bucket("key") == nil || d.bucket("meta") == nil {
		return fmt.Errorf("a bbolt file without etcd's buckets: %w", ErrNotDatabase)
	}
	return nil
}

func (d *DB) bucket(name string) *bucket {
	for i := range d.buckets {
		if string(d.buckets[i].name) == name {
			return &d.buckets[i]
		}
	}
	return nil
}
