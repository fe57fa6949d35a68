package vpa

import "math"

// Drivers is what etcd says of the causes of its memory. Unknown numbers are NaN.
type Drivers struct {
	Version          string  // "3.6.16", "" where not known
	Keys             float64 // live keys
	Revision         float64 // current revision
	CompactRevision  float64 // revision of the last compaction
	AppliedEntries   float64 // raft entries applied since the first start
	PutBytes         float64 // mean size of the puts since the sample before
	WatchStreams     float64
	Watchers         float64
	DBBytes          float64 // database file
	DBInUseBytes     float64
	QuotaBytes       float64
	SentBytes        float64 // bytes sent to clients since the sample before
	RangesInFlight   float64
	SnapshotsSending float64 // snapshot streams to clients
	HeapAlloc        float64 // live heap and garbage not yet freed
	HeapGarbage      float64 // HeapAlloc without the live heap
	Throttled        float64 // share of scheduling periods that were throttled
	Pressure         float64 // PSI some avg10 of memory, percent
}

func unknownDrivers() Drivers {
	n := math.NaN()
	return Drivers{
		Keys: n, Revision: n, CompactRevision: n, AppliedEntries: n, PutBytes: n, WatchStreams: n, Watchers: n,
		DBBytes: n, DBInUseBytes: n, QuotaBytes: n, SentBytes: n, RangesInFlight: n, SnapshotsSending: n,
		HeapAlloc: n, HeapGarbage: n, Throttled: n, Pressure: n,
	}
}

// Driver is a cause of etcd's memory.
type Driver string

// The drivers of the model, and the two that it does not know.
const (
	DriverIndex    Driver = "index"
	DriverRaft     Driver = "raft"
	DriverWatch    Driver = "watch"
	DriverRange    Driver = "range"
	DriverSnapshot Driver = "snapshot"
	DriverDatabase Driver = "database"
	DriverUnknown  Driver = "unknown"
)

// AllDrivers is every driver in the order of reports.
func AllDrivers() []Driver {
	return []Driver{DriverIndex, DriverRaft, DriverWatch, DriverRange, DriverSnapshot, DriverDatabase, DriverUnknown}
}
