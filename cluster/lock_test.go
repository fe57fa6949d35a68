package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const lockKey = cluster.Root + "lock/" + cluster.LockRun

func TestClient_Acquire(t *testing.T) {
	e, cl := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()

	l, err := a.Acquire(ctx, cluster.LockRun, "keeper a", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(ctx); err != nil || l.Context().Err() != nil {
		t.Errorf("held: got %v, %v", err, l.Context().Err())
	}
	_, err = b.Acquire(ctx, cluster.LockRun, "keeper b", time.Second)
	var held *cluster.HeldError
	if !errors.As(err, &held) || held.Holder != "keeper a" {
		t.Fatalf("got %v, want it held by keeper a", err)
	}
	// The time-to-live asked for was a second: no lock is shorter than MinLockTTL.
	if held.Left <= cluster.MinLockTTL-time.Minute || held.Left > cluster.MinLockTTL {
		t.Errorf("got %s left, want about %s", held.Left, cluster.MinLockTTL)
	}
	if text := held.Error(); strings.Count(text, "keeper a") != 1 || !strings.Contains(text, "s unless that keeper renews it") {
		t.Errorf("got %q", text)
	}
	if got, err := b.Held(ctx, cluster.LockRun); err != nil || got == nil || got.Holder != "keeper a" {
		t.Errorf("Held: got %v, %v", got, err)
	}

	l.Release()
	if l.Context().Err() == nil {
		t.Error("the context of a released lock goes on")
	}
	if got, err := b.Held(ctx, cluster.LockRun); err != nil || got != nil {
		t.Errorf("Held after the release: got %v, %v", got, err)
	}
	if l, err = b.Acquire(ctx, cluster.LockRun, "keeper b", time.Second); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if leases, err := cl.Leases(ctx); err != nil || len(leases.Leases) != 0 {
		t.Errorf("left behind: %v, %v", leases, err)
	}
}

func TestLock_Check(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	tests := []struct {
		name string
		take func() error
		want string
	}{
		{"the key is gone", func() error { _, err := cl.Delete(ctx, lockKey); return err }, "its key is gone"},
		{"another has it", func() error {
			value, _ := json.Marshal(map[string]string{"holder": "keeper b", "nonce": "b"})
			_, err := cl.Put(ctx, lockKey, string(value))
			return err
		}, "keeper b has it now"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := c.Acquire(ctx, cluster.LockRun, "keeper a", 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.take(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := l.Check(ctx); !errors.Is(err, cluster.ErrLockLost) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want it lost: %s", err, tt.want)
				}
			}
			if !errors.Is(context.Cause(l.Context()), cluster.ErrLockLost) {
				t.Errorf("cause: got %v", context.Cause(l.Context()))
			}
			l.Release() // takes nothing away from another
			resp, err := cl.Get(ctx, lockKey)
			if gone := tt.want == "its key is gone"; err != nil || (len(resp.Kvs) == 0) != gone {
				t.Errorf("after the release: %v, %v", resp, err)
			}
			if _, err := cl.Delete(ctx, lockKey); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestClient_BreakLock(t *testing.T) {
	e, cl := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()
	if err := b.BreakLock(ctx, cluster.LockRun, func(context.Context) error { return errors.New("not asked for") }); err != nil {
		t.Errorf("nothing to break: got %v", err)
	}
	l, err := a.Acquire(ctx, cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()

	err = b.BreakLock(ctx, cluster.LockRun, func(context.Context) error { return errors.New("member m1: it is being defragmented") })
	var held *cluster.HeldError
	if !errors.As(err, &held) || held.Holder != "keeper a" || !strings.Contains(err.Error(), "not broken: member m1") {
		t.Errorf("got %v, want it kept while a member is busy", err)
	}
	if err := l.Check(ctx); err != nil {
		t.Errorf("the lock that was not broken: %v", err)
	}

	// The holder changes while the gauges are watched: the new one is not broken.
	err = b.BreakLock(ctx, cluster.LockRun, func(context.Context) error {
		if _, err := cl.Delete(ctx, lockKey); err != nil {
			return err
		}
		_, err := cl.Put(ctx, lockKey, `{"holder":"keeper c"}`)
		return err
	})
	if got, herr := b.Held(ctx, cluster.LockRun); err != nil || herr != nil || got == nil || got.Holder != "keeper c" {
		t.Errorf("got %v, %v, %v; want keeper c's lock left alone", got, err, herr)
	}
	if err := b.BreakLock(ctx, cluster.LockRun, quiet); err != nil {
		t.Fatal(err)
	}
	l2, err := b.Acquire(ctx, cluster.LockRun, "keeper b", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l2.Release()
	if err := l.Check(ctx); !errors.Is(err, cluster.ErrLockLost) {
		t.Errorf("the broken lock: got %v", err)
	}
}

func TestClient_AcquireWait(t *testing.T) {
	e, _ := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	l, err := a.Acquire(t.Context(), cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var held *cluster.HeldError
	if _, err := b.AcquireWait(ctx, cluster.LockRun, "keeper b", 0, time.Millisecond); err == nil {
		t.Error("got the lock of another")
	} else if !errors.As(err, &held) && ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, l.Release)
	l2, err := b.AcquireWait(t.Context(), cluster.LockRun, "keeper b", 0, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	l2.Release()
}

// The lock is bound to its lease: where the holder is gone, etcd takes the key away.
func TestClient_AcquireLease(t *testing.T) {
	e, cl := embedded(t)
	l, err := newClient(t, e.Endpoint).Acquire(t.Context(), cluster.LockRun, "keeper a", 20*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	resp, err := cl.Get(t.Context(), lockKey)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("got %v, %v", resp, err)
	}
	ttl, err := cl.TimeToLive(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
	if err != nil || ttl.GrantedTTL != 20*60 {
		t.Errorf("got %+v, %v; want 20 minutes", ttl, err)
	}
	if _, err := cl.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context()); !errors.Is(err, cluster.ErrLockLost) {
		t.Errorf("its lease is gone: got %v", err)
	}
}
