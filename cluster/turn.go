package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A run gives each keeper the turn of the member beside it through one key, so there is never more than one turn. The
// coordinator offers it under a short lease; the keeper takes it by a transaction that demands that the offer is
// unchanged and the run's lock is the one under which it was offered, and puts it under a lease of its own; from then
// on only that keeper writes the key, until it says how the turn ended. A turn whose lease ends is lost: nobody knows
// what was done, which the in-flight gauge and the file's size then tell.

// TurnState is how far a turn is.
type TurnState string

// The states of a turn.
const (
	TurnOffered TurnState = "offered"
	TurnTaken   TurnState = "taken"
	TurnDone    TurnState = "done"
	TurnFailed  TurnState = "failed"
)

// Turn is one member's turn in a run.
type Turn struct {
	ID     string          `json:"id"`   // of this offer
	Lock   int64           `json:"lock"` // Lock.Revision of the run
	By     string          `json:"by"`   // who offered it
	Member ID              `json:"member"`
	State  TurnState       `json:"state"`
	Taker  string          `json:"taker,omitempty"`
	Order  json.RawMessage `json:"order"`            // what is to be done
	Result json.RawMessage `json:"result,omitempty"` // what was done

	// Own are the connections to any member of who offers an offer to nobody, ADDRESS:PORT of its end: no client's.
	Own []string `json:"own,omitempty"`

	modRevision int64
}

// Over tells whether the turn has ended.
func (t Turn) Over() bool { return t.State == TurnDone || t.State == TurnFailed }

var (
	// ErrTurnOut is returned where a keeper has a turn that was offered before.
	ErrTurnOut = errors.New("a keeper is in a turn")
	// ErrTurnGone is returned where an offer or a turn is not any more what it was.
	ErrTurnGone = errors.New("the turn is gone")
)

const turnKey = Root + "turn"

// TurnOfferTTL is how long an offer is open behind the death of who made it.
const TurnOfferTTL = 20 * time.Second

// ReadTurn is the turn as it now stands, nil where there is none.
func (c *Client) ReadTurn(ctx context.Context) (*Turn, error) {
	var t *Turn
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		t = nil
		resp, err := cl.Get(ctx, turnKey)
		if err != nil || len(resp.Kvs) == 0 {
			return err
		}
		t = parseTurn(resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the turn: %w", err)
	}
	return t, nil
}

// parseTurn reads a turn's value. One that cannot be read counts as taken, by whom is not known: nothing is done
// beside it.
func parseTurn(value []byte, rev int64) *Turn {
	t := &Turn{}
	if err := json.Unmarshal(value, t); err != nil {
		t = &Turn{State: TurnTaken, By: "an unknown keeper"}
	}
	t.modRevision = rev
	return t
}

// OfferTurn offers a turn under the run's lock, whose revision t has; revoke ends the offer's lease and is to be called
// when the turn is over. ErrTurnOut: another turn is taken and not over. Where the error is of another kind, the offer
// may stand all the same: ReadTurn tells.
func (c *Client) OfferTurn(ctx context.Context, t Turn) (offered Turn, revoke func(), err error) {
	t.ID, t.State = rand.Text(), TurnOffered
	value, err := json.Marshal(t)
	if err != nil {
		return t, func() {}, err
	}
	if len(value) > MaxSharedBytes {
		return t, func() {}, fmt.Errorf("offer a turn: %d bytes, more than the %d that keepers share", len(value), MaxSharedBytes)
	}
	var lease clientv3.LeaseID
	err = c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		if lease == 0 {
			g, err := cl.Grant(ctx, int64(TurnOfferTTL.Seconds()))
			if err != nil {
				return err
			}
			lease = g.ID
		}
		var before int64
		resp, err := cl.Get(ctx, turnKey)
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			have := parseTurn(resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
			switch {
			case have.ID == t.ID:
				t.modRevision = have.modRevision // an earlier answer was lost
				return nil
			case have.State == TurnTaken:
				return fmt.Errorf("%w: of member %s, given by %s", ErrTurnOut, have.Member, have.By)
			}
			before = have.modRevision
		}
		put, err := cl.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(turnKey), "=", before),
				clientv3.Compare(clientv3.CreateRevision(lockKey(LockRun)), "=", t.Lock)).
			Then(clientv3.OpPut(turnKey, string(value), clientv3.WithLease(lease))).
			Commit()
		if err != nil {
			return err
		}
		if !put.Succeeded {
			return fmt.Errorf("%w, or the run's lock", ErrTurnGone)
		}
		t.modRevision = put.Header.Revision
		return nil
	})
	revoke = func() {
		if lease != 0 {
			c.revoke(lease)
		}
	}
	if err != nil {
		return t, revoke, fmt.Errorf("offer a turn: %w", err)
	}
	return t, revoke, nil
}

// WithdrawTurn deletes the turn with that id while it is on offer, or where it is over. It returns the turn as it was where
// it had ended, or as it is where it is taken, which stays; nil where it was on offer or is not there.
func (c *Client) WithdrawTurn(ctx context.Context, id string) (*Turn, error) {
	var left *Turn
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		for {
			left = nil
			resp, err := cl.Get(ctx, turnKey)
			if err != nil || len(resp.Kvs) == 0 {
				return err
			}
			t := parseTurn(resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
			if t.ID != id {
				return nil
			}
			if t.State != TurnOffered {
				left = t
			}
			if t.State == TurnTaken {
				return nil
			}
			done, err := cl.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(turnKey), "=", t.modRevision)).
				Then(clientv3.OpDelete(turnKey)).
				Commit()
			if err != nil || done.Succeeded {
				return err
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("withdraw a turn: %w", err)
	}
	return left, nil
}

// HeldTurn is a turn that this keeper has taken.
type HeldTurn struct {
	c     *Client
	turn  Turn
	lease clientv3.LeaseID
	ttl   time.Duration

	cancel  context.CancelFunc
	done    chan struct{}
	renewed chan time.Time // the last renewal, one value at all times
}

// TakeTurn takes an offered turn for ttl, which is renewed until it is over. ErrTurnGone: it is not on offer any more,
// or the run has lost its lock.
func (c *Client) TakeTurn(ctx context.Context, t Turn, ttl time.Duration) (*HeldTurn, error) {
	h := &HeldTurn{c: c, turn: t, ttl: ttl, done: make(chan struct{}), renewed: make(chan time.Time, 1)}
	h.turn.State, h.turn.Taker = TurnTaken, rand.Text()
	value, err := json.Marshal(h.turn)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	err = c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		if h.lease == 0 {
			start = time.Now()
			g, err := cl.Grant(ctx, max(1, int64(ttl.Seconds())))
			if err != nil {
				return err
			}
			h.lease = g.ID
		}
		resp, err := cl.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(turnKey), "=", t.modRevision),
				clientv3.Compare(clientv3.CreateRevision(lockKey(LockRun)), "=", t.Lock)).
			Then(clientv3.OpPut(turnKey, string(value), clientv3.WithLease(h.lease))).
			Else(clientv3.OpGet(turnKey)).
			Commit()
		if err != nil {
			return err
		}
		if resp.Succeeded {
			h.turn.modRevision = resp.Header.Revision
			return nil
		}
		if got := resp.Responses[0].GetResponseRange(); len(got.Kvs) > 0 {
			if have := parseTurn(got.Kvs[0].Value, got.Kvs[0].ModRevision); have.Taker == h.turn.Taker {
				h.turn.modRevision = have.modRevision // an earlier answer was lost
				return nil
			}
		}
		return ErrTurnGone
	})
	if err != nil {
		if h.lease != 0 {
			c.revoke(h.lease)
		}
		return nil, fmt.Errorf("take the turn: %w", err)
	}
	h.renewed <- start
	var renewing context.Context
	renewing, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go h.renew(renewing)
	return h, nil
}

// Member is the member whose turn it is.
func (h *HeldTurn) Member() ID { return h.turn.Member }

func (h *HeldTurn) renew(ctx context.Context) {
	defer close(h.done)
	for sleep(ctx, h.ttl/10) == nil {
		start := time.Now()
		err := h.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			_, err := cl.KeepAliveOnce(ctx, h.lease)
			return err
		})
		switch {
		case err == nil:
			<-h.renewed
			h.renewed <- start
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			<-h.renewed
			h.renewed <- time.Time{} // no time is left
			return
		}
	}
}

// Check is the last look before the member is disturbed: it reads, linearizably and at once, that the turn is this
// keeper's still and that the run has its lock. At least half of the lease's time is left where it returns nil.
func (h *HeldTurn) Check(ctx context.Context) error {
	var turn, lock int64
	err := h.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Txn(ctx).Then(clientv3.OpGet(turnKey), clientv3.OpGet(lockKey(LockRun))).Commit()
		if err != nil {
			return err
		}
		turn, lock = 0, 0
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			turn = kvs[0].ModRevision
		}
		if kvs := resp.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
			lock = kvs[0].CreateRevision
		}
		return nil
	})
	last := <-h.renewed
	h.renewed <- last
	switch {
	case err != nil:
		return fmt.Errorf("read the turn: %w", err)
	case turn != h.turn.modRevision:
		return ErrTurnGone
	case lock != h.turn.Lock:
		return fmt.Errorf("%w: the run has lost its lock", ErrTurnGone)
	case time.Since(last) > h.ttl/2:
		return fmt.Errorf("%w: its lease could not be renewed", ErrTurnGone)
	}
	return nil
}

// End says how the turn ended and stops renewing it; the lease stays for a while, for the coordinator to read the
// result. It tries until it succeeds or the lease's time is over. An error means that the coordinator has to find out
// by itself.
func (h *HeldTurn) End(ctx context.Context, state TurnState, result any) error {
	defer h.stop()
	var err error
	if h.turn.Result, err = json.Marshal(result); err != nil {
		return err
	}
	h.turn.State = state
	value, err := json.Marshal(h.turn)
	if err != nil {
		return err
	}
	for end := time.Now().Add(h.ttl); ; {
		err = h.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			resp, err := cl.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(turnKey), "=", h.turn.modRevision)).
				Then(clientv3.OpPut(turnKey, string(value), clientv3.WithLease(h.lease))).
				Else(clientv3.OpGet(turnKey)).
				Commit()
			if err != nil || resp.Succeeded {
				return err
			}
			if got := resp.Responses[0].GetResponseRange(); len(got.Kvs) > 0 {
				if have := parseTurn(got.Kvs[0].Value, 0); have.Taker == h.turn.Taker && have.State == state {
					return nil // an earlier answer was lost
				}
			}
			return ErrTurnGone
		})
		if IsNoSpace(err) {
			// Nothing can be written, and a turn that stands closes a gate of the run that is needed now.
			h.withdraw(ctx)
			break
		}
		if err == nil || errors.Is(err, ErrTurnGone) || time.Now().After(end) || sleep(ctx, time.Second) != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("say how the turn ended: %w", err)
	}
	return nil
}

// withdraw deletes the turn, which is possible without space too.
func (h *HeldTurn) withdraw(ctx context.Context) {
	err := h.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		_, err := cl.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(turnKey), "=", h.turn.modRevision)).Then(clientv3.OpDelete(turnKey)).Commit()
		return err
	})
	if err != nil {
		h.c.log.Debug("the turn was not withdrawn", "err", err)
	}
}

func (h *HeldTurn) stop() {
	h.cancel()
	<-h.done
}

// Release gives the lease back behind End, and with it what is left of the turn.
func (h *HeldTurn) Release() { h.c.revoke(h.lease) }

// WatchTurn calls saw with the turn as it stands and then at each change, nil where there is none, until ctx ends or
// the watch breaks, which is an error. Of changes that come at once it sees the last one, and each offer to nobody.
func (c *Client) WatchTurn(ctx context.Context, saw func(t *Turn)) error {
	var rev int64
	var first *Turn
	var from *clientv3.Client
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Get(ctx, turnKey)
		if err != nil {
			return err
		}
		first, rev, from = nil, resp.Header.Revision, cl
		if len(resp.Kvs) > 0 {
			first = parseTurn(resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch for turns: %w", err)
	}
	saw(first)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range from.Watch(clientv3.WithRequireLeader(ctx), turnKey, clientv3.WithRev(rev+1)) {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch for turns: %w", err)
		}
		eachTurn(resp.Events, saw)
	}
	return ctx.Err()
}

// eachTurn tells of events that came together what WatchTurn says.
func eachTurn(events []*clientv3.Event, saw func(t *Turn)) {
	for i, e := range events {
		var t *Turn
		if e.Type != clientv3.EventTypeDelete {
			t = parseTurn(e.Kv.Value, e.Kv.ModRevision)
		}
		if i == len(events)-1 || t != nil && t.State == TurnOffered && t.Member == 0 {
			saw(t)
		}
	}
}
