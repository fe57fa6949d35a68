// Package etcdtest starts etcd for tests: clusters of real processes of the
// supported versions, built from the modules under test/etcd, and a single
// member inside the test's own process for tests that run under -short.
//
// Nothing that it starts outlives the test, and real servers are skipped under
// -short only. Methods that take a TB end the test on an error.
package etcdtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// TB is what a test, a benchmark or a program standing in for one offers.
type TB = testproc.TB

// The versions that a cluster can be made of, as Options.Versions names them.
const (
	V35 = "3.5"
	V36 = "3.6"
	V37 = "3.7"
)

// Versions returns every supported version, the oldest first.
func Versions() []string { return slices.Sorted(maps.Keys(testproc.Etcd())) }

// Binary returns the path of etcd, etcdctl or etcdutl of a version ("3.6"). The
// first use on a machine builds them, in about a minute.
func Binary(tb TB, version, program string) string {
	tb.Helper()
	testproc.RequireReal(tb)
	m, ok := testproc.Etcd()[version]
	if !ok {
		tb.Fatalf("etcd %s: not one of %s", version, strings.Join(Versions(), ", "))
	}
	path, err := m.Program(tb.Context(), program)
	if err != nil {
		tb.Fatalf("etcd %s: %v", version, err)
	}
	return path
}

func loopback(scheme string, port int) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
}
