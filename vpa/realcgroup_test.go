package vpa

import (
	"bytes"
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

// A folder of the kernel's own, as far as the machine allows one: its files are
// those that the recorded ones in testdata have, memory's only where the memory
// controller is on cgroup v2.
func TestReal_CgroupV2(t *testing.T) {
	testproc.RequireReal(t)
	mount := cgroup2Mount(t)
	dir := filepath.Join(mount, fmt.Sprintf("etcdkeeper-test-%d", os.Getpid()))
	if mount == "" {
		t.Skip("cgroup v2 is not mounted: the recorded folder alone is tested")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup may be made here: the recorded folder alone is tested: %v", err)
	}
	t.Cleanup(func() {
		within(t, "the cgroup is empty and goes", func() bool { return os.Remove(dir) == nil })
	})
	const limit = 256 << 20
	memory := os.WriteFile(filepath.Join(dir, "memory.max"), fmt.Append(nil, limit), 0o600) == nil

	busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Process.Kill(); _ = busy.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, busy.Process.Pid), 0o600); err != nil {
		t.Skipf("no process may be moved here: the recorded folder alone is tested: %v", err)
	}
	before, err := ReadCgroup(dir)
	if err != nil || !known(before.CPU) {
		t.Fatalf("got %+v, %v, want its CPU use at least", before, err)
	}
	within(t, "the process's CPU use is in the folder", func() bool {
		now, err := ReadCgroup(dir)
		return err == nil && now.CPU > before.CPU+0.05
	})
	found, err := FindCgroup("/proc", mount, busy.Process.Pid)
	if !memory {
		if err == nil || !strings.Contains(err.Error(), "cgroup v1") {
			t.Errorf("without the memory controller: got %q, %v, want that to be said", found, err)
		}
		return
	}
	if err != nil || found != dir {
		t.Errorf("got the folder %q, %v, want %s", found, err, dir)
	}
	if before.Max != limit || !known(before.Current) || before.OOMKills != 0 {
		t.Errorf("got %+v, want a limit of %d and no kill", before, limit)
	}
}
