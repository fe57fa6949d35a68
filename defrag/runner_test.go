package defrag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// fake is a cluster whose members take a second for a defragmentation, which goes on whatever the caller does. Its
// function fields make happen what a real cluster does not do on demand.
type fake struct {
	t  *testing.T
	mu sync.Mutex

	gauges sync.Mutex // held while gauge is called

	view    cluster.View
	calls   []string // in order
	records [][]byte
	lock    *fakeLock
	busy    map[cluster.ID]int // calls in the server
	most    int                // defragmentations at once

	answer     func(m cluster.Member) error                      // of Defragment, when the server is done; nil: success
	answerNow  func(ctx context.Context, m cluster.Member) error // of Defragment, at once: the connection
	during     func(f *fake, m cluster.Member)
	probe      func() []cluster.Refusal
	gauge      func(m cluster.Member, n int64) (int64, error)
	hash       func(m cluster.Member, try int) (cluster.Hash, error)
	compact    func(f *fake, rev int64)
	hashes     int
	compactRev int64
	leases     cluster.Leases
	held       *cluster.HeldError
	pause      []cluster.Refusal
}

var _ Cluster = (*fake)(nil)

type fakeLock struct {
	ctx    context.Context
	cancel context.CancelFunc
	lost   error
}

func (l *fakeLock) Context() context.Context    { return l.ctx }
func (l *fakeLock) Check(context.Context) error { return l.lost }
func (l *fakeLock) Release()                    { l.cancel() }

func newFake(t *testing.T) *fake { return &fake{t: t, view: healthy(), busy: map[cluster.ID]int{}} }

func (f *fake) log(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) View(context.Context) (cluster.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view
	v.Members = slices.Clone(v.Members)
	for i := range v.Members {
		m := &v.Members[i]
		if f.busy[m.ID] > 0 {
			*m.DefragInFlight = 0
			m.Reachable, m.Error, m.DefragInFlight = false, "deadline exceeded", ptr(int64(1))
		}
	}
	return v, nil
}

func (f *fake) Probe(context.Context, cluster.View) []cluster.Refusal {
	if f.probe != nil {
		return f.probe()
	}
	return nil
}

func (f *fake) CheckPause(context.Context) []cluster.Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pause
}

func (f *fake) InFlight(_ context.Context, m cluster.Member) (int64, error) {
	f.mu.Lock()
	n := int64(f.busy[m.ID])
	f.mu.Unlock()
	if f.gauge != nil {
		f.gauges.Lock() // the gauges of all members are read at once
		defer f.gauges.Unlock()
		return f.gauge(m, n)
	}
	return n, nil
}

func (f *fake) SampleLeases(context.Context) (cluster.Leases, error) { return f.leases, nil }
func (f *fake) CompactRevision(context.Context, cluster.Member) (int64, bool) {
	return f.compactRev, true
}
func (f *fake) Quiet(context.Context, time.Duration) error { return nil }

func (f *fake) set(id cluster.ID, change func(m *cluster.Member)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.view.Members {
		if f.view.Members[i].ID == id {
			change(&f.view.Members[i])
		}
	}
}

func (f *fake) Defragment(ctx context.Context, m cluster.Member) error {
	f.mu.Lock()
	f.log("defragment %s", m)
	f.busy[m.ID]++
	total := 0
	for _, n := range f.busy {
		total += n
	}
	f.most = max(f.most, total)
	f.mu.Unlock()
	server := make(chan struct{})
	go func() {
		defer close(server)
		time.Sleep(time.Second)
		f.set(m.ID, func(m *cluster.Member) { m.DBSize = m.DBSizeInUse + 1<<20 })
		if f.during != nil {
			f.during(f, m)
		}
		f.mu.Lock()
		f.busy[m.ID]--
		f.mu.Unlock()
	}()
	if f.answerNow != nil {
		if err := f.answerNow(ctx, m); err != nil {
			return err
		}
	}
	<-server
	if f.answer != nil {
		return f.answer(m)
	}
	return nil
}

func (f *fake) MoveLeader(_ context.Context, from, to cluster.Member) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log("move leader %s to %s", from, to)
	for i := range f.view.Members {
		m := &f.view.Members[i]
		m.LeaderID, m.Leader, m.RaftTerm = to.ID, m.ID == to.ID, m.RaftTerm+1
	}
	return nil
}

func (f *fake) HashKV(_ context.Context, m cluster.Member, rev int64) (cluster.Hash, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hashes++
	if f.hash != nil {
		return f.hash(m, f.hashes)
	}
	return cluster.Hash{Hash: 1, Revision: rev}, nil
}

func (f *fake) Compact(_ context.Context, rev int64) error {
	f.mu.Lock()
	f.log("compact %d", rev)
	f.mu.Unlock()
	if f.compact != nil {
		f.compact(f, rev)
	}
	return nil
}

func (f *fake) Disarm(_ context.Context, members []cluster.Member) error {
	for _, m := range members {
		f.set(m.ID, func(m *cluster.Member) { m.Alarms = nil })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log("disarm %d", len(members))
	return nil
}

func (f *fake) Lock(context.Context, string, time.Duration) (Lock, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log("lock")
	f.lock = &fakeLock{}
	f.lock.ctx, f.lock.cancel = context.WithCancel(context.Background())
	return f.lock, nil
}

func (f *fake) Held(context.Context, string) (*cluster.HeldError, error) { return f.held, nil }

func (f *fake) BreakLock(context.Context, string, func(context.Context) error) error { return nil }

func (f *fake) Records(context.Context, string) (map[string][]byte, []string, error) {
	values, names := map[string][]byte{}, []string{}
	for i, r := range f.records {
		n := fmt.Sprintf("%03d", i)
		names, values[n] = append(names, n), r
	}
	return values, names, nil
}

func (f *fake) Append(_ context.Context, _ string, _ int, record any) error {
	data, err := json.Marshal(record)
	f.records = append(f.records, data)
	return err
}

func (f *fake) Snapshot(context.Context, cluster.Member) (io.ReadCloser, error) {
	return nil, errors.New("no snapshot here")
}

// inRun carries out one run on f in a bubble of fake time.
func inRun(t *testing.T, f *fake, config func(c *Config), opts Options, check func(rep Report, err error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := DefaultConfig()
		if config != nil {
			config(&c)
		}
		opts.Manual = true
		r, err := NewRunner(f, c, opts)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := r.Run(t.Context())
		if f.lock != nil && f.lock.ctx.Err() == nil {
			t.Error("the lock was not released")
		}
		if f.most > 1 {
			t.Errorf("%d defragmentations at once", f.most)
		}
		check(rep, err)
		time.Sleep(5 * time.Second) // what the servers still do ends within the bubble
	})
}

func (f *fake) want(t *testing.T, calls ...string) {
	t.Helper()
	if !slices.Equal(f.calls, calls) {
		t.Errorf("got calls %q, want %q", f.calls, calls)
	}
}

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

func TestRunner_NoSpace(t *testing.T) {
	raise := func(f *fake, size, inUse int64) {
		for _, id := range []cluster.ID{1, 2, 3} {
			f.set(id, func(m *cluster.Member) {
				m.Quota, m.DBSize, m.DBSizeInUse = ptr(int64(100<<20)), size<<20, inUse<<20
				m.Alarms = []string{"NOSPACE"}
				m.Revision = 5000
			})
		}
	}
	t.Run("defragmenting is enough", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 50)
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || !rep.Disarmed || rep.Compacted != nil {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1", "disarm 3")
		})
	})
	t.Run("history has to go first", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		f.compactRev = 1000
		f.compact = func(f *fake, _ int64) {
			for _, id := range []cluster.ID{1, 2, 3} {
				f.set(id, func(m *cluster.Member) { m.DBSizeInUse = 20 << 20 })
			}
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || !rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock", "compact 4600", "defragment m2", "defragment m3", "defragment m1", "disarm 3")
		})
	})
	t.Run("a known margin is kept", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		f.compact = func(f *fake, _ int64) {
			for _, id := range []cluster.ID{1, 2, 3} {
				f.set(id, func(m *cluster.Member) { m.DBSizeInUse = 20 << 20 })
			}
		}
		inRun(t, f, nil, Options{Revision: func(time.Time) (int64, bool) { return 4242, true }}, func(rep Report, err error) {
			if err != nil || rep.Compacted == nil || *rep.Compacted != 4242 {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	})
	t.Run("live data is too much", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Partial || rep.Disarmed || !strings.Contains(rep.Reason, "etcdkeeper census") {
				t.Errorf("got %s %q, %v", rep.Outcome, rep.Reason, err)
			}
		})
	})
	t.Run("disarmed after a partial run too", func(t *testing.T) {
		f := newFake(t)
		raise(f, 95, 50)
		f.set(1, func(m *cluster.Member) { m.DBSize = 80 << 20 })
		f.set(3, func(m *cluster.Member) { m.DBSize = 80 << 20 })
		f.during = func(f *fake, m cluster.Member) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "stop"}}
		}
		inRun(t, f, func(c *Config) { c.Rule = "true" }, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Partial || !rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	})
	t.Run("not while one member is full", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 50)
		f.during = func(f *fake, m cluster.Member) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "stop"}}
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if rep.Outcome != Partial || rep.Disarmed || slices.Contains(f.calls, "disarm 3") {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
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
