// Command prebuild builds the programs that tests run into their cache folder
// ahead of the tests, so that no test's time limit includes a build.
//
//	go run ./test/prebuild [-path PROGRAM] NAME...
//
// Without names it builds all of them. With -path it prints where the program
// of the one named module is.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path := flag.String("path", "", "print the path of this `program` of the module named")
	flag.Parse()
	if err := run(ctx, *path, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "prebuild:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string, names []string) error {
	modules := testproc.Modules()
	known := slices.Sorted(maps.Keys(modules))
	if len(names) == 0 {
		names = known
	}
	for _, name := range names {
		m, ok := modules[name]
		if !ok {
			return fmt.Errorf("%s is not one of %s", name, strings.Join(known, ", "))
		}
		if path != "" {
			found, err := m.Program(ctx, path)
			if err != nil {
				return err
			}
			fmt.Println(found)
			continue
		}
		start := time.Now()
		for program := range m.Programs {
			if _, err := m.Program(ctx, program); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "%-12s ready after %.0f s\n", name, time.Since(start).Seconds())
	}
	return nil
}
