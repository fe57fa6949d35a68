package split

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// red wants split verify to end with 1 and the checks to be red. It looks again where a busy machine hid them.
func (w *world) red(what string, checks []string, args ...string) {
	w.t.Helper()
	eventually(w.t, "split verify to be red: "+what, func() error {
		code, red := w.verify(args...)
		for _, c := range checks {
			if code != 1 || !strings.Contains(red, c) {
				return fmt.Errorf("exit %d, red: %q, want %s", code, red, c)
			}
		}
		return nil
	})
}

// green wants split verify to end with 0.
func (w *world) green(args ...string) {
	w.t.Helper()
	eventually(w.t, "split verify to be green", func() error {
		if code, red := w.verify(args...); code != 0 {
			return fmt.Errorf("exit %d, red: %s", code, red)
		}
		return nil
	})
}

// revision is the resource version of the events as an API server serves them now.
func (w *world) revision(server int) (rv string) {
	w.t.Helper()
	eventually(w.t, "events to be listed", func() error {
		list, err := w.clients[server].CoreV1().Events("default").List(context.Background(), metav1.ListOptions{Limit: 1})
		if err == nil {
			rv = list.ResourceVersion
		}
		return err
	})
	return rv
}

// watch watches the events from a resource version on, as a client does that was connected before.
func (w *world) watch(server int, rv string) (events watch.Interface) {
	w.t.Helper()
	eventually(w.t, "a watch", func() (err error) {
		events, err = w.clients[server].CoreV1().Events("default").Watch(context.Background(), metav1.ListOptions{ResourceVersion: rv})
		return err
	})
	w.t.Cleanup(events.Stop)
	return events
}

func (w *world) hearsNothing(events watch.Interface, what string) {
	w.t.Helper()
	select {
	case e, open := <-events.ResultChan():
		w.t.Errorf("%s: got %v %v (open: %v), want silence", what, e.Type, e.Object, open)
	default:
	}
}

// isTold wants a watch from a revision of before to be told that it is gone, upon which clients list anew.
func (w *world) isTold(server int, rv string) {
	w.t.Helper()
	eventually(w.t, "a watch to be told that its revision is gone", func() error {
		events, err := w.clients[server].CoreV1().Events("default").Watch(context.Background(), metav1.ListOptions{ResourceVersion: rv})
		if err != nil {
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return nil
			}
			return err
		}
		defer events.Stop()
		select {
		case e := <-events.ResultChan():
			if err := apierrors.FromObject(e.Object); e.Type == watch.Error && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)) {
				return nil
			}
			return fmt.Errorf("got %v %v", e.Type, e.Object)
		case <-time.After(10 * time.Second):
			return errors.New("it heard nothing")
		}
	})
}

// ahead writes to an etcd until its revision is one that an unused shard does not reach in the time of a test.
func ahead(t *testing.T, c *etcdtest.Cluster) {
	t.Helper()
	client := c.Client(t)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 200 {
				// One that is lost is one revision less.
				_, _ = client.Put(t.Context(), "/registry/configmaps/default/ahead", "")
			}
		})
	}
	wg.Wait()
}

// restart gives an API server another override while the load goes on. It is killed: one with watches open takes half a
// minute to stop in order, and nothing here depends on that.
func (w *world) restart(i int, overrides []string) {
	w.t.Helper()
	w.servers[i].Kill()
	w.servers[i].Options.EtcdOverrides = overrides
	w.servers[i].Start(w.t)
}

// prepareShard replaces the shard members' data directories by prepared ones, as the runbook does.
func (w *world) prepareShard() {
	t := w.t
	t.Helper()
	dir := t.TempDir()
	snapshot := filepath.Join(dir, "main.db")
	w.main.Members[0].Ctl(t, "snapshot", "save", snapshot)
	var initial []string
	for _, m := range w.shard.Members {
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	var revision int64
	for _, m := range w.shard.Members {
		m.Stop(t)
		if err := os.RemoveAll(m.DataDir); err != nil {
			t.Fatal(err)
		}
		code, out := w.run("split", "prepare", "-w", "json", "--snapshot", snapshot, "--resources", "events", "--data-dir", m.DataDir, "--name", m.Name,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-token", "events-1", "--initial-advertise-peer-urls", m.PeerURL, "--endpoints", w.main.Endpoints()[0])
		var p splitter.Prepared
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != 0 {
			t.Fatalf("split prepare: %d %s", code, out)
		}
		if revision != 0 && p.Revision != revision {
			t.Fatalf("members begin at %d and %d", revision, p.Revision)
		}
		revision = p.Revision
	}
	for _, m := range w.shard.Members {
		m.Launch(t)
	}
	for _, m := range w.shard.Members {
		m.WaitReady(t)
	}
}
