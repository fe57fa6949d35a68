package census

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Growth is how a resource grew over the censuses of a Series, and when it alone would fill what is left of the quota.
type Growth struct {
	Group          string   `json:"group"`
	Resource       string   `json:"resource"`
	BytesPerSecond float64  `json:"bytesPerSecond"`
	QuotaSeconds   *float64 `json:"quotaExhaustionSeconds"` // nil where it does not grow, or the quota is not known
}

// Series keeps what several censuses of one cluster said of each resource, so that growth can be told. Its zero value is
// ready to use; it is not safe for concurrent use.
type Series struct {
	cluster       string
	prefix, scope string // of the last census; no prefix: not known
	revision      int64
	points        []seriesPoint
}

type seriesPoint struct {
	taken time.Time
	bytes map[resourceName]int64
}

// Bounds of a Series: a week at one census in six hours, and enough at a quicker pace; of a census the resources that
// have most bytes, which is more than a cluster with many custom resources has, so that it is a few hundred KiB.
const (
	seriesLength    = 64
	seriesWindow    = 7 * 24 * time.Hour
	seriesResources = 256
)

// Of says which cluster the next census is of. The Series begins anew where that is another one.
func (s *Series) Of(cluster string) {
	if s.cluster != cluster {
		*s = Series{cluster: cluster}
	}
}

// Add takes in a census. The Series begins anew where its last revision is above the census's, since the cluster was
// restored from a backup, and where the census has another prefix or scope: what was "other" before is no growth now.
func (s *Series) Add(c *Census) {
	if c.Revision < s.revision || s.prefix != "" && (s.prefix != c.Prefix || s.scope != c.Scope) {
		*s = Series{cluster: s.cluster}
	}
	s.revision, s.prefix, s.scope = c.Revision, c.Prefix, c.Scope
	// A clock that was set back would make a growth of negative time.
	s.points = slices.DeleteFunc(s.points, func(p seriesPoint) bool { return !p.taken.Before(c.Taken) })
	p := seriesPoint{taken: c.Taken, bytes: make(map[resourceName]int64, len(c.Resources))}
	for i, r := range c.Resources { // the largest first
		if i == seriesResources {
			break
		}
		p.bytes[resourceName{r.Group, r.Resource}] = r.Bytes
	}
	s.points = append(s.points, p)
	for len(s.points) > seriesLength || len(s.points) > 2 && c.Taken.Sub(s.points[0].taken) > seriesWindow {
		s.points = s.points[1:]
	}
}

// seriesVersion is that of the saved form.
const seriesVersion = 1

type savedSeries struct {
	Version  int          `json:"version"`
	Cluster  string       `json:"clusterId"`
	Prefix   string       `json:"prefix,omitempty"` // "" in what was saved before it was kept
	Scope    string       `json:"scope,omitempty"`
	Revision int64        `json:"revision"`
	Points   []savedPoint `json:"points"`
}

type savedPoint struct {
	Taken time.Time        `json:"taken"`
	Bytes map[string]int64 `json:"bytes"` // by group/resource
}

// Save writes the Series for Load.
func (s *Series) Save(w io.Writer) error {
	out := savedSeries{Version: seriesVersion, Cluster: s.cluster, Prefix: s.prefix, Scope: s.scope, Revision: s.revision}
	for _, p := range s.points {
		saved := savedPoint{Taken: p.taken, Bytes: make(map[string]int64, len(p.bytes))}
		for name, n := range p.bytes {
			saved.Bytes[name.group+"/"+name.resource] = n
		}
		out.Points = append(out.Points, saved)
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		return fmt.Errorf("save the series of censuses: %w", err)
	}
	return nil
}

// ErrSeriesVersion is returned by Load for what a newer version saved.
var ErrSeriesVersion = errors.New("a newer version saved it")

// Load replaces the Series by what Save wrote. Where it fails the Series is as it was.
func (s *Series) Load(r io.Reader) error {
	var in savedSeries
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return fmt.Errorf("load the series of censuses: %w", err)
	}
	switch {
	case in.Version > seriesVersion:
		return fmt.Errorf("load the series of censuses, version %d: %w", in.Version, ErrSeriesVersion)
	case in.Version < 1 || len(in.Points) > seriesLength:
		return fmt.Errorf("load the series of censuses: version %d with %d points is none", in.Version, len(in.Points))
	}
	loaded := Series{cluster: in.Cluster, prefix: in.Prefix, scope: in.Scope, revision: in.Revision}
	for i, p := range in.Points {
		if i > 0 && !in.Points[i-1].Taken.Before(p.Taken) {
			return fmt.Errorf("load the series of censuses: point %d is not after the one before", i)
		}
		point := seriesPoint{taken: p.Taken, bytes: make(map[resourceName]int64, len(p.Bytes))}
		for name, n := range p.Bytes {
			group, resource, ok := strings.Cut(name, "/")
			if !ok || n < 0 || len(point.bytes) == seriesResources {
				return fmt.Errorf("load the series of censuses: point %d holds %q with %d bytes", i, name, n)
			}
			point.bytes[resourceName{group, resource}] = n
		}
		loaded.points = append(loaded.points, point)
	}
	*s = loaded
	return nil
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
	n, unit := *g.QuotaSeconds/60, "minutes"
	switch {
	case n >= 2*24*60:
		n, unit = n/(24*60), "days"
	case n >= 2*60:
		n, unit = n/60, "hours"
	}
	return fmt.Sprintf("%s reach the quota in %.0f %s", name, n, unit)
}
