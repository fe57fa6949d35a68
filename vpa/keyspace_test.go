package vpa

import (
	"math"
	"strings"
	"testing"
)

func censusOf(perDay float64) Keyspace {
	return Keyspace{Taken: day0, Source: "member m1", Resources: []KeyspaceResource{
		{Name: "pods", Keys: 1000, KeyBytes: 60_000, Bytes: 5e6, BytesPerDay: perDay},
		{Name: "events", Keys: 9000, KeyBytes: 1_140_000, Bytes: 9e6, BytesPerDay: 2 * perDay},
	}}
}

func TestKeyspace(t *testing.T) {
	k := censusOf(mib)
	if k.Keys() != 10_000 || k.MeanKey() != 120 || k.BytesPerDay() != 3*mib {
		t.Errorf("got %v keys of %v bytes, growing by %v a day, want 10000 of 120 and 3 MiB", k.Keys(), k.MeanKey(), k.BytesPerDay())
	}
	if got := censusOf(-mib).BytesPerDay(); got != 0 {
		t.Errorf("a keyspace that shrinks: got %v a day, want 0", got)
	}
	if got := censusOf(math.NaN()).BytesPerDay(); !math.IsNaN(got) {
		t.Errorf("one census only: got %v a day, want unknown", got)
	}
	if k := (Keyspace{}); known(k.Keys()) || known(k.MeanKey()) || known(k.BytesPerDay()) || k.words() != "" {
		t.Errorf("an empty census: got %v, %v, %v, %q, want nothing known", k.Keys(), k.MeanKey(), k.BytesPerDay(), k.words())
	}
}

func TestRecommender_UsesTheCensus(t *testing.T) {
	r := newRecommender(t)
	s := etcdSample(day0, 400*mib)
	s.LiveHeap = math.NaN()
	r.Observe(s)
	without := r.Recommend(day0)
	r.SetKeyspace(Keyspace{})
	if got := r.Recommend(day0); got.Drivers.Index != without.Drivers.Index {
		t.Errorf("an empty census changed the index from %v to %v", without.Drivers.Index, got.Drivers.Index)
	}
	r.SetKeyspace(censusOf(mib))
	with := r.Recommend(day0)
	// Of 100,000 keys each is 40 bytes longer than the model takes them without a census.
	if got, want := float64(with.Drivers.Index-without.Drivers.Index), 100_000*40.0; math.Abs(got-want) > 1 {
		t.Errorf("the index grew by %v, want %v", got, want)
	}
	if !strings.Contains(with.LiveHeap.Words, "mostly events 2 MiB, pods 213 KiB") {
		t.Errorf("got %q, want the resources in it", with.LiveHeap.Words)
	}
	checkAmount(t, "live heap", with.LiveHeap)
	// No three days of history: the growth is the census's, and there are free pages for it.
	s.Drivers.DBInUseBytes = s.Drivers.DBBytes
	r.Observe(s)
	if got, want := r.modelInput().DBPerDay, 3.0*mib; got != want {
		t.Errorf("growth: got %v a day, want %v", got, want)
	}
	observeDays(r, 5, 400*mib)
	if got := r.modelInput().DBPerDay; got == 3*mib {
		t.Error("growth: got the census's, want the history's once there is one")
	}
}

func TestRecommender_CensusStandsForTheKeys(t *testing.T) {
	r := newRecommender(t)
	s := etcdSample(day0, 400*mib)
	s.Drivers.Keys = math.NaN()
	r.Observe(s)
	r.SetKeyspace(censusOf(math.NaN()))
	if got := r.modelInput().Drivers.Keys; got != 10_000 {
		t.Errorf("got %v keys, want the census's 10000", got)
	}
}
