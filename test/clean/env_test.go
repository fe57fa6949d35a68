// Package clean proves bulkclean on real components: etcd, kube-apiserver and kube-controller-manager.
package clean

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

var binaryDir string

// binary builds the command once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "etcdkeeper-clean-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	path := filepath.Join(dir, "etcdkeeper")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/etcdkeeper").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

// env is a control plane with the tool beside it.
type env struct {
	*testing.T
	etcd   *etcdtest.Cluster
	client *clientv3.Client
	api    *kubetest.Server
	kube   *kubernetes.Clientset
	dir    string

	// What the tool is given.
	kubeconfig, endpoints string
}

func newEnv(t *testing.T, etcd etcdtest.Options, api kubetest.Options) *env {
	testproc.RequireReal(t)
	e := &env{T: t, etcd: etcdtest.Start(t, etcd), dir: t.TempDir()}
	e.client = e.etcd.Client(t)
	api.EtcdEndpoints = e.etcd.Endpoints()
	e.api = kubetest.Start(t, api)
	e.kubeconfig, e.endpoints = e.api.Kubeconfig, strings.Join(e.etcd.Endpoints(), ",")
	cfg := e.api.Config()
	cfg.QPS = -1
	var err error
	if e.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	return e
}

// seed writes objects beside what the API server made itself.
func (e *env) seed(o seed.Options) {
	e.Helper()
	o.Now = time.Now()
	only := func(yield func(seed.Object, error) bool) {
		for obj, err := range seed.Generate(o) {
			if obj.Resource == "namespaces" && strings.HasPrefix(obj.Name, "kube-") {
				continue
			}
			if !yield(obj, err) {
				return
			}
		}
	}
	if _, err := seed.Write(e.Context(), e.client, iter.Seq2[seed.Object, error](only), seed.WriteOptions{}); err != nil {
		e.Fatal(err)
	}
}

// command is the tool with the connection to the control plane.
func (e *env) command(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	e.Helper()
	path, err := binary()
	if err != nil {
		e.Fatal(err)
	}
	args = append(args, "--endpoints", e.endpoints)
	cmd := exec.Command(path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.kubeconfig)
	cmd.Dir = e.dir
	return cmd, &stdout, &stderr
}

// run runs the tool to its end and wants the exit code.
func (e *env) run(code int, args ...string) string {
	e.Helper()
	cmd, stdout, stderr := e.command(args...)
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		e.Fatalf("%s: got exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout.String()
}

// result is the JSON of clean apply.
type result struct {
	Deleted, Kept, Changed, Failed, Left int64
	Seconds, PerSecond                   float64
	Bytes                                int64
	Export                               string
	Reasons                              map[string]int64
}

func (e *env) apply(plan string, args ...string) result {
	e.Helper()
	out := e.run(0, append([]string{"clean", "apply", plan, "--yes", "-w", "json"}, args...)...)
	return parse[result](e, out)
}

func parse[T any](e *env, out string) (v T) {
	e.Helper()
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		e.Fatalf("%v in %s", err, out)
	}
	return v
}

// object is what the tests compare of a key.
type object struct {
	revision int64
	value    string
	lease    int64
}

// keys are all keys below the prefix.
func (e *env) keys(prefix string) map[string]object {
	e.Helper()
	out := map[string]object{}
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
		resp, err := e.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(5000))
		cancel()
		if err != nil {
			e.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			out[string(kv.Key)] = object{kv.ModRevision, string(kv.Value), kv.Lease}
		}
		if !resp.More {
			return out
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (e *env) count(prefix string) int64 {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	defer cancel()
	resp, err := e.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		e.Fatal(err)
	}
	return resp.Count
}

// watched is what a client-go informer saw of the Jobs of a namespace.
type watched struct{ adds, deletes atomic.Int64 }

// inform starts an informer and waits until it has everything.
func (e *env) inform(namespace string) *watched {
	e.Helper()
	w := &watched{}
	factory := informers.NewSharedInformerFactoryWithOptions(e.kube, 0, informers.WithNamespace(namespace),
		informers.WithTransform(func(obj any) (any, error) {
			if j, ok := obj.(*batchv1.Job); ok {
				j.ManagedFields, j.Spec = nil, batchv1.JobSpec{}
			}
			return obj, nil
		}))
	informer := factory.Batch().V1().Jobs().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.adds.Add(1) },
		DeleteFunc: func(any) { w.deletes.Add(1) },
	})
	if err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	e.Cleanup(func() { cancel(); factory.Shutdown() })
	within(e.T, 2*time.Minute, "the informer's first list", informer.HasSynced)
	return w
}

func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}
