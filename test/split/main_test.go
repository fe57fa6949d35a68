// Package split proves with the real kube-apiserver what the splitter says: which values of the override flag are
// refused, inert or at work, that clients go on across a split, and that a split gone wrong is seen.
package split

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within waits until done, for longer than any machine should take.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	eventually(t, what, func() error {
		if !done() {
			return errors.New("it was not seen")
		}
		return nil
	})
}

// eventually tries until there is no error, for longer than any machine should take.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
