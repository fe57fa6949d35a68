package etcdfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// Info is what a database says of itself.
type Info struct {
	// Revision is the newest one, as a member that started from the file would have it.
	Revision int64
	// CompactRevision is the last one that was compacted, finished or not; 0 for none.
	CompactRevision int64
	StorageVersion  string // "" before etcd 3.6
	ClusterVersion  string // "" where it is not stored
	PageSize        int64
}

// Info reads the few values beside the keys.
func (d *DB) Info() (Info, error) {
	info := Info{PageSize: int64(d.pageSize)}
	err := guard(func() error {
		err := d.values("meta", func(k, v []byte) error {
			switch string(k) {
			case "scheduledCompactRev", "finishedCompactRev":
				if len(v) < 8 {
					return fmt.Errorf("%s has %d bytes: %w", k, len(v), ErrDamaged)
				}
				info.CompactRevision = max(info.CompactRevision, int64(binary.BigEndian.Uint64(v)))
			case "storageVersion":
				info.StorageVersion = string(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = d.values("cluster", func(k, v []byte) error {
			if string(k) == "clusterVersion" {
				info.ClusterVersion = string(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		stop := errors.New("found")
		_, err = d.walk(*d.bucket("key"), true, func(l leaf) error {
			if l.count == 0 {
				return nil
			}
			e, err := l.element(l.count - 1)
			if err != nil {
				return err
			}
			rev, _, err := parseRevision(e.key)
			if err != nil {
				return fmt.Errorf("page %d: %w", l.page, err)
			}
			info.Revision = rev.main
			return stop
		})
		if errors.Is(err, stop) {
			err = nil
		}
		return err
	})
	info.Revision = max(info.Revision, info.CompactRevision, 1)
	if err != nil {
		return Info{}, fmt.Errorf("read database %s: %w", d.path, err)
	}
	return info, nil
}

// values visits a bucket that may be absent.
func (d *DB) values(name string, visit func(k, v []byte) error) error {
	b := d.bucket(name)
	if b == nil {
		return nil
	}
	_, err := d.walk(*b, false, func(l leaf) error { return l.each(visit) })
	return err
}

// each visits the elements of a leaf.
func (l leaf) each(visit func(k, v []byte) error) error {
	for i := range l.count {
		e, err := l.element(i)
		if err != nil {
			return err
		}
		if err := visit(e.key, e.value); err != nil {
			return err
		}
	}
	return nil
}

// Pages is how the pages of the file are used, in bytes. The parts add up to the file's size.
type Pages struct {
	Keys     int64 // of the bucket that holds the keyspace, with what is unused within them
	Other    int64 // of the other buckets, the list of free pages and the two meta pages
	Free     int64 // free pages: what a defragmentation gives back at least
	Checksum int64 // behind a snapshot
}

// Pages counts the pages of every bucket; what no bucket holds is free. It touches each page, but not those of the keys
// where Records has read them to the end.
func (d *DB) Pages(ctx context.Context) (Pages, error) {
	var keys, other uint64
	err := guard(func() error {
		var err error
		if other, err = d.walk(bucket{root: d.root}, false, func(leaf) error { return nil }); err != nil {
			return err
		}
		for _, b := range d.buckets {
			n := d.keyPages.Load()
			if string(b.name) != "key" || n == 0 {
				if n, err = d.walk(b, false, func(leaf) error { return ctx.Err() }); err != nil {
					return err
				}
			}
			if string(b.name) == "key" {
				keys += n
			} else {
				other += n
			}
		}
		other += 2
		if d.freelist != noFreelist {
			_, flags, _, overflow, err := d.page(d.freelist)
			if err != nil {
				return err
			}
			if flags != flagFreelist {
				return fmt.Errorf("page %d is of type %#x where free pages are listed: %w", d.freelist, flags, ErrDamaged)
			}
			other += overflow + 1
		}
		if keys+other > d.high {
			return fmt.Errorf("%d pages are used of %d: %w", keys+other, d.high, ErrDamaged)
		}
		return nil
	})
	if err != nil {
		return Pages{}, fmt.Errorf("read database %s: %w", d.path, err)
	}
	p := Pages{Keys: int64(keys * d.pageSize), Other: int64(other * d.pageSize), Checksum: d.FileSize() - d.size}
	p.Free = d.FileSize() - p.Keys - p.Other - p.Checksum
	return p, nil
}

// ErrNoChecksum is returned for a file that carries no checksum: it was copied from a member.
var ErrNoChecksum = errors.New("the file carries no checksum: it was not saved as a snapshot")

// Integrity is the result of Verify.
type Integrity struct {
	SHA256 []byte // of the database
	Hash   uint32 // what "etcdutl snapshot status" prints as the hash: over all buckets, keys and values
}

// Verify reads the whole file: it compares the checksum behind a snapshot, checks every page that is used and computes
// the hash of etcdutl's status. For a file without a checksum the rest is done and ErrNoChecksum is returned with it.
func (d *DB) Verify(ctx context.Context) (Integrity, error) {
	var in Integrity
	d.verified.Store(0)
	err := guard(func() error {
		sum := sha256.New()
		for at := int64(0); at < d.size; at += 1 << 20 {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := d.data[at:min(at+1<<20, d.size)]
			_, _ = sum.Write(part)
			d.verified.Add(int64(len(part)) / int64(d.pageSize))
		}
		in.SHA256 = sum.Sum(nil)
		if d.snapshot && !bytes.Equal(in.SHA256, d.data[d.size:]) {
			return fmt.Errorf("its sha256 is %x and the one saved with it is %x: %w", in.SHA256, d.data[d.size:], ErrDamaged)
		}
		h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		buckets := slices.Clone(d.buckets)
		slices.SortFunc(buckets, func(a, b bucket) int { return bytes.Compare(a.name, b.name) })
		for _, b := range buckets {
			_, _ = h.Write(b.name)
			keys := string(b.name) == "key"
			_, err := d.walk(b, false, func(l leaf) error {
				if keys {
					d.verified.Add(1)
				}
				return l.each(func(k, v []byte) error {
					_, _ = h.Write(k)
					_, _ = h.Write(v)
					return ctx.Err()
				})
			})
			if err != nil {
				return err
			}
		}
		in.Hash = h.Sum32()
		return nil
	})
	if err == nil && !d.snapshot {
		err = ErrNoChecksum
	}
	if err != nil {
		return in, fmt.Errorf("verify database %s: %w", d.path, err)
	}
	return in, nil
}

// Verified is how far Verify is, of as many steps as VerifySteps counts: the pages that were summed up, and after them
// the pages with keys that were checked.
func (d *DB) Verified() int64 { return d.verified.Load() }

// VerifySteps counts the steps of Verify, for a bar. It reads what Leaves reads.
func (d *DB) VerifySteps(ctx context.Context) (int64, error) {
	leaves, err := d.Leaves(ctx)
	return d.size/int64(d.pageSize) + leaves, err
}
