package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// LockRun is the name of the lock under which members are disturbed: a rolling defragmentation, a resize.
const LockRun = "run"

// MinLockTTL is the shortest time-to-live of the lock. An etcd lease is not renewed while the leader defragments, so
// a short one is lost in the middle of a run; and where a keeper dies, nobody else acts for this long.
const MinLockTTL = 10 * time.Minute

// ErrLockLost is the cause of a held context that ended because the lock was lost.
var ErrLockLost = errors.New("the lock was lost")

// HeldError is returned by Acquire when another keeper has the lock.
type HeldError struct {
	Holder string
	Since  time.Time
	Left   time.Duration // until it ends by itself unless renewed; negative where not known
	Broken string        // why it could not be broken, where that was asked

	// TokenOut: etcd can be written, but a token that was taken under NOSPACE is not back. BreakLock puts it back.
	TokenOut bool
}

func (e *HeldError) Error() string {
	left := "it is not known when it ends"
	if e.Left >= 0 {
		left = fmt.Sprintf("it ends in %.0f s unless that keeper renews it", e.Left.Seconds())
	}
	s := fmt.Sprintf("the lock is held by %s since %s; %s", e.Holder, e.Since.UTC().Format(time.RFC3339), left)
	if e.Broken != "" {
		s += "; not broken: " + e.Broken
	}
	return s
}

// lockRecord is the value of the lock's key.
type lockRecord struct {
	Holder string    `json:"holder"`
	Since  time.Time `json:"since"`
	Nonce  string    `json:"nonce"`
}

// Lock is a lock that this process has.
type Lock struct {
	c     *Client
	name  string
	nonce string
	lease clientv3.LeaseID // 0 for a lock by token
	token *tokenHold
	taken int64 // the revision at which it was taken; 0 for a lock by token

	ctx    context.Context // ends when the lock is lost
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func lockKey(name string) string { return Root + "lock/" + name }

// Acquire takes the named lock for holder, a name that tells people who that is. The lock lives for ttl (MinLockTTL at
// least) after this process is gone. It fails with a HeldError where another has it. Under NOSPACE, where no lease and
// no key can be made, a token is deleted instead; see tokens.go.
func (c *Client) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (*Lock, error) {
	ttl = max(ttl, MinLockTTL)
	l := &Lock{c: c, name: name, nonce: rand.Text(), done: make(chan struct{})}
	value, err := json.Marshal(lockRecord{Holder: holder, Since: time.Now().UTC(), Nonce: l.nonce})
	if err != nil {
		return nil, err
	}
	err = c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		if l.lease == 0 {
			g, err := cl.Grant(ctx, int64(ttl.Seconds()))
			if err != nil {
				return err
			}
			l.lease = g.ID
		}
		return c.takeLock(ctx, cl, l, value)
	})
	if IsNoSpace(err) {
		l.lease, l.taken = 0, 0
		err = c.acquireToken(ctx, l, ttl)
	}
	if err != nil {
		if l.lease != 0 {
			c.revoke(l.lease)
		}
		var held *HeldError
		switch {
		case errors.As(err, &held):
			return nil, held
		case errors.Is(err, errTokenOut):
			return nil, tokenOut()
		}
		return nil, fmt.Errorf("acquire the lock: %w", err)
	}
	var cause context.Context
	cause, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	l.ctx = cause
	if l.token != nil {
		close(l.done)
		return l, nil
	}
	go l.renew(ttl)
	return l, nil
}

func (c *Client) takeLock(ctx context.Context, cl *clientv3.Client, l *Lock, value []byte) error {
	key := lockKey(l.name)
	tokens, err := readTokens(ctx, cl, l.name)
	if err != nil {
		return err
	}
	if tokens.taken > 0 {
		return errTokenOut
	}
	// Tokens are taken in order, so the first one tells: it must be as it was seen, there or never made.
	resp, err := cl.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(tokenKey(l.name, 0)), "=", tokens.modRev[0]),
			clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(l.lease))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return err
	}
	if resp.Succeeded {
		l.taken = resp.Header.Revision
		return nil
	}
	got := resp.Responses[0].GetResponseRange()
	if len(got.Kvs) == 0 {
		return errTokenOut // taken in this moment
	}
	if recordOf(got.Kvs[0]).Nonce == l.nonce {
		l.taken = got.Kvs[0].CreateRevision
		return nil // an earlier answer was lost
	}
	return heldBy(ctx, cl, got.Kvs[0])
}

func recordOf(kv *mvccpb.KeyValue) (rec lockRecord) {
	_ = json.Unmarshal(kv.Value, &rec)
	return rec
}

// heldBy says who has the lock whose key is kv.
func heldBy(ctx context.Context, cl *clientv3.Client, kv *mvccpb.KeyValue) *HeldError {
	rec := recordOf(kv)
	held := &HeldError{Holder: rec.Holder, Since: rec.Since, Left: -1}
	if kv.Lease != 0 {
		if t, err := cl.TimeToLive(ctx, clientv3.LeaseID(kv.Lease)); err == nil && t.TTL >= 0 {
			held.Left = time.Duration(t.TTL) * time.Second
		}
	}
	return held
}

// Held tells who has the named lock, nil where it is free. It changes nothing.
func (c *Client) Held(ctx context.Context, name string) (*HeldError, error) {
	var held *HeldError
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		held = nil
		resp, err := cl.Get(ctx, lockKey(name))
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			held = heldBy(ctx, cl, resp.Kvs[0])
			return nil
		}
		s, err := readTokens(ctx, cl, name)
		if err == nil && s.taken > 0 {
			held = tokenOut()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the lock: %w", err)
	}
	return held, nil
}

func tokenOut() *HeldError {
	return &HeldError{Holder: "a keeper that took a token under NOSPACE", Since: time.Now(), Left: -1, TokenOut: true}
}

// revoke gives a lease back; where that fails it ends by itself.
func (c *Client) revoke(lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.CommandTimeout)
	defer cancel()
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		_, err := cl.Revoke(ctx, lease)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		c.log.Warn("lease not revoked: it ends by itself", "lease", ID(lease).String(), "err", err)
	}
}

// Context ends when the lock is lost or released.
func (l *Lock) Context() context.Context { return l.ctx }

// Revision is the revision at which the lock was taken, which no other lock has. 0 for a lock by token: nothing can be
// written under it.
func (l *Lock) Revision() int64 { return l.taken }

// renew keeps the lease alive. Renewing goes to any member that answers. The lock counts as lost when etcd says so,
// and when it was not renewed for nine tenths of its time-to-live.
func (l *Lock) renew(ttl time.Duration) {
	defer close(l.done)
	last := time.Now()
	for {
		if sleep(l.ctx, ttl/20) != nil {
			return
		}
		started := time.Now()
		err := l.c.Any(l.ctx, func(ctx context.Context, cl *clientv3.Client) error {
			_, err := cl.KeepAliveOnce(ctx, l.lease)
			return err
		})
		switch {
		case err == nil:
			last = started
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			l.cancel(fmt.Errorf("%w: its lease is gone", ErrLockLost))
			return
		case time.Since(last) > ttl*9/10:
			l.cancel(fmt.Errorf("%w: it could not be renewed for %s: %w", ErrLockLost, time.Since(last).Round(time.Second), err))
			return
		}
	}
}

// Check reads from etcd, linearizably, that the lock is still ours.
func (l *Lock) Check(ctx context.Context) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if l.token != nil {
		return l.c.checkToken(ctx, l)
	}
	var rec lockRecord
	err := l.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		rec = lockRecord{}
		resp, err := cl.Get(ctx, lockKey(l.name))
		if err == nil && len(resp.Kvs) > 0 {
			_ = json.Unmarshal(resp.Kvs[0].Value, &rec)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read the lock: %w", err)
	}
	if rec.Nonce != l.nonce {
		err := fmt.Errorf("%w: its key is gone", ErrLockLost)
		if rec.Holder != "" {
			err = fmt.Errorf("%w: %s has it now", ErrLockLost, rec.Holder)
		}
		l.cancel(err)
		return err
	}
	return nil
}

// Release gives the lock back. Where that is not possible it ends by itself after its time-to-live.
func (l *Lock) Release() {
	l.cancel(context.Canceled)
	<-l.done
	if l.token != nil {
		l.c.releaseToken(l)
		return
	}
	l.c.revoke(l.lease)
}

// AcquireWait is Acquire that waits for another holder to end, asking every interval.
func (c *Client) AcquireWait(ctx context.Context, name, holder string, ttl, interval time.Duration) (*Lock, error) {
	for {
		l, err := c.Acquire(ctx, name, holder, ttl)
		var held *HeldError
		if err == nil || !errors.As(err, &held) {
			return l, err
		}
		c.log.Info("waiting for the lock", "holder", held.Holder, "secondsLeft", int(held.Left.Seconds()))
		if err := sleep(ctx, interval); err != nil {
			return nil, held
		}
	}
}

// BreakLock deletes the lock of whoever has it, and puts tokens back that are out, once quiet has seen no
// defragmentation for a while: quiet returns nil when every member's gauge read 0 all the time. The lock is deleted
// only if it is the same one still. Under NOSPACE the next token is free to be taken then.
func (c *Client) BreakLock(ctx context.Context, name string, quiet func(context.Context) error) error {
	var rev int64
	var rec lockRecord
	var tokens tokenState
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Get(ctx, lockKey(name))
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			rev = resp.Kvs[0].CreateRevision
			_ = json.Unmarshal(resp.Kvs[0].Value, &rec)
		}
		tokens, err = readTokens(ctx, cl, name)
		return err
	})
	if err != nil || (rev == 0 && tokens.taken == 0) {
		return err
	}
	if err := quiet(ctx); err != nil {
		return &HeldError{Holder: rec.Holder, Since: rec.Since, Left: -1, Broken: err.Error()}
	}
	if rev != 0 {
		c.log.Warn("breaking the lock", "holder", rec.Holder, "since", rec.Since)
		err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			_, err := cl.Txn(ctx).
				If(clientv3.Compare(clientv3.CreateRevision(lockKey(name)), "=", rev)).
				Then(clientv3.OpDelete(lockKey(name))).
				Commit()
			return err
		})
		if err != nil {
			return fmt.Errorf("break the lock: %w", err)
		}
	}
	if tokens.taken == 0 {
		return nil
	}
	err = c.restoreTokens(ctx, name, tokens.taken)
	if IsNoSpace(err) {
		c.mu.Lock()
		c.tokens[name] = tokenSeen{taken: tokens.taken} // seen for ever: the next one may be taken
		c.mu.Unlock()
		return nil
	}
	return err
}
