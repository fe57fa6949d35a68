// Package schedule says when: cron expressions and maintenance windows. It is pure: it reads no clock, starts no
// timer and keeps nothing between calls. Its values are safe for concurrent use.
//
// Daylight-saving changes. A schedule whose hour field is * (or an interval) follows real time: it also fires in a
// repeated hour, and has nothing to fire in a skipped one. A schedule with given hours follows the clock on the wall:
// a local time that is skipped happens at the moment of the change, a local time that comes twice counts the first time
// only. So "30 2 * * *" happens on every day of the year, and once.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a distroless image has no time zones of its own

	"github.com/robfig/cron/v3"
)

// Schedule is a rule for moments: a cron expression or an interval. The zero value never happens.
type Schedule struct {
	text  string
	every time.Duration
	spec  *cron.SpecSchedule // in UTC: fields only
	loc   *time.Location
}

// starHour is robfig/cron's mark of an hour field that was a star.
const starHour = 1 << 63

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// Parse reads a five-field cron expression, a descriptor such as @daily, or an interval: "@every 10m" or "10m".
// "CRON_TZ=Europe/Berlin " in front sets the time zone, which is the local one elsewhere. "" is the zero Schedule.
func Parse(text string) (Schedule, error) {
	text = strings.TrimSpace(text)
	loc, rest := time.Local, text
	if zone, ok := cutZone(text); ok {
		name, expr, found := strings.Cut(zone, " ")
		if !found {
			return Schedule{}, fmt.Errorf("schedule %q: want an expression behind the time zone", text)
		}
		var err error
		if loc, err = loadZone(name); err != nil {
			return Schedule{}, fmt.Errorf("schedule %q: %w", text, err)
		}
		rest = strings.TrimSpace(expr)
	}
	s, err := parse(rest, loc)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q: %w", text, err)
	}
	if rest != "" {
		s.text = text
	}
	return s, nil
}

func cutZone(text string) (string, bool) {
	for _, p := range []string{"CRON_TZ=", "TZ="} {
		if rest, ok := strings.CutPrefix(text, p); ok {
			return rest, true
		}
	}
	return "", false
}

func loadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.Local, nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q: want a name such as UTC or Europe/Berlin: %w", name, err)
	}
	return loc, nil
}

func parse(expr string, loc *time.Location) (Schedule, error) {
	if expr == "" {
		return Schedule{}, nil
	}
	interval, ok := strings.CutPrefix(expr, "@every ")
	if d, err := time.ParseDuration(strings.TrimSpace(interval)); err == nil {
		if d < time.Second {
			return Schedule{}, fmt.Errorf("interval %s: want 1s or more", d)
		}
		return Every(d), nil
	} else if ok {
		return Schedule{}, fmt.Errorf("interval %q: want a duration such as 10m", interval)
	}
	if !strings.HasPrefix(expr, "@") && len(strings.Fields(expr)) != 5 {
		return Schedule{}, errors.New("want five fields (minute hour day month weekday), a descriptor such as @daily, or an interval such as 10m")
	}
	parsed, err := parser.Parse(expr)
	if err != nil {
		return Schedule{}, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Schedule{}, errors.New("want five fields or an interval")
	}
	spec.Location = time.UTC
	s := Schedule{spec: spec, loc: loc}
	if s.Next(reference).IsZero() {
		return Schedule{}, errors.New("never happens: no such day")
	}
	return s, nil
}

// reference is any moment: what has no next time after it within 12 years has none at all.
var reference = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Every is the schedule of a fixed interval.
func Every(d time.Duration) Schedule {
	return Schedule{text: "@every " + d.String(), every: d}
}

// FormatDuration leaves out the zero units that time.Duration writes: 10m, not 10m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// IsZero tells whether the schedule never happens.
func (s Schedule) IsZero() bool { return s.every <= 0 && s.spec == nil }

// Interval is the interval of an interval schedule, 0 for any other.
func (s Schedule) Interval() time.Duration { return s.every }

// String is what Parse read.
func (s Schedule) String() string { return s.text }

// MarshalText is String.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// UnmarshalText is Parse.
func (s *Schedule) UnmarshalText(text []byte) error {
	p, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = p
	return nil
}

// Next is the first moment of the schedule after t, and the zero time where there is none. An interval counts from t.
func (s Schedule) Next(t time.Time) time.Time {
	switch {
	case s.every > 0:
		return t.Add(s.every)
	case s.spec == nil:
		return time.Time{}
	case s.spec.Hour&starHour != 0:
		return s.nextElapsed(t)
	}
	return s.nextWall(t)
}

// longestSearch covers the eight years between 29 February 2096 and 2104.
const longestSearch = 12

// nextElapsed searches one stretch of a constant offset after the other.
func (s Schedule) nextElapsed(t time.Time) time.Time {
	last := t.AddDate(longestSearch, 0, 0)
	for t.Before(last) {
		_, end := t.In(s.loc).ZoneBounds()
		_, offset := t.In(s.loc).Zone()
		shift := time.Duration(offset) * time.Second
		next := nextSpec(s.spec, t.UTC().Add(shift))
		if !next.IsZero() {
			if at := next.Add(-shift); end.IsZero() || at.Before(end) {
				return at.In(s.loc)
			}
		}
		if end.IsZero() {
			return time.Time{}
		}
		if at, ok := s.at(end); ok {
			return at
		}
		t = end
	}
	return time.Time{}
}

// at tells whether the schedule happens at t itself.
func (s Schedule) at(t time.Time) (time.Time, bool) {
	wall := wallOf(t.In(s.loc))
	return t.In(s.loc), nextSpec(s.spec, wall.Add(-time.Second)).Equal(wall)
}

// nextWall walks the clock on the wall and finds out when each of its times happens.
func (s Schedule) nextWall(t time.Time) time.Time {
	wall := wallOf(t.In(s.loc))
	for {
		wall = nextSpec(s.spec, wall)
		if wall.IsZero() {
			return time.Time{}
		}
		if at := resolve(wall, s.loc); at.After(t) {
			return at
		}
	}
}

// nextSpec is the next match in a clock without changes. robfig/cron looks five years ahead only.
func nextSpec(spec *cron.SpecSchedule, t time.Time) time.Time {
	for range longestSearch / 4 {
		if next := spec.Next(t); !next.IsZero() {
			return next
		}
		t = t.AddDate(4, 0, 0)
	}
	return time.Time{}
}

// wallOf is what the clock on the wall shows at t, as if it were UTC.
func wallOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// resolve is the first moment at which the clock in loc shows wall, and for a time that is skipped the moment of the
// change.
func resolve(wall time.Time, loc *time.Location) time.Time {
	guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), loc)
	start, end := guess.ZoneBounds()
	stretches := []time.Time{guess}
	if !start.IsZero() {
		stretches = append([]time.Time{start.Add(-time.Nanosecond)}, stretches...)
	}
	if !end.IsZero() {
		stretches = append(stretches, end)
	}
	var first time.Time
	for _, in := range stretches {
		_, offset := in.Zone()
		at := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		if wallOf(at).Equal(wall) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first
	}
	for _, change := range []time.Time{start, end} {
		if change.IsZero() {
			continue
		}
		_, before := change.Add(-time.Nanosecond).Zone()
		_, after := change.Zone()
		utc := change.UTC()
		if !wall.Before(utc.Add(time.Duration(before)*time.Second)) && wall.Before(utc.Add(time.Duration(after)*time.Second)) {
			return change
		}
	}
	return guess
}
