// Package split proves with the real kube-apiserver what the splitter says: which values of the override flag are
// refused, inert or at work, that clients go on across a split, and that a split gone wrong is seen.
package split

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
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

// keeper builds the binary once a test and returns a function that runs it.
func keeper(t *testing.T) func(args ...string) (code int, out string) {
	t.Helper()
	testproc.RequireReal(t)
	bin := filepath.Join(t.TempDir(), "etcdkeeper")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, "./cmd/etcdkeeper")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return func(args ...string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, bin, args...)
		cmd.Env = append(os.Environ(), "ETCDKEEPER_LOG_LEVEL=error")
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatalf("etcdkeeper %s: %v", strings.Join(args, " "), err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
}
