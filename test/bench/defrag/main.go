// Command defrag measures what clients notice of a rolling defragmentation of a real three-member etcd: by etcdkeeper
// and by etcdctl, in turn, on the same data and under the same load. It prints a table in Markdown.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

func main() {
	o := options{}
	flag.IntVar(&o.runs, "runs", 5, "runs of each tool")
	flag.IntVar(&o.keep, "keep", 260, "MiB in use")
	flag.IntVar(&o.drop, "drop", 480, "MiB that are free")
	flag.IntVar(&o.rate, "rate", 200, "puts a second, and reads a second, through the round-robin client")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := testproc.RunProgram(ctx, "bench-defrag", o.run)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-defrag:", err)
		os.Exit(1)
	}
}

type options struct {
	runs, keep, drop, rate int
}

func (o options) run(tb testproc.TB) {
	bin := filepath.Join(tb.TempDir(), "etcdkeeper")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "./cmd/etcdkeeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	fmt.Printf("stripped binary: %.1f MB\n\n", float64(info.Size())/1e6)
	c := etcdtest.Start(tb, etcdtest.Options{Versions: []string{"3.7", "3.7", "3.7"}})
	master := prepare(tb, c, o)
	tools := []tool{
		{"etcdkeeper defrag", bin, []string{"defrag", "--rule", "true"}},
		{"etcdctl defrag", etcdtest.Binary(tb, "3.7", "etcdctl"), []string{"defrag", "--command-timeout=120s"}},
	}
	results := make([][]result, len(tools))
	for i := range o.runs {
		for j, t := range tools {
			master.restore(tb, c)
			r := measure(tb, c, t, o)
			fmt.Fprintf(os.Stderr, "run %d, %s: %s\n", i+1, t.name, r)
			results[j] = append(results[j], r)
		}
	}
	table(tools, results)
}

// table prints the median over the runs, and the range.
func table(tools []tool, results [][]result) {
	fmt.Print("| |")
	for _, t := range tools {
		fmt.Printf(" %s |", t.name)
	}
	fmt.Print("\n|---|")
	for range tools {
		fmt.Print("---|")
	}
	fmt.Println()
	row := func(name, format string, value func(r result) float64) {
		fmt.Printf("| %s |", name)
		for _, rs := range results {
			var v []float64
			for _, r := range rs {
				v = append(v, value(r))
			}
			slices.Sort(v)
			fmt.Printf(" "+format+" ("+format+"–"+format+") |", v[len(v)/2], v[0], v[len(v)-1])
		}
		fmt.Println()
	}
	row("round-robin client, largest stall ÷ longest single defragmentation", "%.2f", func(r result) float64 { return r.robin.max() / r.longest })
	row("round-robin client, largest put, ms", "%.0f", func(r result) float64 { return 1000 * r.robin.put.Seconds() })
	row("round-robin client, largest read, ms", "%.0f", func(r result) float64 { return 1000 * r.robin.get.Seconds() })
	row("client pinned to one member, largest stall, ms", "%.0f", func(r result) float64 { return 1000 * r.pinned.max() })
	row("longest single defragmentation (the server's own figure), ms", "%.0f", func(r result) float64 { return 1000 * r.longest })
	row("failed requests, round robin", "%.0f", func(r result) float64 { return float64(r.robin.failed) })
	row("failed requests, pinned", "%.0f", func(r result) float64 { return float64(r.pinned.failed) })
	row("requests", "%.0f", func(r result) float64 { return float64(r.robin.requests + r.pinned.requests) })
	row("members in flight at once (sampled every 50 ms)", "%.0f", func(r result) float64 { return float64(r.most) })
	row("elections (terms)", "%.0f", func(r result) float64 { return float64(r.terms) })
	row("leases lost, of 50 with a TTL of 12 s", "%.0f", func(r result) float64 { return float64(r.leasesLost) })
	row("leader was the last", "%.0f", func(r result) float64 { return r.leaderLast })
	row("MiB given back", "%.0f", func(r result) float64 { return float64(r.reclaimed) / (1 << 20) })
	row("whole run, s", "%.1f", func(r result) float64 { return r.seconds })
	row("the tool's peak memory, MiB", "%.0f", func(r result) float64 { return float64(r.peak) / (1 << 20) })
}
