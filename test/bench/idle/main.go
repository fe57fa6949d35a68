// Command idle measures what the daemon costs while nothing happens: it runs the built binary beside a real three-member
// cluster, scrapes its metrics every 15 s as Prometheus would, and prints a row of a table in Markdown.
//
//	go run ./test/bench/idle -binary bin/etcdkeeper -for 10m
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// What is to be reached.
const (
	maxResident = 40 << 20 // bytes
	maxCPU      = 0.005    // of a core
)

const (
	settle = 30 * time.Second // start-up is not idling
	scrape = 15 * time.Second
	ticks  = 100 // of /proc/PID/stat in a second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	binary := flag.String("binary", "bin/etcdkeeper", "the built binary")
	duration := flag.Duration("for", 10*time.Minute, "how long to measure")
	flag.Parse()
	var result error
	err := testproc.RunProgram(ctx, "idle", func(tb testproc.TB) {
		result = measure(tb, *binary, *duration)
	})
	if err := errors.Join(err, result); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

func measure(tb testproc.TB, binary string, duration time.Duration) error {
	ctx := tb.Context()
	cluster := etcdtest.Start(tb, etcdtest.Options{})
	ports := testproc.Ports(tb, 2)
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	var log bytes.Buffer
	cmd := exec.Command(binary, append(cluster.Flags(), "run", "--listen", address, "--probe-listen", fmt.Sprintf("127.0.0.1:%d", ports[1]))...)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	began, before, err := usage(pid)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, log.String())
	}
	var most, last int64
	for time.Since(began) < duration {
		if err := scrapeOnce("http://" + address + "/metrics"); err != nil {
			return err
		}
		if last, err = status(pid, "VmRSS:"); err != nil {
			return err
		}
		most = max(most, last)
		if err := sleep(ctx, min(scrape, duration)); err != nil {
			return err
		}
	}
	ended, after, err := usage(pid)
	if err != nil {
		return err
	}
	anonymous, err := status(pid, "RssAnon:")
	if err != nil {
		return err
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	share := (after - before) / ended.Sub(began).Seconds()
	fmt.Println("| for | largest resident | resident at the end | of that not the executable's | CPU | binary |")
	fmt.Println("|---|---|---|---|---|---|")
	fmt.Printf("| %s | %.1f MiB | %.1f MiB | %.1f MiB | %.2f %% of a core | %.1f MB |\n", ended.Sub(began).Round(time.Second),
		mebi(most), mebi(last), mebi(anonymous), 100*share, float64(info.Size())/1e6)
	if most > maxResident || share > maxCPU {
		return fmt.Errorf("more than %.0f MiB or %.1f %% of a core", mebi(maxResident), 100*maxCPU)
	}
	return nil
}

func mebi(n int64) float64 { return float64(n) / (1 << 20) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func scrapeOnce(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// usage is the CPU time of a process in seconds, and when it was read.
func usage(pid int) (time.Time, float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("the daemon is gone: %w", err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return time.Now(), (user + system) / ticks, errors.Join(err1, err2)
}

// status is a size in /proc/PID/status, in bytes.
func status(pid int, name string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("the daemon is gone: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", name, pid)
}
