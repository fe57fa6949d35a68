package vpa

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

const mib = 1 << 20

// The constants of the etcd model. Measured means by `make bench-vpa-model` on
// etcd 3.5, 3.6 and 3.7; docs/benchmarks/vpa-model.md has the tables.
const (
	// baseHeap is the live heap of an etcd without data, with room for its stacks
	// and buffers. Measured: 6 MiB.
	baseHeap = 30 * mib
	// indexPerKey and indexPerRevision are the tree index: an entry with its key
	// per live key, and one revision per live key and per revision since the last
	// compaction.
	indexPerKey      = 120
	indexPerRevision = 38
	// meanKey is the length of a key where nothing says it: Kubernetes keys are
	// /registry/RESOURCE/NAMESPACE/NAME.
	meanKey = 80
	// raftEntries is how many entries stay in memory from 3.6 on: 5,000 to catch
	// up from (SnapshotCatchUpEntries) and up to 100 until the next trim. Before,
	// it is --snapshot-count (100,000) on top of the 5,000.
	raftEntries    = 5_100
	raftEntries35  = 105_000
	raftEntryExtra = 160 // header, key and slice of an entry beside its value
	// Watches: a connection (49 KiB measured), a stream (18 KiB) and a watcher on
	// it (313 to 401 bytes).
	watchConnection = 49 << 10
	watchStream     = 18 << 10
	watchWatcher    = 400
	// rangeFactor is what a range response takes while it is built and sent: the
	// values, and their marshalled copy.
	rangeFactor = 2.1
	// gomemlimitFactor keeps the collector's goal above the live heap: at less
	// than 10 percent it runs all the time (https://go.dev/doc/gc-guide).
	gomemlimitFactor = 1.15
	// limitFactor and limitExtra are for memory that GOMEMLIMIT does not count:
	// mapped binaries, kernel-side socket buffers, page tables.
	limitFactor = 1.1
	limitExtra  = 64 * mib
	// restartFactor is the peak of anonymous memory at a start against its steady
	// value, while the log is replayed and the index is built again. Measured: up
	// to 1.5 on 3.6 and 3.7, 1.0 on 3.5.
	restartFactor = 1.6
	// maxQuota is the largest --quota-backend-bytes that etcd suggests
	// (https://etcd.io/docs/v3.6/dev-guide/limit/).
	maxQuota     = 8 * gib
	quotaDefault = 2 * gib
	// A WAL file is preallocated with 64 MiB, of which --max-wals (5) stay, and
	// two are in the making.
	walBytes      = 64 * mib
	maxWALs       = 5
	volumeSlack   = 1.2
	volumePerByte = 2.5
)

// ModelInput is what the model is told. Unknown numbers are NaN.
type ModelInput struct {
	Drivers      Drivers // the latest
	KeyBytes     float64 // mean length of a key
	KeyWords     string  // whose keys they are, where a census says so
	Watchers     float64 // peaks of the history
	WatchStreams float64
	Members      float64 // voting members, 1 or NaN for a lone one
	Burst        float64 // peak of bytes sent to clients between two samples
	LiveHeap     float64 // peak of the history
	SteadyAnon   float64 // median of the history
	AnonPeak     float64 // p99 of the history
	DBPerDay     float64 // p90 of the database's growth in use, bytes a day
	HorizonDays  float64
	FileShare    float64 // share of the database to keep in memory, 0.3 to 1
	NodeMemory   float64 // bytes, for the quota advice
	Volume       float64 // bytes, for the quota advice
}

// Model is the second opinion: what etcd's own drivers ask for.
type Model struct {
	Known                       bool
	Index, Raft, Watch, Range   float64 // NaN where not known
	Live, GoMemLimit            Amount
	Database                    Amount // at the horizon
	Request, Limit, RestartGate Amount
	Quota, Volume               Amount
	DatabaseInMemory            float64
	horizonDays, fileShare      float64
}

// Part is a term of an Amount.
type Part struct {
	Name  string `json:"name"`
	Words string `json:"words"`
	Bytes Number `json:"bytes"`
}

// Amount is a number of bytes, explained.
type Amount struct {
	Bytes Number `json:"bytes"`
	Words string `json:"words"`
	Parts []Part `json:"parts,omitempty"`
}

func unknownAmount(why string) Amount { return Amount{Bytes: Number(math.NaN()), Words: why} }

// sumOfParts adds the parts and says so.
func sumOfParts(name string, parts ...Part) Amount {
	total := 0.0
	words := make([]string, len(parts))
	for i, p := range parts {
		total += float64(p.Bytes)
		words[i] = p.Words
	}
	return Amount{Bytes: Number(total), Parts: parts, Words: fmt.Sprintf("%s %s = %s", name, size(total), strings.Join(words, " + "))}
}

// size is a number of bytes for people: 1.4 GiB, 64 MiB.
func size(v float64) string {
	switch {
	case !finite(v):
		return "–"
	case math.Abs(v) >= gib:
		return strconv.FormatFloat(math.Round(v/gib*100)/100, 'f', -1, 64) + " GiB"
	case math.Abs(v) >= mib:
		return fmt.Sprintf("%.0f MiB", v/mib)
	case math.Abs(v) >= 1<<10:
		return fmt.Sprintf("%.0f KiB", v/(1<<10))
	}
	return fmt.Sprintf("%.0f B", v)
}

// NewModel works the model out. Known is false when neither the live heap nor
// the keys are known: then there is nothing to model.
func NewModel(in ModelInput) Model {
	d := in.Drivers
	m := Model{horizonDays: in.HorizonDays, fileShare: in.FileShare}
	key := in.KeyBytes
	if !known(key) {
		key = meanKey
	}
	history := max(0, d.Revision-d.CompactRevision)
	m.Index = d.Keys*(indexPerKey+key) + (d.Keys+history)*indexPerRevision
	m.Raft = min(raftEntriesOf(d.Version), d.AppliedEntries) * (d.PutBytes + raftEntryExtra)
	if d.AppliedEntries == 0 {
		m.Raft = 0
	}
	spread := 1.0 // the watchers of a member that dies move to the others
	if in.Members > 1 {
		spread = in.Members / (in.Members - 1)
	}
	m.Watch = ((watchConnection+watchStream)*in.WatchStreams + watchWatcher*in.Watchers) * spread
	m.Range = rangeFactor * in.Burst
	m.Known = known(in.LiveHeap) || known(d.Keys)
	if !m.Known {
		why := "not known: no source gave the live heap or the number of keys"
		m.Live, m.GoMemLimit, m.Database = unknownAmount(why), unknownAmount(why), unknownAmount(why)
		m.Request, m.Limit, m.RestartGate = unknownAmount(why), unknownAmount(why), unknownAmount(why)
		m.Quota, m.Volume = unknownAmount(why), unknownAmount(why)
		return m
	}
	m.Live = m.live(in)
	live := float64(m.Live.Bytes)
	goMem := math.Ceil(gomemlimitFactor*live/mib) * mib
	m.GoMemLimit = Amount{Bytes: Number(goMem), Words: fmt.Sprintf("GOMEMLIMIT %s = %v × live heap %s; it bounds neither the mapped database nor a response that is being sent",
		size(goMem), gomemlimitFactor, size(live))}
	m.database(in)
	m.sizes(in)
	m.advise(in)
	return m
}

// raftEntriesOf is the number of raft entries that a version keeps in memory.
func raftEntriesOf(version string) float64 {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	if major == "3" && err == nil && n < 6 {
		return raftEntries35
	}
	return raftEntries
}

// live is the larger of what was seen and of what the drivers add up to.
func (m *Model) live(in ModelInput) Amount {
	parts := []Part{{Name: "base", Words: "base " + size(baseHeap), Bytes: baseHeap}}
	var missing []string
	for _, t := range []struct {
		driver Driver
		name   string
		bytes  float64
	}{{DriverIndex, "index", m.Index}, {DriverRaft, "raft log", m.Raft}, {DriverWatch, "watchers", m.Watch}, {DriverRange, "responses", m.Range}} {
		if !known(t.bytes) {
			missing = append(missing, t.name)
			continue
		}
		words := t.name + " " + size(t.bytes)
		if t.driver == DriverIndex && in.KeyWords != "" {
			words += " (" + in.KeyWords + ")"
		}
		parts = append(parts, Part{Name: string(t.driver), Words: words, Bytes: Number(t.bytes)})
	}
	a := sumOfParts("live heap", parts...)
	if len(missing) > 0 {
		a.Words += "; not known: " + strings.Join(missing, ", ")
	}
	if known(in.LiveHeap) && in.LiveHeap > float64(a.Bytes) {
		return Amount{Bytes: Number(in.LiveHeap), Parts: []Part{{Name: "seen", Words: "highest live heap seen " + size(in.LiveHeap), Bytes: Number(in.LiveHeap)}},
			Words: fmt.Sprintf("live heap %s = the highest seen; the drivers add up to %s", size(in.LiveHeap), size(float64(a.Bytes)))}
	}
	return a
}

// database is the file at the horizon: what is in use and grows, up to the
// quota, and the free pages that stay in the file until it is defragmented.
func (m *Model) database(in ModelInput) {
	d := in.Drivers
	if !known(d.DBInUseBytes) || !known(d.DBBytes) {
		m.Database = unknownAmount("database at the horizon: not known, since etcd's size is not")
		m.DatabaseInMemory = math.NaN()
		return
	}
	growth := 0.0
	if known(in.DBPerDay) {
		growth = in.DBPerDay * in.HorizonDays
	}
	inUse := d.DBInUseBytes + growth
	capped := ""
	if known(d.QuotaBytes) && d.QuotaBytes > 0 && inUse > d.QuotaBytes {
		inUse, capped = max(d.QuotaBytes, d.DBInUseBytes), ", capped at the quota"
	}
	free := max(0, d.DBBytes-d.DBInUseBytes-(inUse-d.DBInUseBytes)) // growth fills free pages first
	m.Database = sumOfParts(fmt.Sprintf("database in %.0f days", in.HorizonDays),
		Part{Name: "inUse", Words: "in use " + size(d.DBInUseBytes), Bytes: Number(d.DBInUseBytes)},
		Part{Name: "growth", Words: "growth " + size(inUse-d.DBInUseBytes) + capped, Bytes: Number(inUse - d.DBInUseBytes)},
		Part{Name: "free", Words: "free pages " + size(free), Bytes: Number(free)})
	m.DatabaseInMemory = in.FileShare * float64(m.Database.Bytes)
}

func (m *Model) sizes(in ModelInput) {
	goMem := float64(m.GoMemLimit.Bytes)
	parts := []Part{{Name: "heap", Words: fmt.Sprintf("%v × GOMEMLIMIT %s", limitFactor, size(goMem)), Bytes: Number(limitFactor * goMem)}}
	db := m.databasePart()
	if known(m.DatabaseInMemory) {
		parts = append(parts, db)
	}
	parts = append(parts, Part{Name: "extra", Words: size(limitExtra), Bytes: limitExtra})
	m.Limit = sumOfParts("limit", parts...)
	m.RestartGate, m.Request = unknownAmount("not known: no history of anonymous memory"), unknownAmount("not known: no history of anonymous memory")
	if !known(m.DatabaseInMemory) {
		db = Part{Name: "database", Words: "a database of unknown size", Bytes: 0}
	}
	if known(in.SteadyAnon) {
		m.RestartGate = sumOfParts("restart needs", Part{Name: "anon", Words: fmt.Sprintf("%v × usual anonymous memory %s", restartFactor, size(in.SteadyAnon)),
			Bytes: Number(restartFactor * in.SteadyAnon)}, db)
	}
	if known(in.AnonPeak) {
		m.Request = sumOfParts("request", Part{Name: "anon", Words: "p99 of anonymous memory " + size(in.AnonPeak), Bytes: Number(in.AnonPeak)}, db)
	}
}

func (m *Model) databasePart() Part {
	words := fmt.Sprintf("database in %.0f days %s", m.horizonDays, size(m.DatabaseInMemory))
	if m.fileShare < 1 {
		words = fmt.Sprintf("%v × database in %.0f days %s", m.fileShare, m.horizonDays, size(float64(m.Database.Bytes)))
	}
	return Part{Name: "database", Words: words, Bytes: Number(m.DatabaseInMemory)}
}

// advise works out the quota and the volume.
func (m *Model) advise(in ModelInput) {
	quota, words := float64(maxQuota), []string{"etcd's suggested maximum " + size(maxQuota)}
	if known(in.NodeMemory) {
		v := (in.NodeMemory - limitFactor*float64(m.GoMemLimit.Bytes)) / in.FileShare
		words = append(words, fmt.Sprintf("memory %s without the heap: %s", size(in.NodeMemory), size(v)))
		quota = min(quota, v)
	}
	if known(in.Volume) {
		v := in.Volume / volumePerByte
		words = append(words, fmt.Sprintf("volume %s / %v: %s", size(in.Volume), volumePerByte, size(v)))
		quota = min(quota, v)
	}
	quota = math.Floor(max(0, quota)/(64*mib)) * 64 * mib
	text := "--quota-backend-bytes " + size(quota) + " = the least of " + strings.Join(words, ", ")
	if used := in.Drivers.DBInUseBytes; known(used) && used > quota {
		text += fmt.Sprintf("; %s are in use already: give the node more memory or a larger volume, or clean up", size(used))
	}
	m.Quota = Amount{Bytes: Number(quota), Words: text}
	base := in.Drivers.QuotaBytes
	if !known(base) || base == 0 {
		base = quotaDefault
	}
	base = min(max(base, 0), 1<<50)
	v := volumeSlack * (2*base + walBytes*(maxWALs+2))
	m.Volume = Amount{Bytes: Number(v), Words: fmt.Sprintf("volume %s = %v × (2 × quota %s + %d WAL files of %s)", size(v), volumeSlack, size(base), maxWALs+2, size(walBytes))}
}

// Top is the driver that took most at the time of a sample, as far as its
// numbers say.
func (s Sample) Top() Driver {
	d := s.Drivers
	burst := d.SentBytes
	if known(d.RangesInFlight) && known(d.DBInUseBytes) && d.RangesInFlight > 0 {
		// At least one of them may be reading everything.
		burst = max(d.DBInUseBytes, burst)
	}
	m := NewModel(ModelInput{Drivers: d, KeyBytes: math.NaN(), Watchers: d.Watchers, WatchStreams: d.WatchStreams, Members: math.NaN(), Burst: burst,
		LiveHeap: s.LiveHeap, SteadyAnon: math.NaN(), AnonPeak: math.NaN(), DBPerDay: math.NaN(), FileShare: 1, NodeMemory: math.NaN(), Volume: math.NaN()})
	top, most := DriverUnknown, 0.0
	consider := func(driver Driver, v float64) {
		if known(v) && v > most {
			top, most = driver, v
		}
	}
	consider(DriverIndex, m.Index)
	consider(DriverRaft, m.Raft)
	consider(DriverWatch, m.Watch)
	consider(DriverRange, m.Range)
	if d.SnapshotsSending > 0 {
		// A stream itself takes some 40 MiB; its garbage fills the heap up to the
		// collector's goal, which is high after large responses.
		consider(DriverSnapshot, max(64*mib, d.HeapGarbage))
	}
	return top
}
