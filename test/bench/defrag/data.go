package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const (
	valueSize = 4 << 10
	batch     = 64
	writers   = 4
)

// data is a copy of every member's data directory, from which each run starts.
type data struct{ dir string }

// prepare fills the cluster, deletes the part to drop, compacts, and keeps a copy.
func prepare(tb testproc.TB, c *etcdtest.Cluster, o options) data {
	cl := c.Client(tb)
	value := strings.Repeat("v", valueSize)
	fill := func(prefix string, mib int) {
		work := make(chan int)
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for b := range work {
					ops := make([]clientv3.Op, batch)
					for i := range ops {
						ops[i] = clientv3.OpPut(fmt.Sprintf("%s%08d", prefix, b*batch+i), value)
					}
					if _, err := cl.Txn(tb.Context()).Then(ops...).Commit(); err != nil {
						fmt.Fprintln(os.Stderr, "fill:", err)
					}
				}
			})
		}
		for b := range mib << 20 / valueSize / batch {
			work <- b
		}
		close(work)
		wg.Wait()
	}
	start := time.Now()
	fill("/keep/", o.keep)
	fill("/drop/", o.drop)
	resp, err := cl.Delete(tb.Context(), "/drop/", clientv3.WithPrefix())
	if err != nil {
		tb.Fatalf("delete: %v", err)
	}
	if _, err := cl.Compact(tb.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		tb.Fatalf("compact: %v", err)
	}
	for _, m := range c.Members {
		for {
			// An idle etcd counts the freed pages at its next commit.
			if _, err := cl.Put(tb.Context(), "/keep/commit", "1"); err != nil {
				tb.Fatalf("put: %v", err)
			}
			st, err := m.Status(tb.Context())
			if err == nil && st.DbSize-st.DbSizeInUse > int64(o.drop)<<20*8/10 {
				fmt.Fprintf(os.Stderr, "member %s: %d MB, %d MB in use\n", m.Name, st.DbSize/1e6, st.DbSizeInUse/1e6)
				break
			}
			if tb.Context().Err() != nil {
				tb.Fatalf("interrupted")
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	fmt.Fprintf(os.Stderr, "prepared in %.0f s\n", time.Since(start).Seconds())
	d := data{dir: tb.TempDir()}
	for _, m := range c.Members {
		m.Stop(tb)
		copyDir(tb, m.DataDir, filepath.Join(d.dir, m.Name))
	}
	return d
}

// restore puts every member's data back as they were and starts the cluster.
func (d data) restore(tb testproc.TB, c *etcdtest.Cluster) {
	for _, m := range c.Members {
		if m.Running() {
			m.Stop(tb)
		}
		if err := os.RemoveAll(m.DataDir); err != nil {
			tb.Fatalf("%v", err)
		}
		copyDir(tb, filepath.Join(d.dir, m.Name), m.DataDir)
	}
	for _, m := range c.Members {
		m.Launch(tb)
	}
	for _, m := range c.Members {
		m.WaitReady(tb)
	}
	time.Sleep(2 * time.Second)
}

func copyDir(tb testproc.TB, from, to string) {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		tb.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}
