package census

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Growth is how a resource grew over the censuses of a Series, and when it alone would fill what is left of the quota.
type Growth struct {
	Group          string   `json:"group"`
	Resource       string   `json:"resource"`
	BytesPerSecond float64  `json:"bytesPerSecond"`
	QuotaSeconds   *float64 `json:"quotaExhaustionSeconds"` // nil where it does not grow, or the quota is not known
}

// Series keeps what several censuses said of each resource, so that growth can be told. Its zero value is ready to use;
// it is not safe for concurrent use.
type Series struct{ points []seriesPoint }

type seriesPoint struct {
	taken time.Time
	bytes map[resourceName]int64
}

// Bounds of a Series: a week at one census in six hours, and enough at a quicker pace.
const (
	seriesLength = 64
	seriesWindow = 7 * 24 * time.Hour
)

// Add takes in a census. Of a keyspace that is another one, as a smaller revision shows, the caller begins a new Series.
func (s *Series) Add(c *Census) {
	p := seriesPoint{taken: c.Taken, bytes: make(map[resourceName]int64, len(c.Resources))}
	for _, r := range c.Resources {
		p.bytes[resourceName{r.Group, r.Resource}] = r.Bytes
	}
	s.points = append(s.points, p)
	for len(s.points) > seriesLength || len(s.points) > 2 && c.Taken.Sub(s.points[0].taken) > seriesWindow {
		s.points = s.points[1:]
	}
}

// Growth is by resource, the quickest first. free is what is left of the quota in bytes, negative where it is not known.
// One census shows no growth: there is none before the second.
func (s *Series) Growth(free int64) []Growth {
	out := []Growth{}
	if len(s.points) < 2 {
		return out
	}
	first, last := s.points[0], s.points[len(s.points)-1]
	seconds := last.taken.Sub(first.taken).Seconds()
	if seconds <= 0 {
		return out
	}
	names := map[resourceName]bool{}
	for name := range first.bytes {
		names[name] = true
	}
	for name := range last.bytes {
		names[name] = true
	}
	for name := range names {
		g := Growth{Group: name.group, Resource: name.resource, BytesPerSecond: float64(last.bytes[name]-first.bytes[name]) / seconds}
		if g.BytesPerSecond > 0 && free >= 0 {
			left := float64(free) / g.BytesPerSecond
			g.QuotaSeconds = &left
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Growth) int {
		return cmp.Or(cmp.Compare(b.BytesPerSecond, a.BytesPerSecond), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Group, b.Group))
	})
	return out
}

// String says it in words: "events reach the quota in 9 days".
func (g Growth) String() string {
	name := Resource{Group: g.Group, Resource: g.Resource}.Name()
	if g.QuotaSeconds == nil {
		return fmt.Sprintf("%s: %+.0f bytes a second", name, g.BytesPerSecond)
	}
	if days := *g.QuotaSeconds / 86400; days >= 2 {
		return fmt.Sprintf("%s reach the quota in %.0f days", name, days)
	}
	return fmt.Sprintf("%s reach the quota in %.0f hours", name, *g.QuotaSeconds/3600)
}
