package cluster_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestClient_AcquireUnderNoSpace(t *testing.T) {
	e, cl := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()

	noSpace(t, cl, true)
	if _, err := a.Acquire(ctx, cluster.LockRun, "keeper a", 0); !errors.Is(err, cluster.ErrNoTokens) || strings.Count(err.Error(), "no tokens") != 1 {
		t.Fatalf("no keeper ran before: got %v, want ErrNoTokens", err)
	}
	if err := a.EnsureTokens(ctx); err != nil {
		t.Errorf("tokens under the alarm: got %v, want nothing done", err)
	}
	noSpace(t, cl, false)
	if err := a.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	whole := keys(t, cl)
	noSpace(t, cl, true)

	l, err := a.Acquire(ctx, cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(ctx); err != nil {
		t.Errorf("held by token: %v", err)
	}
	_, err = b.Acquire(ctx, cluster.LockRun, "keeper b", 0)
	var held *cluster.HeldError
	if !errors.As(err, &held) || held.Left <= 0 || held.Left > cluster.MinLockTTL || !strings.Contains(err.Error(), "token 0") {
		t.Fatalf("got %v, want it held by token 0 for up to %s", err, cluster.MinLockTTL)
	}
	if got, err := b.Held(ctx, cluster.LockRun); err != nil || got == nil || !got.TokenOut {
		t.Errorf("Held: got %v, %v", got, err)
	}

	// The alarm is disarmed while a works: b is not let in by the other kind of lock.
	noSpace(t, cl, false)
	if _, err := b.Acquire(ctx, cluster.LockRun, "keeper b", 0); !errors.As(err, &held) || !held.TokenOut {
		t.Errorf("got %v, want the token respected", err)
	}
	l.Release()
	if got := keys(t, cl); !slices.Equal(got, whole) {
		t.Errorf("after the release: got %q, want the tokens back: %q", got, whole)
	}
	l, err = b.Acquire(ctx, cluster.LockRun, "keeper b", 0)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// A keeper died with a token: another one takes the next where it is told to, or where all was quiet.
func TestClient_BreakLockByToken(t *testing.T) {
	e, cl := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()
	if err := a.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	whole := keys(t, cl)
	noSpace(t, cl, true)
	dead, err := a.Acquire(ctx, cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.BreakLock(ctx, cluster.LockRun, func(context.Context) error { return errors.New("busy") }); err == nil {
		t.Error("broken while a member is busy")
	}
	if err := b.BreakLock(ctx, cluster.LockRun, quiet); err != nil {
		t.Fatal(err)
	}
	l, err := b.Acquire(ctx, cluster.LockRun, "keeper b", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Check(ctx); !errors.Is(err, cluster.ErrLockLost) {
		t.Errorf("the token before: got %v, want it lost", err)
	}
	if err := l.Check(ctx); err != nil {
		t.Errorf("the token behind: %v", err)
	}
	noSpace(t, cl, false)
	dead.Release() // late, and without harm: the tokens are not as it left them
	if err := l.Check(ctx); err != nil {
		t.Errorf("after a late release of the token before: %v", err)
	}
	l.Release()
	if got := keys(t, cl); !slices.Equal(got, whole) {
		t.Errorf("got %q, want the tokens back: %q", got, whole)
	}
}

// A lock from before the alarm counts under it: who has it is told, and nothing is put in its place.
func TestClient_AcquireUnderNoSpace_LockBefore(t *testing.T) {
	e, cl := embedded(t)
	a, b := newClient(t, e.Endpoint), newClient(t, e.Endpoint)
	ctx := t.Context()
	if err := a.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := a.Acquire(ctx, cluster.LockRun, "keeper a", 0)
	if err != nil {
		t.Fatal(err)
	}
	noSpace(t, cl, true)
	var held *cluster.HeldError
	if _, err := b.Acquire(ctx, cluster.LockRun, "keeper b", 0); !errors.As(err, &held) || held.Holder != "keeper a" || held.Left < time.Minute {
		t.Fatalf("got %v, want it held by keeper a", err)
	}
	if err := l.Check(ctx); err != nil {
		t.Errorf("the lock under the alarm: %v", err)
	}
	l.Release() // revoking a lease works under the alarm
	if l, err = b.Acquire(ctx, cluster.LockRun, "keeper b", 0); err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestClient_Pause(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	want := func(paused bool, text string) {
		t.Helper()
		p, err := c.ReadPause(ctx)
		if err != nil || (p != nil) != paused || p != nil && !strings.Contains(p.String(), text) {
			t.Errorf("got %v, %v; want paused %v, %q", p, err, paused, text)
		}
		closed := c.CheckPause(ctx)
		if (len(closed) > 0) != paused || paused && (closed[0].Gate != cluster.GatePause || closed[0].Unread || !strings.Contains(closed[0].Reason, "etcdkeeper resume")) {
			t.Errorf("gate: got %v, want closed %v", closed, paused)
		}
	}
	resume := func(was bool) {
		t.Helper()
		if got, err := c.Resume(ctx); err != nil || got != was {
			t.Errorf("resume: got %v, %v; want %v", got, err, was)
		}
	}
	want(false, "")
	resume(false)
	until := time.Now().Add(time.Hour).UTC()
	if _, err := c.SetPause(ctx, cluster.Pause{Since: time.Now(), Until: &until, Reason: "node upgrade", By: "ann@host"}); err != nil {
		t.Fatal(err)
	}
	want(true, "paused by ann@host since")
	want(true, "until "+until.Format(time.RFC3339)+": node upgrade")
	if leases, err := cl.Leases(ctx); err != nil || len(leases.Leases) != 1 {
		t.Errorf("a pause with an end ends by itself: got %v, %v", leases, err)
	}
	resume(true)
	want(false, "")

	pauseByToken := func() {
		t.Helper()
		p, err := c.SetPause(ctx, cluster.Pause{Since: time.Now(), Until: &until, Reason: "x", By: "ann@host"})
		if err != nil || p.Until != nil || !strings.Contains(p.Reason, "NOSPACE") {
			t.Fatalf("got %+v, %v; want a pause that has no end and says so", p, err)
		}
	}
	noSpace(t, cl, true)
	if _, err := c.SetPause(ctx, cluster.Pause{By: "ann@host"}); !errors.Is(err, cluster.ErrNoTokens) {
		t.Errorf("without tokens: got %v", err)
	}
	noSpace(t, cl, false)
	if err := c.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	whole := keys(t, cl)
	noSpace(t, cl, true)
	pauseByToken()
	want(true, "by token under NOSPACE")
	pauseByToken() // twice is still a pause
	want(true, "by token under NOSPACE")
	resume(true)
	want(false, "")
	resume(false)
	for range 3 { // two tokens each: all eight are taken then
		pauseByToken()
		resume(true)
	}
	if _, err := c.SetPause(ctx, cluster.Pause{By: "ann@host"}); err == nil || strings.Count(err.Error(), "all pause tokens are taken") != 1 {
		t.Errorf("no token left: got %v", err)
	}
	want(false, "")
	noSpace(t, cl, false)
	if _, err := c.SetPause(ctx, cluster.Pause{By: "ann@host"}); err != nil {
		t.Fatal(err)
	}
	resume(true)
	if got := keys(t, cl); !slices.Equal(got, whole) {
		t.Errorf("a resume with space puts the tokens back: got %q, want %q", got, whole)
	}
}

// A pause that was ordered under the alarm outlives it.
func TestClient_PauseOutlivesAlarm(t *testing.T) {
	e, cl := embedded(t)
	c := newClient(t, e.Endpoint)
	ctx := t.Context()
	if err := c.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	noSpace(t, cl, true)
	if _, err := c.SetPause(ctx, cluster.Pause{By: "ann@host"}); err != nil {
		t.Fatal(err)
	}
	noSpace(t, cl, false)
	if err := c.EnsureTokens(ctx); err != nil {
		t.Fatal(err)
	}
	if p, err := c.ReadPause(ctx); err != nil || p == nil {
		t.Errorf("got %v, %v; want it paused still", p, err)
	}
	if was, err := c.Resume(ctx); err != nil || !was {
		t.Errorf("got %v, %v", was, err)
	}
	if p, err := c.ReadPause(ctx); err != nil || p != nil {
		t.Errorf("got %v, %v; want it resumed", p, err)
	}
}
