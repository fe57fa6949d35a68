// Package testproc runs real programs in tests: it builds them once from the
// modules under test/ into a cache folder, gives out loopback ports that
// nothing else takes, and starts processes that never outlive the test.
//
// It serves internal/etcdtest and internal/kubetest and is never part of the
// product. It works on Linux, where a child can be bound to its parent's life.
package testproc

import (
	"context"
	"testing"
)

// TB is the part of testing.TB that the launchers use, so that a benchmark
// program can stand in for a test.
type TB interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	TempDir() string
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
}

// RequireReal skips the test under -short, the only reason for which a test on
// real servers is ever skipped.
func RequireReal(tb TB) {
	tb.Helper()
	if testing.Testing() && testing.Short() {
		tb.Skip("real servers are left out under -short")
	}
}
