package defrag

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// snapshotter serves the same bytes for every member, and an error behind them.
type snapshotter struct {
	*fake
	data []byte
	end  error
	from string
}

func (s *snapshotter) Snapshot(_ context.Context, m cluster.Member) (io.ReadCloser, error) {
	s.from = m.Name
	var r io.Reader = bytes.NewReader(s.data)
	if s.end != nil {
		r = io.MultiReader(r, errorReader{s.end})
	}
	return io.NopCloser(r), nil
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// realSnapshot is what a real etcd streams.
func realSnapshot(t *testing.T) []byte {
	t.Helper()
	cl := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	if _, err := cl.Put(t.Context(), "/a", strings.Repeat("x", 10_000)); err != nil {
		t.Fatal(err)
	}
	r, err := cl.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func snapshotRun(t *testing.T, s *snapshotter, dir string, keep int) (Report, error) {
	t.Helper()
	c := DefaultConfig()
	c.SnapshotDir, c.SnapshotKeep, c.Settle = dir, keep, 0
	r, err := NewRunner(s, c, Options{Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	r.t.stableStep, r.t.poll = time.Millisecond, time.Millisecond
	return r.Run(t.Context())
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestRunner_Snapshot(t *testing.T) {
	data := realSnapshot(t)
	t.Run("saved, checked, the newest kept", func(t *testing.T) {
		dir := t.TempDir()
		for _, old := range []string{"etcdkeeper-20200101T000000Z.db", "etcdkeeper-20210101T000000Z.db", "mine.db", ".etcdkeeper-123.tmp"} {
			if err := os.WriteFile(filepath.Join(dir, old), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := &snapshotter{fake: newFake(t), data: data}
		rep, err := snapshotRun(t, s, dir, 2)
		if err != nil || rep.Outcome != Done {
			t.Fatalf("got %+v, %v", rep, err)
		}
		if err := etcdfile.CheckSnapshot(rep.Snapshot); err != nil {
			t.Errorf("the saved snapshot: %v", err)
		}
		if s.from != "m3" {
			t.Errorf("taken from %s, want the follower with the most room, m3", s.from)
		}
		got := strings.Join(names(t, dir), " ")
		if want := "etcdkeeper-20210101T000000Z.db " + filepath.Base(rep.Snapshot) + " mine.db"; got != want {
			t.Errorf("left: %s, want %s", got, want)
		}
	})
	damaged := bytes.Clone(data)
	damaged[len(damaged)/2] ^= 1
	for name, tt := range map[string]struct {
		data []byte
		end  error
		dir  func(t *testing.T) string
		want string
	}{
		"cut":            {data: data[:len(data)-5000], want: "cut"},
		"damaged":        {data: damaged, want: "checksum"},
		"stream breaks":  {data: data[:100], end: errors.New("connection reset"), want: "connection reset"},
		"no such folder": {data: data, dir: func(t *testing.T) string { return filepath.Join(t.TempDir(), "absent") }, want: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.dir != nil {
				dir = tt.dir(t)
			}
			s := &snapshotter{fake: newFake(t), data: tt.data, end: tt.end}
			rep, err := snapshotRun(t, s, dir, 2)
			if err == nil || rep.Outcome != Failed || !strings.Contains(rep.Reason, tt.want) {
				t.Errorf("got %s %q, %v; want a failure with %q", rep.Outcome, rep.Reason, err, tt.want)
			}
			s.want(t, "lock")
			if tt.dir == nil && len(names(t, dir)) != 0 {
				t.Errorf("left behind: %v", names(t, dir))
			}
		})
	}
}
