package census_test

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// fakeLive yields entries as a running etcd would. A compaction under the scan moves its revision.
type fakeLive struct {
	revision int64
	entries  []keyspace.Entry
	repins   int64 // that the scan comes upon
	seen     int64
}

func (f *fakeLive) Revision() int64 { return f.revision }

func (f *fakeLive) Scan(context.Context, keyspace.Range) iter.Seq2[keyspace.Entry, error] {
	return func(yield func(keyspace.Entry, error) bool) {
		f.seen += f.repins
		for _, e := range f.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Stats counts repins from before the scan too.
func (f *fakeLive) Stats() keyspace.LiveStats { return keyspace.LiveStats{Repins: 7 + f.seen} }

// fakeFile yields entries as a file would.
type fakeFile struct{ live fakeLive }

func (f *fakeFile) Revision() int64 { return f.live.revision }
func (f *fakeFile) Scan(ctx context.Context, r keyspace.Range) iter.Seq2[keyspace.Entry, error] {
	return f.live.Scan(ctx, r)
}
func (f *fakeFile) Size() int64             { return 1 << 30 }
func (f *fakeFile) Info() keyspace.FileInfo { return keyspace.FileInfo{Revision: f.live.revision} }
func (f *fakeFile) Pages(context.Context) (keyspace.FilePages, error) {
	return keyspace.FilePages{}, nil
}

// add puts a key at the next revision.
func (f *fakeLive) add(key, value string) *keyspace.Entry {
	f.revision++
	f.entries = append(f.entries, keyspace.Entry{Key: []byte(key), Value: []byte(value), CreateRevision: f.revision, ModRevision: f.revision, Version: 1})
	return &f.entries[len(f.entries)-1]
}

// seed adds what a seeder makes.
func (f *fakeLive) seed(t *testing.T, o seed.Options) {
	t.Helper()
	for object, err := range seed.Generate(o) {
		if err != nil {
			t.Fatal(err)
		}
		f.add(object.Key, string(object.Value)).Lease = int64(object.Lease)
	}
}

// made is the value of an object that was created then.
func made(at time.Time) string {
	return fmt.Sprintf(`{"kind":"X","metadata":{"name":"x","creationTimestamp":%q}}`, at.UTC().Format(time.RFC3339))
}

func take(t *testing.T, s keyspace.Scanner, o census.Options) *census.Census {
	t.Helper()
	c, err := census.Take(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// find is the findings of a kind.
func find(c *census.Census, id string) (out []census.Finding) {
	for _, f := range c.Findings {
		if f.ID == id {
			out = append(out, f)
		}
	}
	return out
}

func row(t *testing.T, c *census.Census, name string) census.Resource {
	t.Helper()
	for _, r := range c.Resources {
		if r.Name() == name {
			return r
		}
	}
	t.Fatalf("no row for %s", name)
	return census.Resource{}
}
