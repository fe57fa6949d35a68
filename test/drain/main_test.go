//go:build linux

// Package drain proves, in network namespaces, that clients of a member are turned away while it is defragmented, and
// that nothing of it stays whatever dies.
package drain

import (
	"flag"
	"os"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/netnstest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	netnstest.Enter()
	code := m.Run()
	netnstest.CleanUp()
	os.Exit(code)
}
