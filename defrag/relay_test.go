package defrag

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// takes makes the keepers of f take their turns: each does what f's servers do, and says what it did.
func takes(f *fake, result turnResult) {
	takesWith(f, result, func(f *fake, m cluster.ID, rev int64) cluster.Hash { return cluster.Hash{Hash: 1, Revision: rev} })
}

// takesWith says what hashes the keepers tell.
func takesWith(f *fake, result turnResult, hash func(f *fake, m cluster.ID, rev int64) cluster.Hash) {
	f.keepers = beside3(map[string]int{"192.0.2.9": 2})
	f.offered = func(f *fake, turn cluster.Turn) error {
		go func() {
			time.Sleep(time.Second)
			f.setTurn(cluster.TurnTaken, turnResult{})
			var o turnOrder
			if err := json.Unmarshal(turn.Order, &o); err != nil {
				panic(err)
			}
			if o.Drain {
				result.DrainedSeconds = ptr(1.5)
			}
			if o.Work == workHash {
				f.mu.Lock()
				f.log("hash")
				f.mu.Unlock()
				h := hash(f, turn.Member, o.Revision)
				f.setTurn(cluster.TurnDone, turnResult{Hash: &h, HashSeconds: 0.5})
				return
			}
			v, _ := f.View(context.Background())
			for _, m := range v.Members {
				if m.ID == turn.Member {
					_ = f.Defragment(context.Background(), m)
				}
			}
			told := result
			if o.Revision > 0 {
				h := hash(f, turn.Member, o.Revision)
				told.Hash, told.HashSeconds = &h, 0.5
			}
			f.setTurn(cluster.TurnDone, told)
		}()
		return nil
	}
}

// numbered tells how many hashes were told, this one with them.
func numbered(tell func(n int, rev int64) cluster.Hash) func(*fake, cluster.ID, int64) cluster.Hash {
	n := 0
	return func(f *fake, _ cluster.ID, rev int64) cluster.Hash {
		f.mu.Lock()
		defer f.mu.Unlock()
		n++
		return tell(n, rev)
	}
}

func drains(c *Config) { c.DrainAbove = 0 }

func TestRunner_GivesTurns(t *testing.T) {
	f := newFake(t)
	takes(f, turnResult{Seconds: 1, Moved: 2})
	inRun(t, f, drains, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Fatalf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		for _, m := range rep.Members {
			if !m.Drain || m.DrainedSeconds == nil || *m.DrainedSeconds != 1.5 || *m.ConnectionsMoved != 2 || *m.ConnectionsBack != 2 || *m.Seconds != 1 {
				t.Errorf("got %+v", m)
			}
		}
		f.want(t, "lock", "offer 2", "defragment m2", "offer 3", "defragment m3", "offer 1", "defragment m1")
		if f.hashes != 0 || rep.Hash.Revision == 0 || rep.Hash.Result != HashEqual || rep.Hash.LongestSeconds != 0.5 {
			t.Errorf("got hash %+v", rep.Hash)
		}
	})
}

// TestRunner_TellsItsOwn proves that a run tells keepers which connections are its own before it takes them for clients
// that use one member only.
func TestRunner_TellsItsOwn(t *testing.T) {
	f := newFake(t)
	takes(f, turnResult{Seconds: 1, Moved: 2})
	clients := map[string]int{"192.0.2.9": 2}
	f.keepers = beside3(clients)
	f.keepers[1].Drain.Clients = map[string]int{"192.0.2.9": 2, "192.0.2.50": 1} // of a command that has ended
	told := 0
	f.woken = func(f *fake, turn cluster.Turn) {
		if !slices.Equal(turn.Own, f.Own(cluster.View{})) {
			t.Errorf("got %q", turn.Own)
		}
		if told++; told == 2 { // those that were made behind the first one
			f.keepers = beside3(clients)
		}
	}
	inRun(t, f, drains, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Fatalf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		for _, m := range rep.Members {
			if !m.Drain || m.DrainedSeconds == nil {
				t.Errorf("got %+v", m)
			}
		}
		if notes := strings.Join(rep.Notes, "\n"); told < 2 || strings.Contains(notes, "not drained") {
			t.Errorf("told %d times, notes %q", told, rep.Notes)
		}
	})
}

// TestRunner_HashesUnderDrains proves that what keepers tell from under their drains is compared, and asked for again
// where it cannot be.
func TestRunner_HashesUnderDrains(t *testing.T) {
	t.Run("a member differs: the next one is not touched", func(t *testing.T) {
		f := newFake(t)
		takesWith(f, turnResult{Seconds: 1, Moved: 2}, func(_ *fake, m cluster.ID, rev int64) cluster.Hash {
			return cluster.Hash{Hash: uint32(m), Revision: rev}
		})
		inRun(t, f, drains, Options{}, func(rep Report, err error) {
			if !errors.Is(err, errDiverged) || rep.Outcome != Partial || rep.Hash == nil || rep.Hash.Result != HashDifferent {
				t.Errorf("got %s, %v, %+v", rep.Outcome, err, rep.Hash)
			}
			f.want(t, "lock", "offer 2", "defragment m2", "offer 3", "defragment m3")
		})
	})
	t.Run("members of two versions may count differently", func(t *testing.T) {
		f := newFake(t)
		f.set(3, func(m *cluster.Member) { m.Version = "3.5.35" })
		takesWith(f, turnResult{Seconds: 1, Moved: 2}, func(_ *fake, m cluster.ID, rev int64) cluster.Hash {
			return cluster.Hash{Hash: uint32(m / 3), Revision: rev}
		})
		inRun(t, f, drains, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || rep.Hash.Result != HashUnknown || !strings.Contains(rep.Hash.Reason, "different versions") {
				t.Errorf("got %s, %v, %+v", rep.Outcome, err, rep.Hash)
			}
			f.want(t, "lock", "offer 2", "defragment m2", "offer 3", "defragment m3", "offer 1", "defragment m1") // no clients are turned away in vain
		})
	})
	t.Run("compacted between two turns", func(t *testing.T) {
		f := newFake(t)
		takesWith(f, turnResult{Seconds: 1, Moved: 2}, numbered(func(n int, rev int64) cluster.Hash {
			if n == 1 {
				return cluster.Hash{Hash: 9, Revision: rev, CompactRevision: 1}
			}
			return cluster.Hash{Hash: 1, Revision: rev, CompactRevision: 2}
		}))
		inRun(t, f, drains, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || rep.Hash.Result != HashEqual {
				t.Errorf("got %s, %v, %+v", rep.Outcome, err, rep.Hash)
			}
			f.want(t, "lock", "offer 2", "defragment m2", "offer 3", "defragment m3", "offer 1", "defragment m1", "offer 1", "hash", "offer 2", "hash", "offer 3", "hash")
		})
	})
	t.Run("compacted between two turns, and again behind the drain of the hash", func(t *testing.T) {
		f := newFake(t)
		takesWith(f, turnResult{Seconds: 1, Moved: 2}, numbered(func(n int, rev int64) cluster.Hash {
			return cluster.Hash{Hash: 1, Revision: rev, CompactRevision: int64(min(n, 2))}
		}))
		asked, first := f.offered, true
		f.offered = func(f *fake, turn cluster.Turn) error {
			if strings.Contains(string(turn.Order), workHash) && first {
				first = false
				f.setTurn(cluster.TurnFailed, turnResult{Error: "compacted", Later: true})
				return nil
			}
			return asked(f, turn)
		}
		inRun(t, f, drains, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || rep.Hash.Result != HashEqual || first {
				t.Errorf("got %s, %v, %+v", rep.Outcome, err, rep.Hash)
			}
		})
	})
	t.Run("a member that is not drained is asked from afar at the same revision", func(t *testing.T) {
		f := newFake(t)
		takes(f, turnResult{Seconds: 1, Moved: 2})
		f.keepers = f.keepers[1:] // nobody is beside m1
		asked := f.offered
		f.offered = func(f *fake, turn cluster.Turn) error {
			f.set(1, func(m *cluster.Member) { m.Revision += 100 })
			return asked(f, turn)
		}
		var at []cluster.ID
		f.hash = func(m cluster.Member, _ int) (cluster.Hash, error) {
			at = append(at, m.ID)
			return cluster.Hash{Hash: 1}, nil
		}
		inRun(t, f, drains, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || rep.Hash.Result != HashEqual || !slices.Equal(at, []cluster.ID{1}) || rep.Hash.Revision != healthy().Members[0].Revision {
				t.Errorf("got %s, %v, %+v, asked %v", rep.Outcome, err, rep.Hash, at)
			}
		})
	})
	t.Run("switched off", func(t *testing.T) {
		f := newFake(t)
		takesWith(f, turnResult{Seconds: 1, Moved: 2}, func(*fake, cluster.ID, int64) cluster.Hash {
			t.Error("a hash was asked for")
			return cluster.Hash{}
		})
		inRun(t, f, func(c *Config) { c.DrainAbove, c.HashCheck = 0, false }, Options{}, func(rep Report, err error) {
			if err != nil || rep.Hash.Result != HashOff {
				t.Errorf("got %v, %+v", err, rep.Hash)
			}
		})
	})
}

func TestRunner_TurnWithoutDrain(t *testing.T) {
	f := newFake(t)
	takes(f, turnResult{Seconds: 1})
	inRun(t, f, func(c *Config) { c.DrainAbove = time.Hour }, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.Members[0].DrainedSeconds != nil || f.hashes != 3 {
			t.Errorf("got %s, %v, %+v", rep.Outcome, err, rep.Members[0])
		}
		f.want(t, "lock", "offer 2", "defragment m2", "offer 3", "defragment m3", "offer 1", "defragment m1")
	})
}

// TestRunner_TurnNotTaken proves that a member whose keeper does not answer is done from afar, behind gates read anew.
func TestRunner_TurnNotTaken(t *testing.T) {
	for name, offered := range map[string]func(f *fake, turn cluster.Turn) error{
		"nobody takes it": func(*fake, cluster.Turn) error { return nil },
		"no space":        func(f *fake, _ cluster.Turn) error { f.loseTurn(); return rpctypes.ErrNoSpace },
		"the offer did not arrive": func(f *fake, _ cluster.Turn) error {
			f.loseTurn()
			return context.DeadlineExceeded
		},
		"the offer ended": func(f *fake, _ cluster.Turn) error {
			time.AfterFunc(3*time.Second, f.loseTurn)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.keepers, f.offered = beside3(map[string]int{"192.0.2.9": 2})[:1], offered
			f.keepers = append(f.keepers, cluster.Keeper{Member: 4, Drain: f.keepers[0].Drain})
			inRun(t, f, drains, Options{}, func(rep Report, err error) {
				if err != nil || rep.Outcome != Done {
					t.Fatalf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
				}
				m := rep.Members[2]
				if m.DrainedSeconds != nil || m.Drain || !strings.HasSuffix(m.Reason, "; not drained: "+m.DrainReason) {
					t.Errorf("got %+v", m)
				}
				// The plan had no such note.
				if notes := strings.Join(rep.Notes, "\n"); strings.Count(notes, "clients of m1 are not drained: "+m.DrainReason) != 1 || strings.Count(notes, "m1") != 1 {
					t.Errorf("got notes %q", rep.Notes)
				}
			})
		})
	}
	t.Run("a gate closes while it waits", func(t *testing.T) {
		f := newFake(t)
		f.keepers = beside3(nil)
		f.offered = func(f *fake, _ cluster.Turn) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "paused"}}
			return nil
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "paused") {
				t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
			}
			f.want(t, "lock", "offer 2", "withdraw 2")
		})
	})
}

// TestRunner_GatesBeforeFromAfar proves that a member without a keeper is disturbed behind gates that are read as the
// last thing.
func TestRunner_GatesBeforeFromAfar(t *testing.T) {
	f := newFake(t)
	fenced := false
	f.gauge = func(_ cluster.Member, n int64) (int64, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		fenced = true
		return n, nil
	}
	f.asks = func(f *fake) {
		if fenced {
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "paused"}}
		}
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "paused") {
			t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		f.want(t, "lock")
	})
}

// TestRunner_LeaderSinceTheOffer proves that a member that has become the leader when its keeper takes the turn comes
// last, and that a leadership that never stays ends the run.
func TestRunner_LeaderSinceTheOffer(t *testing.T) {
	lead := func(f *fake, id cluster.ID) {
		for _, m := range healthy().Members {
			f.set(m.ID, func(m *cluster.Member) { m.LeaderID, m.Leader = id, m.ID == id })
		}
	}
	f := newFake(t)
	takes(f, turnResult{Seconds: 1})
	asked, first := f.offered, true
	f.offered = func(f *fake, turn cluster.Turn) error {
		if !first {
			return asked(f, turn)
		}
		first = false
		lead(f, turn.Member)
		f.setTurn(cluster.TurnFailed, turnResult{Error: "it leads", NotBegun: true, Leads: true})
		return nil
	}
	inRun(t, f, func(c *Config) { c.DrainAbove = time.Hour }, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		f.want(t, "lock", "offer 2", "offer 3", "defragment m3", "offer 1", "defragment m1", "offer 2", "defragment m2")
	})
	f = newFake(t)
	f.keepers = beside3(nil)
	f.offered = func(f *fake, turn cluster.Turn) error {
		f.setTurn(cluster.TurnFailed, turnResult{Error: "it leads", NotBegun: true, Leads: true})
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "leadership does not stay") {
			t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
	})
}

// TestRunner_TurnUntimed proves that nothing is learnt from a turn of which neither keeper nor gauge told how long it was.
func TestRunner_TurnUntimed(t *testing.T) {
	f := newFake(t)
	f.keepers = beside3(nil)[1:2]
	f.gauge = func(cluster.Member, int64) (int64, error) { return 0, nil }
	f.offered = func(f *fake, turn cluster.Turn) error {
		go func() {
			f.setTurn(cluster.TurnTaken, turnResult{})
			_ = f.Defragment(context.Background(), member(turn.Member, 0, 0))
			time.Sleep(30 * time.Second)
			f.loseTurn()
		}()
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || !rep.Members[0].Done || rep.Members[0].Seconds != nil || rep.Members[1].Seconds == nil {
			t.Errorf("got %s, %v: %+v", rep.Outcome, err, rep.Members)
		}
	})
}

func TestRunner_TurnUnderToken(t *testing.T) {
	f := newFake(t)
	f.keepers, f.byToken = beside3(nil), true
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1")
	})
}

func TestRunner_TurnEndsBadly(t *testing.T) {
	tests := []struct {
		name    string
		offered func(f *fake, m cluster.Member)
		outcome Outcome
		failed  bool
		reason  string
		calls   int // defragmentations
	}{
		{name: "refused", outcome: Refused, reason: "did not begin: a gate", offered: func(f *fake, _ cluster.Member) {
			f.setTurn(cluster.TurnFailed, turnResult{Error: "a gate", NotBegun: true})
		}},
		{name: "the answer is lost, the server works", outcome: Done, calls: 3, offered: func(f *fake, m cluster.Member) {
			_ = f.Defragment(context.Background(), m)
			f.loseTurn()
		}},
		{name: "the keeper dies while the server works", outcome: Done, calls: 3, offered: func(f *fake, m cluster.Member) {
			go func() { _ = f.Defragment(context.Background(), m) }()
			time.Sleep(300 * time.Millisecond)
			f.loseTurn()
		}},
		{name: "the keeper dies and its lease goes on", outcome: Done, calls: 3, offered: func(f *fake, m cluster.Member) {
			_ = f.Defragment(context.Background(), m)
			time.AfterFunc(time.Minute, f.loseTurn)
		}},
		{name: "the keeper dies before it begins", outcome: Partial, failed: true, reason: "lost in its turn", offered: func(f *fake, _ cluster.Member) {
			time.Sleep(40 * time.Second)
			f.loseTurn()
		}},
		{name: "it says that the call failed", outcome: Partial, failed: true, reason: "connection refused", offered: func(f *fake, _ cluster.Member) {
			f.setTurn(cluster.TurnFailed, turnResult{Error: "connection refused"})
		}},
		{name: "it says that the call failed, and it did not", outcome: Done, calls: 3, offered: func(f *fake, m cluster.Member) {
			_ = f.Defragment(context.Background(), m)
			f.setTurn(cluster.TurnFailed, turnResult{Error: "connection refused"})
		}},
		{name: "clients cannot reach it behind the drain", outcome: Partial, failed: true, reason: "the rule is removed", calls: 1, offered: func(f *fake, m cluster.Member) {
			_ = f.Defragment(context.Background(), m)
			f.setTurn(cluster.TurnDone, turnResult{Seconds: 1, DrainedSeconds: ptr(1.0), Shut: "the rule is removed, and nobody answers"})
		}},
		{name: "a result that cannot be read", outcome: Done, calls: 3, offered: func(f *fake, m cluster.Member) {
			_ = f.Defragment(context.Background(), m)
			f.mu.Lock()
			defer f.mu.Unlock()
			turn := *f.turn
			turn.State, turn.Result = cluster.TurnDone, json.RawMessage(`[]`)
			f.turn = &turn
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.keepers = beside3(nil)[1:2] // beside m2 only, which is the first in the order
			f.offered = func(f *fake, turn cluster.Turn) error {
				go func() {
					f.setTurn(cluster.TurnTaken, turnResult{})
					time.Sleep(2 * time.Second)
					tt.offered(f, member(turn.Member, 0, 0))
				}()
				return nil
			}
			inRun(t, f, nil, Options{}, func(rep Report, err error) {
				if rep.Outcome != tt.outcome || (err != nil) != tt.failed || !strings.Contains(rep.Reason, tt.reason) {
					t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
				}
				n := 0
				for _, c := range f.calls {
					if strings.HasPrefix(c, "defragment") {
						n++
					}
				}
				if n != tt.calls {
					t.Errorf("got %d defragmentations, want %d: %q", n, tt.calls, f.calls)
				}
				time.Sleep(2 * time.Minute) // the lease that goes on
			})
		})
	}
}

// TestRunner_TurnOfAnotherRun proves that nothing is disturbed while a keeper is in a turn, whoever gave it.
func TestRunner_TurnOfAnotherRun(t *testing.T) {
	f := newFake(t)
	f.turn = &cluster.Turn{ID: "x", State: cluster.TurnTaken, Member: 3, By: "a run before"}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "given by a run before") {
			t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
		}
		f.want(t, "lock")
	})
}

func TestRunner_Asks(t *testing.T) {
	f := newFake(t)
	n := 0
	f.asked = func() error {
		f.mu.Lock()
		n++
		first, second := n == 1, n == 2
		f.mu.Unlock()
		switch {
		case first:
			time.Sleep(96 * time.Millisecond)
		case second:
			return errors.New("unavailable")
		}
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Clients == nil || rep.Clients.LongestSeconds != 0.096 || rep.Clients.Failed != 1 || rep.Clients.Reads < 100 {
			t.Fatalf("got %+v, %v", rep.Clients, err)
		}
		if all := strings.Join(rep.Notes, "\n"); !strings.Contains(all, "clients waited at most 96 ms") {
			t.Errorf("got notes %s", all)
		}
	})
	inRun(t, newFake(t), func(c *Config) { c.Probe = false }, Options{}, func(rep Report, err error) {
		if err != nil || rep.Clients != nil {
			t.Errorf("switched off: got %+v, %v", rep.Clients, err)
		}
	})
}
