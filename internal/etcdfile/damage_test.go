package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"google.golang.org/protobuf/proto"
)

// layout is where things stand in a good database whose keys have a branch page above their leaves.
type layout struct {
	data                  []byte
	pageSize              int
	buckets, root, empty  uint64   // pages: the buckets, the branch above the keys' leaves, an unused empty leaf
	leaves                []uint64 // of the keys
	live, history, deaths int
}

func readLayout(tb testing.TB) layout {
	tb.Helper()
	path := database(tb, 60, 2, 200)
	var l layout
	var err error
	if l.live, l.history, l.deaths, err = walkAll(path); err != nil {
		tb.Fatal(err)
	}
	if l.data, err = os.ReadFile(path); err != nil {
		tb.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	l.pageSize, l.buckets, l.root = int(d.pageSize), d.root, d.bucket("key").root
	if _, err := d.walk(*d.bucket("key"), false, func(x leaf) error { l.leaves = append(l.leaves, x.page); return nil }); err != nil {
		tb.Fatal(err)
	}
	used := map[uint64]bool{l.root: true, l.buckets: true}
	for _, p := range l.leaves {
		used[p] = true
	}
	for p := uint64(2); p < d.high; p++ {
		if h := l.page(p); !used[p] && binary.LittleEndian.Uint16(h[8:]) == flagLeaf && binary.LittleEndian.Uint16(h[10:]) == 0 {
			l.empty = p
		}
	}
	if len(l.leaves) < 4 || l.empty == 0 {
		tb.Fatalf("the database has %d leaves and the empty page %d", len(l.leaves), l.empty)
	}
	return l
}

func (l layout) page(id uint64) []byte { return l.data[int(id)*l.pageSize:][:l.pageSize] }

// TestOpen_RefusesDamage changes one field of a header, a meta page or a branch: each is told, and none gives a number.
func TestOpen_RefusesDamage(t *testing.T) {
	good := readLayout(t)
	put16 := func(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
	put32 := func(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
	put64 := func(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }
	element := func(l layout, i int) []byte { return l.page(l.root)[pageHeader+i*elementSize:] }
	n := uint16(len(good.leaves))
	for name, c := range map[string]struct {
		change func(l layout)
		want   error
	}{
		"magic":                         {func(l layout) { put32(l.data[pageHeader:], 1) }, ErrNotDatabase},
		"format version":                {func(l layout) { put32(l.data[pageHeader+4:], 3) }, ErrNotDatabase},
		"page size":                     {func(l layout) { put32(l.data[pageHeader+8:], 8192) }, ErrNotDatabase}, // the other meta page is of an empty file
		"root in the meta page":         {func(l layout) { put64(l.data[pageHeader+16:], good.root) }, ErrNotDatabase},
		"highest page in the meta page": {func(l layout) { put64(l.data[pageHeader+40:], 5) }, ErrNotDatabase},
		"both meta pages":               {func(l layout) { l.data[pageHeader+60] ^= 1; l.data[l.pageSize+pageHeader+60] ^= 1 }, ErrDamaged},
		"number of a branch":            {func(l layout) { put64(l.page(l.root), 1) }, ErrDamaged},
		"type of a branch":              {func(l layout) { put16(l.page(l.root)[8:], flagLeaf) }, ErrDamaged},
		"unknown type of a branch":      {func(l layout) { put16(l.page(l.root)[8:], 0x40) }, ErrDamaged},
		"fewer children":                {func(l layout) { put16(l.page(l.root)[10:], n-1) }, ErrDamaged},
		"no children":                   {func(l layout) { put16(l.page(l.root)[10:], 0) }, ErrDamaged},
		"more children":                 {func(l layout) { put16(l.page(l.root)[10:], n+1) }, ErrDamaged},
		"branch over its neighbours":    {func(l layout) { put32(l.page(l.root)[12:], 1<<30) }, ErrDamaged},
		"a child twice":                 {func(l layout) { put64(element(l, 1)[8:], l.leaves[0]) }, ErrDamaged},
		"a child that is the branch":    {func(l layout) { put64(element(l, 1)[8:], l.root) }, ErrDamaged},
		"a child behind the end":        {func(l layout) { put64(element(l, 1)[8:], 1<<40) }, ErrDamaged},
		"a child that is a meta page":   {func(l layout) { put64(element(l, 1)[8:], 1) }, ErrDamaged},
		"a child that is unused":        {func(l layout) { put64(element(l, 1)[8:], l.empty) }, ErrDamaged},
		"two children exchanged": {func(l layout) {
			put64(element(l, 0)[8:], l.leaves[1])
			put64(element(l, 1)[8:], l.leaves[0])
		}, ErrDamaged},
		"a child's key too high": {func(l layout) {
			at := binary.LittleEndian.Uint32(element(l, 1))
			element(l, 1)[at] = 0x7f
		}, ErrDamaged},
		"a child's key too low": {func(l layout) {
			at := binary.LittleEndian.Uint32(element(l, 1))
			clear(element(l, 1)[at : at+8])
		}, ErrDamaged},
		"a key outside of the branch": {func(l layout) { put32(element(l, 1)[4:], 1<<20) }, ErrDamaged},
		"number of a leaf":            {func(l layout) { put64(l.page(l.leaves[1]), l.leaves[2]) }, ErrDamaged},
		"type of a leaf":              {func(l layout) { put16(l.page(l.leaves[1])[8:], flagBranch) }, ErrDamaged},
		"fewer records in a leaf": {func(l layout) {
			h := l.page(l.leaves[1])[10:]
			put16(h, binary.LittleEndian.Uint16(h)-1)
		}, ErrDamaged},
		"no records in a leaf": {func(l layout) { put16(l.page(l.leaves[1])[10:], 0) }, ErrDamaged},
		"a leaf over the next": {func(l layout) { put32(l.page(l.leaves[1])[12:], 1) }, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			l := good
			l.data = bytes.Clone(good.data)
			c.change(l)
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, l.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if live, history, deaths, err := walkAll(path); !errors.Is(err, c.want) {
				t.Errorf("got %d live, %d history, %d tombstones and %v, want %v", live, history, deaths, err, c.want)
			}
		})
	}
}

// FuzzOpen damages a good database: what comes of it is no panic, no fault and no endless loop, and it is an error or the
// right numbers. The leaves of the keys are left out, since no checksum guards their records, and so is the page that says
// where the keys begin.
func FuzzOpen(f *testing.F) {
	good := readLayout(f)
	f.Add(uint32(0), []byte{0})
	for _, at := range []uint32{8, 24, 40, 4096 + 40, 8192, 8192 + 8, 12288 + 10, 16384 + 16, 20480 + 12, 24576} {
		f.Add(at, []byte{0xff, 0xff, 0xff, 0xff})
		f.Add(at, []byte{2, 0, 0, 0, 0, 0, 0, 0})
	}
	root := uint32(good.root) * uint32(good.pageSize)
	for at := root; at < root+pageHeader+uint32(len(good.leaves))*elementSize; at += 2 {
		f.Add(at, []byte{1})
		f.Add(at, []byte{byte(good.leaves[0]), 0})
	}
	unguarded := map[uint64]bool{good.buckets: true}
	for _, p := range good.leaves {
		unguarded[p] = true
	}
	path := filepath.Join(f.TempDir(), "db")
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		data := bytes.Clone(good.data)
		from := int(at) % len(data)
		n := copy(data[from:], patch)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		live, history, deaths, err := walkAll(path)
		if err != nil {
			return
		}
		for p := from / good.pageSize; p*good.pageSize < from+n; p++ {
			if unguarded[uint64(p)] {
				return
			}
		}
		if live != good.live || history != good.history || deaths != good.deaths {
			t.Errorf("%d bytes at %d (page %d): got %d live, %d history, %d tombstones and no error, want %d, %d, %d", n, from, from/good.pageSize,
				live, history, deaths, good.live, good.history, good.deaths)
		}
	})
}

// TestDB_Leaves: what is counted first is what is walked then, whatever the depth of the tree.
func TestDB_Leaves(t *testing.T) {
	for _, n := range []int{0, 1, 7, 3000, 12_000} {
		d, err := Open(database(t, n, 2, 100))
		if err != nil {
			t.Fatal(err)
		}
		total, err := d.Leaves(t.Context())
		if err != nil || total < 1 || n > 1000 && total < int64(n/100) || d.Walked() != 0 {
			t.Errorf("%d keys: got %d leaves, %v, and %d walked before", n, total, err, d.Walked())
		}
		last := int64(0)
		for _, err := range d.Records(t.Context(), Query{History: true}) {
			now := d.Walked()
			if err != nil || now < last || now > total {
				t.Fatalf("%d keys: walked %d of %d after %d (%v)", n, now, total, last, err)
			}
			last = now
		}
		if d.Walked() != total {
			t.Errorf("%d keys: walked %d of %d at the end", n, d.Walked(), total)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDB_Churned: what is refused as damage is nothing that bbolt writes: after many transactions that add, overwrite and
// delete records of all sizes, every page is taken.
func TestDB_Churned(t *testing.T) {
	path := database(t, 50, 2, 100)
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	rev := int64(100_000)
	for range 150 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("key"))
			for range random.IntN(200) {
				rev++
				size := random.IntN(300)
				if random.IntN(50) == 0 {
					size = random.IntN(40_000)
				}
				kv := &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/pods/a/%d", random.IntN(500)), Value: make([]byte, size), CreateRevision: 2, ModRevision: rev, Version: 1}
				data, err := proto.Marshal(kv)
				if err != nil {
					return err
				}
				if err := b.Put(mvcc.RevToBytes(mvcc.Revision{Main: rev}, mvcc.NewRevBytes()), data); err != nil {
					return err
				}
			}
			c := b.Cursor()
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
				if random.IntN(6) == 0 {
					if err := c.Delete(); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := 0
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(_, v []byte) error {
			if len(v) > 0 {
				want++
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	live, history, deaths, err := walkAll(path)
	if err != nil || live+history+deaths != want || want < 300 {
		t.Errorf("got %d live, %d history, %d tombstones and %v, want %d records", live, history, deaths, err, want)
	}
}
