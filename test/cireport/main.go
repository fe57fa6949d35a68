// Command cireport reads the output of "go test -json" of suites in which
// nothing may be skipped. It prints the lines that go test itself would print,
// the whole output of what failed, the slowest tests, and a last line
//
//	N passed, N failed, N skipped
//
// It exits with 1 if anything failed or was skipped, if a package did not
// build, or if nothing ran at all.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	summary := flag.String("summary", "", "also write the last line to this `file`")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *summary); err != nil {
		fmt.Fprintln(os.Stderr, "cireport:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, summary string) error {
	r := newReport(out)
	if err := r.read(in); err != nil {
		return err
	}
	verdict := r.finish()
	if summary != "" {
		if err := os.WriteFile(summary, []byte(r.summary()+"\n"), 0o644); err != nil {
			return err
		}
	}
	return verdict
}
