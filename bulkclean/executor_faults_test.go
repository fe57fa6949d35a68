package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

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
