// Package kubetest starts a real Kubernetes control plane for tests: the API
// server on loopback over an etcd that the test brings along and, where asked
// for, the controller manager. They are built from the module test/apiserver.
//
// There is no kubelet and no scheduler: pods stay as they are written. Nothing
// that it starts outlives the test, and it is skipped under -short only.
package kubetest

import (
	"context"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// TB is what a test, a benchmark or a program standing in for one offers.
type TB = testproc.TB

const (
	// startTimeout bounds the wait for the API server. A start takes ten to
	// twenty seconds on two idle cores.
	startTimeout = 3 * time.Minute
	logTail      = 60
)

// Binary returns the path of kube-apiserver, kube-controller-manager, kubectl or
// kubeadm. The first use on a machine builds them, in about five minutes.
func Binary(tb TB, program string) string {
	tb.Helper()
	testproc.RequireReal(tb)
	path, err := testproc.Kubernetes().Program(tb.Context(), program)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return path
}

// pause waits between two tries and says whether there is time for another.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}
