package vpa

import (
	"math"
	"strings"
	"testing"
)

func modelInput() ModelInput {
	s := etcdSample(day0, 400*mib)
	return ModelInput{Drivers: s.Drivers, KeyBytes: 80, Watchers: 2000, WatchStreams: 100, Members: 3, Burst: 50 * mib, LiveHeap: 200 * mib,
		SteadyAnon: 400 * mib, AnonPeak: 450 * mib, DBPerDay: 10 * mib, HorizonDays: 30, FileShare: 1, NodeMemory: math.NaN(), Volume: math.NaN()}
}

func TestNewModel_Formulas(t *testing.T) {
	m := NewModel(modelInput())
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1 {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	near("index", m.Index, 100_000*(indexPerKey+80)+200_000*indexPerRevision)
	near("raft", m.Raft, raftEntries*(2000+raftEntryExtra))
	near("watch", m.Watch, ((watchConnection+watchStream)*100+watchWatcher*2000)*1.5)
	near("range", m.Range, 2.1*50*mib)
}

func TestNewModel_DatabaseAtTheHorizon(t *testing.T) {
	in := modelInput() // 1.2 GiB of file, 1 GiB in use, 10 MiB a day
	if got, want := float64(NewModel(in).Database.Bytes), gib+300*mib; math.Abs(got-float64(want)) > 1 {
		t.Errorf("growth that fills the free pages and more: got %s, want %s", size(got), size(float64(want)))
	}
	in.DBPerDay = mib
	if got, want := float64(NewModel(in).Database.Bytes), 1.2*gib; math.Abs(got-want) > 1 {
		t.Errorf("growth within the free pages: got %s, want the file as it is", size(got))
	}
	in.DBPerDay = gib
	m := NewModel(in)
	if got := float64(m.Database.Bytes); got != 8*gib || !strings.Contains(m.Database.Words, "capped at the quota") {
		t.Errorf("growth beyond the quota: got %s (%s), want the quota", size(got), m.Database.Words)
	}
	in.Drivers.DBInUseBytes = math.NaN()
	if m := NewModel(in); known(float64(m.Database.Bytes)) || !known(float64(m.Limit.Bytes)) {
		t.Errorf("unknown size: got %v and limit %v, want unknown and a limit without it", m.Database, m.Limit)
	}
}

func TestNewModel_ExplainsEverything(t *testing.T) {
	m := NewModel(modelInput())
	for name, a := range map[string]Amount{"live": m.Live, "database": m.Database, "limit": m.Limit, "request": m.Request, "restart": m.RestartGate} {
		checkAmount(t, name, a)
	}
	if !strings.HasPrefix(m.Limit.Words, "limit ") || !strings.Contains(m.Limit.Words, "1.1 × GOMEMLIMIT") || !strings.HasSuffix(m.Limit.Words, "+ 64 MiB") {
		t.Errorf("got %q, want a sum of three parts", m.Limit.Words)
	}
}

func TestNewModel_Versions(t *testing.T) {
	in := modelInput()
	for version, want := range map[string]float64{"3.5.35": raftEntries35, "3.4.38": raftEntries35, "3.6.16": raftEntries, "3.7.3": raftEntries, "": raftEntries, "4.0.0": raftEntries} {
		in.Drivers.Version = version
		if got := NewModel(in).Raft / (2000 + raftEntryExtra); math.Abs(got-want) > 1e-6 {
			t.Errorf("raft entries of %q: got %v, want %v", version, got, want)
		}
	}
}

func TestNewModel_Unknown(t *testing.T) {
	n := math.NaN()
	m := NewModel(ModelInput{Drivers: unknownDrivers(), KeyBytes: n, Watchers: n, WatchStreams: n, Members: n, Burst: n, LiveHeap: n,
		SteadyAnon: n, AnonPeak: n, DBPerDay: n, HorizonDays: 30, FileShare: 1, NodeMemory: n, Volume: n})
	if m.Known || known(float64(m.Limit.Bytes)) || !strings.Contains(m.Limit.Words, "not known") {
		t.Errorf("got %+v, want nothing known", m.Limit)
	}
}

func TestNewModel_QuotaAndVolume(t *testing.T) {
	in := modelInput()
	in.NodeMemory, in.Volume = 4*gib, 20*gib
	m := NewModel(in)
	if q := float64(m.Quota.Bytes); q > 4*gib || q < 3*gib || !strings.Contains(m.Quota.Words, "memory 4 GiB") {
		t.Errorf("quota: got %s (%s), want what the memory leaves", size(q), m.Quota.Words)
	}
	in.NodeMemory = 16 * gib
	in.Volume = 5 * gib
	if q := float64(NewModel(in).Quota.Bytes); q != 2*gib {
		t.Errorf("quota: got %s, want the volume / 2.5", size(q))
	}
	if v := float64(m.Volume.Bytes); math.Abs(v-1.2*(16*gib+7*64*mib)) > 1 {
		t.Errorf("volume: got %s, want 1.2 × (2 × 8 GiB + 7 × 64 MiB)", size(v))
	}
	in.NodeMemory = 100 * mib
	if q := NewModel(in).Quota; q.Bytes != 0 || !strings.Contains(q.Words, "in use already") {
		t.Errorf("no memory at all: got %v", q)
	}
}

func TestSample_Top(t *testing.T) {
	for _, tt := range []struct {
		want Driver
		set  func(*Sample)
	}{
		{DriverRange, func(s *Sample) { s.Drivers.RangesInFlight = 3 }},
		{DriverSnapshot, func(s *Sample) { s.Drivers.SnapshotsSending, s.Drivers.HeapGarbage = 1, gib }},
		{DriverIndex, func(s *Sample) { s.Drivers.Keys, s.Drivers.SentBytes = 20e6, 0 }},
		{DriverWatch, func(s *Sample) { s.Drivers.Watchers, s.Drivers.SentBytes = 5e6, 0 }},
		{DriverRaft, func(s *Sample) { s.Drivers.PutBytes, s.Drivers.SentBytes = 1e6, 0 }},
		{DriverUnknown, func(s *Sample) { s.Drivers = unknownDrivers() }},
	} {
		s := etcdSample(day0, 400*mib)
		tt.set(&s)
		if got := s.Top(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}
