package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
)

// ErrTargetExists is returned for a data directory that is already there.
var ErrTargetExists = errors.New("the data directory exists already: remove it, or name another one")

// ShardOptions say what a new member's data directory is made of.
type ShardOptions struct {
	Snapshot string   // a snapshot file, or a stopped member's db
	Prefixes []string // of the keys that are taken over; none: an empty keyspace
	DataDir  string   // must not exist

	Name           string
	PeerURLs       []string
	InitialCluster string
	Token          string

	// Revision is what the new cluster starts at. It must be above every one of the snapshot.
	Revision int64
}

// Shard is what MakeShard made.
type Shard struct {
	Keys  int64 // taken over
	Bytes int64 // of their keys and values
	Size  int64 // of the database file
}

// revisionBytes is the length of a revision as a key of the key bucket; a tombstone has one byte more.
const revisionBytes = 17

// MakeShard makes the data directory of a new member: the newest revision of the keys with one of the prefixes, with
// the leases attached to them, moved into a cluster of its own by etcdutl's restore, at the given revision and marked as
// compacted there. Every other key is left out; users and roles are kept. Nothing is left behind where it fails.
func MakeShard(ctx context.Context, o ShardOptions) (s Shard, err error) {
	if _, err := os.Lstat(o.DataDir); err == nil {
		return s, fmt.Errorf("make data directory %s: %w", o.DataDir, ErrTargetExists)
	} else if !errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("make data directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.DataDir), 0o755); err != nil {
		return s, fmt.Errorf("make data directory: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(o.DataDir), "."+filepath.Base(o.DataDir)+".partial-")
	if err != nil {
		return s, fmt.Errorf("make data directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	reduced := filepath.Join(work, "reduced.db")
	latest, s, err := reduce(ctx, o.Snapshot, reduced, o.Prefixes)
	if err != nil {
		return s, fmt.Errorf("read snapshot %s: %w", o.Snapshot, err)
	}
	if o.Revision <= latest {
		return s, fmt.Errorf("revision %d is not above the snapshot's %d", o.Revision, latest)
	}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	kept, err := latestRevision(reduced)
	if err != nil {
		return s, err
	}
	dir := filepath.Join(work, "data")
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: reduced, Name: o.Name, OutputDataDir: dir, PeerURLs: o.PeerURLs, InitialCluster: o.InitialCluster, InitialClusterToken: o.Token,
		SkipHashCheck: true, // the source's was checked by the caller, and this file is not it
		RevisionBump:  uint64(o.Revision - kept), MarkCompacted: true,
	})
	if err != nil {
		return s, fmt.Errorf("restore into %s: %w", o.DataDir, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "member", "snap", "db")); err == nil {
		s.Size = info.Size()
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return s, fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Rename(dir, o.DataDir); err != nil {
		return s, fmt.Errorf("make data directory: %w", err)
	}
	return s, nil
}

// left lists the buckets whose content stays behind: keys and leases are chosen, alarms are of main's members.
var left = map[string]bool{"key": true, "lease": true, "alarm": true, "members": true, "members_removed": true}

// reduce copies a database without the keys that have none of the prefixes, and says which revision was the source's
// latest.
func reduce(ctx context.Context, from, to string, prefixes []string) (latest int64, s Shard, err error) {
	src, err := bolt.Open(from, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return 0, s, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := bolt.Open(to, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return 0, s, err
	}
	defer func() { err = errors.Join(err, dst.Sync(), dst.Close()) }()
	err = src.View(func(in *bolt.Tx) error {
		return dst.Update(func(out *bolt.Tx) error {
			if in.Bucket([]byte("key")) == nil || in.Bucket([]byte("meta")) == nil {
				return errors.New("it is no etcd database: its buckets are missing")
			}
			if err := copyBuckets(in, out); err != nil {
				return err
			}
			var err error
			latest, s, err = copyKeys(ctx, in, out, prefixes)
			return err
		})
	})
	return latest, s, err
}

func copyBuckets(in, out *bolt.Tx) error {
	return in.ForEach(func(name []byte, b *bolt.Bucket) error {
		nb, err := out.CreateBucketIfNotExists(name)
		if err != nil || left[string(name)] {
			return err
		}
		return b.ForEach(func(k, v []byte) error { return nb.Put(k, v) })
	})
}

// copyKeys takes over the newest revision of each wanted key that lives.
func copyKeys(ctx context.Context, in, out *bolt.Tx, prefixes []string) (latest int64, s Shard, err error) {
	src, dst := in.Bucket([]byte("key")), out.Bucket([]byte("key"))
	dst.FillPercent = 0.9 // as etcd fills it: keys come in order
	c := src.Cursor()
	if k, _ := c.Last(); len(k) >= revisionBytes {
		latest = int64(binary.BigEndian.Uint64(k[:8]))
	}
	if len(prefixes) == 0 {
		return latest, s, nil
	}
	seen := map[string]bool{}
	var wanted [][]byte
	n := 0
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return latest, s, ctx.Err()
		}
		if len(k) < revisionBytes {
			return latest, s, fmt.Errorf("a revision of %d bytes: %w", len(k), ErrDamaged)
		}
		key, _, ok := keyAndLease(v)
		if !ok {
			return latest, s, fmt.Errorf("revision %d cannot be decoded: %w", binary.BigEndian.Uint64(k[:8]), ErrDamaged)
		}
		if !hasPrefix(key, prefixes) || seen[string(key)] {
			continue
		}
		seen[string(key)] = true
		if len(k) == revisionBytes { // else it was deleted
			wanted = append(wanted, bytes.Clone(k))
		}
	}
	leases, newLeases := in.Bucket([]byte("lease")), out.Bucket([]byte("lease"))
	for i := len(wanted) - 1; i >= 0; i-- {
		v := src.Get(wanted[i])
		if err := dst.Put(wanted[i], v); err != nil {
			return latest, s, err
		}
		s.Keys++
		s.Bytes += int64(len(v))
		if _, id, _ := keyAndLease(v); id != 0 && leases != nil && newLeases != nil {
			k := binary.BigEndian.AppendUint64(nil, uint64(id))
			if lease := leases.Get(k); lease != nil {
				if err := newLeases.Put(k, lease); err != nil {
					return latest, s, err
				}
			}
		}
	}
	return latest, s, nil
}

func hasPrefix(key []byte, prefixes []string) bool {
	for _, p := range prefixes {
		if len(key) >= len(p) && string(key[:len(p)]) == p {
			return true
		}
	}
	return false
}

// keyAndLease reads an mvccpb.KeyValue's key (1) and lease (6). The value of a bumped revision is empty.
func keyAndLease(b []byte) (key []byte, lease int64, ok bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, 0, false
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.BytesType:
			if key, n = protowire.ConsumeBytes(b); n < 0 {
				return nil, 0, false
			}
		case num == 6 && typ == protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return nil, 0, false
			}
			lease = int64(v)
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return nil, 0, false
			}
		}
		b = b[n:]
	}
	return key, lease, true
}

// latestRevision is the newest one in a database, 0 for none.
func latestRevision(path string) (rev int64, err error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket([]byte("key")).Cursor().Last(); len(k) >= 8 {
			rev = int64(binary.BigEndian.Uint64(k[:8]))
		}
		return nil
	})
	return rev, err
}
