package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

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

func TestExecutor_Busy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(3)
	p := f.plan()
	j, err := openJournal(JournalPath(p.File), p, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.executor(nil).Execute(t.Context(), p); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if s, err := ReadStatus(JournalPath(p.File)); err != nil || !s.Running {
		t.Errorf("status: got %+v, %v, want running", s, err)
	}
	j.close()
	f.execute(f.executor(nil), p)
}

// TestExecutor_Faults: answers that are lost, servers that are busy or away.
func TestExecutor_Faults(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(60)
	p := f.plan()
	api := &fakeAPI{f: f, fault: func(n int, _ string) (before, after error) {
		switch n % 9 {
		case 1:
			return nil, errors.New("connection reset by peer") // done, and nobody heard of it
		case 2:
			return errors.New("connection refused"), nil
		case 3:
			return apierrors.NewInternalError(errors.New("etcdserver: leader changed")), nil
		}
		return nil, nil
	}}
	r := f.execute(f.executor(api), p)
	if r.Deleted != 60 || r.Changed != 0 || r.Failed != 0 {
		t.Errorf("got %+v, want all 60 deleted", r)
	}
}

func TestExecutor_RetryAfter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(10)
	p := f.plan()
	var first atomic.Int64
	api := &fakeAPI{f: f, fault: func(n int, _ string) (error, error) {
		if n == 1 {
			first.Store(time.Now().UnixNano())
			return apierrors.NewTooManyRequests("busy", 1), nil
		}
		return nil, nil
	}}
	r := f.execute(f.executor(api), p)
	if waited := time.Since(time.Unix(0, first.Load())); r.Deleted != 10 || waited < time.Second {
		t.Errorf("got %+v after %v, want all deleted and Retry-After honoured", r, waited)
	}
}

func TestExecutor_Denied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(50)
	p := f.plan()
	api := &fakeAPI{f: f, fault: func(int, string) (error, error) {
		return apierrors.NewForbidden(jobsGR, "x", errors.New("RBAC")), nil
	}}
	r, err := f.executor(api).Execute(t.Context(), p)
	if err == nil || !kube.IsDenied(err) || r.Deleted+r.Failed != 0 {
		t.Errorf("got %+v, %v, want an early end", r, err)
	}
	if n := api.calls.Load(); n > 2*DefaultWorkers {
		t.Errorf("got %d attempts after the first refusal", n)
	}
}

func TestExecutor_Outage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(20)
	p := f.plan()
	api := &fakeAPI{f: f, fault: func(n int, _ string) (error, error) {
		if n > 5 {
			return errors.New("connection refused"), nil
		}
		return nil, nil
	}}
	e := f.executor(api)
	e.Patience, e.Workers = 200*time.Millisecond, 1
	e.Now = nil
	e.MaxPlanAge = 1e6 * time.Hour
	r, err := e.Execute(t.Context(), p)
	if !errors.Is(err, ErrOutage) || r.Deleted != 5 || r.Left != 15 {
		t.Fatalf("got %+v, %v, want 5 deleted and an outage", r, err)
	}
	api.fault = nil
	r = f.execute(e, p)
	if r.Deleted != 20 || r.Left != 0 || !r.Resumed {
		t.Errorf("resumed: got %+v, want all 20", r)
	}
}

// TestExecutor_Stopped: Ctrl-C finishes what is in flight, and the next run the rest.
func TestExecutor_Stopped(t *testing.T) {
	bothWays(t, func(t *testing.T, f *fixture, api *fakeAPI) {
		f.jobs(400)
		p := f.plan()
		ctx, cancel := context.WithCancel(t.Context())
		var answers atomic.Int64
		if api != nil {
			api.fault = func(n int, _ string) (error, error) {
				if n == 30 {
					cancel()
				}
				return nil, nil
			}
		} else {
			f.conn.after = func() error {
				if answers.Add(1) == 40 {
					cancel()
				}
				return nil
			}
		}
		r, err := f.by(api).Execute(ctx, p)
		if !errors.Is(err, context.Canceled) || r.Deleted == 0 || r.Left == 0 {
			t.Fatalf("got %+v, %v, want it stopped part-way", r, err)
		}
		gone := 401 - len(f.all())
		if int64(gone) != r.Deleted {
			t.Errorf("%d are gone, the result says %d: what was in flight is finished and written down", gone, r.Deleted)
		}
		// Gone by another hand while stopped: that is not ours.
		if _, err := f.client.Delete(t.Context(), jobKey("ns", "job-00399")); err != nil {
			t.Fatal(err)
		}
		f.conn.after = nil
		r = f.execute(f.by(api), p)
		if r.Deleted != 399 || r.Changed != 1 || !r.Resumed {
			t.Errorf("resumed: got %+v, want 399 deleted and 1 gone already", r)
		}
	})
}

// TestExecutor_Export: what is exported is what was stored, and it is there before the deletion.
func TestExecutor_Export(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(150)
	values := map[string][]byte{}
	resp, err := f.client.Get(t.Context(), "/registry/jobs/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[string]int64{}
	for _, kv := range resp.Kvs {
		values[string(kv.Key)], revisions[string(kv.Key)] = kv.Value, kv.ModRevision
	}
	p := f.plan()
	var missing atomic.Int64
	api := &fakeAPI{f: f}
	path := f.dir + "/export/export-" + p.ID + ".jsonl"
	api.fault = func(_ int, name string) (error, error) {
		data, _ := os.ReadFile(path)
		if !strings.Contains(string(data), `"key":"`+jobKey("ns", name)+`"`) {
			missing.Add(1)
		}
		return nil, nil
	}
	r := f.execute(f.executor(api), p)
	if missing.Load() != 0 {
		t.Errorf("%d objects were deleted before they were exported", missing.Load())
	}
	n := 0
	err = readExport(r.Export, nil, func(_ int, h *ExportHead, e *Exported) error {
		n++
		if string(e.Value) != string(values[e.Key]) || e.ModRevision != revisions[e.Key] || e.FromAPI {
			t.Errorf("%s: the export differs from what was stored", e.Key)
		}
		if !strings.Contains(e.YAML, "kind: Job") || strings.Contains(e.YAML, "managedFields") {
			t.Errorf("%s: got YAML %s", e.Key, e.YAML)
		}
		return nil
	})
	if err != nil || n != 150 {
		t.Errorf("got %d objects and %v, want 150", n, err)
	}
}

// TestExecutor_NoSpace: deletions pass where nothing can be written.
func TestExecutor_NoSpace(t *testing.T) {
	t.Parallel()
	f := newFixtureOf(t, 8<<20)
	f.jobs(50)
	p := f.plan()
	junk := strings.Repeat("x", 512<<10)
	for i := 0; ; i++ {
		if _, err := f.client.Put(t.Context(), fmt.Sprintf("/junk/%d", i), junk); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil || i > 100 {
			t.Fatalf("the quota does not end: %v", err)
		}
	}
	if r := f.execute(f.executor(nil), p); r.Deleted != 50 {
		t.Errorf("got %+v, want all 50", r)
	}
	if _, err := f.client.Put(t.Context(), "/junk/more", junk); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("got %v: the test did not test it under NOSPACE", err)
	}
}

// TestExecutor_Gate: while the garbage collector is behind nothing is deleted; where it does nothing the run ends.
func TestExecutor_Gate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(30)
	for i := range 30 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p-%d", i), UID: types.UID(fmt.Sprintf("pod-%d", i)),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "x", UID: types.UID(fmt.Sprintf("uid-job-%05d", i))}}}}
		f.put("/registry/pods/ns/"+pod.Name, stored(f, pod, "v1", "Pod"))
	}
	p := f.plan()
	if p.End.Dependents == nil || *p.End.Dependents != 30 {
		t.Fatalf("got %v dependents, want 30", p.End.Dependents)
	}
	for i := range 25 { // pods that were not there: as if 25 were waiting
		f.put(fmt.Sprintf("/registry/pods/ns/more-%d", i), []byte("x"))
	}
	e := f.executor(&fakeAPI{f: f, fault: func(int, string) (error, error) { time.Sleep(20 * time.Millisecond); return nil, nil }})
	e.MaxOrphanPods, e.Workers, e.Now, e.MaxPlanAge, e.Patience = 10, 1, nil, 1e6*time.Hour, time.Second
	r, err := e.Execute(t.Context(), p)
	if !errors.Is(err, ErrOutage) || r.Left == 0 {
		t.Fatalf("got %+v, %v, want an end of patience", r, err)
	}
	if _, err := f.client.Delete(t.Context(), "/registry/pods/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if r := f.execute(e, p); r.Deleted != 30 {
		t.Errorf("got %+v, want all 30 once the pods are gone", r)
	}
}
