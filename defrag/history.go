package defrag

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

const (
	// RecordsDir holds the reports of the last runs, under cluster.Root.
	RecordsDir = "runs"
	// KeepRecords is how many of them are kept.
	KeepRecords = 32

	// SeedSecondsPerGiB predicts a defragmentation until the cluster's own history does. Published and measured times
	// are 5 to 10 s per GiB in use.
	SeedSecondsPerGiB = 10.0
	// fixedSeconds is what a defragmentation takes whatever the size.
	fixedSeconds = 0.1
	// HashSecondsPerGiB is how long HashKV makes a member wait (measured: 0.25 to 0.34 s at 1.3 GiB in use).
	HashSecondsPerGiB = 0.25
	// A rate is learnt only from what is large enough to measure.
	learnFrom = 16 << 20
	// rateSamples is how many of a member's last defragmentations its rate is the median of.
	rateSamples = 5
	// DegradedAfter is the number of failed runs in a row behind which no automatic run is tried.
	DegradedAfter = 3
)

// History is what the last runs tell.
type History struct {
	Runs []Report // oldest first

	// Problem says why the records could not be read; an automatic run is not started then.
	Problem string
}

// Last is the last defragmentation of a member.
type Last struct {
	At        time.Time
	Reclaimed int64
	Before    int64
	Fruitless int // defragmentations in a row, up to this one, that gave nothing worth it back
}

// Last finds a member's last defragmentation; false where no record has one.
func (h History) Last(id cluster.ID) (Last, bool) {
	var last Last
	found := false
	for _, r := range h.Runs {
		for _, m := range r.Members {
			if m.ID != id || !m.Done || m.BeforeBytes == nil || m.AfterBytes == nil || m.Seconds == nil {
				continue
			}
			got := *m.BeforeBytes - *m.AfterBytes
			fruitless := 0
			if got < *m.BeforeBytes/20 {
				fruitless = last.Fruitless + 1
			}
			last = Last{At: r.Started.Add(time.Duration(r.Seconds * float64(time.Second))), Reclaimed: got, Before: *m.BeforeBytes, Fruitless: fruitless}
			found = true
		}
	}
	return last, found
}

// Failures is the number of failed runs at the end of the history, and when the last one ended.
func (h History) Failures() (n int, last time.Time) {
	for _, r := range slices.Backward(h.Runs) {
		if !r.Failure {
			break
		}
		if n == 0 {
			last = r.Started.Add(time.Duration(r.Seconds * float64(time.Second)))
		}
		n++
	}
	return n, last
}

// Predict is how long a defragmentation of the member would take with so many bytes in use, and in words what that
// rests on. The time grows with what is in use, not with the file.
func (h History) Predict(id cluster.ID, inUse int64) (seconds float64, basis string) {
	rate, basis := h.rate(id)
	return fixedSeconds + rate*float64(inUse)/(1<<30), basis
}

func (h History) rate(id cluster.ID) (perGiB float64, basis string) {
	var own, all []float64
	for _, r := range slices.Backward(h.Runs) {
		for _, m := range r.Members {
			if !m.Done || m.Seconds == nil || m.AfterBytes == nil || *m.AfterBytes < learnFrom {
				continue
			}
			// The file is then what was in use: a client's view of in use may be seconds old.
			v := max(0.1, (*m.Seconds-fixedSeconds)/(float64(*m.AfterBytes)/(1<<30)))
			if m.ID == id && len(own) < rateSamples {
				own = append(own, v)
			}
			if len(all) < 3*rateSamples {
				all = append(all, v)
			}
		}
	}
	switch {
	case len(own) > 0:
		v := median(own)
		return v, fmt.Sprintf("learnt from this member's last %d: %.1f s per GiB in use", len(own), v)
	case len(all) > 0:
		v := median(all)
		return v, fmt.Sprintf("learnt from the other members' last %d: %.1f s per GiB in use", len(all), v)
	}
	return SeedSecondsPerGiB, fmt.Sprintf("a guess until this cluster has a history: %.0f s per GiB in use", SeedSecondsPerGiB)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// Records are where reports are shared between keepers.
type Records interface {
	Records(ctx context.Context, dir string) (values map[string][]byte, names []string, err error)
	Append(ctx context.Context, dir string, keep int, record any) error
}

// ReadHistory reads the shared reports of the last runs. Records that cannot be read are passed over.
func ReadHistory(ctx context.Context, c Records) History {
	values, names, err := c.Records(ctx, RecordsDir)
	if err != nil {
		return History{Problem: err.Error()}
	}
	var h History
	for _, n := range names {
		var r Report
		if json.Unmarshal(values[n], &r) == nil {
			h.Runs = append(h.Runs, r)
		}
	}
	return h
}

// Clear ends the degraded state: it adds a record that is not a failure.
func Clear(ctx context.Context, c Records, by string, now time.Time) error {
	return c.Append(ctx, RecordsDir, KeepRecords, Report{Outcome: Nothing, Reason: "the failures before were cleared", Trigger: TriggerManual, Started: now.UTC(), By: by})
}
