//go:build unix

package embedded

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup keeps a member out of the terminal's foreground group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

type socket int

func (s socket) Close() error { return unix.Close(int(s)) }

// reservePort binds a free loopback port without listening on it, and keeps it bound. Only a socket of the same user
// that also sets SO_REUSEPORT, as the member does, can listen there, so nobody else gets the port in between.
func reservePort() (io.Closer, string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, "", fmt.Errorf("socket: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("set SO_REUSEPORT: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("bind: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("getsockname: %w", err)
	}
	return socket(fd), fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), nil
}

const lockName = "lock"

// lockDir makes and holds the lock that says that a cluster lives in dir. The processes that inherit the file hold it
// too.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: make its lock: %w", err)
	}
	return flock(f)
}

// relock takes the lock of a directory that somebody left behind; it fails where a process of it lives, and where
// there is no lock.
func relock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return flock(f)
}

func flock(f *os.File) (*os.File, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("embedded etcd: lock %s: %w", f.Name(), err)
	}
	return f, nil
}
