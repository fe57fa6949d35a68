package defrag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

	keepers []cluster.Keeper
	asks    func(f *fake)                 // before the keepers are read
	woken   func(f *fake, t cluster.Turn) // an offer to nobody
	byToken bool                          // the lock is one of tokens
	turn    *cluster.Turn
	offered func(f *fake, t cluster.Turn) error // what the keeper beside the member makes of an offer
	asked   func() error                        // one read through all members; nil: there is no client of them
}

var _ Cluster = (*fake)(nil)

type fakeLock struct {
	ctx      context.Context
	cancel   context.CancelFunc
	lost     error
	revision int64
}

func (l *fakeLock) Revision() int64             { return l.revision }
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
	f.lock = &fakeLock{revision: 7}
	if f.byToken {
		f.lock.revision = 0
	}
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

func (f *fake) Keepers(context.Context) ([]cluster.Keeper, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asks != nil {
		f.asks(f)
	}
	return f.keepers, nil
}

func (f *fake) OfferTurn(_ context.Context, t cluster.Turn) (cluster.Turn, func(), error) {
	f.mu.Lock()
	if t.Member == 0 {
		if f.woken != nil {
			f.woken(f, t)
		}
		f.mu.Unlock()
		return t, func() {}, nil // the run has begun
	}
	f.log("offer %s", t.Member)
	t.ID, t.State = fmt.Sprint(len(f.calls)), cluster.TurnOffered
	f.turn = &t
	f.mu.Unlock()
	return t, func() {}, f.offered(f, t)
}

// setTurn is what a keeper writes; the key stays as it is where it is gone.
func (f *fake) setTurn(state cluster.TurnState, result turnResult) {
	data, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.turn != nil {
		t := *f.turn
		t.State, t.Result = state, data
		f.turn = &t
	}
}

// loseTurn ends the lease.
func (f *fake) loseTurn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn = nil
}

func (f *fake) ReadTurn(context.Context) (*cluster.Turn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.turn, nil
}

func (f *fake) WithdrawTurn(_ context.Context, id string) (*cluster.Turn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.turn
	if t == nil || t.ID != id {
		return nil, nil
	}
	if t.State != cluster.TurnTaken {
		f.turn = nil
	}
	if t.State == cluster.TurnOffered {
		f.log("withdraw %s", t.Member)
		return nil, nil
	}
	return t, nil
}

func (f *fake) Own(cluster.View) []string { return []string{"192.0.2.50:40000"} }

func (f *fake) Asker(context.Context, cluster.View) (Asker, error) {
	if f.asked == nil {
		return nil, errors.New("no client here")
	}
	return fakeAsker{f}, nil
}

type fakeAsker struct{ f *fake }

func (a fakeAsker) Ask(context.Context) error { return a.f.asked() }
func (a fakeAsker) Close()                    {}
