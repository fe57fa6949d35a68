package keyspace

import (
	"context"
	"iter"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
)

// Errors of OpenFile and of scanning a File, for errors.Is.
var (
	// ErrInUse is returned for the database of a member that runs.
	ErrInUse = etcdfile.ErrInUse
	// ErrNotDatabase is returned for a file that etcd did not write.
	ErrNotDatabase = etcdfile.ErrNotDatabase
	// ErrDamaged is returned for a database that is cut or corrupt.
	ErrDamaged = etcdfile.ErrDamaged
	// ErrNoChecksum is returned by File.Verify for a file that carries no checksum.
	ErrNoChecksum = etcdfile.ErrNoChecksum
)

// FileInfo is what a database file says of itself.
type FileInfo = etcdfile.Info

// FilePages is how the pages of a database file are used.
type FilePages = etcdfile.Pages

// File reads the keys of a snapshot, or of the database of a stopped member. It never writes, and is safe for
// concurrent use.
type File struct {
	db   *etcdfile.DB
	info FileInfo
}

var _ Scanner = (*File)(nil)

// OpenFile opens a snapshot, the file member/snap/db of a stopped member, or that member's data directory. Close
// closes it. The errors are ErrInUse, ErrNotDatabase, ErrDamaged and those of the file system.
//
// A stopped member's database is as of its last commit: what was in its write-ahead log alone is not in it.
func OpenFile(path string) (*File, error) {
	db, err := etcdfile.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{db: db}
	if f.info, err = db.Info(); err != nil {
		_ = db.Close()
		return nil, err
	}
	return f, nil
}

// Close ends the File: entries that it yielded must not be used any more.
func (f *File) Close() error { return f.db.Close() }

// Revision is the newest revision in the file.
func (f *File) Revision() int64 { return f.info.Revision }

// Info is what the file says of itself.
func (f *File) Info() FileInfo { return f.info }

// Path is the file that is read; for a data directory, the database in it.
func (f *File) Path() string { return f.db.Path() }

// Size is the size of the file in bytes.
func (f *File) Size() int64 { return f.db.FileSize() }

// Snapshot tells whether the file was saved as a snapshot, with a checksum.
func (f *File) Snapshot() bool { return f.db.Snapshot() }

// Pages is how the file's pages are used.
func (f *File) Pages(ctx context.Context) (FilePages, error) { return f.db.Pages(ctx) }

// Integrity is the result of Verify.
type Integrity = etcdfile.Integrity

// Verify reads the whole file and compares the checksum that a snapshot carries.
func (f *File) Verify(ctx context.Context) (Integrity, error) { return f.db.Verify(ctx) }

// VerifySteps counts the steps of Verify, for a bar; Verified is how many of them are done.
func (f *File) VerifySteps(ctx context.Context) (int64, error) { return f.db.VerifySteps(ctx) }

// Verified is how many of the VerifySteps the latest Verify has done.
func (f *File) Verified() int64 { return f.db.Verified() }

// Leaves counts the pages that hold keys.
func (f *File) Leaves(ctx context.Context) (int64, error) { return f.db.Leaves(ctx) }

// Walked is how many of the Leaves the latest Scan has read.
func (f *File) Walked() int64 { return f.db.Walked() }

// Guard runs do, which reads entries of Scan in its own goroutine, and gives ErrDamaged where their bytes cannot be read:
// the file was cut meanwhile, or its disk failed. Without it that ends the process.
func (f *File) Guard(do func() error) error { return f.db.Guard(do) }

// Guarded runs do, which reads entries of s in its own goroutine: for a File in its Guard.
func Guarded(s Scanner, do func() error) error {
	if f, ok := s.(interface{ Guard(do func() error) error }); ok {
		return f.Guard(do)
	}
	return do()
}

// Scan yields entries newest first, in descending order of revision. Up to 20 bytes are kept for each key meanwhile.
// Other than the interface asks, entries stay valid until Close; they must not be written to.
func (f *File) Scan(ctx context.Context, r Range) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for rec, err := range f.db.Records(ctx, etcdfile.Query{Start: r.Start, End: r.End, History: r.History}) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			e := Entry{Key: rec.Key, Value: rec.Value, CreateRevision: rec.CreateRevision, ModRevision: rec.ModRevision,
				Version: rec.Version, Lease: rec.Lease, Tombstone: rec.Tombstone, Superseded: rec.Superseded}
			if r.KeysOnly {
				e.Value = nil
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}
