package etcdfile

import (
	"os"
	"runtime"
	"syscall"
)

// asOwner calls f so that the files it makes belong to the owner of the file that info is of. It changes the identity
// of one thread for file accesses only: a file that is handed over afterwards would belong to root, and be closed to
// etcd, where the process is killed in between.
func asOwner(info os.FileInfo, f func() error) error {
	uid, gid, ok := owner(info)
	if !ok || uid == os.Geteuid() && gid == os.Getegid() {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The group first, and back last: without root's identity it could not be changed.
	_ = syscall.Setfsgid(gid)
	_ = syscall.Setfsuid(uid)
	defer func() {
		_ = syscall.Setfsuid(os.Geteuid())
		_ = syscall.Setfsgid(os.Getegid())
	}()
	if !filesBelongTo(uid) {
		return errNotOwner(uid)
	}
	return f()
}

// filesBelongTo tells whether files that this thread makes belong to uid. The system call reports no error: it answers
// what was in force before, and -1 changes nothing.
func filesBelongTo(uid int) bool {
	was, _, _ := syscall.RawSyscall(syscall.SYS_SETFSUID, ^uintptr(0), 0, 0)
	return int(was) == uid
}
