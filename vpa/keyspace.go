package vpa

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Keyspace is what a census says of the keys, which etcd's metrics do not: how
// long they are, whose they are, and how their bytes grow. Numbers that are not
// known are NaN.
type Keyspace struct {
	Taken     time.Time
	Source    string // the member or the file that was read
	Resources []KeyspaceResource
}

// KeyspaceResource is the part of one Kubernetes resource.
type KeyspaceResource struct {
	Name        string
	Keys        float64
	KeyBytes    float64 // the keys alone, without their values
	Bytes       float64 // keys and values
	BytesPerDay float64 // growth; NaN with one census only
}

// shownResources is how many resources the words of the index name.
const shownResources = 3

// Keys is the number of keys, NaN when no resource is known.
func (k Keyspace) Keys() float64 {
	return k.sum(func(r KeyspaceResource) float64 { return r.Keys })
}

// MeanKey is the mean length of a key in bytes, NaN when there is none.
func (k Keyspace) MeanKey() float64 {
	return k.sum(func(r KeyspaceResource) float64 { return r.KeyBytes }) / k.Keys()
}

// BytesPerDay is the growth of all keys and values, 0 where they shrink and NaN
// where it is not known.
func (k Keyspace) BytesPerDay() float64 {
	v := k.sum(func(r KeyspaceResource) float64 { return r.BytesPerDay })
	if math.IsNaN(v) {
		return v
	}
	return max(0, v)
}

func (k Keyspace) sum(of func(KeyspaceResource) float64) float64 {
	if len(k.Resources) == 0 {
		return math.NaN()
	}
	total := 0.0
	for _, r := range k.Resources {
		total += of(r)
	}
	return total
}

// index is what the keys of a resource take in the tree index, without history.
func (r KeyspaceResource) index() float64 {
	return r.Keys*(indexPerKey+indexPerRevision) + r.KeyBytes
}

// words names the resources that take most of the index.
func (k Keyspace) words() string {
	rows := slices.Clone(k.Resources)
	slices.SortStableFunc(rows, func(a, b KeyspaceResource) int { return cmp.Compare(b.index(), a.index()) })
	var parts []string
	for _, r := range rows[:min(shownResources, len(rows))] {
		parts = append(parts, fmt.Sprintf("%s %s", r.Name, size(r.index())))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("by the census of %s mostly %s", k.Taken.UTC().Format(time.RFC3339), strings.Join(parts, ", "))
}

// SetKeyspace tells the model what a census found. A census without a key
// changes nothing.
func (r *Recommender) SetKeyspace(k Keyspace) {
	if n := k.Keys(); known(n) && n > 0 {
		r.keyspace = &k
	}
}

// SetKeyspace tells the model what a census found.
func (s *Sizer) SetKeyspace(k Keyspace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.SetKeyspace(k)
}
