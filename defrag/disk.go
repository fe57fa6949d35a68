package defrag

import (
	"fmt"
	"os"
	"syscall"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// walRoom is what etcd's write-ahead log may need meanwhile: two of its 64 MB segments.
const walRoom = 128 << 20

// DiskNeeded is the free space that a defragmentation wants: the temporary file is what is in use and 3 to 8 % more
// (measured), 20 % to be safe, plus room for the write-ahead log.
func DiskNeeded(inUse int64) int64 { return inUse + inUse/5 + walRoom }

// noRoom is the closed gate of a volume with too little free space, nil where there is enough.
func noRoom(member string, free, inUse int64) *cluster.Refusal {
	need := DiskNeeded(inUse)
	if free >= need {
		return nil
	}
	return &cluster.Refusal{Gate: cluster.GateDisk, Member: member,
		Reason: fmt.Sprintf("%s are free on its volume, %s are needed for the new file and the write-ahead log", human(free), human(need))}
}

// MemberDisk is the free space of the one volume that this process sees (etcd.memberDataDir), by member; nil for none.
func MemberDisk(cfg cluster.Config, v cluster.View) map[cluster.ID]int64 {
	if cfg.MemberDataDir == "" {
		return nil
	}
	m, ok := v.Beside(cfg)
	if !ok {
		return nil
	}
	free, err := DiskFree(cfg.MemberDataDir)
	if err != nil {
		free = 0 // a volume that cannot be read has no room
	}
	return map[cluster.ID]int64{m.ID: free}
}

// DiskFree is the free space, in bytes, for an unprivileged user on the volume of path.
func DiskFree(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
