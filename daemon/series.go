package daemon

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster/forecast"
)

const (
	// coarseStep and coarseSpan bound what is kept for pictures: two weeks in 2,016 points.
	coarseStep = 10 * time.Minute
	coarseSpan = 14 * 24 * time.Hour
	// finePoints bounds what is kept within forecast.Window, whatever the interval is.
	finePoints = 1024
)

// point is a sample in 24 bytes.
type point struct {
	at          int64 // Unix seconds
	size, inUse int64
}

// MarshalJSON writes [at, size, inUse].
func (p point) MarshalJSON() ([]byte, error) { return json.Marshal([3]int64{p.at, p.size, p.inUse}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *point) UnmarshalJSON(data []byte) error {
	var v []int64
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	if len(v) != 3 {
		return fmt.Errorf("a sample of %d numbers: want time, size, size in use", len(v))
	}
	p.at, p.size, p.inUse = v[0], v[1], v[2]
	return nil
}

func (p point) sample() forecast.Sample {
	return forecast.Sample{Time: time.Unix(p.at, 0), Size: p.size, InUse: p.inUse}
}

// series are the sizes of one member: the last hours finely, two weeks coarsely. Both are in order of time.
type series struct {
	Name   string  `json:"name"`
	Fine   []point `json:"fine"`
	Coarse []point `json:"coarse"`
}

// add appends p and drops what is too old. A point that is not after the last one is left out.
func (s *series) add(p point) {
	if n := len(s.Fine); n > 0 && p.at <= s.Fine[n-1].at {
		return
	}
	s.Fine = append(s.Fine, p)
	s.Fine = dropBefore(s.Fine, p.at-int64(forecast.Window.Seconds()))
	if extra := len(s.Fine) - finePoints; extra > 0 {
		s.Fine = slices.Delete(s.Fine, 0, extra)
	}
	if n := len(s.Coarse); n == 0 || p.at-s.Coarse[n-1].at >= int64(coarseStep.Seconds()) {
		s.Coarse = append(s.Coarse, p)
		s.Coarse = dropBefore(s.Coarse, p.at-int64(coarseSpan.Seconds()))
	}
}

func dropBefore(points []point, at int64) []point {
	i := 0
	for i < len(points) && points[i].at < at {
		i++
	}
	return slices.Delete(points, 0, i)
}

// shift moves all points by d: the clock was set, and their ages stay what they are.
func (s *series) shift(d time.Duration) {
	for _, points := range [][]point{s.Fine, s.Coarse} {
		for i := range points {
			points[i].at += int64(d.Seconds())
		}
	}
}

// sane drops what a series read from a file cannot hold: points of the future and points out of order.
func (s *series) sane(now time.Time) {
	clean := func(points []point) []point {
		last := int64(0)
		return slices.DeleteFunc(points, func(p point) bool {
			if p.at <= last || p.at > now.Unix() || p.size < 0 || p.inUse < 0 {
				return true
			}
			last = p.at
			return false
		})
	}
	s.Fine, s.Coarse = clean(s.Fine), clean(s.Coarse)
}

// samples are the fine points.
func (s *series) samples() []forecast.Sample {
	out := make([]forecast.Sample, len(s.Fine))
	for i, p := range s.Fine {
		out[i] = p.sample()
	}
	return out
}

// history are the coarse points and the last one.
func (s *series) history() []forecast.Sample {
	out := make([]forecast.Sample, 0, len(s.Coarse)+1)
	for _, p := range s.Coarse {
		out = append(out, p.sample())
	}
	if n := len(s.Fine); n > 0 && (len(s.Coarse) == 0 || s.Fine[n-1].at > s.Coarse[len(s.Coarse)-1].at) {
		out = append(out, s.Fine[n-1].sample())
	}
	return out
}
