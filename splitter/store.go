package splitter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
)

// storeFile is the name of the evidence in stateDir, storeVersion its format.
const (
	storeFile    = "split-evidence.json"
	storeVersion = 1
	// maxResources is how many resources a kept sample has: the largest and the busiest. The rest is summed.
	maxResources = 64
	restName     = "other"
)

// History is evidence kept over time, oldest first. It is bounded by age and by number.
type History struct {
	Version int        `json:"version"`
	Samples []Evidence `json:"samples"`
}

// LoadHistory reads the evidence kept in dir. A missing file is an empty history; a damaged one, or one of a later
// version, is an error that says which file to remove.
func LoadHistory(dir string) (History, error) {
	h := History{Version: storeVersion}
	path := filepath.Join(dir, storeFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read evidence: %w", err)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return History{Version: storeVersion}, fmt.Errorf("read evidence %s: %w (remove the file to begin anew)", path, err)
	}
	if h.Version != storeVersion {
		return History{Version: storeVersion}, fmt.Errorf("read evidence %s: its version is %d, this program's is %d (remove the file to begin anew)", path, h.Version, storeVersion)
	}
	return h, nil
}

// Save writes the history to dir, atomically.
func (h History) Save(dir string) error {
	h.Version = storeVersion
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, storeFile), data, 0o600)
}

// Add appends a sample and drops what is older than keep or beyond MaxSamples. A sample of another cluster begins the
// history anew.
func (h *History) Add(e Evidence, keep time.Duration) {
	if n := len(h.Samples); n > 0 && h.Samples[n-1].ClusterID != e.ClusterID {
		h.Samples = nil
	}
	h.Samples = append(h.Samples, e.shortened())
	oldest := e.Taken.Add(-keep)
	h.Samples = slices.DeleteFunc(h.Samples, func(s Evidence) bool { return s.Taken.Before(oldest) || s.Taken.After(e.Taken) })
	if n := len(h.Samples); n > MaxSamples {
		h.Samples = slices.Clone(h.Samples[n-MaxSamples:])
	}
}

// shortened keeps the largest resources, so that a sample has a bound.
func (e Evidence) shortened() Evidence {
	e.Notes = nil
	if len(e.Resources) <= maxResources {
		return e
	}
	byWrites := slices.Clone(e.Resources)
	sortBy(byWrites, func(a, b ResourceEvidence) bool { return a.WritesPerSecond.Or(0) > b.WritesPerSecond.Or(0) })
	keep := map[string]bool{Events.Name(): true, Leases.Name(): true, Pods.Name(): true}
	for i := range maxResources / 2 {
		keep[e.Resources[i].Resource], keep[byWrites[i].Resource] = true, true
	}
	var out []ResourceEvidence
	rest := ResourceEvidence{Resource: restName}
	for _, r := range e.Resources {
		if keep[r.Resource] {
			out = append(out, r)
			continue
		}
		rest.Keys, rest.Bytes = sum(rest.Keys, r.Keys), sum(rest.Bytes, r.Bytes)
		rest.WritesPerSecond = sum(rest.WritesPerSecond, r.WritesPerSecond)
		rest.WriteBytesPerSecond = sum(rest.WriteBytesPerSecond, r.WriteBytesPerSecond)
	}
	e.Resources = append(out, rest)
	return e
}

func sum(a, b *Figure) *Figure {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return figure(a.Value+b.Value, b.Source, b.Confidence)
}

// Evidence is the history as one: the newest sizes, rates weighted by their windows, the worst stress, and a forecast
// of the quota from the growth of what is in use. False where there is no sample.
func (h History) Evidence() (Evidence, bool) {
	n := len(h.Samples)
	if n == 0 {
		return Evidence{}, false
	}
	out := h.Samples[n-1]
	out.Resources = slices.Clone(out.Resources)
	var total float64
	writes := map[string]*[5]float64{}
	var revisions, unattributed float64
	begin := out.Taken
	confidence := Measured
	for _, s := range h.Samples {
		w := s.WindowSeconds.Or(0)
		if w <= 0 {
			continue
		}
		if s.WindowSeconds.Confidence == Estimated {
			confidence = Estimated
		}
		total += w
		if from := s.Taken.Add(-time.Duration(w * float64(time.Second))); from.Before(begin) {
			begin = from
		}
		revisions += w * s.RevisionsPerSecond.Or(0)
		unattributed += w * s.Unattributed.Or(0)
		for _, r := range s.Resources {
			x := writes[r.Resource]
			if x == nil {
				x = &[5]float64{}
				writes[r.Resource] = x
			}
			for i, f := range []*Figure{r.WritesPerSecond, r.WriteBytesPerSecond, r.CreatesPerSecond, r.DeletesPerSecond, r.RevokesPerSecond} {
				x[i] += w * f.Or(0)
			}
		}
		worse(&out.Stress.FsyncP99Seconds, s.Stress.FsyncP99Seconds)
		worse(&out.Stress.CommitP99Seconds, s.Stress.CommitP99Seconds)
		worse(&out.Stress.CompactionSeconds, s.Stress.CompactionSeconds)
		worse(&out.Stress.SlowAppliesPerSecond, s.Stress.SlowAppliesPerSecond)
		worse(&out.Stress.PendingProposals, s.Stress.PendingProposals)
	}
	if total > 0 {
		source := out.WindowSeconds
		from := FromScan
		if source != nil {
			from = source.Source
		}
		// Logs that were read one after the other overlap: no more time was seen than went by.
		out.WindowSeconds = figure(min(total, out.Taken.Sub(begin).Seconds()), from, confidence)
		out.RevisionsPerSecond = figure(revisions/total, from, confidence)
		out.Unattributed = figure(unattributed/total, from, Estimated)
		for i := range out.Resources {
			r := &out.Resources[i]
			x := writes[r.Resource]
			if x == nil {
				continue
			}
			for j, f := range []**Figure{&r.WritesPerSecond, &r.WriteBytesPerSecond, &r.CreatesPerSecond, &r.DeletesPerSecond, &r.RevokesPerSecond} {
				if *f != nil || x[j] > 0 {
					*f = figure(x[j]/total, from, confidence)
				}
			}
		}
	}
	out.Stress.QuotaHorizonSeconds = h.horizon()
	return out, true
}

func worse(a **Figure, b *Figure) {
	if b != nil && (*a == nil || b.Value > (*a).Value) {
		*a = b
	}
}

// minForecastSpan is how long the growth must have been seen before it is carried on.
const minForecastSpan = time.Hour

// horizon carries the growth of the bytes in use on to the quota, from the least-squares line through the samples. Nil
// where they do not grow or were seen too short.
func (h History) horizon() *Figure {
	var xs, ys []float64
	quota := 0.0
	for _, s := range h.Samples {
		if u := s.Stress.DBSizeInUseBytes; u != nil {
			xs, ys = append(xs, float64(s.Taken.Unix())), append(ys, u.Value)
		}
		quota = s.Stress.QuotaBytes.Or(quota)
	}
	n := len(xs)
	if n < 3 || quota == 0 || xs[n-1]-xs[0] < minForecastSpan.Seconds() {
		return nil
	}
	var mx, my, sxy, sxx float64
	for i := range xs {
		mx, my = mx+xs[i]/float64(n), my+ys[i]/float64(n)
	}
	for i := range xs {
		sxy, sxx = sxy+(xs[i]-mx)*(ys[i]-my), sxx+(xs[i]-mx)*(xs[i]-mx)
	}
	slope := sxy / sxx
	peak := slices.Max(ys)
	if slope <= 0 || peak >= quota {
		return nil
	}
	return figure((quota-peak)/slope, FromModel, Estimated)
}
