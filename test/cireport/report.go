package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// slowest is how many of the slowest tests are listed, to see where the time of
// a CI run goes.
const slowest = 15

// event is a line of "go test -json", as "go doc test2json" describes it.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

type name struct{ pkg, test string }

type duration struct {
	name
	seconds float64
}

type report struct {
	out     io.Writer
	pending map[name]*strings.Builder // output of tests that have not ended
	builds  map[string]*strings.Builder
	took    []duration

	passed, failed, skipped, brokenPackages int
}

func newReport(out io.Writer) *report {
	return &report{out: out, pending: map[name]*strings.Builder{}, builds: map[string]*strings.Builder{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the test output: %w", err)
		}
	}
}

func (r *report) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		// Not go test's: what a tool in between had to say.
		fmt.Fprint(r.out, line)
		return
	}
	r.event(e)
}

func (r *report) event(e event) {
	key := name{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output(key, e.Output)
	case "build-output":
		buffer(r.builds, e.ImportPath).WriteString(e.Output)
	case "build-fail":
		fmt.Fprint(r.out, buffer(r.builds, e.ImportPath).String())
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(key, e)
			return
		}
		r.endTest(key, e)
	}
}

// output keeps a test's lines until it is known how the test ends. Those of a
// package are printed at once.
func (r *report) output(key name, text string) {
	if key.test == "" {
		if text != "PASS\n" {
			fmt.Fprint(r.out, text)
		}
		return
	}
	buffer(r.pending, key).WriteString(text)
}

func (r *report) endTest(key name, e event) {
	text := buffer(r.pending, key).String()
	delete(r.pending, key)
	switch e.Action {
	case "pass":
		r.passed++
		if !strings.Contains(key.test, "/") {
			fmt.Fprintf(r.out, "--- PASS: %s (%.2fs)\n", key.test, e.Elapsed)
		}
	case "fail":
		r.failed++
		fmt.Fprint(r.out, text)
	case "skip":
		r.skipped++
		fmt.Fprint(r.out, text)
	}
	r.took = append(r.took, duration{key, e.Elapsed})
}

func (r *report) endPackage(key name, e event) {
	if e.Action != "fail" {
		return
	}
	// A test that was running when its package ended never reports: the
	// process has panicked or run out of time.
	running := 0
	for _, test := range r.running(key.pkg) {
		running++
		r.failed++
		fmt.Fprintf(r.out, "--- FAIL: %s (did not end)\n%s", test.test, buffer(r.pending, test).String())
		delete(r.pending, test)
	}
	if running == 0 {
		r.brokenPackages++
	}
}

func (r *report) running(pkg string) []name {
	var tests []name
	for key := range r.pending {
		if key.pkg == pkg {
			tests = append(tests, key)
		}
	}
	slices.SortFunc(tests, func(a, b name) int { return cmp.Compare(a.test, b.test) })
	return tests
}

func (r *report) summary() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
}

// finish prints the end of the report and returns why the run is not good.
func (r *report) finish() error {
	slices.SortStableFunc(r.took, func(a, b duration) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Fprintln(r.out, "slowest tests:")
	for _, d := range r.took[:min(slowest, len(r.took))] {
		fmt.Fprintf(r.out, "%8.1f s  %s %s\n", d.seconds, d.pkg, d.test)
	}
	fmt.Fprintln(r.out, r.summary())
	switch {
	case r.failed > 0:
		return fmt.Errorf("%d tests failed", r.failed)
	case r.brokenPackages > 0:
		return fmt.Errorf("%d packages did not build or ended badly", r.brokenPackages)
	case r.skipped > 0:
		return fmt.Errorf("%d tests were skipped, and none may be here", r.skipped)
	case r.passed == 0:
		return fmt.Errorf("no test ran")
	}
	return nil
}

func buffer[K comparable](m map[K]*strings.Builder, key K) *strings.Builder {
	b, ok := m[key]
	if !ok {
		b = &strings.Builder{}
		m[key] = b
	}
	return b
}
