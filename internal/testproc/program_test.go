package testproc

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestRunProgram(t *testing.T) {
	var ran []string
	var dir string
	err := RunProgram(t.Context(), "bench", func(tb TB) {
		dir = tb.TempDir()
		tb.Cleanup(func() { ran = append(ran, "first") })
		tb.Cleanup(func() {
			if tb.Context().Err() == nil {
				t.Error("the context lasts into the clean-ups")
			}
			ran = append(ran, "second")
			tb.Fatalf("member 2 too")
		})
		tb.Fatalf("member %d is gone", 3)
		t.Error("Fatalf returned")
	})
	if err == nil || err.Error() != "member 3 is gone\nmember 2 too" {
		t.Errorf("got %v, want Fatalf's words", err)
	}
	if want := []string{"second", "first"}; !slices.Equal(ran, want) {
		t.Errorf("got clean-ups %v, want %v", ran, want)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the temporary folder gone", err)
	}
}

func TestRunProgram_Panic(t *testing.T) {
	cleaned := false
	err := RunProgram(context.Background(), "bench", func(tb TB) {
		tb.Cleanup(func() { cleaned = true })
		panic("oh")
	})
	if err == nil || !strings.HasPrefix(err.Error(), "panic: oh") || !cleaned {
		t.Errorf("got %v and cleaned %t, want the panic and a clean-up", err, cleaned)
	}
}

func TestRunProgram_Done(t *testing.T) {
	if err := RunProgram(t.Context(), "bench", func(TB) {}); err != nil {
		t.Error(err)
	}
}
