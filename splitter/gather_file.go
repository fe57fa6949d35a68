package splitter

import (
	"context"
	"fmt"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// GatherFile reads the evidence of a snapshot file or a stopped member's database: sizes and, as far as its history
// reaches, rates; with o.DataDir also what that member's write-ahead log tells.
func GatherFile(ctx context.Context, path string, o GatherOptions) (Evidence, error) {
	f, err := keyspace.OpenFile(path)
	if err != nil {
		return Evidence{}, err
	}
	defer f.Close()
	e, err := Scan(ctx, f, keyspace.NewLayout(o.Prefix), ScanOptions{History: true, CompactRevision: f.Info().CompactRevision, EventTTL: o.EventTTL})
	if err != nil {
		return e, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	e.Stress.DBSizeBytes = figure(float64(f.Size()), FromSnapshot, Exact)
	if history := e.history(); history == 0 {
		e.note("the file has no history: it was compacted to its last revision")
	}
	if o.DataDir != "" {
		(&gatherer{o: o, layout: keyspace.NewLayout(o.Prefix)}).wal(ctx, &e, 0)
	}
	return e, nil
}
