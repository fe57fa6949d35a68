package etcdfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ErrRunning is returned for the database of a member that runs.
var ErrRunning = errors.New("a running etcd holds its lock: stop the member first, or defragment it over the network without --offline")

// lockWait is how long a lock is waited for: a member that runs keeps it for ever.
const lockWait = 500 * time.Millisecond

// Usage is how full a database file is.
type Usage struct {
	Path       string
	SizeBytes  int64
	InUseBytes int64 // the size without the free pages
}

// DBPath is where a member keeps its database.
func DBPath(dataDir string) string { return filepath.Join(dataDir, "member", "snap", "db") }

// ReadUsage reads how full a stopped member's database is. It changes nothing and fails with ErrRunning where an etcd
// has the file open.
func ReadUsage(ctx context.Context, dataDir string) (Usage, error) {
	u := Usage{Path: DBPath(dataDir)}
	d, err := openStopped(u.Path)
	if err != nil {
		return u, err
	}
	defer d.Close()
	p, err := d.Pages(ctx)
	if err != nil {
		return u, err
	}
	u.SizeBytes = d.FileSize()
	u.InUseBytes = u.SizeBytes - p.Free
	return u, nil
}

// openStopped opens a member's database for reading. The file is not there: fs.ErrNotExist; a member runs: ErrRunning.
func openStopped(path string) (*DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	d, err := Open(path)
	switch {
	case errors.Is(err, ErrInUse):
		return nil, fmt.Errorf("%s: %w", path, ErrRunning)
	case err != nil:
		return nil, err
	case d.Snapshot():
		return nil, errors.Join(fmt.Errorf("%s is a snapshot, not a member's database: restore it with 'etcdutl snapshot restore'", path), d.Close())
	}
	return d, nil
}

// Defragment rewrites the database of a stopped member. The new file is made beside the old one, with the old one's
// owner, and takes its name in one step; a process that is killed leaves the old file as it was, and at most a db.tmp
// file that etcd removes when it starts. A file that is cut or damaged is left alone: every page is read first.
func Defragment(ctx context.Context, dataDir string) error {
	path := DBPath(dataDir)
	// etcd's library waits for the lock for ever, ends the process on a time-out and faults on a damaged file: look first.
	d, err := openStopped(path)
	if err != nil {
		return err
	}
	_, err = d.Verify(ctx)
	if cerr := d.Close(); !errors.Is(err, ErrNoChecksum) {
		return errors.Join(err, cerr)
	}
	before, err := os.Stat(path)
	if err != nil {
		return err
	}
	err = asOwner(before, func() error {
		// etcd's library would say only that it cannot open it.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("as its owner: %w", err)
		}
		if err := f.Close(); err != nil {
			return err
		}
		// Where etcd's library would end the process, it panics instead, and that is made an error.
		log := zap.NewNop().WithOptions(zap.WithFatalHook(zapcore.WriteThenPanic))
		return recovered(func() error {
			b := backend.NewDefaultBackend(log, path, backend.WithTimeout(lockWait))
			if err := b.Defrag(); err != nil {
				return errors.Join(err, b.Close())
			}
			return b.Close()
		})
	})
	if err != nil {
		return fmt.Errorf("defragment %s: %w", path, err)
	}
	if _, gid, ok := owner(before); ok {
		_ = os.Chown(path, -1, gid) // as far as this user may: the owner can open the file either way
	}
	if err := os.Chmod(path, before.Mode().Perm()); err != nil {
		return fmt.Errorf("defragment %s: restore the mode: %w", path, err)
	}
	return nil
}

// owner of a file; false where the system does not say.
func owner(info os.FileInfo) (uid, gid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), int(st.Gid), true
}

// errNotOwner: the new file would belong to somebody as whom etcd could not open it.
func errNotOwner(uid int) error {
	return fmt.Errorf("the database belongs to user %d, and a new one would not: run this as that user, or as root", uid)
}
