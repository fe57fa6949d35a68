package cluster_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestClient_Append(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	for i := range 7 {
		if err := c.Append(ctx, "ring", 4, i); err != nil {
			t.Fatal(err)
		}
	}
	values, names, err := c.Records(ctx, "ring")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range names {
		got = append(got, string(values[n]))
	}
	if want := []string{"3", "4", "5", "6"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want the last four, oldest first", got)
	}
	if err := c.Append(ctx, "ring", 4, strings.Repeat("x", cluster.MaxSharedBytes)); err == nil {
		t.Error("a record of more than MaxSharedBytes was taken")
	}
	if err := c.Share(ctx, "one", make([]byte, cluster.MaxSharedBytes+1)); err == nil {
		t.Error("a value of more than MaxSharedBytes was taken")
	}
	if err := c.Share(ctx, "one", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, cl); !slices.Contains(got, cluster.Root+"one") || len(got) != 5 {
		t.Errorf("got %q", got)
	}
	noSpace(t, cl, true)
	if err := c.Append(ctx, "ring", 4, 7); !cluster.IsNoSpace(err) {
		t.Errorf("under the alarm: got %v", err)
	}
}

func TestAnnouncer(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	a := c.NewAnnouncer(cluster.Keeper{Member: 1, Name: "m1", Host: "h1", PID: 7}, time.Minute)
	b := c.NewAnnouncer(cluster.Keeper{Member: 2, Name: "m2", Host: "h2", PID: 7}, time.Minute)
	announced := func(want ...string) {
		t.Helper()
		keepers, err := c.Keepers(ctx)
		var got []string
		for _, k := range keepers {
			got = append(got, k.Name)
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	announced()
	for range 2 {
		if err := errors.Join(a.Announce(ctx), b.Announce(ctx)); err != nil {
			t.Fatal(err)
		}
		announced("m1", "m2")
	}
	leases, err := cl.Leases(ctx)
	if err != nil || len(leases.Leases) != 2 {
		t.Fatalf("got %v, %v; want a lease each, renewed", leases, err)
	}
	for _, l := range leases.Leases { // they expire
		if _, err := cl.Revoke(ctx, l.ID); err != nil {
			t.Fatal(err)
		}
	}
	announced()
	if err := a.Announce(ctx); err != nil {
		t.Fatal(err)
	}
	announced("m1")
	noSpace(t, cl, true)
	if err := a.Announce(ctx); err != nil {
		t.Errorf("an announcement that is alive stays so under the alarm: %v", err)
	}
	if err := b.Announce(ctx); !cluster.IsNoSpace(err) {
		t.Errorf("one that is not cannot be made: got %v", err)
	}
	noSpace(t, cl, false)
	a.Withdraw()
	announced()
	if err := a.Announce(ctx); err != nil { // a tick that was under way
		t.Fatal(err)
	}
	announced()
}

func TestCoordinator(t *testing.T) {
	beside := func(ids ...cluster.ID) (out []cluster.Keeper) {
		for _, id := range ids {
			out = append(out, cluster.Keeper{Member: id})
		}
		return out
	}
	for _, tt := range []struct {
		leader  cluster.ID
		keepers []cluster.Keeper
		want    cluster.ID
	}{
		{1, nil, 0},
		{1, beside(0), 0},
		{2, beside(3, 2, 1), 2},
		{2, beside(3, 1), 1},
		{2, beside(3, 0), 3},
		{0, beside(3, 1), 1},
		// Where defragmentation is off a keeper coordinates none; one of an older version does not tell.
		{2, []cluster.Keeper{{Member: 2, Tasks: []string{"census"}}, {Member: 3, Tasks: []string{"defrag"}}}, 3},
		{2, []cluster.Keeper{{Member: 2, Tasks: []string{}}, {Member: 3}}, 3},
		{2, []cluster.Keeper{{Member: 2, Tasks: []string{}}}, 0},
	} {
		if got := cluster.Coordinator(tt.leader, tt.keepers); got != tt.want {
			t.Errorf("leader %d, keepers %v: got %d, want %d", tt.leader, tt.keepers, got, tt.want)
		}
	}
}

// What keepers hold themselves does not make a leader move.
func TestClient_SampleLeases(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	if err := c.NewAnnouncer(cluster.Keeper{Host: "h"}, 20*time.Second).Announce(ctx); err != nil {
		t.Fatal(err)
	}
	if l, err := c.SampleLeases(ctx); err != nil || l != (cluster.Leases{}) {
		t.Errorf("got %+v, %v; want none", l, err)
	}
	for i, ttl := range []int64{600, 60, 3600} {
		g, err := cl.Grant(ctx, ttl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Put(ctx, fmt.Sprint("k", i), "v", clientv3.WithLease(g.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := c.SampleLeases(ctx); err != nil || l.Count != 3 || l.Sampled != 3 || l.Shortest != time.Minute {
		t.Errorf("got %+v, %v", l, err)
	}
}
