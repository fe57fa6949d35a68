package vpa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// SizerOptions are where a Sizer finds things. The zero value reads etcd's
// metrics, the /proc of the machine and no state directory.
type SizerOptions struct {
	Log      *slog.Logger
	StateDir string // for the checkpoint; empty: none
	Proc     string // /proc
	Cgroup   string // /sys/fs/cgroup
	// CgroupDir is etcd's own folder, where it is known.
	CgroupDir string
	Metrics   *Metrics
	// Local says that the process of the member is on this machine or in this
	// process namespace.
	Local bool
}

// Sizer samples one member and recommends its size: the same for the command
// and for the daemon. Its methods may be called concurrently.
type Sizer struct {
	client *cluster.Client
	member cluster.Member
	cfg    Config
	o      SizerOptions

	mu        sync.Mutex
	rec       *Recommender
	collector *Collector
	reports   []SourceReport
	shared    time.Time
	keepFile  bool // a checkpoint of a newer version is not overwritten
	last      Recommendation
	latest    Sample
	pending   bool // it is to be resized
	every     time.Duration
}

// NewSizer makes a Sizer for a member and loads its checkpoint. A checkpoint
// that cannot be taken is logged, and the history starts anew.
func NewSizer(c *cluster.Client, m cluster.Member, cfg Config, o SizerOptions) (*Sizer, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Cgroup == "" {
		o.Cgroup = "/sys/fs/cgroup"
	}
	rec, err := NewRecommender(cfg, m.ID.String())
	if err != nil {
		return nil, err
	}
	s := &Sizer{client: c, member: m, cfg: cfg, o: o, rec: rec, latest: NewSample(time.Time{}), every: ProfileInterval}
	sources := []Source{MetricsSource{c, m}}
	if o.Local || o.CgroupDir != "" {
		proc := ProcessSource{Root: o.Proc, Exe: "etcd", Port: clientPort(m), Last: new(LastProcess)}
		if o.Local {
			sources = append(sources, proc)
		}
		sources = append(sources, CgroupSource{Process: proc, CgroupRoot: o.Cgroup, Dir: o.CgroupDir})
	}
	s.collector = NewCollector(sources...)
	if path := s.path(); path != "" {
		if err := rec.LoadFile(path); err != nil {
			s.keepFile = errors.Is(err, ErrNewer)
			o.Log.Warn("vpa history starts anew", "member", m.String(), "err", err)
			if !s.keepFile {
				_ = os.Rename(path, path+".bad")
			}
		}
	}
	return s, nil
}

// clientPort is the port of a member's client URL, 0 when it has none.
func clientPort(m cluster.Member) int {
	for _, raw := range append([]string{m.Endpoint}, m.ClientURLs...) {
		if u, err := url.Parse(raw); err == nil {
			if _, p, err := net.SplitHostPort(u.Host); err == nil {
				if n, err := strconv.Atoi(p); err == nil {
					return n
				}
			}
		}
	}
	return 0
}

func (s *Sizer) path() string {
	if s.o.StateDir == "" {
		return ""
	}
	return filepath.Join(s.o.StateDir, "vpa-"+s.member.ID.String()+".json")
}

// Member is the member that is sized.
func (s *Sizer) Member() cluster.Member { return s.member }

// NoSourceError is returned when no source gave anything: nothing is recommended.
type NoSourceError struct{ Reports []SourceReport }

// Error names the sources that were tried.
func (e *NoSourceError) Error() string {
	var tried []string
	for _, r := range e.Reports {
		tried = append(tried, fmt.Sprintf("%s: %s", r.Name, r.Error))
	}
	return "no source of etcd's memory could be read, so nothing is recommended; tried " + strings.Join(tried, "; ")
}

// Sample takes one sample of every source. It fails with a NoSourceError where
// none could be read.
func (s *Sizer) Sample(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sample, reports := s.collector.Collect(ctx, time.Now())
	s.reports = reports
	any := false
	for _, r := range reports {
		any = any || r.OK
	}
	if !any {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &NoSourceError{reports}
	}
	s.latest = sample
	s.rec.Observe(sample)
	if s.o.Metrics != nil {
		driver := DriverUnknown
		if n := len(s.rec.events); n > 0 {
			driver = s.rec.events[n-1].Driver
		}
		s.o.Metrics.observe(s.member.String(), sample, driver)
	}
	return nil
}

// BackFill takes what Prometheus has of the member as its history, where that
// is longer than its own; the highest that it saw itself stays.
func (s *Sizer) BackFill(ctx context.Context, p Prometheus, since time.Duration) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh, err := NewRecommender(s.cfg, s.rec.member)
	if err != nil {
		return 0, err
	}
	n, err := p.BackFill(ctx, since, time.Now(), fresh.Observe)
	if err == nil && fresh.peaks.observed() > s.rec.peaks.observed() {
		fresh.succeed(s.rec)
		s.rec = fresh
	}
	return n, err
}

// RestoreCheckpoint takes the histograms of a VerticalPodAutoscalerCheckpoint.
func (s *Sizer) RestoreCheckpoint(status CheckpointStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.RestoreCheckpointStatus(status)
}

// FormatCheckpoint is the history as a VerticalPodAutoscalerCheckpoint.
func (s *Sizer) FormatCheckpoint(t Target) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.FormatCheckpoint(t, time.Now())
}

// Sources says what came of each source at the last sample.
func (s *Sizer) Sources() []SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reports
}

// Recommend settles the member's own recommendation and raises it to the
// maximum over the profiles that the keepers share. A profile that cannot be
// read is left out and logged; with etcd away the member's own counts.
func (s *Sizer) Recommend(ctx context.Context) Recommendation {
	s.mu.Lock()
	own := s.rec.Recommend(time.Now())
	s.mu.Unlock()
	own.Name = s.member.String()
	shared := s.profiles(ctx)
	all := own.OverMembers(shared)
	s.mu.Lock()
	s.last = own
	for _, p := range shared {
		// A keeper that starts anew shares no sooner than the one before it.
		if p.Member == own.Member && p.At.After(s.shared) && !p.At.After(own.At) {
			s.shared = p.At
		}
	}
	s.mu.Unlock()
	if s.o.Metrics != nil {
		s.o.Metrics.recommend(s.member.String(), all)
	}
	return all
}

func (s *Sizer) profiles(ctx context.Context) []Profile {
	values, names, err := s.client.Records(ctx, ProfilesDir)
	if err != nil {
		s.o.Log.Debug("the members' vpa profiles could not be read", "err", err)
		return nil
	}
	var out []Profile
	for _, name := range names {
		p, err := ParseProfile(values[name])
		if err != nil || p.Member != name {
			s.o.Log.Warn("a vpa profile is left out", "member", name, "err", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// Share puts the member's profile where the other keepers find it, at most every
// ProfileInterval, and never under a NOSPACE alarm.
func (s *Sizer) Share(ctx context.Context, v cluster.View) error {
	s.mu.Lock()
	last, pending, due := s.last, s.pending, time.Since(s.shared) >= s.every
	s.mu.Unlock()
	if !due || !known(float64(last.Memory.Limit.Bytes)) || noSpace(v) {
		return nil
	}
	p := ProfileOf(last)
	p.Applies, p.Pending = s.cfg.Apply == ApplyResize, pending
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := s.client.Share(ctx, ProfilesDir+"/"+s.member.ID.String(), b); err != nil {
		if cluster.IsNoSpace(err) {
			return nil
		}
		return err
	}
	s.mu.Lock()
	s.shared = time.Now()
	s.mu.Unlock()
	return nil
}

func noSpace(v cluster.View) bool {
	for _, m := range v.Members {
		for _, a := range m.Alarms {
			if a == "NOSPACE" {
				return true
			}
		}
	}
	return false
}

// Save writes the checkpoint, where there is a state directory. One that a newer
// version wrote is left alone.
func (s *Sizer) Save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path() == "" || s.keepFile || s.rec.samples == 0 {
		return nil
	}
	return s.rec.SaveFile(s.path())
}

// setPending notes whether the member is still to be resized, for its profile.
func (s *Sizer) setPending(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = v
}
