package defrag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// What a keeper is asked to do in a turn.
const (
	workDefragment = "defragment"
	workHash       = "hash"
)

// turnOrder is what a keeper is to do with the member beside it.
type turnOrder struct {
	Work             string  `json:"work"`
	Revision         int64   `json:"revision,omitempty"` // of the hash: of the work itself, or behind a defragmentation; 0: none
	Drain            bool    `json:"drain"`
	DrainMaxSeconds  float64 `json:"drainMaxSeconds"`
	PredictedSeconds float64 `json:"predictedSeconds"`
	NotLeader        bool    `json:"notLeader,omitempty"` // the member was not the leader when its turn came, and must not be
}

// turnResult is what a keeper tells of a turn.
type turnResult struct {
	Error    string  `json:"error,omitempty"`
	NotBegun bool    `json:"notBegun,omitempty"` // with an error: the member was not disturbed
	Leads    bool    `json:"leads,omitempty"`    // with NotBegun: it has become the leader
	Later    bool    `json:"later,omitempty"`    // with an error: the hash was compacted away, or is to come
	Seconds  float64 `json:"seconds"`            // of the defragmentation alone

	Hash        *cluster.Hash `json:"hash,omitempty"`
	HashSeconds float64       `json:"hashSeconds,omitempty"`

	NotDrained     string   `json:"notDrained,omitempty"` // why clients were not turned away although the order says so
	DrainedSeconds *float64 `json:"drainedSeconds"`
	Moved          int      `json:"moved"`
	Shut           string   `json:"shut,omitempty"` // why clients cannot reach the member although the rule is gone
	Notes          []string `json:"notes,omitempty"`
}

// errNoTurn: no keeper can be given the turn, so it is taken from here, without a drain.
type errNoTurn struct{ reason string }

func (e errNoTurn) Error() string { return e.reason }

// errLeads: the member whose turn it is has become the leader, which comes last.
var errLeads = errors.New("the member has become the leader")

// errTurnLost: a keeper took the turn and told nothing more.
var errTurnLost = errors.New("the keeper beside the member was lost in its turn")

// keepers are what the keepers tell of themselves; nil where that cannot be read.
func (s *run) keepers(ctx context.Context) []cluster.Keeper {
	k, err := s.c.Keepers(ctx)
	if err != nil {
		s.opts.Log.Debug("keepers not read", "err", err)
		return nil
	}
	return k
}

func (s *run) order(m cluster.Member, row *MemberReport) turnOrder {
	o := turnOrder{Work: workDefragment, Drain: row.Drain, DrainMaxSeconds: s.cfg.DrainMax.Seconds(), PredictedSeconds: *row.PredictedSeconds}
	if row.Drain && s.cfg.HashCheck {
		o.Revision = s.hashes.revision
	}
	o.NotLeader = !m.Leader
	return o
}

// hashSeconds is how long HashKV is predicted to make a member wait.
func hashSeconds(m cluster.Member) float64 {
	return HashSecondsPerGiB * float64(m.DBSizeInUse) / (1 << 30)
}

// turnOut is the turn as a gate: a keeper that is in a turn, of this run or of one that has lost its lock, may have its
// member defragmented any moment.
func (s *run) turnOut(ctx context.Context) []cluster.Refusal {
	t, err := s.c.ReadTurn(ctx)
	switch {
	case err != nil:
		return []cluster.Refusal{{Gate: cluster.GateTurn, Reason: err.Error(), Unread: true}}
	case t != nil && t.State == cluster.TurnTaken:
		return []cluster.Refusal{{Gate: cluster.GateTurn, Member: t.Member.String(), Reason: "the keeper beside it is in its turn, given by " + t.By}}
	}
	return nil
}

// leads tells whether the member has become the leader since the order was made.
func (o turnOrder) leads(v cluster.View, id cluster.ID) bool {
	leader, ok := v.Leader()
	return o.NotLeader && ok && leader.ID == id
}

// call has the member defragmented: by the keeper beside it, or, behind every gate read anew, from here where there is
// none. Given is set while a keeper may have the turn.
func (s *run) call(ctx context.Context, m cluster.Member, o turnOrder, given *atomic.Bool) (*turnResult, error) {
	if s.beside {
		return nil, s.c.Defragment(ctx, m)
	}
	given.Store(true)
	did, err := s.relay(ctx, m, o)
	var none errNoTurn
	if !errors.As(err, &none) {
		return did, err
	}
	given.Store(false)
	s.opts.Log.Debug("no turn was given", "member", m.String(), "reason", none.reason)
	v, closed, _ := s.gates(ctx)
	switch {
	case len(closed) > 0:
		return nil, errStopped{closed[0].String()}
	case o.leads(v, m.ID):
		return nil, errLeads
	}
	if o.Drain {
		did = &turnResult{NotDrained: none.reason}
	}
	return did, s.c.Defragment(ctx, m)
}

// relay offers the member's turn to the keeper beside it and waits for what it tells. An errNoTurn means that nobody
// has taken the turn, nor can; an errStopped that the member was not disturbed and the run has to stop. With any other
// error it is not known whether the member was disturbed.
func (s *run) relay(ctx context.Context, m cluster.Member, o turnOrder) (*turnResult, error) {
	if s.lock == nil {
		return nil, errNoTurn{"turns are given under the lock only"}
	}
	if s.lock.Revision() == 0 {
		return nil, errNoTurn{"etcd takes no writes"}
	}
	if _, ok := notes(s.keepers(ctx))[m.ID]; !ok {
		return nil, errNoTurn{"no keeper that takes turns is beside it"}
	}
	order, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	t, revoke, err := s.c.OfferTurn(ctx, cluster.Turn{Lock: s.lock.Revision(), By: s.opts.By, Member: m.ID, Order: order})
	defer revoke()
	switch {
	case errors.Is(err, cluster.ErrTurnOut), errors.Is(err, cluster.ErrTurnGone):
		return nil, errStopped{cluster.GateTurn + ": " + err.Error()}
	case cluster.IsNoSpace(err):
		return nil, errNoTurn{"etcd takes no writes"}
	case err != nil:
		s.opts.Log.Warn("it is not known whether the turn was offered", "member", m.String(), "err", err)
	}
	return s.await(ctx, t, o)
}

// await waits until the turn is over.
func (s *run) await(ctx context.Context, t cluster.Turn, o turnOrder) (*turnResult, error) {
	offered, taken := s.now(), false
	read := s.now() // when the turn was last seen for certain
	for {
		if sleep(ctx, s.t.poll) != nil {
			if !taken {
				withdraw, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				_, _ = s.c.WithdrawTurn(withdraw, t.ID)
			}
			return nil, context.Cause(ctx)
		}
		var now *cluster.Turn
		var err error
		withdrawn := false
		if !taken && s.now().Sub(offered) > s.t.offer {
			now, err = s.c.WithdrawTurn(ctx, t.ID)
			withdrawn = true
		} else {
			now, err = s.c.ReadTurn(ctx)
		}
		if err != nil {
			s.opts.Log.Debug("the turn cannot be read", "err", err)
			continue
		}
		gap := s.now().Sub(read)
		read = s.now()
		switch {
		case now == nil || now.ID != t.ID:
			// A turn that was taken stands for longer than this, so it was not taken if it was looked at often enough.
			if taken || gap > s.t.offer && !withdrawn || gap > 3*s.t.offer {
				return nil, errTurnLost
			}
			return nil, errNoTurn{"the keeper beside it did not take its turn"}
		case now.State == cluster.TurnTaken:
			taken = true
		case now.Over():
			// Read before it is deleted; where deleting fails it ends with its lease.
			if _, err := s.c.WithdrawTurn(ctx, t.ID); err != nil {
				s.opts.Log.Debug("the turn that is over was not deleted", "err", err)
			}
			return s.told(now)
		}
	}
}

// told reads what the keeper tells of its turn.
func (s *run) told(t *cluster.Turn) (*turnResult, error) {
	did := &turnResult{}
	if err := json.Unmarshal(t.Result, did); err != nil {
		return nil, fmt.Errorf("%w: its result cannot be read: %w", errTurnLost, err)
	}
	switch {
	case did.Error == "":
		return did, nil
	case did.NotBegun && did.Leads:
		return did, errLeads
	case did.Later:
		return did, fmt.Errorf("%s: %w", did.Error, rpctypes.ErrCompacted)
	case did.NotBegun:
		return did, errStopped{"the keeper beside the member did not begin: " + did.Error}
	}
	return did, fmt.Errorf("the keeper beside the member: %s", did.Error)
}

// wake tells the keepers that a run has begun, and which connections are its own: they look at their members' clients
// more often then, and leave these out. An offer to nobody does it.
func (s *run) wake(ctx context.Context, v cluster.View) {
	if s.lock == nil || s.lock.Revision() == 0 || s.cfg.Drain == DrainNever || len(notes(s.keepers(ctx))) == 0 {
		return
	}
	t, revoke, err := s.c.OfferTurn(ctx, cluster.Turn{Lock: s.lock.Revision(), By: s.opts.By, Own: s.c.Own(v)})
	defer revoke()
	if err == nil {
		_, err = s.c.WithdrawTurn(ctx, t.ID)
	}
	if err != nil {
		s.opts.Log.Debug("the keepers were not told that a run has begun", "err", err)
	}
}

// drainNow decides anew, just before a member's turn, whether its clients are drained. Those of the member before may
// not have come back to it yet, and what keepers tell of new connections of theirs may be on its way: so a while is
// given to clients that seem to use this member only.
func (s *run) drainNow(ctx context.Context, v cluster.View, m cluster.Member, row *MemberReport) {
	patience := s.t.told
	if row.Drain && len(s.done) > 0 {
		patience = s.t.comeBack
	}
	var woken time.Time
	for end := s.now().Add(patience); ; {
		row.Drain, row.DrainReason = decideDrain(s.cfg, v, m, *row.PredictedSeconds, s.keepers(ctx), s.atStart)
		if row.Drain || !strings.Contains(row.DrainReason, seemPinned) || !s.now().Before(end) || sleep(ctx, time.Second) != nil {
			return
		}
		// They may be connections of the run itself that have been made since.
		if s.now().Sub(woken) > s.t.told/2 {
			s.wake(ctx, v)
			woken = s.now()
		}
	}
}

// cameBack waits, for a while, until a drained member has connections of every address again from which clients were
// connected before, and a shorter while for as many as before: not everybody makes as many. It counts them. The keeper
// beside the member has looked anew behind the drain.
func (s *run) cameBack(ctx context.Context, m cluster.Member, before map[string]int) (back *int) {
	begun := s.now()
	for end := begun.Add(s.t.comeBack); ; {
		if note, ok := notes(s.keepers(ctx))[m.ID]; ok {
			n := connections(note.Clients)
			all := n >= connections(before) || s.now().Sub(begun) > s.t.asMany
			for a := range before {
				all = all && note.Clients[a] > 0
			}
			if back = &n; all {
				return back
			}
		}
		if !s.now().Before(end) || sleep(ctx, time.Second) != nil {
			return back
		}
	}
}

// connections is how many there are of all addresses.
func connections(clients map[string]int) (n int) {
	for _, c := range clients {
		n += c
	}
	return n
}

// hashKV asks for the hash of a member that has not told it under its drain. Where clients were drained in this run they
// are drained for this too, since the member does not answer them meanwhile.
func (s *run) hashKV(ctx context.Context, v cluster.View, m cluster.Member, rev int64) (h cluster.Hash, seconds float64, err error) {
	drained := false
	for _, row := range s.plan.Members {
		drained = drained || row.DrainedSeconds != nil
	}
	if drained {
		cfg := s.cfg
		cfg.DrainAbove = 0
		o := turnOrder{Work: workHash, Revision: rev, DrainMaxSeconds: cfg.DrainMax.Seconds(), PredictedSeconds: hashSeconds(m)}
		keepers := s.keepers(ctx)
		if o.Drain, _ = decideDrain(cfg, v, m, max(o.PredictedSeconds, 0.001), keepers, s.atStart); o.Drain {
			did, err := s.relay(ctx, m, o)
			if did != nil && did.DrainedSeconds != nil {
				s.cameBack(ctx, m, notes(keepers)[m.ID].Clients) // before those of the next member are turned away
			}
			var none errNoTurn
			switch {
			case err == nil && did.Hash != nil:
				return *did.Hash, did.HashSeconds, nil
			case err == nil:
				return h, 0, fmt.Errorf("the keeper beside member %s told no hash", m)
			case !errors.As(err, &none):
				return h, 0, err
			}
		}
	}
	start := time.Now()
	h, err = s.c.HashKV(ctx, m, rev)
	return h, time.Since(start).Seconds(), err
}
