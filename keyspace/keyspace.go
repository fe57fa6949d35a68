// Package keyspace reads the keys of an etcd, live or from a database file, and says what Kubernetes resource each
// belongs to and how its value is encoded. It never writes.
package keyspace

import (
	"context"
	"iter"
)

// Entry is one key at one revision. Its byte slices belong to the Scanner and are valid until the next step.
type Entry struct {
	Key   []byte
	Value []byte // nil with Range.KeysOnly and for tombstones

	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64 // 0 where no lease is attached

	// Set by a File scanned with Range.History only.
	Tombstone  bool // the key was deleted at ModRevision
	Superseded bool // a later revision of the key exists: not part of the current keyspace
}

// Range selects what a scan yields.
type Range struct {
	Start []byte // first key; nil means the first of all
	End   []byte // the key behind the last one; nil means to the end

	KeysOnly bool // leave values out
	History  bool // yield every retained revision and tombstone (a File only), in revision order
}

// Scanner reads a keyspace at one revision.
type Scanner interface {
	// Revision is the revision that is read. A live scanner that had to start over behind a compaction moves it.
	Revision() int64
	// Scan yields the entries of r: a Live in key order, a File newest first, since that is how it can be read without
	// keeping the keys. A key is yielded once unless r.History is set. The sequence ends with the first error.
	Scan(ctx context.Context, r Range) iter.Seq2[Entry, error]
}

// Prefix is the range of all keys that begin with p.
func Prefix(p string) Range {
	r := Range{Start: []byte(p)}
	end := []byte(p)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			r.End = end[:i+1]
			return r
		}
	}
	return r
}
