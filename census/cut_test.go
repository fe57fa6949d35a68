package census_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// cutFile is a file that is cut to size when the reader has handed over the first entry, and so found nothing wrong.
type cutFile struct {
	*keyspace.File
	t    *testing.T
	size int64
}

func (f cutFile) Scan(ctx context.Context, r keyspace.Range) iter.Seq2[keyspace.Entry, error] {
	return func(yield func(keyspace.Entry, error) bool) {
		for e, err := range f.File.Scan(ctx, r) {
			if err := os.Truncate(f.Path(), f.size); err != nil {
				f.t.Fatal(err)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestTake_FileCutMeanwhile: what is gone when the census uses it is an error, and not the end of the process.
func TestTake_FileCutMeanwhile(t *testing.T) {
	c := etcdtest.Embed(t, etcdtest.EmbedOptions{}).Client(t)
	spec := strings.Repeat("long ", 40_000) // passed over on the way to the metadata
	value := fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Widget","spec":{"a":%q},"metadata":{"name":"a"}}`, spec)
	if _, err := c.Put(t.Context(), "/registry/example.com/widgets/default/a", value); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]func(data []byte) int{
		// The last page that is left reads as zeros behind a cut within it: only where the cut is between pages is there a fault.
		"between the pages of a value": func(data []byte) int { return (bytes.Index(data, []byte(value)) + 64<<10) &^ (os.Getpagesize() - 1) },
		"within a page of a value":     func(data []byte) int { return (bytes.Index(data, []byte(value))+64<<10)&^(os.Getpagesize()-1) + 100 },
		"at a key":                     func([]byte) int { return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			path := save(t, c)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := keyspace.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			got, err := census.Take(t.Context(), cutFile{file, t, int64(at(data))}, census.Options{})
			if !errors.Is(err, keyspace.ErrDamaged) || !strings.Contains(err.Error(), path) || got != nil {
				t.Errorf("got %v and %v, want %v with the path", got, err, keyspace.ErrDamaged)
			}
		})
	}
}
