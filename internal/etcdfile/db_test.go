package etcdfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// make a database as etcd writes it: keys×versions records, of which every seventh key ends with a tombstone.
func database(tb testing.TB, keys, versions, valueBytes int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, PageSize: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	rev := int64(1)
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{"alarm", "auth", "cluster", "key", "lease", "members", "meta"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		if err := tx.Bucket([]byte("meta")).Put([]byte("storageVersion"), []byte("3.6.0")); err != nil {
			return err
		}
		b := tx.Bucket([]byte("key"))
		for v := range versions {
			for k := range keys {
				rev++
				kv := &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/pods/default/web-%05d", k), Value: bytes.Repeat([]byte{'v'}, valueBytes),
					CreateRevision: 2 + int64(k), ModRevision: rev, Version: int64(v + 1), Lease: int64(k % 3)}
				id := mvcc.NewRevBytes()
				id = mvcc.RevToBytes(mvcc.Revision{Main: rev}, id)
				if v == versions-1 && k%7 == 6 {
					id = append(id, 't')
					kv = &mvccpb.KeyValue{Key: kv.Key}
				}
				data, err := proto.Marshal(kv)
				if err != nil {
					return err
				}
				if err := b.Put(id, data); err != nil {
					return err
				}
			}
		}
		// What a restore with a bumped revision leaves.
		rev += 1000
		return b.Put(mvcc.RevToBytes(mvcc.Revision{Main: rev}, mvcc.NewRevBytes()), nil)
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// walkAll reads everything there is to read.
func walkAll(path string) (live, history, tombstones int, err error) {
	d, err := Open(path)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if _, err := d.Info(); err != nil {
		return 0, 0, 0, err
	}
	pages, err := d.Pages(context.Background())
	if err != nil {
		return 0, 0, 0, err
	}
	if got := pages.Keys + pages.Other + pages.Free + pages.Checksum; got != d.FileSize() {
		return 0, 0, 0, fmt.Errorf("pages add up to %d of %d bytes", got, d.FileSize())
	}
	for r, err := range d.Records(context.Background(), Query{History: true}) {
		switch {
		case err != nil:
			return live, history, tombstones, err
		case r.Tombstone:
			tombstones++
		case r.Superseded:
			history++
		default:
			live++
		}
	}
	if _, err := d.Verify(context.Background()); err != nil && !errors.Is(err, ErrNoChecksum) {
		return live, history, tombstones, err
	}
	return live, history, tombstones, nil
}

func TestDB_Records(t *testing.T) {
	for _, n := range []int{0, 1, 7, 3000} {
		path := database(t, n, 3, 100)
		before, _ := os.ReadFile(path)
		live, history, tombstones, err := walkAll(path)
		if err != nil {
			t.Fatal(err)
		}
		gone := n / 7
		if live != n-gone || history != 2*n || tombstones != gone {
			t.Errorf("%d keys: got %d live, %d history, %d tombstones", n, live, history, tombstones)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
			t.Error("reading changed the file")
		}
	}
}

// TestDB_Verify compares the hash with the one that etcdutl prints, and free pages with bbolt's.
func TestDB_Verify(t *testing.T) {
	path := database(t, 2000, 2, 300)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { // makes free pages
		b := tx.Bucket([]byte("key"))
		c := b.Cursor()
		for i := range 900 {
			if k, _ := c.First(); k == nil || i < 0 {
				break
			}
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(*bolt.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	stats := db.Stats()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	in, err := d.Verify(t.Context())
	if !errors.Is(err, ErrNoChecksum) || in.Hash != status.Hash {
		t.Errorf("got hash %x and %v, want %x and that there is no checksum", in.Hash, err, status.Hash)
	}
	if steps, err := d.VerifySteps(t.Context()); err != nil || d.Verified() != steps || steps <= status.TotalSize/int64(d.pageSize) {
		t.Errorf("verified %d of %d steps, %v, of a file of %d bytes", d.Verified(), steps, err, status.TotalSize)
	}
	info, err := d.Info()
	if err != nil || info.Revision != status.Revision || info.StorageVersion != "3.6.0" {
		t.Errorf("got %+v and %v, want revision %d", info, err, status.Revision)
	}
	pages, err := d.Pages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	beyond := d.FileSize() - int64(d.high*d.pageSize)
	if want := int64(stats.FreePageN+stats.PendingPageN)*int64(d.pageSize) + beyond; pages.Free != want {
		t.Errorf("free: got %d bytes, want %d", pages.Free, want)
	}
}

func TestOpen_Refuses(t *testing.T) {
	good, err := os.ReadFile(database(t, 500, 2, 200))
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole, err := Open(write(good))
	if err != nil {
		t.Fatal(err)
	}
	used := whole.high * whole.pageSize
	if err := whole.Close(); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign")
	db, err := bolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("mine")); return err })
	_ = db.Close()
	for _, tc := range []struct {
		name, path string
		want       error
	}{
		{"missing", filepath.Join(t.TempDir(), "none"), os.ErrNotExist},
		{"empty", write(nil), ErrNotDatabase},
		{"text", write([]byte(strings.Repeat("text ", 5000))), ErrNotDatabase},
		{"zeros", write(make([]byte, 1<<16)), ErrDamaged},
		{"directory", t.TempDir(), ErrNotDatabase},
		{"device", "/dev/null", ErrNotDatabase},
		{"another program's", foreign, ErrNotDatabase},
		{"cut by half", write(good[:len(good)/2]), ErrDamaged},
		{"cut by a page", write(good[:used-4096]), ErrDamaged},
		{"one page", write(good[:4096]), ErrDamaged},
		{"a wrong checksum", write(append(bytes.Clone(good), make([]byte, 32)...)), ErrDamaged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, _, err := walkAll(tc.path); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	t.Run("in use", func(t *testing.T) {
		path := write(good)
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := Open(path); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v, want %v", err, ErrInUse)
		}
	})
	t.Run("cut while it is read", func(t *testing.T) {
		path := write(good)
		d, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := os.Truncate(path, 8192); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range d.Records(t.Context(), Query{History: true}) {
			last = err
		}
		if !errors.Is(last, ErrDamaged) {
			t.Errorf("got %v, want %v", last, ErrDamaged)
		}
	})
	t.Run("first meta page torn", func(t *testing.T) {
		data := bytes.Clone(good)
		data[40] ^= 0xff
		// The second one is of before the only transaction: a bbolt file without buckets.
		if _, _, _, err := walkAll(write(data)); !errors.Is(err, ErrNotDatabase) {
			t.Errorf("got %v, want %v", err, ErrNotDatabase)
		}
	})
}
