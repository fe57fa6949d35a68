package keyspace

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// sorted answers as a server without streams does: at most limit keys, and the count of the whole range.
type sorted struct {
	source
	keys    []string
	size    func(string) int
	mu      sync.Mutex
	largest int // bytes of an answer
	flying  int
	most    int // requests at once
	empty   int // answers without a key
	counted int // keys, for one answer
}

func (s *sorted) page(_ context.Context, r *pb.RangeRequest, b *batch) error {
	s.mu.Lock()
	s.flying++
	s.most = max(s.most, s.flying)
	s.mu.Unlock()
	start, end := string(r.Key), string(r.RangeEnd)
	i, j := sort.SearchStrings(s.keys, start), len(s.keys)
	if start == "\x00" {
		i = 0
	}
	if end != "\x00" {
		j = sort.SearchStrings(s.keys, end)
	}
	var kvs []*mvccpb.KeyValue
	for _, k := range s.keys[i:max(i, min(j, i+int(r.Limit)))] {
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(k), Value: make([]byte, s.size(k))})
	}
	b.take(kvs, int64(max(0, j-i)))
	runtime.Gosched()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(kvs) == 0 {
		s.empty++
	}
	s.counted = max(s.counted, j-i)
	s.flying--
	s.largest = max(s.largest, b.size)
	return nil
}

// scanSorted reads all of s in pages.
func scanSorted(t *testing.T, s *sorted) (keys []string, l *Live) {
	t.Helper()
	l = &Live{source: s, opts: LiveOptions{PageBytes: DefaultPageBytes, PinKey: DefaultPinKey}, pace: newPace(nil, LiveOptions{})}
	l.pace.probed = time.Now().Add(time.Hour) // there is no member to ask how it is
	l.pages.Store(true)
	for e, err := range l.Scan(t.Context(), Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(e.Key))
		if requests := l.requests.Load(); requests > int64(100+2*len(s.keys)) {
			t.Fatalf("%d keys: no end after %d requests", len(s.keys), requests)
		}
	}
	return keys, l
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
				source := &sorted{keys: keys, size: func(string) int { return 1000 }}
				got, l := scanSorted(t, source)
				requests, counted := l.requests.Load(), l.indexed.Load()
				if !slices.Equal(got, keys) {
					t.Fatalf("got %d keys, want %d, or in another order", len(got), len(keys))
				}
				if limit := int64(6*len(keys) + 1000); counted > limit {
					t.Errorf("%d keys: the server counted %d, want at most %d", len(keys), counted, limit)
				}
				if n > 1000 {
					t.Logf("%d keys: %d requests, %.2f counted a key, %d at once", len(keys), requests, float64(counted)/float64(len(keys)), source.most)
				}
			}
		})
	}
}

// TestPager_Cluster reads the names of a large cluster: most pages are well filled, and few requests find nothing.
func TestPager_Cluster(t *testing.T) {
	var keys []string
	for o := range seed.Generate(seed.Large(time.Now(), 200_000)) {
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	source := &sorted{keys: keys, size: func(string) int { return 1200 }}
	got, l := scanSorted(t, source)
	if !slices.Equal(got, keys) {
		t.Fatalf("got %d keys, want %d, or in another order", len(got), len(keys))
	}
	full := len(keys) * 1250 / DefaultPageBytes
	requests, counted := l.requests.Load(), float64(l.indexed.Load())/float64(len(keys))
	if requests > int64(3*full) || counted > 6 || source.empty > full || source.counted > len(keys)/2 {
		t.Errorf("%d requests, %d of them empty, for %d full pages; %.2f keys counted for each, %d of %d at once", requests, source.empty, full, counted, source.counted, len(keys))
	}
	t.Logf("%d requests, %d of them empty, for %d full pages; %.2f keys counted for each", requests, source.empty, full, counted)
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
	s := &sorted{keys: keys, size: size}
	if got, _ := scanSorted(t, s); !slices.Equal(got, keys) {
		t.Errorf("got %d keys, want %d", len(got), len(keys))
	}
	if limit := firstLimit << 20; s.largest > limit+DefaultPageBytes {
		t.Errorf("the largest page has %d bytes, want at most %d", s.largest, limit)
	}
}
