package defrag

import (
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// TestBeside_NoPortHere proves that a keeper whose member announces no address of this machine says so, and what to do.
func TestBeside_NoPortHere(t *testing.T) {
	v := healthy()
	v.Members[0].Endpoint, v.Members[0].ClientURLs = "http://127.0.0.1:2379", []string{"http://192.0.2.1:2379", "unix://x"}
	var b beside
	b.meet(v, v.Members[0], true)
	b.look(nil, time.Now())
	note := b.told()
	if note == nil || note.Able || !strings.Contains(note.Reason, "none of its client URLs (http://192.0.2.1:2379, unix://x) is on an address of the keeper's network namespace") {
		t.Fatalf("got %+v", note)
	}
	drain, why := decideDrain(DefaultConfig(), v, v.Members[0], 9, []cluster.Keeper{{Member: v.Members[0].ID, Drain: note}}, nil)
	if drain || !strings.Contains(why, "hostNetwork") {
		t.Errorf("got %t because %q", drain, why)
	}
}
