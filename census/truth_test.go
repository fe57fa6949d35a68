package census_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkeeper/etcdkeeper/census"
)

// facts are what a walk counts of current keys.
type facts struct{ Keys, Bytes, ValueBytes, Largest, Versions, Leased, Encrypted int64 }

func (f *facts) add(kv *mvccpb.KeyValue) {
	n := int64(len(kv.Key) + len(kv.Value))
	f.Keys++
	f.Bytes += n
	f.ValueBytes += int64(len(kv.Value))
	f.Largest = max(f.Largest, n)
	f.Versions += kv.Version
	if kv.Lease != 0 {
		f.Leased++
	}
	if strings.HasPrefix(string(kv.Value), "k8s:enc:") {
		f.Encrypted++
	}
}

// past is what a walk counts of keys that were written again or deleted.
type past struct{ Keys, Bytes, Tombstones int64 }

// truth is what a census should say, counted without any code of the product.
type truth struct {
	total      facts
	resources  map[string]*facts
	namespaces map[string]*facts
	both       map[[2]string]*facts
	past       map[string]past
	tombstones int64 // bytes of their keys
}

func newTruth() *truth {
	return &truth{resources: map[string]*facts{}, namespaces: map[string]*facts{}, both: map[[2]string]*facts{}, past: map[string]past{}}
}

// storage is where the API server stores what the seeder makes, and whether it is in namespaces.
var storage = map[string]struct {
	name       string
	namespaced bool
}{
	"minions": {"nodes", false}, "namespaces": {"namespaces", false}, "leases": {"leases.coordination.k8s.io", true},
	"deployments": {"deployments.apps", true}, "replicasets": {"replicasets.apps", true}, "pods": {"pods", true},
	"services/specs": {"services", true}, "services/endpoints": {"endpoints", true}, "serviceaccounts": {"serviceaccounts", true},
	"secrets": {"secrets", true}, "configmaps": {"configmaps", true}, "events": {"events", true},
	"cronjobs": {"cronjobs.batch", true}, "jobs": {"jobs.batch", true}, "ranges": {"rangeallocations", false},
}

// named is the resource and the namespace of a key of the seeder's; of other programs' the first element.
func named(t *testing.T, key string) (resource, namespace string) {
	t.Helper()
	if key == "compact_rev_key" {
		return key, ""
	}
	parts := strings.Split(key, "/")
	if parts[0] != "" || parts[1] != "registry" || len(parts) == 3 {
		return "other", strings.Split(strings.TrimLeft(key, "/"), "/")[0]
	}
	parts = parts[2:]
	if strings.Contains(parts[0], ".") {
		resource, parts = parts[1]+"."+parts[0], parts[2:]
		if len(parts) == 2 {
			namespace = parts[0]
		}
		return resource, namespace
	}
	path := parts[0]
	if path == "services" {
		path, parts = parts[0]+"/"+parts[1], parts[1:]
	}
	s, ok := storage[path]
	if !ok {
		t.Fatalf("the seeder wrote %s, which this test does not know", key)
	}
	if s.namespaced {
		namespace = parts[1]
	}
	return s.name, namespace
}

func (w *truth) add(t *testing.T, kv *mvccpb.KeyValue) {
	t.Helper()
	resource, namespace := named(t, string(kv.Key))
	w.total.add(kv)
	of(w.resources, resource).add(kv)
	of(w.both, [2]string{resource, namespace}).add(kv)
	if namespace != "" && resource != "other" {
		of(w.namespaces, namespace).add(kv)
	}
}

func of[K comparable](m map[K]*facts, k K) *facts {
	if m[k] == nil {
		m[k] = new(facts)
	}
	return m[k]
}

// history walks the database file with bbolt, newest revision first.
func (w *truth) history(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w.past, w.tombstones = map[string]past{}, 0
	seen := map[string]bool{}
	err = db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte("key")).Cursor()
		last := uint64(1) << 63
		for rev, value := c.Last(); rev != nil; rev, value = c.Prev() {
			if at := binary.BigEndian.Uint64(rev); at > last {
				t.Fatalf("revision %d stands before %d", at, last)
			} else {
				last = at
			}
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return err
			}
			key := string(kv.Key)
			resource, _ := named(t, key)
			p := w.past[resource]
			switch {
			case len(rev) == 18 && rev[17] == 't':
				p.Tombstones++
				w.tombstones += int64(len(kv.Key))
			case seen[key]:
				p.Keys++
				p.Bytes += int64(len(kv.Key) + len(kv.Value))
			}
			seen[key] = true
			w.past[resource] = p
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check compares a census with the truth, exactly. Options.Top must be above the number of namespaces.
func (w *truth) check(t *testing.T, name string, got *census.Census) {
	t.Helper()
	compare := func(what string, want, have any) {
		t.Helper()
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, what, diff)
		}
	}
	derived := func(what string, f facts, mean int64, share float64) {
		t.Helper()
		if mean != f.Bytes/f.Keys || share != float64(f.Bytes)/float64(w.total.Bytes) {
			t.Errorf("%s: %s: mean %d and share %v of %+v", name, what, mean, share, f)
		}
	}
	compare("total", [2]int64{w.total.Keys, w.total.Bytes}, [2]int64{got.Keys, got.Bytes})
	resources, both, namespaces, history := map[string]*facts{}, map[[2]string]*facts{}, map[string]*facts{}, map[string]past{}
	for _, r := range got.Resources {
		f := facts{r.Keys, r.Bytes, r.ValueBytes, r.LargestBytes, r.Versions, r.Leased, r.Encrypted}
		if r.Keys > 0 {
			resources[r.Name()] = &f
			derived(r.Name(), f, r.MeanBytes, r.Share)
		}
		for _, n := range r.Namespaces {
			key := [2]string{r.Name(), n.Namespace}
			values := int64(0)
			if want := w.both[key]; want != nil {
				values = want.ValueBytes // not told by namespace
			}
			f := facts{n.Keys, n.Bytes, values, n.LargestBytes, n.Versions, n.Leased, n.Encrypted}
			both[key] = &f
			derived(r.Name()+" in "+n.Namespace, f, n.MeanBytes, n.Share)
		}
		if r.NamespaceCount != int64(len(r.Namespaces)) {
			t.Errorf("%s: %s: %d namespaces counted, %d shown", name, r.Name(), r.NamespaceCount, len(r.Namespaces))
		}
		if r.HistoryKeys != nil {
			history[r.Name()] = past{*r.HistoryKeys, *r.HistoryBytes, *r.Tombstones}
		}
	}
	for _, n := range got.Namespaces {
		values := int64(0)
		if want := w.namespaces[n.Namespace]; want != nil {
			values = want.ValueBytes
		}
		f := facts{n.Keys, n.Bytes, values, n.LargestBytes, n.Versions, n.Leased, n.Encrypted}
		namespaces[n.Namespace] = &f
		derived(n.Namespace, f, n.MeanBytes, n.Share)
	}
	compare("resources", w.resources, resources)
	compare("resources in namespaces", w.both, both)
	compare("namespaces", w.namespaces, namespaces)
	if got.NamespaceCount != int64(len(w.namespaces)) {
		t.Errorf("%s: got %d namespaces, want %d", name, got.NamespaceCount, len(w.namespaces))
	}
	f := got.File
	if f == nil {
		return
	}
	compare("history", w.past, history)
	sum := int64(0)
	for _, p := range w.past {
		sum += p.Bytes
	}
	compare("the file's parts", [3]int64{w.total.Bytes, sum, w.tombstones}, [3]int64{f.LiveBytes, f.HistoryBytes, f.TombstoneBytes})
	if f.LiveBytes+f.HistoryBytes+f.TombstoneBytes+f.OverheadBytes+f.FreeBytes != f.SizeBytes {
		t.Errorf("%s: the file does not add up: %+v", name, f)
	}
}
