package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// single is a Conn of one client. before may fail a call, after may lose its answer.
type single struct {
	c     *clientv3.Client
	after func() error
}

func (s *single) Any(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	if err := f(ctx, s.c); err != nil {
		return err
	}
	if s.after != nil {
		return s.after()
	}
	return nil
}

// fixture is an etcd with Jobs in it.
type fixture struct {
	*testing.T
	client *clientv3.Client
	conn   *single
	etcd   *Etcd
	id     string
	dir    string
}

func newFixture(t *testing.T) *fixture { return newFixtureOf(t, 0) }

// newFixtureOf is newFixture with a quota.
func newFixtureOf(t *testing.T, quota int64) *fixture {
	t.Helper()
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{QuotaBytes: quota, Configure: func(c *embed.Config) { c.TickMs, c.ElectionMs = 10, 100 }})
	c := e.Client(t)
	f := &fixture{T: t, client: c, conn: &single{c: c}, dir: t.TempDir()}
	f.etcd = NewEtcd(f.conn)
	m := newMemory()
	m.putKubeSystem(t)
	for k, v := range m.keys {
		f.put(k, v.Value)
	}
	id, _, err := f.etcd.ClusterID(t.Context(), DefaultRegistry)
	if err != nil {
		t.Fatal(err)
	}
	f.id = id.String()
	return f
}

func (f *fixture) put(key string, value []byte) {
	f.Helper()
	if _, err := f.client.Put(context.Background(), key, string(value)); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) job(name string, change ...func(*batchv1.Job)) {
	f.Helper()
	f.put(jobKey("ns", name), stored(f, finishedJob(name, change...), "batch/v1", "Job"))
}

func (f *fixture) jobs(n int) {
	for i := range n {
		f.job(fmt.Sprintf("job-%05d", i))
	}
}

// all are the mod revisions of all keys.
func (f *fixture) all() map[string]int64 {
	f.Helper()
	resp, err := f.client.Get(context.Background(), "", clientv3.WithPrefix())
	if err != nil {
		f.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = kv.ModRevision
	}
	return out
}

func (f *fixture) plan(change ...func(*Selector)) *Plan {
	f.Helper()
	s, err := keyspace.NewLive(context.Background(), f.client, keyspace.LiveOptions{})
	if err != nil {
		f.Fatal(err)
	}
	sel := NewSelector("jobs", "ns")
	for _, c := range change {
		c(&sel)
	}
	p, _, err := NewPlan(context.Background(), s, sel, now, PlanOptions{File: f.dir + "/plan.jsonl", Reader: f.etcd, Leases: f.etcd, ClusterID: f.id})
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// executor deletes in etcd; with api set through that.
func (f *fixture) executor(api API) *Executor {
	e := &Executor{Via: ViaEtcd, Etcd: f.etcd, Export: f.dir + "/export", Now: func() time.Time { return now.Add(time.Minute) }}
	if api != nil {
		e.Via, e.API = ViaAPI, api
	}
	return e
}

func (f *fixture) execute(e *Executor, p *Plan) Result {
	f.Helper()
	r, err := e.Execute(context.Background(), p)
	if err != nil {
		f.Fatalf("execute: %v (%+v)", err, r)
	}
	return r
}

// fakeAPI is an API server over the fixture's etcd, with faults.
type fakeAPI struct {
	f     *fixture
	uid   string
	fault func(n int, name string) (before, after error) // of the n-th DELETE
	calls atomic.Int64
	seen  sync.Map
}

func (a *fakeAPI) ClusterUID(context.Context) (string, error) {
	if a.uid != "" {
		return a.uid, nil
	}
	return "cluster-uid", nil
}

var jobsGR = schema.GroupResource{Group: "batch", Resource: "jobs"}

func (a *fakeAPI) Get(ctx context.Context, _ kube.Resource, ns, name, _ string) ([]byte, error) {
	resp, err := a.f.client.Get(ctx, jobKey(ns, name))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, apierrors.NewNotFound(jobsGR, name)
	}
	var j batchv1.Job
	_, raw, err := envelope(resp.Kvs[0].Value)
	if err != nil {
		return nil, err
	}
	if err := j.Unmarshal(raw); err != nil {
		return nil, err
	}
	j.ResourceVersion = fmt.Sprint(resp.Kvs[0].ModRevision)
	return stored(a.f, &j, "batch/v1", "Job"), nil
}

func (a *fakeAPI) Delete(ctx context.Context, _ kube.Resource, ns, name string, pre kube.Preconditions) error {
	n := int(a.calls.Add(1))
	a.seen.Store(name, true)
	var before, after error
	if a.fault != nil {
		before, after = a.fault(n, name)
	}
	if before != nil {
		return before
	}
	resp, err := a.f.client.Get(ctx, jobKey(ns, name))
	if err != nil {
		return err
	}
	if len(resp.Kvs) == 0 {
		return apierrors.NewNotFound(jobsGR, name)
	}
	f, err := meta(resp.Kvs[0].Value)
	if err != nil {
		return err
	}
	if pre.UID != f.UID || pre.ResourceVersion != fmt.Sprint(resp.Kvs[0].ModRevision) {
		return apierrors.NewConflict(jobsGR, name, errors.New("precondition"))
	}
	if _, err := a.f.client.Delete(ctx, jobKey(ns, name)); err != nil {
		return err
	}
	return after
}

var _ API = (*fakeAPI)(nil)

// bothWays runs a test through the API server and in etcd.
func bothWays(t *testing.T, test func(t *testing.T, f *fixture, api *fakeAPI)) {
	for _, via := range []Via{ViaAPI, ViaEtcd} {
		t.Run(string(via), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var api *fakeAPI
			if via == ViaAPI {
				api = &fakeAPI{f: f}
			}
			test(t, f, api)
		})
	}
}

func (f *fixture) by(api *fakeAPI) *Executor {
	if api == nil {
		return f.executor(nil)
	}
	return f.executor(api)
}

func TestExecutor_DeletesExactlyThePlan(t *testing.T) {
	bothWays(t, func(t *testing.T, f *fixture, api *fakeAPI) {
		f.jobs(300)
		f.job("running", func(j *batchv1.Job) { j.Status.Conditions = nil })
		f.job("young", condition1(batchv1.JobComplete, "True", time.Hour))
		f.job("held", func(j *batchv1.Job) { j.Finalizers = []string{"a/b"} })
		before := f.all()
		p := f.plan()
		r := f.execute(f.by(api), p)
		if r.Deleted != 300 || r.Kept+r.Changed+r.Failed+r.Left != 0 || r.Bytes != p.End.Bytes || !r.Finished {
			t.Errorf("got %+v, want 300 deleted and nothing else", r)
		}
		want := maps.Clone(before)
		maps.DeleteFunc(want, func(k string, _ int64) bool { return strings.HasPrefix(k, "/registry/jobs/ns/job-") })
		if got := f.all(); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v: nothing else changes", got, want)
		}
		// Done is done.
		again := f.execute(f.by(api), p)
		if again.Deleted != 300 || !again.Finished {
			t.Errorf("a second run: got %+v, want the same counts", again)
		}
		s, err := ReadStatus(JournalPath(p.File))
		if err != nil || !s.Finished || s.Deleted != 300 || s.Left != 0 || s.Running {
			t.Errorf("status: got %+v, %v", s, err)
		}
	})
}

// TestExecutor_OneKeyATransaction: watchers that resume at a revision lose all but one of several keys.
func TestExecutor_OneKeyATransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(200)
	p := f.plan()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := f.client.Watch(ctx, "/registry/jobs/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(p.Head.Revision+1))
	f.execute(f.executor(nil), p)
	revisions := map[int64]int{}
	for deleted := 0; deleted < 200; {
		resp := <-w
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, ev := range resp.Events {
			if ev.Type != clientv3.EventTypeDelete || ev.PrevKv == nil {
				t.Fatalf("got %v, want deletions with the previous value", ev)
			}
			if revisions[ev.Kv.ModRevision]++; revisions[ev.Kv.ModRevision] > 1 {
				t.Fatalf("revision %d has two deletions", ev.Kv.ModRevision)
			}
			deleted++
		}
	}
}

func TestExecutor_ChangedIsKept(t *testing.T) {
	bothWays(t, func(t *testing.T, f *fixture, api *fakeAPI) {
		f.jobs(100)
		p := f.plan()
		f.job("job-00003", func(j *batchv1.Job) { j.Annotations = map[string]string{"touched": "yes"} })
		f.job("job-00004", func(j *batchv1.Job) { j.UID = "another" })
		f.job("job-00005", func(j *batchv1.Job) { j.Annotations = map[string]string{KeepAnnotation: ""} })
		if _, err := f.client.Delete(t.Context(), jobKey("ns", "job-00006")); err != nil {
			t.Fatal(err)
		}
		f.job("new")
		r := f.execute(f.by(api), p)
		if r.Deleted != 96 || r.Changed != 4 || r.Left != 0 {
			t.Errorf("got %+v, want 96 deleted and 4 changed", r)
		}
		want := map[string]int64{"changed since the plan, and would be selected again": 1, "made again since the plan": 1,
			"changed since the plan, and opt-out now": 1, "gone already": 1}
		if !maps.Equal(r.Reasons, want) {
			t.Errorf("reasons: got %v, want %v", r.Reasons, want)
		}
		left := slices.Sorted(maps.Keys(f.all()))
		wantLeft := []string{jobKey("ns", "job-00003"), jobKey("ns", "job-00004"), jobKey("ns", "job-00005"), jobKey("ns", "new"), "/registry/namespaces/kube-system"}
		if !slices.Equal(left, wantLeft) {
			t.Errorf("got %v, want %v", left, wantLeft)
		}
	})
}

func TestExecutor_OwnerMadeAgain(t *testing.T) {
	bothWays(t, func(t *testing.T, f *fixture, api *fakeAPI) {
		f.jobs(5)
		f.job("owned", ownedByCron("cron", "before"))
		p := f.plan()
		if p.End.Objects != 6 {
			t.Fatalf("got %d objects, want 6", p.End.Objects)
		}
		m := newMemory()
		m.putCronJob(t, "ns", "cron", "after")
		for k, e := range m.keys {
			f.put(k, e.Value)
		}
		r := f.execute(f.by(api), p)
		if r.Deleted != 5 || r.Kept != 1 {
			t.Errorf("got %+v, want 5 deleted and the contested one kept", r)
		}
		if _, ok := f.all()[jobKey("ns", "owned")]; !ok {
			t.Error("the contested Job is gone")
		}
	})
}

func TestExecutor_Finalizers(t *testing.T) {
	bothWays(t, func(t *testing.T, f *fixture, api *fakeAPI) {
		f.jobs(3)
		f.job("held", func(j *batchv1.Job) { j.Finalizers = []string{"a/b"} })
		p := f.plan(func(s *Selector) { s.Finalizers = true })
		r := f.execute(f.by(api), p)
		_, there := f.all()[jobKey("ns", "held")]
		if api == nil && (r.Deleted != 3 || r.Kept != 1 || !there) {
			t.Errorf("in etcd: got %+v, there %v, want the finalizer respected", r, there)
		}
		if api != nil && r.Deleted != 4 {
			t.Errorf("through the API server: got %+v, want all asked for", r)
		}
	})
}

func TestExecutor_Refuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(20)
	p := f.plan()
	other := "deadbeef"
	uid := "another-cluster"
	for _, tc := range []struct {
		name string
		e    func() *Executor
		plan func() *Plan
		want error
	}{
		{"another etcd", func() *Executor { return f.executor(nil) }, func() *Plan { q := *p; q.Head.ClusterID = &other; return &q }, ErrOtherCluster},
		{"another kube-system", func() *Executor { return f.executor(nil) }, func() *Plan { q := *p; q.Head.KubeSystemUID = &uid; return &q }, ErrOtherCluster},
		{"nothing to compare", func() *Executor { return f.executor(nil) }, func() *Plan { q := *p; q.Head.KubeSystemUID, q.Head.ClusterID = nil, nil; return &q }, ErrOtherCluster},
		{"an etcd restored to before the plan", func() *Executor { return f.executor(nil) }, func() *Plan { q := *p; q.Head.Revision = 1 << 40; return &q }, ErrOtherCluster},
		{"another API server", func() *Executor { return f.executor(&fakeAPI{f: f, uid: uid}) }, func() *Plan { return p }, ErrOtherCluster},
		{"an old plan", func() *Executor {
			e := f.executor(nil)
			e.Now = func() time.Time { return now.Add(25 * time.Hour) }
			return e
		}, func() *Plan { return p }, ErrOldPlan},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := tc.e().Execute(t.Context(), tc.plan())
			if !errors.Is(err, tc.want) || r.Started() {
				t.Errorf("got %+v, %v, want %v and nothing started", r, err, tc.want)
			}
		})
	}
	t.Run("mostly changed", func(t *testing.T) {
		for i := range 11 {
			f.job(fmt.Sprintf("job-%05d", i), func(j *batchv1.Job) { j.Annotations = map[string]string{"a": "b"} })
		}
		if _, err := f.executor(nil).Execute(t.Context(), p); !errors.Is(err, ErrMostlyChanged) {
			t.Errorf("11 of 20 changed: got %v, want ErrMostlyChanged", err)
		}
	})
	if got := len(f.all()); got != 21 {
		t.Errorf("got %d keys, want all 21", got)
	}
}

// TestExecution_ownersAgain: an object that waited for long is not deleted on what was known of its owner before.
func TestExecution_ownersAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.job("a", ownedByCron("nightly", "uid-of-old"))
	p := f.plan()
	x, err := f.executor(nil).prepare(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	it := item{looked: time.Now().Add(-time.Minute)}
	for o, err := range p.Objects() {
		if err != nil {
			t.Fatal(err)
		}
		it.object = o
	}
	if outcome, _, err := x.ownersAgain(t.Context(), &it, false); err != nil || outcome != "" {
		t.Errorf("its owner is gone as before: got %q, %v, want no objection", outcome, err)
	}
	m := newMemory()
	m.putCronJob(t, "ns", "nightly", "uid-of-new")
	for k, v := range m.keys {
		f.put(k, v.Value)
	}
	if outcome, _, _ := x.ownersAgain(t.Context(), &it, false); outcome != "" {
		t.Errorf("looked at a moment ago: got %q, want no other look", outcome)
	}
	it.looked = time.Now().Add(-time.Minute)
	outcome, reason, err := x.ownersAgain(t.Context(), &it, false)
	if err != nil || outcome != Stayed || !strings.Contains(reason, "contested") {
		t.Errorf("its CronJob was made again: got %q, %q, %v, want it kept as contested", outcome, reason, err)
	}
}
