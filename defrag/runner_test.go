package defrag

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestRunner_Order(t *testing.T) {
	f := newFake(t)
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.Hash.Result != HashEqual {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1")
		if want := int64(450-3) << 20; rep.ReclaimedBytes != want {
			t.Errorf("got %d bytes, want %d", rep.ReclaimedBytes, want)
		}
		if len(f.records) != 1 {
			t.Errorf("%d records, want 1", len(f.records))
		}
	})
}

func TestRunner_DryRunTouchesNothing(t *testing.T) {
	f := newFake(t)
	inRun(t, f, nil, Options{DryRun: true}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Planned || len(f.records) != 0 {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t)
	})
}

// Leadership that moves between two members without us changes the order, not the safety.
func TestRunner_LeaderMovesBetweenMembers(t *testing.T) {
	f := newFake(t)
	moved := false
	f.probe = func() []cluster.Refusal {
		if len(f.calls) == 2 && !moved && f.busy[2] == 0 && f.view.Members[1].DBSize < 200<<20 {
			moved = true
			f.mu.Lock()
			defer f.mu.Unlock()
			for i := range f.view.Members {
				m := &f.view.Members[i]
				m.LeaderID, m.Leader = 3, m.ID == 3
			}
		}
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t, "lock", "defragment m2", "defragment m1", "defragment m3")
	})
}

func TestRunner_ShortLeasesMoveTheLeader(t *testing.T) {
	f := newFake(t)
	f.leases = cluster.Leases{Count: 1, Sampled: 1, Shortest: time.Second}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.LeaderMoves != 1 || rep.Members[2].Leader != LeaderMoved {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t, "lock", "defragment m2", "defragment m3", "move leader m1 to m2", "defragment m1")
	})
}

// The answer is lost while the server works: the call is not repeated, nobody else is touched meanwhile.
func TestRunner_LostAnswer(t *testing.T) {
	f := newFake(t)
	f.answerNow = func(ctx context.Context, m cluster.Member) error {
		if m.ID == 3 {
			return errors.New("connection reset by peer")
		}
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || !strings.Contains(rep.Members[1].Reason, "the answer was lost") {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1")
	})
}

// The gauge dips to 0 between two queued defragmentations: one zero is not the end.
func TestRunner_GaugeDips(t *testing.T) {
	f := newFake(t)
	f.answerNow = func(ctx context.Context, m cluster.Member) error { return errors.New("connection reset by peer") }
	start := time.Time{}
	var second time.Time
	f.gauge = func(m cluster.Member, n int64) (int64, error) {
		if start.IsZero() {
			start = time.Now()
		}
		// A second call of somebody else is queued behind ours, from 1.2 s to 3 s.
		if since := time.Since(start); m.ID == 2 && since > 1200*time.Millisecond && since < 3*time.Second {
			second = time.Now()
			return 1, nil
		}
		return n, nil
	}
	inRun(t, f, func(c *Config) { c.Settle = 0 }, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done {
			t.Errorf("got %+v, %v", rep, err)
		}
		if got := *rep.Members[0].Seconds; got < second.Sub(start).Seconds() {
			t.Errorf("m2 was given up after %.1f s, want it followed until the second one has ended", got)
		}
	})
}

func TestRunner_NoAnswerAtAll(t *testing.T) {
	f := newFake(t)
	f.answerNow = func(ctx context.Context, m cluster.Member) error {
		if m.ID == 2 {
			<-ctx.Done() // a black hole
			return ctx.Err()
		}
		return nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.Seconds > 120 {
			t.Errorf("got %+v, %v", rep, err)
		}
		f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1")
	})
}

func TestRunner_Stops(t *testing.T) {
	tests := []struct {
		name    string
		config  func(c *Config)
		fault   func(f *fake)
		outcome Outcome
		failure bool
		reason  string
		calls   []string
	}{
		{"turned away before it began", nil, func(f *fake) {
			f.answerNow = func(context.Context, cluster.Member) error { return rpctypes.ErrPermissionDenied }
			f.during = nil
		}, Failed, true, "permission denied", []string{"lock", "defragment m2"}},
		{"the file did not shrink", nil, func(f *fake) {
			f.answer = func(cluster.Member) error { return errors.New("disk full") }
			f.during = func(f *fake, m cluster.Member) { f.set(m.ID, func(m *cluster.Member) { m.DBSize = 300 << 20 }) }
		}, Partial, true, "disk full", []string{"lock", "defragment m2"}},
		{"an election meanwhile", nil, func(f *fake) {
			f.during = func(f *fake, m cluster.Member) {
				for _, id := range []cluster.ID{1, 2, 3} {
					f.set(id, func(m *cluster.Member) { m.RaftTerm = 4 })
				}
			}
		}, Partial, true, "an election happened", []string{"lock", "defragment m2"}},
		{"another member dies", nil, func(f *fake) {
			f.during = func(f *fake, _ cluster.Member) {
				f.set(3, func(m *cluster.Member) { m.Reachable, m.Error = false, "refused" })
			}
		}, Partial, false, "reachable: member m3", []string{"lock", "defragment m2"}},
		{"somebody else defragments", nil, func(f *fake) {
			f.during = func(f *fake, _ cluster.Member) {
				f.set(3, func(m *cluster.Member) { m.DefragInFlight = ptr(int64(1)) })
			}
		}, Partial, false, "inflight: member m3", []string{"lock", "defragment m2"}},
		{"the lock is lost", nil, func(f *fake) {
			f.during = func(f *fake, _ cluster.Member) { f.lock.lost = cluster.ErrLockLost }
		}, Partial, false, "the lock was lost", []string{"lock", "defragment m2"}},
		{"paused", nil, func(f *fake) {
			f.during = func(f *fake, _ cluster.Member) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "node upgrade"}}
			}
		}, Partial, false, "node upgrade", []string{"lock", "defragment m2"}},
		{"the hashes differ", nil, func(f *fake) {
			f.hash = func(m cluster.Member, _ int) (cluster.Hash, error) { return cluster.Hash{Hash: uint32(m.ID / 3)}, nil }
		}, Partial, true, "data diverge", []string{"lock", "defragment m2", "defragment m3", "defragment m1"}},
		{"no snapshot", func(c *Config) { c.SnapshotDir = t.TempDir() }, nil, Failed, true, "no snapshot here", []string{"lock"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			if tt.fault != nil {
				tt.fault(f)
			}
			inRun(t, f, tt.config, Options{}, func(rep Report, err error) {
				if rep.Outcome != tt.outcome || rep.Failure != tt.failure || (err != nil) != tt.failure || !strings.Contains(rep.Reason, tt.reason) {
					t.Errorf("got %s (%s), failure %v, %v; want %s with %q, failure %v", rep.Outcome, rep.Reason, rep.Failure, err, tt.outcome, tt.reason, tt.failure)
				}
				f.want(t, tt.calls...)
			})
		})
	}
}

func TestRunner_HashesThatCannotBeCompared(t *testing.T) {
	f := newFake(t)
	f.hash = func(m cluster.Member, try int) (cluster.Hash, error) {
		if try == 2 {
			return cluster.Hash{CompactRevision: 9, Hash: 2}, nil // compacted between two answers
		}
		return cluster.Hash{CompactRevision: 10, Hash: 1}, nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.Hash.Result != HashEqual || f.hashes != 5 {
			t.Errorf("asked again: got %+v after %d hashes, %v", rep.Hash, f.hashes, err)
		}
	})
	f = newFake(t)
	f.hash = func(m cluster.Member, try int) (cluster.Hash, error) {
		return cluster.Hash{CompactRevision: int64(m.ID)}, nil
	}
	inRun(t, f, nil, Options{}, func(rep Report, err error) {
		if err != nil || rep.Outcome != Done || rep.Hash.Result != HashUnknown {
			t.Errorf("never comparable: got %+v, %v", rep.Hash, err)
		}
	})
}

func TestRunner_WaitsForACompaction(t *testing.T) {
	f := newFake(t)
	inUse := int64(350)
	synctest.Test(t, func(t *testing.T) {
		c := DefaultConfig()
		r, _ := NewRunner(f, c, Options{Manual: true})
		stop := make(chan struct{})
		shrink := func() {
			f.set(2, func(m *cluster.Member) { m.DBSizeInUse = inUse << 20; m.DBSize = 500 << 20 })
		}
		shrink() // under way before the run looks for the first time
		go func() {
			for ; inUse > 150; inUse -= 10 {
				shrink()
				time.Sleep(500 * time.Millisecond)
			}
			close(stop)
		}()
		rep, err := r.Run(t.Context())
		select {
		case <-stop:
		default:
			t.Error("it did not wait for the compaction to end")
		}
		if err != nil || rep.Outcome != Done || *rep.Members[0].AfterBytes > 170<<20 {
			t.Errorf("got %+v, %v", rep, err)
		}
	})
}

func TestRunner_Interrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2500*time.Millisecond, cancel)
		r, _ := NewRunner(f, DefaultConfig(), Options{Manual: true})
		rep, err := r.Run(ctx)
		if err != nil || rep.Outcome != Partial || !strings.Contains(rep.Reason, "interrupted: 2 of 3") {
			t.Errorf("got %s %q, %v", rep.Outcome, rep.Reason, err)
		}
		f.want(t, "lock", "defragment m2")
		if f.busy[2] != 0 {
			t.Error("it did not wait for the member under way")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		ctx, cancel := context.WithCancel(t.Context())
		abandon := make(chan struct{})
		time.AfterFunc(2500*time.Millisecond, func() { cancel(); close(abandon) })
		r, _ := NewRunner(f, DefaultConfig(), Options{Manual: true, Abandon: abandon})
		rep, err := r.Run(ctx)
		if err != nil || rep.Outcome != Partial || !strings.Contains(rep.Reason, "goes on in the server") {
			t.Errorf("not waited for: got %s %q, %v", rep.Outcome, rep.Reason, err)
		}
		time.Sleep(5 * time.Second)
	})
}

func TestRunner_WindowCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		closes := time.Now().Add(5 * time.Second)
		open := func(now time.Time) bool { return now.Before(closes) }
		r, _ := NewRunner(f, DefaultConfig(), Options{Window: open, Situation: func(cluster.View) Situation { return Situation{InWindow: open(time.Now())} }})
		rep, err := r.Run(t.Context())
		if err != nil || rep.Outcome != Partial || rep.Failure || !strings.Contains(rep.Reason, "window has closed") {
			t.Errorf("got %s %q, %v", rep.Outcome, rep.Reason, err)
		}
	})
}
