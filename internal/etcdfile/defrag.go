package etcdfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.uber.org/zap"
)

// ErrRunning is returned for the database of a member that runs.
var ErrRunning = errors.New("a running etcd holds its lock: stop the member first, or defragment it over the network without --offline")

// lockWait is how long a lock is waited for: a member that runs keeps it for ever.
const lockWait = 500 * time.Millisecond

// Usage is how full a database file is.
type Usage struct {
	Path       string
	SizeBytes  int64
	InUseBytes int64 // as etcd counts it: the size without the free pages
}

// DBPath is where a member keeps its database.
func DBPath(dataDir string) string { return filepath.Join(dataDir, "member", "snap", "db") }

// ReadUsage reads how full a stopped member's database is. It changes nothing and fails with ErrRunning where an etcd
// has the file open.
func ReadUsage(dataDir string) (u Usage, err error) {
	u.Path = DBPath(dataDir)
	err = recovered(func() error {
		db, err := bbolt.Open(u.Path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockWait, PreLoadFreelist: true})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrRunning
		}
		if err != nil {
			return err
		}
		defer db.Close()
		info, err := os.Stat(u.Path)
		if err != nil {
			return err
		}
		stats := db.Stats()
		u.SizeBytes = info.Size()
		u.InUseBytes = u.SizeBytes - int64(stats.FreePageN+stats.PendingPageN)*int64(db.Info().PageSize)
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Path, err)
	}
	return u, nil
}

// Defragment rewrites the database of a stopped member. The new file is made beside the old one and takes its name in
// one step, with its owner and mode; a process that is killed leaves the old file as it was, and at most a db.tmp file
// that etcd removes when it starts.
func Defragment(dataDir string) error {
	path := DBPath(dataDir)
	// etcd's library waits for the lock for ever and ends the process on a time-out: look first.
	if _, err := ReadUsage(dataDir); err != nil {
		return err
	}
	before, err := os.Stat(path)
	if err != nil {
		return err
	}
	err = recovered(func() error {
		b := backend.NewDefaultBackend(zap.NewNop(), path, backend.WithTimeout(lockWait))
		defer b.Close()
		return b.Defrag()
	})
	if err != nil {
		return fmt.Errorf("defragment %s: %w", path, err)
	}
	return keepOwner(path, before)
}

// keepOwner gives the new file what the old one had: run as root, it would belong to root, and an etcd that runs as
// somebody else could not open it.
func keepOwner(path string, before os.FileInfo) error {
	if err := os.Chmod(path, before.Mode().Perm()); err != nil {
		return fmt.Errorf("restore the mode: %w", err)
	}
	if st, ok := before.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("restore the owner: %w", err)
		}
	}
	return nil
}
