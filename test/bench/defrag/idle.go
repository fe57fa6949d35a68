package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// warmUp is left out of the measurement: starting is not idling.
const warmUp = 20 * time.Second

// idleDaemon measures a daemon that has nothing to do.
func (o options) idleDaemon(tb testproc.TB, c *etcdtest.Cluster, bin string) {
	cmd := exec.CommandContext(tb.Context(), bin, "run", "--listen", "127.0.0.1:0", "--probe-listen", "127.0.0.1:0", "--endpoints", c.Endpoints()[0])
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	time.Sleep(warmUp)
	before, start := cpu(tb, cmd.Process.Pid), time.Now()
	var peak int64
	for time.Since(start) < o.idle && tb.Context().Err() == nil {
		time.Sleep(time.Second)
		peak = max(peak, rss(tb, cmd.Process.Pid))
	}
	used := cpu(tb, cmd.Process.Pid) - before
	fmt.Printf("| idle daemon over %s | |\n|---|---|\n| resident, peak | %.1f MiB |\n| of a core | %.2f %% |\n",
		time.Since(start).Round(time.Second), float64(peak)/(1<<20), 100*used.Seconds()/time.Since(start).Seconds())
}

func rss(tb testproc.TB, pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatalf("%v", err)
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	tb.Fatalf("no VmRSS of process %d", pid)
	return 0
}

// cpu is what the process has used, in clock ticks of 10 ms.
func cpu(tb testproc.TB, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatalf("%v", err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var user, system int64
	_, uerr := fmt.Sscan(fields[11], &user)
	_, serr := fmt.Sscan(fields[12], &system)
	if uerr != nil || serr != nil {
		tb.Fatalf("read /proc/%d/stat: %v %v", pid, uerr, serr)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
