package vpa

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
)

// stateVersion is the version of the checkpoint that Save writes.
const stateVersion = 1

// maxStateBytes bounds a checkpoint that is read; a full one has 60 KB.
const maxStateBytes = 8 << 20

// Reasons for which a checkpoint is not taken. The Recommender is unchanged then.
var (
	// ErrTorn is returned when the checkpoint cannot be read to its end.
	ErrTorn = errors.New("the checkpoint is torn")
	// ErrNewer is returned when a newer version wrote the checkpoint.
	ErrNewer = errors.New("the checkpoint is of a newer version")
	// ErrOtherMember is returned when the checkpoint is of another member.
	ErrOtherMember = errors.New("the checkpoint is of another member")
)

// state is the checkpoint file.
type state struct {
	Version  int                 `json:"version"`
	Member   string              `json:"member"`
	Written  time.Time           `json:"written"`
	CPU      HistogramCheckpoint `json:"cpuHistogram"`
	Memory   HistogramCheckpoint `json:"memoryHistogram"`
	Window   windowPeak          `json:"window"`
	Peaks    map[string][]point  `json:"peaks"`
	Steady   bool                `json:"anonymous"`
	OOMFloor float64             `json:"oomFloorBytes"`
	OOMCut   float64             `json:"oomCutBytes"`
	OOMAt    time.Time           `json:"oomAt,omitzero"`
	OOMs     int                 `json:"oomsInHold"`
	Events   []OOMEvent          `json:"oomKills"`
	Restarts []RestartEvent      `json:"restarts"`
	Limit    band                `json:"limit"`
	Request  band                `json:"request"`
	CPUBand  band                `json:"cpuRequest"`
	First    time.Time           `json:"firstSampleStart"`
	Last     time.Time           `json:"lastSampleStart"`
	Samples  int                 `json:"totalSamplesCount"`
	End      string              `json:"end"` // the last field: a torn file has none
}

const stateEnd = "end"

// demandPeaks names the peaks that the limit goes by.
const demandPeaks = "demand"

// point is a peak as [seconds since 1970, value].
type point [2]float64

// named is the peaks by their name in the checkpoint.
func (r *Recommender) named() map[string]*peaks {
	return map[string]*peaks{demandPeaks: &r.peaks, "liveHeap": &r.live, "sent": &r.burst, "ranges": &r.ranges,
		"watchers": &r.watchers, "watchStreams": &r.streams, "databaseInUse": &r.dbInUse}
}

// Save writes everything that Load needs, as one JSON object.
func (r *Recommender) Save(w io.Writer) error {
	s := state{
		Version: stateVersion, Member: r.member, Written: r.last, CPU: r.cpu.Checkpoint(), Memory: r.memory.Checkpoint(),
		Window: r.window, Peaks: map[string][]point{}, Steady: r.steady,
		OOMFloor: r.oomFloor, OOMCut: r.oomCut, OOMAt: r.oomAt, OOMs: r.ooms, Events: r.events, Restarts: r.restarts, Limit: r.band, Request: r.request,
		CPUBand: r.cpuBand, First: r.first, Last: r.last, Samples: r.samples, End: stateEnd,
	}
	for name, p := range r.named() {
		for _, v := range p.windows {
			s.Peaks[name] = append(s.Peaks[name], point{float64(v.start.Unix()), v.value})
		}
	}
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("save the vpa checkpoint of member %s: %w", r.member, err)
	}
	return nil
}

// Load replaces the history by a checkpoint's. On error, ErrTorn, ErrNewer and
// ErrOtherMember among them, the Recommender is unchanged.
func (r *Recommender) Load(in io.Reader) error {
	fail := func(err error) error { return fmt.Errorf("load the vpa checkpoint of member %s: %w", r.member, err) }
	b, err := io.ReadAll(io.LimitReader(in, maxStateBytes))
	if err != nil {
		return fail(err)
	}
	var head struct {
		Version int    `json:"version"`
		Member  string `json:"member"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrTorn, err))
	}
	if head.Version > stateVersion {
		return fail(fmt.Errorf("%w: version %d, this program knows %d", ErrNewer, head.Version, stateVersion))
	}
	if head.Version != stateVersion {
		return fail(fmt.Errorf("%w: version %d", ErrTorn, head.Version))
	}
	if head.Member != r.member {
		return fail(fmt.Errorf("%w: %q", ErrOtherMember, head.Member))
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrTorn, err))
	}
	fresh, err := NewRecommender(r.cfg, r.member)
	if err != nil {
		return fail(err)
	}
	if err := fresh.take(s); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrTorn, err))
	}
	*r = *fresh
	return nil
}

// take fills an empty Recommender.
func (r *Recommender) take(s state) error {
	if s.End != stateEnd {
		return errors.New("it has no end")
	}
	if err := errors.Join(r.cpu.Restore(s.CPU), r.memory.Restore(s.Memory)); err != nil {
		return err
	}
	for _, v := range []float64{s.OOMFloor, s.OOMCut, s.Limit.Held, s.Request.Held, s.CPUBand.Held, s.Window.Peak} {
		if !known(v) {
			return fmt.Errorf("%v is not a size", v)
		}
	}
	if s.Samples < 0 || s.OOMs < 0 {
		return errors.New("a count is negative")
	}
	for name, p := range r.named() {
		for _, v := range s.Peaks[name] {
			if !finite(v[0]) || math.Abs(v[0]) > 1e11 || !known(v[1]) {
				return fmt.Errorf("peaks %s: %v is not a time and a size", name, v)
			}
			p.windows = append(p.windows, peak{time.Unix(int64(v[0]), 0).UTC(), v[1]})
		}
		if over := len(p.windows) - p.keep; over > 0 {
			p.windows = p.windows[over:]
		}
		p.digest(r.cfg.Policy)
	}
	r.window, r.steady = s.Window, s.Steady
	r.oomFloor, r.oomCut, r.oomAt, r.ooms, r.events, r.restarts = s.OOMFloor, s.OOMCut, s.OOMAt, min(s.OOMs, 2), s.Events, s.Restarts
	r.band, r.request, r.cpuBand = s.Limit, s.Request, s.CPUBand
	r.first, r.last, r.samples = s.First, s.Last, s.Samples
	return nil
}

// SaveFile replaces the checkpoint at path atomically.
func (r *Recommender) SaveFile(path string) error {
	return atomicfile.WriteFunc(path, 0o600, r.Save)
}

// LoadFile is Load from a file; a file that is not there is no history and no error.
func (r *Recommender) LoadFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load the vpa checkpoint of member %s: %w", r.member, err)
	}
	defer f.Close()
	return r.Load(f)
}
