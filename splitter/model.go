package splitter

import (
	"fmt"
	"math"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Prediction is a cluster's load by the model. Values are nil where what they need is not known.
type Prediction struct {
	DBSizeBytes         *int64   `json:"dbSizeBytes"` // of a member, defragmented once and grown to its steady state
	QuotaBytes          *int64   `json:"quotaBytes"`
	Keys                *int64   `json:"keys"`
	Revisions           *int64   `json:"revisions"` // retained at most, after two compaction intervals
	WritesPerSecond     *float64 `json:"writesPerSecond"`
	RevisionsPerSecond  *float64 `json:"revisionsPerSecond"`
	CompactionSeconds   *float64 `json:"compactionSeconds"`
	QuotaHorizonSeconds *float64 `json:"quotaHorizonSeconds"` // null: it does not grow towards the quota
}

// Constants of etcd's storage (server/storage of etcd 3.7).
const (
	// entryOverhead is what a revision takes in a page besides key and value: bbolt's element header (16) and key (17),
	// and of the encoded mvccpb.KeyValue the tags, lengths, two revisions and a version.
	entryOverhead = 16 + 17 + 18
	// leaseOverhead is what an attached lease adds to its revision.
	leaseOverhead = 10
	// tombstoneBytes is a deletion: header, key of 18 bytes and the encoded key's tags; the key itself comes on top.
	tombstoneBytes = 16 + 18 + 4
	// pageFill is the part of a page that etcd fills when keys come in order, of pageSize with pageHeader.
	pageFill   = 0.9
	pageSize   = 4096
	pageHeader = 16
	// emptyDatabase is what a database without keys takes: the buckets' and meta pages.
	emptyDatabase = 32 << 10
	// compactBatch revisions are walked at a time, with a pause between two batches.
	compactBatch = 1000
	compactPause = 10 * time.Millisecond
	// walkPerByte is the time in seconds that a compaction takes for each byte it walks, where it was not measured: 4 ms
	// for a batch of revisions of 1 kB (docs/benchmarks/split.md).
	walkPerByte = 4e-9
)

// model computes sizes and times from the evidence.
type model struct {
	e Evidence
	p Policy

	totalWrites  float64
	revisionRate float64
	scale        float64 // measured in-use size ÷ the model's, where both are known
	perByte      float64 // seconds that a compaction takes for each byte, beside its pauses
	compactScale float64 // measured time of a compaction ÷ the model's, where no time a byte explains it
}

func newModel(e Evidence, p Policy) model {
	m := model{e: e, p: p, scale: 1, perByte: walkPerByte, compactScale: 1}
	var bytes, revisions, walked float64
	for _, r := range e.Resources {
		m.totalWrites += r.WritesPerSecond.Or(0)
		m.revisionRate += revisionRate(r)
		bytes += m.stored(r, 1.5)
		revisions += m.retained(r, 1)
		walked += m.held(r, 1)
	}
	m.totalWrites += e.Unattributed.Or(0)
	if e.RevisionsPerSecond != nil {
		m.revisionRate = max(m.revisionRate, e.RevisionsPerSecond.Value)
	}
	// Small databases are mostly pages that are not full, and a factor far from 1 is a gap in the evidence: neither is
	// carried over to the prediction.
	if used := e.Stress.DBSizeInUseBytes; used != nil && bytes > 4<<20 {
		if k := (used.Value - emptyDatabase) / bytes; k > 0.7 && k < 2 {
			m.scale = k
		}
	}
	if c := e.Stress.CompactionSeconds; c != nil && revisions > 10*compactBatch {
		if per := (c.Value - pauses(revisions)) / walked; per > walkPerByte/10 && per < 100*walkPerByte {
			m.perByte = per
		} else {
			// Its batches and pauses are not the usual ones (etcd's --compaction-batch-limit and -sleep-interval).
			m.compactScale = c.Value / *m.compaction(revisions, walked)
		}
	}
	return m
}

// revisionRate is the revisions that a resource's writes make: the keys of an expired lease go in one.
func revisionRate(r ResourceEvidence) float64 {
	w := r.WritesPerSecond.Or(0)
	if r.LeasedKeys.Or(0) > 0 && r.DeletesPerSecond != nil {
		revokes := r.RevokesPerSecond.Or(min(r.DeletesPerSecond.Value, 1.0/60)) // the API server takes a new lease a minute
		return max(0, w-r.DeletesPerSecond.Value) + revokes
	}
	return w
}

// stored is the bytes in pages that a resource takes, with its history over intervals times the compaction's interval:
// it is kept for one to two of them.
func (m model) stored(r ResourceEvidence, intervals float64) float64 {
	held := m.held(r, intervals)
	if held == 0 {
		return 0
	}
	return held / fill(entrySize(r))
}

// held is what stored puts into pages.
func (m model) held(r ResourceEvidence, intervals float64) float64 {
	keys, bytes := r.Keys.Or(0), r.Bytes.Or(0)
	live := bytes + keys*entryOverhead + r.LeasedKeys.Or(0)*leaseOverhead
	switch {
	case r.WriteBytesPerSecond != nil && r.WritesPerSecond != nil:
		span := intervals * m.p.CompactEvery.Seconds()
		deletes := r.DeletesPerSecond.Or(0)
		puts := max(0, r.WritesPerSecond.Value-deletes)
		keyLen := 60.0 // of a tombstone: a Kubernetes key
		return live + span*(r.WriteBytesPerSecond.Value+puts*entryOverhead+deletes*(tombstoneBytes+keyLen))
	case r.HistoryBytes != nil:
		return live + r.HistoryBytes.Value + max(0, r.Revisions.Or(0)-keys)*entryOverhead
	}
	return live
}

// entrySize is the mean size of a resource's revision in a page, that of an event of 1 kB where nothing tells it.
func entrySize(r ResourceEvidence) float64 {
	if keys := r.Keys.Or(0); keys > 0 && r.Bytes != nil {
		return r.Bytes.Value/keys + entryOverhead
	}
	if puts := r.WritesPerSecond.Or(0) - r.DeletesPerSecond.Or(0); puts > 0 && r.WriteBytesPerSecond != nil {
		return r.WriteBytesPerSecond.Value/puts + entryOverhead
	}
	return 1000
}

// fill is the part of the pages that entries of a size fill. bbolt closes a node with the entry that does not fit into
// pageFill of a page any more, so that half an entry is lost on average; but a node has two entries at least, and where
// these are more than a page, half of the last overflow page is lost.
func fill(entry float64) float64 {
	usable := pageFill*pageSize - pageHeader
	if two := 2 * entry; two >= usable {
		return two / (two + pageHeader + pageSize/2)
	}
	return (usable - entry/2) / pageSize
}

// retained is the revisions that a resource keeps.
func (m model) retained(r ResourceEvidence, intervals float64) float64 {
	if r.WritesPerSecond != nil {
		return r.Keys.Or(0) + r.WritesPerSecond.Value*intervals*m.p.CompactEvery.Seconds()
	}
	return max(r.Keys.Or(0), r.Revisions.Or(0))
}

// footprint is what a resource takes of the database at most.
func (m model) footprint(r ResourceEvidence) float64 { return m.scale * m.stored(r, 2) }

func (m model) before() Prediction {
	s := m.e.Stress
	return Prediction{
		DBSizeBytes: whole(s.DBSizeBytes), QuotaBytes: whole(s.QuotaBytes), Keys: m.keys(""), Revisions: m.revisions(""),
		WritesPerSecond: rate(m.totalWrites, m.e), RevisionsPerSecond: rate(m.revisionRate, m.e),
		CompactionSeconds: ptr(s.CompactionSeconds), QuotaHorizonSeconds: ptr(s.QuotaHorizonSeconds),
	}
}

// after predicts main without the resource, and the shard that has it alone.
func (m model) after(name string) (main, shard Prediction) {
	r := m.e.find(name)
	sizes := false
	var mainBytes float64
	for _, x := range m.e.Resources {
		sizes = sizes || x.Bytes != nil
		if x.Resource != name {
			mainBytes += m.footprint(x)
		}
	}
	main = Prediction{
		Keys: m.keys(name), Revisions: m.revisions(name), QuotaBytes: whole(m.e.Stress.QuotaBytes),
		WritesPerSecond: rate(max(0, m.totalWrites-r.WritesPerSecond.Or(0)), m.e), RevisionsPerSecond: rate(max(0, m.revisionRate-revisionRate(r)), m.e),
	}
	shard = Prediction{WritesPerSecond: rate(r.WritesPerSecond.Or(0), m.e), RevisionsPerSecond: rate(revisionRate(r), m.e)}
	if sizes {
		keys, revisions := int64(r.Keys.Or(0)), int64(m.retained(r, 2))
		shard.Keys, shard.Revisions = &keys, &revisions
		if used := m.e.Stress.DBSizeInUseBytes; used != nil && m.scale == 1 {
			// What the scan does not explain stays in main.
			mainBytes = max(mainBytes, used.Value-emptyDatabase-m.footprint(r))
		}
		mb, sb := int64(emptyDatabase+mainBytes+m.rewriting(func(x string) bool { return x != name })), int64(emptyDatabase+m.footprint(r)+m.rewriting(func(x string) bool { return x == name }))
		main.DBSizeBytes, shard.DBSizeBytes = &mb, &sb
		var left, bytes float64
		for _, x := range m.e.Resources {
			if x.Resource != name {
				left += m.retained(x, 1)
				bytes += m.held(x, 1)
			}
		}
		main.CompactionSeconds, shard.CompactionSeconds = m.compaction(left, bytes), m.compaction(m.retained(r, 1), m.held(r, 1))
		quota := m.shardQuota(sb)
		shard.QuotaBytes = &quota
		main.QuotaHorizonSeconds = m.horizon(main)
	}
	return main, shard
}

// compaction is the time of one compaction. It walks the revisions up to the one it compacts to, which is an interval
// old: what lived then, and the history of one interval.
func (m model) compaction(revisions, bytes float64) *float64 {
	s := m.compactScale * (pauses(revisions) + m.perByte*bytes)
	return &s
}

// rewriting is the room that a compaction of the resources that in accepts needs beside them. bbolt never changes a page in
// place: a batch writes anew what is left in the pages that it deletes from, and the old ones are free for use only after
// its commit, or the next one's while something reads.
func (m model) rewriting(in func(resource string) bool) float64 {
	var keys, revisions, bytes float64
	for _, r := range m.e.Resources {
		if in(r.Resource) {
			keys += r.Keys.Or(0)
			revisions += m.retained(r, 1)
			bytes += m.held(r, 1)
		}
	}
	if revisions == 0 || keys >= revisions {
		return 0
	}
	entry := bytes / revisions
	inNode := max(2, pageFill*pageSize/entry)
	touched := 1 - math.Pow(keys/revisions, inNode)
	return 2 * min(revisions, compactBatch) * entry / fill(entry) * touched
}

// pauses is the time that a compaction of so many revisions waits between its batches.
func pauses(revisions float64) float64 {
	return max(0, math.Ceil(revisions/compactBatch)-1) * compactPause.Seconds()
}

// horizon keeps the slope of the growth: what is moved was a step, not the slope.
func (m model) horizon(main Prediction) *float64 {
	s := m.e.Stress
	if s.QuotaHorizonSeconds == nil || s.QuotaBytes == nil || main.DBSizeBytes == nil || s.QuotaHorizonSeconds.Value <= 0 {
		return nil
	}
	used := s.DBSizeInUseBytes.Or(s.DBSizeBytes.Or(0))
	slope := (s.QuotaBytes.Value - used) / s.QuotaHorizonSeconds.Value
	if slope <= 0 {
		return nil
	}
	h := max(0, s.QuotaBytes.Value-float64(*main.DBSizeBytes)) / slope
	return &h
}

// shardQuota gives the shard four times its size, within etcd's default and its recommended largest.
func (m model) shardQuota(size int64) int64 {
	if q := int64(m.p.ShardQuota); q > 0 {
		return q
	}
	const step = int64(512 * bytesize.MiB)
	q := (4*size + step - 1) / step * step
	return min(max(q, int64(2*bytesize.GiB)), int64(8*bytesize.GiB))
}

func (m model) keys(without string) *int64 {
	var n float64
	known := false
	for _, r := range m.e.Resources {
		if r.Resource != without && r.Keys != nil {
			n += r.Keys.Value
			known = true
		}
	}
	if !known {
		return nil
	}
	v := int64(n)
	return &v
}

func (m model) revisions(without string) *int64 {
	if m.keys("") == nil {
		return nil
	}
	var n float64
	for _, r := range m.e.Resources {
		if r.Resource != without {
			n += m.retained(r, 2)
		}
	}
	v := int64(n)
	return &v
}

// rate is null where no writes were measured.
func rate(v float64, e Evidence) *float64 {
	if e.WindowSeconds == nil && v == 0 {
		return nil
	}
	return &v
}

func ptr(f *Figure) *float64 {
	if f == nil {
		return nil
	}
	v := f.Value
	return &v
}

func whole(f *Figure) *int64 {
	if f == nil {
		return nil
	}
	v := int64(f.Value)
	return &v
}

func human(bytes float64) string { return bytesize.Bytes(bytes).Human() }

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// seconds is a time in its largest fitting unit.
func seconds(s float64) string {
	switch {
	case s < 120:
		return fmt.Sprintf("%.3gs", s)
	case s < 7200:
		return fmt.Sprintf("%.0fm", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%.0fh", s/3600)
	}
	return fmt.Sprintf("%.0fd", s/86400)
}
