// Package split proves with the real kube-apiserver what the splitter says: which values of the override flag are
// refused, inert or at work, that clients go on across a split, and that a split gone wrong is seen.
package split

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if builtIn != "" {
			_ = os.RemoveAll(builtIn)
		}
		os.Exit(code)
	}))
}

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

// builtIn is the folder of built, removed at the end.
var builtIn string

// built is the binary under test, in a folder of its own; it is built by the first test that wants it.
var built = sync.OnceValues(func() (string, error) {
	var err error
	if builtIn, err = os.MkdirTemp("", "etcdkeeper-split-"); err != nil {
		return "", err
	}
	bin := filepath.Join(builtIn, "etcdkeeper")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, "./cmd/etcdkeeper")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})

// keeper returns a function that runs the binary.
func keeper(t *testing.T) func(args ...string) (code int, out string) {
	t.Helper()
	testproc.RequireReal(t)
	bin, err := built()
	if err != nil {
		t.Fatal(err)
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
