package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// walk is the floor under reading a file: bbolt's own walk that touches each key and value.
func walk(path string) error {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	keys, bytes, touched := int64(0), int64(0), byte(0)
	err = db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(k, v []byte) error {
			keys++
			bytes += int64(len(k) + len(v))
			touched ^= k[7]
			if len(v) > 0 {
				touched ^= v[0]
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	fmt.Printf(`{"keys":%d,"bytes":%d,"touched":%d}`, keys, bytes, touched)
	return nil
}

func benchFile(tb *tb, o options) {
	counts := sizes(tb, o.keys)
	n := counts[len(counts)-1]
	version := strings.Split(o.versions, ",")[0]
	c := etcdtest.Start(tb, etcdtest.Options{Versions: []string{version}, QuotaBytes: 16 << 30})
	fill(tb, c.Client(tb), n)
	r, err := c.Client(tb).Snapshot(tb.Context())
	if err != nil {
		tb.Fatalf("snapshot: %v", err)
	}
	path := filepath.Join(tb.TempDir(), "snapshot.db")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	size, err := io.Copy(f, r)
	if err != nil || f.Close() != nil || r.Close() != nil {
		tb.Fatalf("snapshot: %v", err)
	}
	c.Members[0].Stop(tb)
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	fmt.Printf("A snapshot of %d bytes with %d keys. Each is the best of three with a warm page cache.\n\n", size, n)
	fmt.Println("| read by | seconds | × walk | peak anonymous memory |")
	fmt.Println("|---|---|---|---|")
	floor := 0.0
	for _, way := range []struct {
		name string
		args []string
	}{
		{"bare bbolt walk", []string{self, "-reader", "bolt:" + path}},
		{"census", []string{o.keeper, "census", "--snapshot", path, "-w", "json"}},
		{"census --verify", []string{o.keeper, "census", "--snapshot", path, "--verify", "-w", "json"}},
		{"etcdutl snapshot status", []string{etcdtest.Binary(tb, version, "etcdutl"), "snapshot", "status", path}},
	} {
		best, peak := 0.0, int64(0)
		for range 3 {
			cmd := exec.Command(way.args[0], way.args[1:]...)
			cmd.Stderr = os.Stderr
			start := time.Now()
			if err := cmd.Start(); err != nil {
				tb.Fatalf("%s: %v", way.name, err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			for running := true; running; {
				select {
				case err := <-done:
					if err != nil {
						tb.Fatalf("%s: %v", way.name, err)
					}
					running = false
				case <-time.After(5 * time.Millisecond):
					peak = max(peak, anonymous(cmd.Process.Pid))
				}
			}
			if s := time.Since(start).Seconds(); best == 0 || s < best {
				best = s
			}
		}
		if floor == 0 {
			floor = best
		}
		fmt.Printf("| %s | %.2f | %.2f | %s |\n", way.name, best, best/floor, mib(peak))
	}
}
