package keyspace_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// TestLive_LargeAfterSmall: behind thousands of small keys come large ones, of which a stream would send thousands at
// once; then come some of which ten are too many for one answer.
func TestLive_LargeAfterSmall(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	put := func(resource string, n, size int) {
		t.Helper()
		value := strings.Repeat("x", size)
		for i := range n {
			if _, err := c.Put(t.Context(), fmt.Sprintf("/registry/%s/ns/%05d", resource, i), value); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("a", 3000, 100)
	put("b", 800, 20<<10)
	put("c", 12, 1<<20)
	put("d", 100, 100)
	for _, pages := range []bool{false, true} {
		l, err := keyspace.NewLive(t.Context(), c, keyspace.LiveOptions{Pages: pages})
		if err != nil {
			t.Fatal(err)
		}
		n, last := 0, ""
		for e, err := range l.Scan(t.Context(), keyspace.Range{}) {
			if err != nil {
				t.Fatalf("pages %v: after %d keys: %v", pages, n, err)
			}
			if string(e.Key) <= last {
				t.Fatalf("pages %v: %q after %q", pages, e.Key, last)
			}
			last = string(e.Key)
			n++
		}
		if n != 3912 {
			t.Errorf("pages %v: got %d keys, want 3,912", pages, n)
		}
		if st := l.Stats(); !pages && (st.Requests < 3 || !st.Streamed) {
			t.Errorf("got %+v: no answer was too large for the stream", st)
		}
	}
}
