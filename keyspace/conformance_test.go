package keyspace_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// row is an Entry that owns its bytes.
type row struct {
	key, value                  string
	create, mod, version, lease int64
	tombstone, superseded       bool
}

func rowOf(e keyspace.Entry) row {
	return row{key: string(e.Key), value: string(e.Value), create: e.CreateRevision, mod: e.ModRevision, version: e.Version,
		lease: e.Lease, tombstone: e.Tombstone, superseded: e.Superseded}
}

func collect(t *testing.T, s keyspace.Scanner, r keyspace.Range) []row {
	t.Helper()
	var rows []row
	for e, err := range s.Scan(t.Context(), r) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		rows = append(rows, rowOf(e))
	}
	return rows
}

// truth asks the server for everything at once, past all that is tested here.
func truth(t *testing.T, c *clientv3.Client, opts ...clientv3.OpOption) []row {
	t.Helper()
	resp, err := c.Get(t.Context(), "\x00", append([]clientv3.OpOption{clientv3.WithFromKey()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, kv := range resp.Kvs {
		rows = append(rows, row{key: string(kv.Key), value: string(kv.Value), create: kv.CreateRevision, mod: kv.ModRevision,
			version: kv.Version, lease: kv.Lease})
	}
	return rows
}

func snapshot(t *testing.T, c *clientv3.Client) string {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
	return path
}

// fill makes a keyspace with all that a scanner must stand.
func fill(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	if _, err := seed.Write(ctx, c, seed.Generate(seed.Demo(time.Now())), seed.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(k, v string) {
		t.Helper()
		_, err := c.Put(ctx, k, v)
		must(err)
	}
	for i := range 30 {
		for range 4 {
			put(fmt.Sprintf("/registry/pods/busy/web-%d", i), strings.Repeat("x", i*100))
		}
	}
	put("/registry/configmaps/odd/large", strings.Repeat("v", 1<<20))
	put("/registry/configmaps/odd/empty", "")
	put("\x00", "the least key")
	put("\x00\xff\xff", "bytes")
	put("\xff\xff", "the last keys")
	put("/registry/pods/odd/\xff\xfe", "no utf-8")
	put("compact_rev_key", "1")
	_, err := c.Delete(ctx, "/registry/pods/busy/web-7")
	must(err)
	_, err = c.Delete(ctx, "/registry/pods/busy/web-8")
	must(err)
	put("/registry/pods/busy/web-8", "again")
	_, err = c.Delete(ctx, "/registry/configmaps/team-a/", clientv3.WithPrefix())
	must(err)
}

// TestScanner is one suite over every way to read the same keyspace.
func TestScanner(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	fill(t, c)
	want := truth(t, c)
	path := snapshot(t, c)

	type way struct {
		name  string
		open  func(t *testing.T) keyspace.Scanner
		order func([]row) []row
	}
	live := func(o keyspace.LiveOptions) func(t *testing.T) keyspace.Scanner {
		return func(t *testing.T) keyspace.Scanner {
			l, err := keyspace.NewLive(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
	}
	file := func(path string) func(t *testing.T) keyspace.Scanner {
		return func(t *testing.T) keyspace.Scanner {
			f, err := keyspace.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
			return f
		}
	}
	byRevision := func(rows []row) []row {
		if !slices.IsSortedFunc(rows, func(a, b row) int { return int(b.mod - a.mod) }) {
			t.Error("a file's entries are not newest first")
		}
		rows = slices.Clone(rows)
		slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.key, b.key) })
		return rows
	}
	asIs := func(rows []row) []row { return rows }
	ways := []way{
		{"stream", live(keyspace.LiveOptions{}), asIs},
		{"pages", live(keyspace.LiveOptions{Pages: true}), asIs},
		{"small pages", live(keyspace.LiveOptions{Pages: true, PageBytes: 64 << 10}), asIs},
		{"rate", live(keyspace.LiveOptions{Rate: 256 << 20}), asIs},
		{"snapshot", file(path), byRevision},
	}
	suite := func(t *testing.T, ways []way) {
		for _, w := range ways {
			t.Run(w.name, func(t *testing.T) {
				s := w.open(t)
				if got := s.Revision(); got < want[0].mod {
					t.Errorf("revision: got %d", got)
				}
				compare(t, want, w.order(collect(t, s, keyspace.Range{})))
				t.Run("prefix", func(t *testing.T) {
					for _, p := range []string{"/registry/jobs/", "/registry/pods/busy/web-1", "\xff", "/registry/none/", "/registry/configmaps/team-a/"} {
						compare(t, filter(want, p), w.order(collect(t, s, keyspace.Prefix(p))))
					}
				})
				t.Run("bounds", func(t *testing.T) {
					r := keyspace.Range{Start: []byte("/registry/jobs/"), End: []byte("/registry/jobs/")}
					if got := collect(t, s, r); len(got) != 0 {
						t.Errorf("an empty range: got %d entries", len(got))
					}
					k := []byte(want[len(want)/2].key)
					r = keyspace.Range{Start: k, End: append(bytes.Clone(k), 0)}
					if got := collect(t, s, r); len(got) != 1 || got[0] != want[len(want)/2] {
						t.Errorf("a range of one key: got %d entries", len(got))
					}
				})
				t.Run("keys only", func(t *testing.T) {
					bare := slices.Clone(want)
					for i := range bare {
						bare[i].value, bare[i].lease = "", 0
					}
					got := w.order(collect(t, s, keyspace.Range{KeysOnly: true}))
					for i := range got {
						got[i].lease = 0 // a server from 3.7 answers from its index, which knows no lease
					}
					compare(t, bare, got)
				})
				t.Run("early end", func(t *testing.T) {
					n := 0
					for _, err := range s.Scan(t.Context(), keyspace.Range{}) {
						if err != nil {
							t.Fatal(err)
						}
						if n++; n == 10 {
							break
						}
					}
				})
				t.Run("cancel", func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					var last error
					n := 0
					for _, err := range s.Scan(ctx, keyspace.Range{}) {
						last = err
						if n++; n == 10 {
							cancel()
						}
					}
					cancel()
					if last == nil {
						t.Error("a cancelled scan ended without an error")
					}
				})
			})
		}
	}
	suite(t, ways)

	t.Run("history", func(t *testing.T) { history(t, c, file(path)(t)) })

	l := live(keyspace.LiveOptions{})(t)
	for _, err := range l.Scan(t.Context(), keyspace.Range{History: true}) {
		if err == nil {
			t.Error("a live etcd was asked for history and gave an entry")
		}
	}

	if _, err := keyspace.OpenFile(etcd.Database()); err == nil || !strings.Contains(err.Error(), "running etcd") {
		t.Errorf("the database of a running member: got %v, want a refusal", err)
	}
	_ = c.Close()
	etcd.Stop(t)
	suite(t, []way{
		{"stopped member", file(etcd.Database()), byRevision},
		{"data directory", file(etcd.DataDir), byRevision},
	})
}

func filter(rows []row, prefix string) (out []row) {
	for _, r := range rows {
		if strings.HasPrefix(r.key, prefix) {
			out = append(out, r)
		}
	}
	return out
}

func compare(t *testing.T, want, got []row) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			w, g := want[i], got[i]
			w.value, g.value = fmt.Sprintf("%d bytes", len(w.value)), fmt.Sprintf("%d bytes", len(g.value))
			t.Fatalf("entry %d: got %+v, want %+v", i, g, w)
		}
	}
	if len(want) != len(got) {
		t.Fatalf("got %d entries, want %d", len(got), len(want))
	}
}

// history compares what a file retains with what the server answers at every revision.
func history(t *testing.T, c *clientv3.Client, s keyspace.Scanner) {
	rows := collect(t, s, keyspace.Range{Start: []byte("/registry/pods/busy/"), End: []byte("/registry/pods/busy0"), History: true})
	puts, tombstones, current := 0, 0, 0
	for _, r := range rows {
		if !r.superseded && !r.tombstone {
			current++
		}
		if r.tombstone {
			tombstones++
			continue
		}
		puts++
		resp, err := c.Get(t.Context(), r.key, clientv3.WithRev(r.mod))
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != r.value || resp.Kvs[0].Version != r.version {
			t.Fatalf("%s at %d: the server has another value (%v)", r.key, r.mod, err)
		}
	}
	// 30 keys written 4 times, one deleted, one deleted and written again.
	if puts != 121 || tombstones != 2 || current != 29 {
		t.Errorf("got %d puts, %d tombstones, %d current; want 121, 2, 29", puts, tombstones, current)
	}
}
