package etcdfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Records of a write-ahead log (server/storage/wal of etcd).
const (
	walEntry  = 2
	walState  = 3
	walCRC    = 4
	walExt    = ".wal"
	walPrefix = 8 // bytes of a frame's length field
)

// The window that is read at a time, and the largest record that is taken for one. etcd's largest request is 1.5 MiB
// by default and its segments 64 MiB; a longer record is a damaged length.
const (
	walWindow    = 1 << 20
	walMaxRecord = 16 << 20
)

// WALSummary is what reading a write-ahead log found besides its operations.
type WALSummary struct {
	Segments    int
	Bytes       int64  // read, without the preallocated rest
	Entries     uint64 // raft entries
	FirstIndex  uint64
	LastIndex   uint64
	Commit      uint64 // index known to be committed by the last hard state; entries behind it may never be
	Overwritten uint64 // entries that a later leader replaced: visited, and never applied
	// FirstClosed is when the first segment was written last, LastWritten when the last one was: file times, the only
	// clock a log has. Zero where there is one segment, or the file system tells none.
	FirstClosed, LastWritten time.Time
	FirstClosedIndex         uint64 // index of the last entry of the first segment
	Torn                     string // where the tail ends in a half-written record; "" where it does not
}

// ReadWAL visits the operations of every raft entry in the write-ahead log directory dir (…/member/wal), oldest first,
// with memory that does not depend on the log's size. It opens files for reading only, takes no lock and writes
// nothing, so the member may run meanwhile; a half-written record at the end is its tail, not an error. Segments that
// the member deletes meanwhile are skipped where none of them was read yet.
//
// The operation and its slices are valid during the visit only. ReadWAL ends with the visitor's first error.
func ReadWAL(ctx context.Context, dir string, visit func(*WALOp) error) (WALSummary, error) {
	names, err := walSegments(dir)
	if err != nil {
		return WALSummary{}, err
	}
	r := &walReader{visit: visit, buf: make([]byte, 0, walWindow)}
	for i, name := range names {
		last := i == len(names)-1
		err := r.segment(ctx, filepath.Join(dir, name), last)
		if errors.Is(err, fs.ErrNotExist) && r.sum.Segments == 0 && !last {
			continue // the member has just deleted its oldest one
		}
		if err != nil {
			return r.sum, fmt.Errorf("read write-ahead log %s: %w", filepath.Join(dir, name), err)
		}
	}
	return r.sum, nil
}

// walSegments lists the log's files in order.
func walSegments(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read write-ahead log: %w", err)
	}
	var names []string
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), walExt)
		if ok && len(name) == 33 && name[16] == '-' {
			names = append(names, f.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("read write-ahead log: %s holds no segment (*%s): want a member's directory member/wal", dir, walExt)
	}
	slices.Sort(names)
	return names, nil
}

// walReader carries the state from segment to segment.
type walReader struct {
	visit func(*WALOp) error
	sum   WALSummary
	buf   []byte // the unread part of the window is buf[pos:]
	pos   int
	crc   uint32
	op    WALOp
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn ends a segment at a record that is not whole.
var errTorn = errors.New("half-written record")

func (r *walReader) segment(ctx context.Context, path string, last bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r.buf, r.pos = r.buf[:0], 0
	var offset int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.record(f)
		switch {
		case err == nil:
			offset += n
			r.sum.Bytes += n
			continue
		case errors.Is(err, io.EOF):
		case errors.Is(err, errTorn) && last:
			r.sum.Torn = fmt.Sprintf("%s at byte %d", filepath.Base(path), offset)
		default:
			return fmt.Errorf("at byte %d: %w", offset, err)
		}
		break
	}
	r.sum.Segments++
	if info, err := f.Stat(); err == nil {
		r.sum.LastWritten = info.ModTime()
		if r.sum.Segments == 1 && !last {
			r.sum.FirstClosed, r.sum.FirstClosedIndex = info.ModTime(), r.sum.LastIndex
		}
	}
	return nil
}

// fill makes at least n bytes of the window readable. It is io.EOF where the file ends before.
func (r *walReader) fill(f *os.File, n int) error {
	for len(r.buf)-r.pos < n {
		if r.pos > 0 {
			r.buf = r.buf[:copy(r.buf, r.buf[r.pos:])]
			r.pos = 0
		}
		if n > cap(r.buf) {
			r.buf = append(make([]byte, 0, n+walWindow), r.buf...)
		}
		got, err := f.Read(r.buf[len(r.buf):cap(r.buf)])
		r.buf = r.buf[:len(r.buf)+got]
		if got == 0 && err != nil {
			return err
		}
	}
	return nil
}

// record reads one frame and returns its length. It is io.EOF at the end or where the preallocated rest begins.
func (r *walReader) record(f *os.File) (int64, error) {
	if err := r.fill(f, walPrefix); err != nil {
		if errors.Is(err, io.EOF) && len(r.buf) > r.pos {
			return 0, errTorn
		}
		return 0, err
	}
	field := binary.LittleEndian.Uint64(r.buf[r.pos:])
	if field == 0 {
		return 0, io.EOF
	}
	// The length is the lower 56 bits; a set sign bit says that the three bits above them are the padding's length.
	length, pad := int(field&(1<<56-1)), 0
	if field>>63 == 1 {
		pad = int(field >> 56 & 7)
	}
	if length > walMaxRecord {
		return 0, fmt.Errorf("%w: its length is given as %d", errTorn, length)
	}
	if err := r.fill(f, walPrefix+length+pad); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, errTorn
		}
		return 0, err
	}
	data := r.buf[r.pos+walPrefix : r.pos+walPrefix+length]
	kind, sum, payload, ok := walRecord(data)
	if !ok {
		return 0, errTorn
	}
	switch kind {
	case walCRC:
		r.crc = sum
	default:
		r.crc = crc32.Update(r.crc, castagnoli, payload)
		if r.crc != sum {
			return 0, fmt.Errorf("%w: its checksum is %08x, not %08x", errTorn, r.crc, sum)
		}
	}
	var err error
	switch kind {
	case walEntry:
		err = r.entry(payload)
	case walState:
		if s, ok := fieldsOf(payload); ok {
			r.sum.Commit = max(r.sum.Commit, s.n[3])
		}
	}
	r.pos += walPrefix + length + pad
	return int64(walPrefix + length + pad), err
}
