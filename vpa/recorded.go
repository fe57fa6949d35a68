package vpa

import (
	"math"
	"time"
)

// RecordedReading is a Reading of a row of an etcd recording, whose columns are
// those that test/bench/vpamodel writes. Columns that are missing or NaN are
// not known.
func RecordedReading(columns map[string]float64) Reading {
	row := func(name string) float64 {
		if v, ok := columns[name]; ok {
			return v
		}
		return math.NaN()
	}
	at := time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(row("second") * float64(time.Second)))
	p := Process{PID: 1, Anon: row("anon"), File: row("file"), CPU: row("cpu_seconds")}
	d := unknownDrivers()
	d.Keys, d.Revision, d.CompactRevision, d.AppliedEntries = row("keys"), row("revision"), row("compact_revision"), row("applied")
	d.WatchStreams, d.Watchers, d.DBBytes, d.DBInUseBytes, d.QuotaBytes = row("watch_streams"), row("watchers"), row("db"), row("db_in_use"), row("quota")
	d.RangesInFlight, d.SnapshotsSending = row("ranges"), row("snapshots")
	m := EtcdMetrics{
		Resident: row("anon") + row("file"), CPU: row("cpu_seconds"), GoAnon: row("go_anon"), HeapAlloc: row("heap_alloc"), HeapLive: row("heap_live"),
		Puts: row("puts"), PutSize: row("put_size"), Sent: row("sent"), Drivers: d,
	}
	return Reading{Time: at, Process: &p, Etcd: &m}
}
