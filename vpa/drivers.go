package vpa

import "math"

// Drivers is what etcd says of the causes of its memory. Unknown numbers are NaN.
type Drivers struct {
	Keys                 float64 // live keys
	KeyBytes             float64 // mean length of a key
	Revision             float64 // current revision
	CompactRevision      float64 // revision of the last compaction
	RaftEntries          float64 // raft entries kept in memory
	PutBytes             float64 // mean size of a put
	Connections          float64 // client connections
	WatchStreams         float64
	Watchers             float64
	Members              float64 // voting members
	LargestResponse      float64 // bytes of the largest range response
	ConcurrentRanges     float64 // large ranges at the same time, p99
	DBBytes              float64 // database file
	DBInUseBytes         float64
	QuotaBytes           float64
	SnapshotsInProgress  float64
	HeapGarbageBytes     float64 // heap that is no longer live, not yet freed
	ThrottledCPUFraction float64 // share of scheduling periods that were throttled
	MemoryPressure       float64 // PSI some avg10 of memory, percent
}

func unknownDrivers() Drivers {
	n := math.NaN()
	return Drivers{n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n}
}
