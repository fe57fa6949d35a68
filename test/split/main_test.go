// Package split proves with the real kube-apiserver what the splitter says: which values of the override flag are
// refused, inert or at work, that clients go on across a split, and that a split gone wrong is seen.
package split

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within waits until done, for longer than any machine should take.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
