package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const turnKey = cluster.Root + "turn"

// offer makes a run's lock and offers member 5's turn under it.
func offer(t *testing.T, c *cluster.Client) (*cluster.Lock, cluster.Turn) {
	t.Helper()
	l, err := c.Acquire(t.Context(), cluster.LockRun, "the coordinator", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Release)
	turn, revoke, err := c.OfferTurn(t.Context(), cluster.Turn{Lock: l.Revision(), By: "the coordinator", Member: 5, Order: json.RawMessage(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(revoke)
	return l, turn
}

// stands is the turn as etcd has it.
func stands(t *testing.T, c *cluster.Client) *cluster.Turn {
	t.Helper()
	turn, err := c.ReadTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

func TestClient_Turn(t *testing.T) {
	e, cl := embedded(t)
	coordinator, keeper, other := newClient(t, e.Endpoint), newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()
	_, turn := offer(t, coordinator)
	seen := stands(t, keeper)
	if seen.State != cluster.TurnOffered || seen.Member != 5 || seen.ID != turn.ID || string(seen.Order) != `{"a":1}` {
		t.Fatalf("got %+v on offer", seen)
	}
	held, err := keeper.TakeTurn(ctx, *seen, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.TakeTurn(ctx, *seen, time.Minute); !errors.Is(err, cluster.ErrTurnGone) {
		t.Errorf("taken twice: got %v", err)
	}
	if err := held.Check(ctx); err != nil {
		t.Errorf("held: got %v", err)
	}
	if _, revoke, err := other.OfferTurn(ctx, turn); !errors.Is(err, cluster.ErrTurnOut) {
		t.Errorf("a second turn beside one that is taken: got %v", err)
	} else {
		revoke()
	}
	if left, err := coordinator.WithdrawTurn(ctx, turn.ID); err != nil || left == nil || left.State != cluster.TurnTaken {
		t.Errorf("a turn that is taken was withdrawn: got %+v, %v", left, err)
	}
	if err := held.End(ctx, cluster.TurnDone, map[string]int{"b": 2}); err != nil {
		t.Fatal(err)
	}
	left, err := coordinator.WithdrawTurn(ctx, turn.ID)
	if err != nil || left == nil || left.State != cluster.TurnDone || string(left.Result) != `{"b":2}` {
		t.Errorf("got %+v, %v, want what the keeper said", left, err)
	}
	if stands(t, coordinator) != nil {
		t.Error("the turn that is over was not deleted")
	}
	held.Release()
	if resp, err := cl.Leases(ctx); err != nil || len(resp.Leases) != 2 { // the lock's and the offer's
		t.Errorf("left behind: %v, %v", resp.Leases, err)
	}
}

func TestClient_Turn_Refusals(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	t.Run("the run's lock is gone before it is taken", func(t *testing.T) {
		l, turn := offer(t, c)
		l.Release()
		if _, err := c.TakeTurn(ctx, turn, time.Minute); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("got %v", err)
		}
		if _, revoke, err := c.OfferTurn(ctx, turn); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("offered without the lock: got %v", err)
		} else {
			revoke()
		}
	})
	t.Run("the run's lock goes to another after it is taken", func(t *testing.T) {
		l, turn := offer(t, c)
		held, err := c.TakeTurn(ctx, turn, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
		l.Release()
		again, err := c.Acquire(ctx, cluster.LockRun, "another", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Release()
		if err := held.Check(ctx); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("got %v", err)
		}
		// The other run must not give a turn while this keeper may be at it.
		if _, revoke, err := c.OfferTurn(ctx, cluster.Turn{Lock: again.Revision(), Member: 6}); !errors.Is(err, cluster.ErrTurnOut) {
			t.Errorf("got %v", err)
		} else {
			revoke()
		}
		if err := held.End(ctx, cluster.TurnFailed, "stopped"); err != nil {
			t.Fatal(err)
		}
		if _, revoke, err := c.OfferTurn(ctx, cluster.Turn{Lock: again.Revision(), Member: 6}); err != nil {
			t.Errorf("behind a turn that is over: got %v", err)
		} else {
			revoke()
		}
	})
	t.Run("withdrawn before it is taken", func(t *testing.T) {
		_, turn := offer(t, c)
		if left, err := c.WithdrawTurn(ctx, turn.ID); left != nil || err != nil {
			t.Errorf("got %v, %v", left, err)
		}
		if _, err := c.TakeTurn(ctx, turn, time.Minute); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the lease is lost", func(t *testing.T) {
		_, turn := offer(t, c)
		held, err := c.TakeTurn(ctx, turn, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := cl.Get(ctx, turnKey)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("got %v, %v", resp, err)
		}
		if _, err := cl.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
			t.Fatal(err)
		}
		if err := held.Check(ctx); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("got %v", err)
		}
		if err := held.End(ctx, cluster.TurnDone, nil); !errors.Is(err, cluster.ErrTurnGone) {
			t.Errorf("got %v", err)
		}
		held.Release()
	})
	t.Run("a value that nobody understands", func(t *testing.T) {
		l, err := c.Acquire(ctx, cluster.LockRun, "the coordinator", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		if _, err := cl.Put(ctx, turnKey, "{"); err != nil {
			t.Fatal(err)
		}
		if _, revoke, err := c.OfferTurn(ctx, cluster.Turn{Lock: l.Revision(), Member: 6}); !errors.Is(err, cluster.ErrTurnOut) {
			t.Errorf("got %v", err)
		} else {
			revoke()
		}
		if got := stands(t, c); got == nil || got.State != cluster.TurnTaken {
			t.Errorf("got %+v", got)
		}
		if _, err := cl.Delete(ctx, turnKey); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHeldTurn_End_NoSpace proves that a turn that cannot say how it ended does not stand in the way of the next run.
func TestHeldTurn_End_NoSpace(t *testing.T) {
	e, cl := embedded(t)
	coordinator, keeper := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	_, turn := offer(t, coordinator)
	held, err := keeper.TakeTurn(t.Context(), *stands(t, keeper), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	noSpace(t, cl, true)
	start := time.Now()
	if err := held.End(t.Context(), cluster.TurnDone, struct{}{}); !cluster.IsNoSpace(err) {
		t.Errorf("got %v after %s, want that there is no space", err, time.Since(start))
	}
	if now := stands(t, coordinator); now != nil {
		t.Errorf("turn %s stands: %+v", turn.ID, now)
	}
	held.Release()
}

func TestClient_WatchTurn(t *testing.T) {
	e, _ := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx, cancel := context.WithCancel(t.Context())
	saw := make(chan *cluster.Turn, 10)
	ended := make(chan error)
	go func() { ended <- c.WatchTurn(ctx, func(turn *cluster.Turn) { saw <- turn }) }()
	if first := <-saw; first != nil {
		t.Errorf("got %+v first, want none", first)
	}
	_, turn := offer(t, c)
	if got := <-saw; got == nil || got.ID != turn.ID {
		t.Errorf("got %+v, want the offer", got)
	}
	if _, err := c.WithdrawTurn(ctx, turn.ID); err != nil {
		t.Fatal(err)
	}
	if got := <-saw; got != nil {
		t.Errorf("got %+v, want none", got)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("got no error at the end of the context")
	}
}

func TestAnnouncer_Tell(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	a := c.NewAnnouncer(cluster.Keeper{Member: 5, Name: "m5", Host: "h"}, time.Minute)
	defer a.Withdraw()
	told := func() *cluster.DrainNote {
		t.Helper()
		if err := a.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		k, err := c.Keepers(t.Context())
		if err != nil || len(k) != 1 {
			t.Fatalf("got %v, %v", k, err)
		}
		return k[0].Drain
	}
	if got := told(); got != nil {
		t.Errorf("got %+v before anything was told", got)
	}
	a.Tell(&cluster.DrainNote{Able: true, Clients: map[string]int{"192.0.2.1": 3}})
	if got := told(); got == nil || !got.Able || got.Clients["192.0.2.1"] != 3 {
		t.Errorf("got %+v", got)
	}
	before, err := cl.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	told()
	after, err := cl.Get(t.Context(), "x")
	if err != nil || after.Header.Revision != before.Header.Revision {
		t.Errorf("what has not changed was written again: %v", err)
	}
}
