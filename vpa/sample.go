package vpa

import (
	"math"
	"time"
)

// Sample is what is known of the etcd process at one time. A number that is not
// known is NaN: start from NewSample.
type Sample struct {
	Time time.Time
	// Memory is what counts against the memory limit, in bytes, where anonymous
	// and file memory cannot be told apart.
	Memory float64
	// Anon is anonymous memory in bytes: Go's heap and stacks.
	Anon float64
	// File is mapped file memory in bytes: the database's pages, which the
	// kernel can take back.
	File float64
	// LiveHeap is the heap that the last garbage collection found in use.
	LiveHeap float64
	// CPU is the processor use in cores since the sample before.
	CPU float64
	// Limit is the memory limit in force, in bytes.
	Limit float64
	// OOM says that the process was killed for memory since the sample before.
	// The memory of such a sample is a floor of what was wanted.
	OOM bool
	// Restart says that the process started anew since the sample before.
	Restart bool
	// Drivers is what etcd says of the causes of its memory.
	Drivers Drivers
}

// NewSample returns a sample of time t in which nothing is known.
func NewSample(t time.Time) Sample {
	n := math.NaN()
	return Sample{Time: t, Memory: n, Anon: n, File: n, LiveHeap: n, CPU: n, Limit: n, Drivers: unknownDrivers()}
}

// Demand is the memory that the limit must hold at least: anonymous memory
// where it is known apart, else all of it. It is NaN when neither is known.
func (s Sample) Demand() float64 {
	if known(s.Anon) {
		return s.Anon
	}
	return s.Memory
}

// known says whether v is a number that can be a size: not NaN, not infinite,
// not negative.
func known(v float64) bool { return finite(v) && v >= 0 }
