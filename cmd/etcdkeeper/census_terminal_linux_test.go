package main

import (
	"fmt"
	"iter"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// TestCensus_FileBar: the bar over a file tells how many of its pages with keys have been read.
func TestCensus_FileBar(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	for i := range 80 { // more keys than the reader is ahead of who uses them
		var ops []clientv3.Op
		for k := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/registry/configmaps/a/%d-%d", i, k), strings.Repeat("v", 200)))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "snapshot.db")
	saveTo(t, c, path)
	file, err := keyspace.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	total, err := file.Leaves(t.Context())
	if err != nil || total < 100 {
		t.Fatalf("got %d pages, %v", total, err)
	}
	of := "/" + strconv.FormatInt(total, 10)

	s := newTerminal(t)
	a := &app{stderr: s.side}
	stop, err := a.fileProgress(t.Context(), file, "reading")
	if err != nil {
		t.Fatal(err)
	}
	s.waitFor(t, "0"+of)
	next, end := iter.Pull2(file.Scan(t.Context(), keyspace.Range{}))
	if _, err, ok := next(); err != nil || !ok {
		t.Fatalf("got %v, %v", err, ok)
	}
	under := regexp.MustCompile(`[^0-9]([1-9][0-9]*)` + of)
	moved := func() []string { return under.FindStringSubmatch(s.text()) }
	for deadline := time.Now().Add(time.Minute); moved() == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	if got := moved(); got == nil || got[1] == of[1:] {
		t.Errorf("the bar does not move: got %q in %q", got, s.text())
	}
	end()
	stop()

	s = newTerminal(t)
	if code := <-s.start(t.Context(), "census", "--snapshot", path); code != exitDone {
		t.Fatalf("exit code %d: %s", code, s.text())
	}
	s.waitFor(t, "0"+of)
	s.waitFor(t, "reading "+path)

	steps, err := file.VerifySteps(t.Context())
	if err != nil || steps <= total {
		t.Fatalf("got %d steps of a check of %d pages with keys, %v", steps, total, err)
	}
	s = newTerminal(t)
	if code := <-s.start(t.Context(), "census", "--verify", "--snapshot", path); code != exitDone {
		t.Fatalf("exit code %d: %s", code, s.text())
	}
	s.waitFor(t, "verifying "+path)
	s.waitFor(t, "0/"+strconv.FormatInt(steps, 10))
	s.waitFor(t, "reading "+path)
}
