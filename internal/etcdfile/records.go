package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/protobuf/encoding/protowire"
)

// Record is one revision of one key. Its slices are of the mapped file: they are valid until the DB is closed, and
// must not be written to.
type Record struct {
	Key, Value                                  []byte
	CreateRevision, ModRevision, Version, Lease int64

	// Stored is what the record takes in its page: its revision, the encoded key and value, the element's header.
	Stored int64

	Tombstone  bool // the key was deleted at ModRevision
	Superseded bool // a later revision of the key exists
}

// Query selects records.
type Query struct {
	Start, End []byte // keys; nil for no bound
	History    bool   // superseded revisions and tombstones too
}

// Records yields the records newest first: in descending order of revision. What is kept meanwhile is 10 to 20 bytes
// for each key. The sequence ends with the first error.
// Where the file may be cut or its disk fail meanwhile, the loop over them runs in Guard.
func (d *DB) Records(ctx context.Context, q Query) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		// Three share the work: one walks the file, one finds out what is superseded, and the caller uses the records.
		r := &reader{d: d, q: q, read: make(chan *batch, 2), full: make(chan *batch, 2), empty: make(chan *batch, batches)}
		for range batches {
			r.empty <- new(batch)
		}
		var walkErr, settleErr error
		go func() {
			defer close(r.read)
			walkErr = guard(func() error { return r.walk(ctx) })
		}()
		go func() {
			defer close(r.full)
			settleErr = guard(func() error { return r.settle(ctx) })
			cancel()
			for range r.read { // until the walk has ended
			}
		}()
		defer func() {
			cancel()
			for range r.full {
			}
		}()
		for b := range r.full {
			for i := range b.records {
				if !yield(&b.records[i], nil) {
					return
				}
			}
			r.empty <- b
		}
		if walkErr == nil || settleErr != nil && errors.Is(walkErr, context.Canceled) {
			walkErr = settleErr
		}
		if walkErr != nil {
			yield(nil, fmt.Errorf("read database %s: %w", d.path, walkErr))
		}
	}
}

const (
	batchSize = 512
	batches   = 6 // two waiting at each hand-over, and two in work
)

// batch is a few records, with what settle needs of each.
type batch struct {
	records []Record
	at      [batchSize]int64  // where in the file the length of a record's key stands
	hash    [batchSize]uint64 // of its key
}

// reader turns leaves into batches of records.
type reader struct {
	d    *DB
	q    Query
	last revision

	batch             *batch      // being filled
	read, full, empty chan *batch // from walk to settle, from there to the caller, and back
}

func (r *reader) walk(ctx context.Context) error {
	r.d.walked.Store(0)
	pages, err := r.d.walk(*r.d.bucket("key"), true, func(l leaf) error {
		if err := r.leaf(ctx, l); err != nil {
			return err
		}
		r.d.walked.Add(1)
		return nil
	})
	if err != nil {
		return err
	}
	r.d.keyPages.Store(pages)
	if r.batch != nil {
		return hand(ctx, r.read, r.batch)
	}
	return nil
}

func hand(ctx context.Context, to chan<- *batch, b *batch) error {
	select {
	case to <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reader) leaf(ctx context.Context, l leaf) error {
	for i := l.count - 1; i >= 0; i-- {
		e, err := l.element(i)
		if err != nil {
			return err
		}
		rev, tombstone, err := parseRevision(e.key)
		if err != nil {
			return fmt.Errorf("page %d: %w", l.page, err)
		}
		if r.last.main != 0 && !rev.before(r.last) {
			return fmt.Errorf("page %d: revision %s is out of order: %w", l.page, rev, ErrDamaged)
		}
		r.last = rev
		if len(e.value) == 0 {
			continue // what a restore with a bumped revision writes: a revision without a key
		}
		if r.batch == nil {
			select {
			case r.batch = <-r.empty:
				r.batch.records = r.batch.records[:0]
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b, n := r.batch, len(r.batch.records)
		b.records = append(b.records, Record{})
		rec := &b.records[n]
		keyAt, err := rec.parse(e.value)
		if err != nil {
			return fmt.Errorf("page %d: the record of revision %s: %w", l.page, rev, err)
		}
		if q := r.q; len(q.Start) > 0 && bytes.Compare(rec.Key, q.Start) < 0 || len(q.End) > 0 && bytes.Compare(rec.Key, q.End) >= 0 {
			b.records = b.records[:n]
			continue
		}
		if tombstone {
			rec.ModRevision = rev.main
		} else if rec.ModRevision != rev.main {
			return fmt.Errorf("page %d: the record of revision %s says that it is of %d: %w", l.page, rev, rec.ModRevision, ErrDamaged)
		}
		rec.Tombstone = tombstone
		rec.Stored = int64(elementSize + len(e.key) + len(e.value))
		b.at[n] = e.valueAt + int64(keyAt)
		if n+1 == batchSize {
			r.batch = nil
			if err := hand(ctx, r.read, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle finds out which records are superseded and hands over those that are wanted.
func (r *reader) settle(ctx context.Context) error {
	seen := newSeen(r.d.data)
	for b := range r.read {
		// Hashing all keys first touches the slots of the set, which lie all over the memory, some time before they are
		// needed.
		for i := range b.records {
			b.hash[i] = seen.prepare(b.records[i].Key)
		}
		n := 0
		for i := range b.records {
			rec := &b.records[i]
			rec.Superseded = seen.add(b.hash[i], rec.Key, b.at[i])
			if !r.q.History && (rec.Tombstone || rec.Superseded) {
				continue
			}
			if n < i {
				b.records[n] = *rec
			}
			n++
		}
		b.records = b.records[:n]
		// Reading behind the end of a file that was cut meanwhile would be a fault in whoever uses the records.
		if err := r.d.unchanged(); err != nil {
			return err
		}
		if err := hand(ctx, r.full, b); err != nil {
			return err
		}
	}
	return nil
}

// parse reads an mvccpb.KeyValue and tells where the length of its key stands.
func (r *Record) parse(b []byte) (keyAt int, err error) {
	keyAt = -1
	for at := 0; at < len(b); {
		number, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return 0, fmt.Errorf("%w: %w", protowire.ParseError(n), ErrDamaged)
		}
		at += n
		switch {
		case typ == protowire.BytesType && (number == 1 || number == 5):
			v, n := protowire.ConsumeBytes(b[at:])
			if n < 0 {
				return 0, fmt.Errorf("%w: %w", protowire.ParseError(n), ErrDamaged)
			}
			if number == 1 {
				r.Key, keyAt = v, at
			} else {
				r.Value = v
			}
			at += n
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b[at:])
			if n < 0 {
				return 0, fmt.Errorf("%w: %w", protowire.ParseError(n), ErrDamaged)
			}
			switch number {
			case 2:
				r.CreateRevision = int64(v)
			case 3:
				r.ModRevision = int64(v)
			case 4:
				r.Version = int64(v)
			case 6:
				r.Lease = int64(v)
			}
			at += n
		default:
			n := protowire.ConsumeFieldValue(number, typ, b[at:])
			if n < 0 {
				return 0, fmt.Errorf("%w: %w", protowire.ParseError(n), ErrDamaged)
			}
			at += n
		}
	}
	if len(r.Key) == 0 {
		return 0, fmt.Errorf("it has no key: %w", ErrDamaged)
	}
	return keyAt, nil
}

// revision is the key of a record: the revision of the transaction and the number of the change in it.
type revision struct{ main, sub int64 }

func (r revision) before(o revision) bool {
	return r.main < o.main || r.main == o.main && r.sub < o.sub
}

func (r revision) String() string { return fmt.Sprintf("%d.%d", r.main, r.sub) }

func parseRevision(b []byte) (r revision, tombstone bool, err error) {
	if (len(b) != 17 && len(b) != 18) || b[8] != '_' || len(b) == 18 && b[17] != 't' {
		return r, false, fmt.Errorf("%x is no revision: %w", b, ErrDamaged)
	}
	r.main, r.sub = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))
	if r.main <= 0 || r.sub < 0 {
		return r, false, fmt.Errorf("%x is no revision: %w", b, ErrDamaged)
	}
	return r, len(b) == 18, nil
}
