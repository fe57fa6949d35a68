package census

import (
	"math/bits"
	"slices"
	"time"
)

// Windows of Activity.
var windows = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}

// Ages of revisions are kept on a logarithmic scale: eight steps an octave, which is within 12 per cent.
const (
	ageSteps   = 8
	ageBuckets = 44 * ageSteps // more revisions than an etcd makes in a thousand years at 500 a second
)

// age is the bucket of a revision. Bucket 0 is the newest.
func age(now, revision int64) int {
	n := uint64(max(0, now-revision)) + ageSteps
	shift := bits.Len64(n) - 4 // n>>shift is 8 to 15
	return min(ageBuckets-1, shift*ageSteps+int(n>>shift)-ageSteps)
}

// youngest is the least age in a bucket, in revisions.
func youngest(bucket int) int64 {
	return int64(bucket%ageSteps+ageSteps)<<(bucket/ageSteps) - ageSteps
}

// histogram counts keys by the age of the revisions that created them, and of those that wrote them last.
type histogram [][2]uint32

const (
	created = 0
	written = 1
)

// newHistogram has room for every revision of a keyspace at this one: about a kilobyte at a million.
func newHistogram(revision int64) histogram { return make(histogram, age(revision, 0)+1) }

func (h histogram) add(other histogram) {
	for b, n := range other {
		h[b][created] += n[created]
		h[b][written] += n[written]
	}
}

// within is how many keys are at most that old, in revisions. Of a bucket that the limit divides it takes a part.
func (h histogram) within(limit float64, revision int64) (made, wrote int64) {
	var m, w float64
	for b, n := range h {
		from, to := float64(youngest(b)), float64(min(youngest(b+1), max(revision, youngest(b)+1)))
		part := min(1, (limit+1-from)/(to-from)) // ages are whole numbers, and the limit itself is within
		if part <= 0 {
			break
		}
		m += part * float64(n[created])
		w += part * float64(n[written])
	}
	return int64(m + 0.5), int64(w + 0.5)
}

// clock learns from samples when revisions were made.
type clock struct {
	revision int64 // that is read: its age is 0
	bound    int64 // Unix seconds; a time behind it is of a clock that is wrong
	now      int64 // of who reads
	within   sightings
	beyond   sightings // behind bound and not behind now
}

// sightings are times of revisions that were seen.
type sightings struct {
	latest int64 // 0 for none
	seen   [ageBuckets]anchor
}

// anchor is when a revision was made.
type anchor struct{ age, at int64 }

// saw takes in that a revision was made at this time, or later: objects tell when they were created and written, and
// what they tell cannot be later than the revision that holds it.
func (c *clock) saw(revision, at int64) {
	if at <= 0 || at > max(c.bound, c.now) {
		return
	}
	s := &c.within
	if at > c.bound {
		s = &c.beyond
	}
	s.latest = max(s.latest, at)
	if b := age(c.revision, revision); at > s.seen[b].at {
		s.seen[b] = anchor{max(0, c.revision-revision), at}
	}
}

// sightings are what counts: where all are behind the bound, that was wrong and not they.
func (c *clock) sightings() *sightings {
	if c.within.latest == 0 {
		return &c.beyond
	}
	return &c.within
}

// anchors are the revision that is read, at the time that the census is of, and before it what was seen, the newest
// first and each older than the one before. There are none where nothing was seen.
func (c *clock) anchors(asOf int64) []anchor {
	var out []anchor
	latest := int64(0)
	for _, a := range slices.Backward(c.sightings().seen[:]) {
		if a.at > latest {
			latest = a.at
			out = append(out, a)
		}
	}
	if out == nil {
		return nil
	}
	out = append(out, anchor{0, asOf})
	slices.Reverse(out)
	return out
}

// ageAt is the age in revisions that a time has. Between two anchors revisions are taken to be made at an even pace,
// and before the oldest at that of all time since.
func ageAt(anchors []anchor, at int64) float64 {
	for i, older := range anchors[1:] {
		if older.at > at {
			continue
		}
		newer := anchors[i]
		if newer.at == older.at {
			return float64(older.age)
		}
		return float64(newer.age) + float64(older.age-newer.age)*float64(newer.at-at)/float64(newer.at-older.at)
	}
	first, last := anchors[0], anchors[len(anchors)-1]
	if first.at == last.at {
		return float64(last.age)
	}
	return float64(last.age) + float64(last.age)*float64(last.at-at)/float64(first.at-last.at)
}

// activity is a histogram by time; limits are the ages in revisions at which the windows end.
func (h histogram) activity(limits []float64, revision int64) []Activity {
	out := []Activity{}
	for i, limit := range limits {
		a := Activity{WithinSeconds: windows[i].Seconds()}
		a.Created, a.LastWritten = h.within(limit, revision)
		out = append(out, a)
	}
	return out
}

// limits are the ages in revisions at which the windows end; none where no time is known.
func (c *clock) limits(asOf int64) (out []float64) {
	anchors := c.anchors(asOf)
	if anchors == nil {
		return nil
	}
	for _, w := range windows {
		out = append(out, ageAt(anchors, asOf-int64(w.Seconds())))
	}
	return out
}
