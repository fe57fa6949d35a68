package split

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// world is two API servers on main, a shard, and clients at work.
type world struct {
	t       *testing.T
	run     func(args ...string) (int, string)
	main    *etcdtest.Cluster
	shard   *etcdtest.Cluster
	servers [2]*kubetest.Server
	clients [2]*kubernetes.Clientset
}

// verify runs split verify and returns its exit code and the red checks.
func (w *world) verify(args ...string) (int, string) {
	w.t.Helper()
	code, out := w.run(append([]string{"split", "verify", "-w", "json", "--endpoints", w.main.Endpoints()[0], "--shard", strings.Join(w.shard.Endpoints(), ","), "--resources", "events"}, args...)...)
	var v splitter.Verification
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		w.t.Fatalf("split verify: %d %s", code, out)
	}
	var red []string
	for _, c := range v.Checks {
		if c.State == splitter.Red {
			red = append(red, c.Name)
		}
	}
	w.t.Logf("split verify %v: %d, red: %v", args, code, red)
	return code, strings.Join(red, " ")
}

// event creates an event through one API server.
func (w *world) event(ctx context.Context, server int, name string) error {
	_, err := w.clients[server].CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, Reason: "Test", Type: "Normal"}, metav1.CreateOptions{})
	return err
}

func (w *world) pod(ctx context.Context, server int, name string) error {
	_, err := w.clients[server].CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}}}, metav1.CreateOptions{})
	return err
}

// written is what the load has created, by name, in two kinds.
type written struct {
	mu           sync.Mutex
	events, pods []string
}

func (w *written) add(to *[]string, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*to = append(*to, name)
}

// cut returns what was written until now, and begins anew.
func (w *written) cut() (events, pods []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, pods = w.events, w.pods
	w.events, w.pods = nil, nil
	return events, pods
}

// load writes one pod, one lease and three events in turn through both API servers until the returned function is
// called. One that is being restarted answers nothing, and what it did not confirm does not count.
func (w *world) load() (done *written, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done = &written{}
	var wg sync.WaitGroup
	for server := range w.servers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				call, end := context.WithTimeout(ctx, 5*time.Second)
				name := fmt.Sprintf("load-%d-%d", server, i)
				if w.pod(call, server, name) == nil {
					done.add(&done.pods, name)
				}
				_, _ = w.clients[server].CoordinationV1().Leases("default").Create(call, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				for e := range 3 {
					if each := fmt.Sprint(name, "-", e); w.event(call, server, each) == nil {
						done.add(&done.events, each)
					}
				}
				end()
				select {
				case <-ctx.Done():
				case <-time.After(250 * time.Millisecond):
				}
			}
		})
	}
	return done, func() { cancel(); wg.Wait() }
}

// watched is what an informer has seen, by name.
type watched struct{ names sync.Map }

func (s *watched) has(name string) bool { _, ok := s.names.Load(name); return ok }

// inform starts informers on events and pods through one API server. They are client-go's own, and nobody restarts them.
func inform(t *testing.T, cfg *rest.Config) (events, pods *watched) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(client, 0)
	events, pods = &watched{}, &watched{}
	for informer, seen := range map[cache.SharedIndexInformer]*watched{f.Core().V1().Events().Informer(): events, f.Core().V1().Pods().Informer(): pods} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { seen.names.Store(o.(metav1.Object).GetName(), true) }}); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	f.Start(stop)
	f.WaitForCacheSync(stop)
	t.Cleanup(func() {
		close(stop)
		f.Shutdown()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return events, pods
}

// seeAll waits until an informer has every one of the names.
func seeAll(t *testing.T, what string, seen *watched, names []string) {
	t.Helper()
	if len(names) == 0 {
		t.Errorf("no %s was written", what)
	}
	eventually(t, "the informer to see each of "+what, func() error {
		for _, n := range names {
			if !seen.has(n) {
				return fmt.Errorf("%s is missing", n)
			}
		}
		return nil
	})
}

// mark creates an object of a name of its own through a server, which may be warming up, and returns the name.
func (w *world) mark(prefix string, server int, create func(context.Context, int, string) error) string {
	w.t.Helper()
	name := ""
	n := 0
	eventually(w.t, "a "+prefix+" to be created", func() error {
		n++
		name = fmt.Sprintf("%s-%d", prefix, n)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return create(ctx, server, name)
	})
	return name
}

// A split with the load going on: main on etcd 3.6, the shard on 3.7, two API servers restarted one after the other,
// and back. What can go wrong is made to go wrong on the way.
func TestSplit_Live(t *testing.T) {
	testproc.RequireReal(t)
	w := &world{t: t, run: keeper(t)}
	w.main = etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	w.shard = etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37, etcdtest.V37, etcdtest.V37}})
	ahead(t, w.main)
	for i := range w.servers {
		w.servers[i] = kubetest.Start(t, kubetest.Options{EtcdEndpoints: w.main.Endpoints(), ExtraArgs: []string{"--etcd-compaction-interval=10s"}})
		var err error
		if w.clients[i], err = kubernetes.NewForConfig(w.servers[i].Config()); err != nil {
			t.Fatal(err)
		}
	}
	apiServers := w.apiServerFlags()
	done, stop := w.load()
	defer func() { stop() }()
	other, _ := inform(t, w.servers[0].Config())
	events, pods := inform(t, w.servers[1].Config())
	seeAll(t, "events before", events, []string{w.mark("event-before", 0, w.event)})

	// A shard that was not prepared is far below main's revision. It is caught before it is used.
	override := []string{"/events#" + strings.Join(w.shard.Endpoints(), ";")}
	w.red("a shard bumped too low", []string{"revisionOrder"}, "--before")
	// Used nevertheless, it lets a client of main's revisions wait in vain, without an error, while one that lists anew
	// sees the event.
	ofMain := w.revision(0)
	w.restart(0, override)
	silent := w.watch(0, ofMain)
	unheard := w.mark("event-unheard", 0, w.event)
	anew, _ := inform(t, w.servers[0].Config())
	seeAll(t, "events of the shard that was not prepared", anew, []string{unheard})
	w.hearsNothing(silent, "a watch from main's revision, on a shard below it")
	w.servers[0].Kill()
	w.prepareShard()
	w.green("--before")

	// The API servers one by one. Between the two, one of them still writes events to main.
	w.restart(0, override)
	w.red("override missing on one API server", []string{"apiServer", "writesInMain"}, append(apiServers, "--watch", "5s")...)
	w.isTold(0, ofMain)
	w.restart(1, override)
	done.cut()
	w.green(append(apiServers, "--watch", "22s", "--compact-every", "10s")...)
	// The informers have gone on by themselves, and miss nothing that was written since, whichever server wrote it.
	w.mark("pod-after-0", 0, w.pod)
	w.mark("pod-after-1", 1, w.pod)
	laterEvents, laterPods := done.cut()
	for server := range w.servers {
		laterEvents = append(laterEvents, w.mark(fmt.Sprint("event-after-", server), server, w.event))
		laterPods = append(laterPods, w.mark(fmt.Sprint("pod-later-", server), server, w.pod))
	}
	seeAll(t, "events after", events, laterEvents)
	seeAll(t, "pods after", pods, laterPods)
	// So has the one that was on the shard that was not prepared.
	seeAll(t, "events after, by the other informer", other, []string{laterEvents[len(laterEvents)-1]})
	t.Logf("%d events and %d pods were seen after the split", len(laterEvents), len(laterPods))
	keys := strings.Join(shardKeys(t, w.shard), " ")
	if !strings.Contains(keys, "/registry/events/default/event-after") || strings.Contains(keys, "/registry/pods/") || strings.Contains(keys, "/registry/leases/") {
		t.Errorf("the shard does not hold the events alone: %.300s", keys)
	}

	// A member of the shard goes: the events go on, and verify says it.
	w.shard.Members[2].Kill()
	w.red("a shard member down", []string{"shardHealthy"}, "--watch", "2s")
	seeAll(t, "events with a member down", events, []string{w.mark("event-member-down", 0, w.event)})
	w.shard.Members[2].Start(t)

	// Back: informers of pods go on. A watch of events from one of the shard's revisions waits for main to reach it, so
	// that what watches them has to be restarted by hand, as the runbook says.
	ofShard := w.revision(1)
	w.restart(0, nil)
	w.restart(1, nil)
	seeAll(t, "pods after going back", pods, []string{w.mark("pod-back", 0, w.pod)})
	silent = w.watch(1, ofShard)
	again, _ := inform(t, w.servers[1].Config())
	seeAll(t, "events after going back", again, []string{w.mark("event-back", 0, w.event)})
	w.hearsNothing(silent, "a watch from the shard's revision, on main")
	w.red("after going back", []string{"writesInMain"}, "--watch", "5s")
	stop()
	stop = func() {}
}

// apiServerFlags let split verify ask the API servers, whose certificates have a CA each.
func (w *world) apiServerFlags() []string {
	w.t.Helper()
	dir := w.t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	flags := []string{"--apiserver-token-file", token, "--apiserver-cacert", ca}
	var pem []byte
	for _, s := range w.servers {
		flags = append(flags, "--apiserver", s.URL)
		one, err := os.ReadFile(s.CAFile)
		if err != nil {
			w.t.Fatal(err)
		}
		pem = append(pem, one...)
	}
	for file, content := range map[string][]byte{token: []byte(kubetest.AdminToken), ca: pem} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return flags
}
