package keyspace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// page answers as a server without streams does: at most limit keys, and the count of the whole range.
func page(keys []string, size func(string) int, start, end []byte, limit int64) (kvs []*mvccpb.KeyValue, count int64) {
	i := sort.SearchStrings(keys, string(start))
	j := len(keys)
	if len(end) > 0 {
		j = sort.SearchStrings(keys, string(end))
	}
	for _, k := range keys[i:max(i, min(j, i+int(limit)))] {
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(k), Value: make([]byte, size(k))})
	}
	return kvs, int64(max(0, j-i))
}

// TestPager reads keyspaces of many shapes: every key once and in order, and the server counts a small multiple of
// the keys however many there are.
func TestPager(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hex := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0123456789abcdef"[r.IntN(16)]
		}
		return string(b)
	}
	shapes := map[string]func(n int) []string{
		"hashes in one namespace": func(n int) (keys []string) {
			for range n {
				keys = append(keys, "/registry/pods/default/web-"+hex(10))
			}
			return keys
		},
		"numbers with leading zeros": func(n int) (keys []string) {
			for i := range n {
				keys = append(keys, fmt.Sprintf("/registry/jobs/ci/nightly-%08d", i))
			}
			return keys
		},
		"numbers without": func(n int) (keys []string) {
			for i := range n {
				keys = append(keys, fmt.Sprintf("/registry/jobs/ci/nightly-%d", i))
			}
			return keys
		},
		"many namespaces": func(n int) (keys []string) {
			for i := range n {
				keys = append(keys, fmt.Sprintf("/registry/secrets/team-%s/credentials-%d", hex(4), i%10))
			}
			return keys
		},
		"a cluster": func(n int) (keys []string) {
			for i := range n {
				res := []string{"pods", "events", "events", "events", "configmaps", "leases", "minions", "cilium.io/ciliumendpoints"}[r.IntN(8)]
				keys = append(keys, fmt.Sprintf("/registry/%s/team-%02d/app-%d-%s", res, i%50, r.IntN(n/10+1), hex(5)))
			}
			return keys
		},
		"flat": func(n int) (keys []string) {
			for range n {
				keys = append(keys, hex(16))
			}
			return keys
		},
		"bytes": func(n int) (keys []string) {
			for range n {
				b := make([]byte, 1+r.IntN(6))
				for i := range b {
					b[i] = []byte{0, 1, 0xfe, 0xff, '/'}[r.IntN(5)]
				}
				keys = append(keys, string(b))
			}
			return keys
		},
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{0, 1, 1000, 300_000} {
				keys := shape(n)
				slices.Sort(keys)
				keys = slices.Compact(keys)
				p := newPager(Range{}, DefaultPageBytes)
				var got []string
				requests, counted := 0, int64(0)
				for !p.done {
					kvs, count := page(keys, func(string) int { return 1000 }, p.start, p.end, p.limit)
					requests++
					counted += count
					p.got(kvs, count)
					for _, kv := range kvs {
						got = append(got, string(kv.Key))
					}
					if requests > 100+2*len(keys) {
						t.Fatalf("%d keys: no end after %d requests", len(keys), requests)
					}
				}
				if !slices.Equal(got, keys) {
					t.Fatalf("got %d keys, want %d, or in another order", len(got), len(keys))
				}
				if limit := int64(6*len(keys) + 1000); counted > limit {
					t.Errorf("%d keys: the server counted %d, want at most %d", len(keys), counted, limit)
				}
				if n > 1000 {
					t.Logf("%d keys: %d requests, %.2f counted a key", len(keys), requests, float64(counted)/float64(len(keys)))
				}
			}
		})
	}
}

// TestPager_ValueSizes: values that become large do not make a page of as many keys as before.
func TestPager_ValueSizes(t *testing.T) {
	var keys []string
	for i := range 20_000 {
		keys = append(keys, fmt.Sprintf("/registry/leases/a/%06d", i))
	}
	for i := range 2000 {
		keys = append(keys, fmt.Sprintf("/registry/secrets/a/%06d", i))
	}
	slices.Sort(keys)
	size := func(k string) int {
		if k[10] == 's' {
			return 1 << 20
		}
		return 300
	}
	p := newPager(Range{}, DefaultPageBytes)
	seen, largest := 0, 0
	for !p.done {
		kvs, count := page(keys, func(k string) int { return 0 }, p.start, p.end, p.limit)
		total := 0
		for _, kv := range kvs {
			kv.Value = make([]byte, size(string(kv.Key)))
			total += len(kv.Value)
		}
		largest = max(largest, total)
		seen += len(kvs)
		p.got(kvs, count)
	}
	if seen != len(keys) {
		t.Errorf("got %d keys, want %d", seen, len(keys))
	}
	if limit := firstLimit << 20; largest > limit+DefaultPageBytes {
		t.Errorf("the largest page has %d bytes, want at most %d", largest, limit)
	}
}
