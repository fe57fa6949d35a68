package defrag

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
)

// Snapshotter streams a member's database.
type Snapshotter interface {
	Snapshot(ctx context.Context, m cluster.Member) (io.ReadCloser, error)
}

const (
	snapshotPrefix = "etcdkeeper-"
	snapshotSuffix = ".db"
	snapshotTemp   = ".etcdkeeper-"
)

// snapshot saves the database before the first member is touched. A snapshot that does not succeed stops the run.
func (s *run) snapshot(ctx context.Context) error {
	if s.cfg.SnapshotDir == "" {
		return nil
	}
	v, err := s.open(ctx)
	if err != nil {
		return err
	}
	m, err := roomiest(v)
	if err != nil {
		return fmt.Errorf("snapshot before the run: %w", err)
	}
	name := snapshotPrefix + s.start.UTC().Format("20060102T150405Z") + snapshotSuffix
	path := filepath.Join(s.cfg.SnapshotDir, name)
	s.opts.Log.Info("saving a snapshot", "member", m.String(), "path", path)
	if err := s.saveSnapshot(ctx, m, path); err != nil {
		return fmt.Errorf("snapshot of member %s to %s: %w: nothing was defragmented (make room there, or set defrag.snapshotDir to \"\")", m, path, err)
	}
	s.plan.Snapshot = path
	if err := keepNewest(s.cfg.SnapshotDir, s.cfg.SnapshotKeep); err != nil {
		s.plan.note("old snapshots were not all removed: " + err.Error())
	}
	return nil
}

// roomiest is the follower whose file is the furthest from its quota, so the one that sending disturbs least; the
// leader where there is no other.
func roomiest(v cluster.View) (cluster.Member, error) {
	var candidates []cluster.Member
	for _, m := range v.Voters() {
		if m.Reachable {
			candidates = append(candidates, m)
		}
	}
	if len(candidates) == 0 {
		return cluster.Member{}, errors.New("no member answers")
	}
	room := func(m cluster.Member) int64 {
		if m.Quota == nil {
			return -m.DBSize
		}
		return *m.Quota - m.DBSize
	}
	slices.SortStableFunc(candidates, func(a, b cluster.Member) int {
		if a.Leader != b.Leader {
			if b.Leader {
				return -1
			}
			return 1
		}
		return cmp.Compare(room(b), room(a))
	})
	return candidates[0], nil
}

// saveSnapshot writes to a temporary file, checks it, and gives it its name only then.
func (s *run) saveSnapshot(ctx context.Context, m cluster.Member, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), snapshotTemp+"*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	defer f.Close()
	r, err := s.c.Snapshot(ctx, m)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := etcdfile.CheckSnapshot(f.Name()); err != nil {
		return fmt.Errorf("the saved snapshot is not whole: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// keepNewest removes all but the newest n snapshots that runs have made; their names sort by time.
func keepNewest(dir string, n int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	var errs []error
	for _, e := range entries {
		// What a run left that was killed while it saved.
		if strings.HasPrefix(e.Name(), snapshotTemp) && strings.HasSuffix(e.Name(), ".tmp") {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
		if strings.HasPrefix(e.Name(), snapshotPrefix) && strings.HasSuffix(e.Name(), snapshotSuffix) && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for i := 0; i < len(names)-n; i++ {
		errs = append(errs, os.Remove(filepath.Join(dir, names[i])))
	}
	return errors.Join(errs...)
}
