package defrag

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(offlineChild); dir != "" {
		defragmentForEver(dir)
	}
	goleak.VerifyTestMain(m)
}
