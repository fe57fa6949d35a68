package vpa

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// cgroup2Mount is where cgroup v2 is mounted, "" where it is not.
func cgroup2Mount(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		before, after, _ := strings.Cut(string(line), " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			return f[4]
		}
	}
	return ""
}

// busyCgroup makes a cgroup of the kernel's own with a busy process in it, and says whether it limits memory, which it
// does only where the memory controller is on cgroup v2. Why says what the machine does not allow.
func busyCgroup(t *testing.T, mount string) (dir string, pid int, memory bool, why error) {
	t.Helper()
	if mount == "" {
		return "", 0, false, errors.New("cgroup v2 is not mounted")
	}
	dir = filepath.Join(mount, fmt.Sprintf("etcdkeeper-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", 0, false, err
	}
	t.Cleanup(func() {
		within(t, "the cgroup is empty and goes", func() bool { return os.Remove(dir) == nil })
	})
	memory = os.WriteFile(filepath.Join(dir, "memory.max"), fmt.Append(nil, cgroupLimit), 0o600) == nil
	busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Process.Kill(); _ = busy.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, busy.Process.Pid), 0o600); err != nil {
		return "", 0, false, err
	}
	return dir, busy.Process.Pid, memory, nil
}

const cgroupLimit = 256 << 20

// A folder of the kernel's own where the machine allows one, else the recorded one.
func TestReal_CgroupV2(t *testing.T) {
	testproc.RequireReal(t)
	mount := cgroup2Mount(t)
	dir, pid, memory, why := busyCgroup(t, mount)
	if why != nil {
		t.Logf("the recorded folder stands for one of the kernel's: %v", why)
		wantRecordedCgroup(t)
		return
	}
	before, err := ReadCgroup(dir)
	if err != nil || !known(before.CPU) {
		t.Fatalf("got %+v, %v, want its CPU use at least", before, err)
	}
	within(t, "the process's CPU use is in the folder", func() bool {
		now, err := ReadCgroup(dir)
		return err == nil && now.CPU > before.CPU+0.05
	})
	found, err := FindCgroup("/proc", mount, pid)
	if !memory {
		if err == nil || !strings.Contains(err.Error(), "cgroup v1") {
			t.Errorf("without the memory controller: got %q, %v, want that to be said", found, err)
		}
		return
	}
	if err != nil || found != dir {
		t.Errorf("got the folder %q, %v, want %s", found, err, dir)
	}
	if before.Max != cgroupLimit || !known(before.Current) || before.OOMKills != 0 {
		t.Errorf("got %+v, want a limit of %d and no kill", before, cgroupLimit)
	}
}
