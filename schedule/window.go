package schedule

import (
	"errors"
	"fmt"
	"time"
)

// Window is a maintenance window as the configuration writes it. It lasts its duration in real time, also where the
// clocks change within it.
type Window struct {
	Cron     string        `yaml:"cron" doc:"When the window opens: minute hour day month weekday, or a descriptor such as @daily."`
	Duration time.Duration `yaml:"duration" doc:"How long it stays open."`
	TimeZone string        `yaml:"timeZone" doc:"Time zone of the expression, such as Europe/Berlin. Empty: the local one."`
}

// Validate reads the window and joins every error.
func (w Window) Validate() error {
	_, err := w.compile()
	return err
}

func (w Window) compile() (window, error) {
	var errs []error
	loc, err := loadZone(w.TimeZone)
	if err != nil {
		errs = append(errs, fmt.Errorf("timeZone: %w", err))
		loc = time.UTC
	}
	s, err := parse(w.Cron, loc)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("cron: %q: %w", w.Cron, err))
	case s.every > 0:
		errs = append(errs, fmt.Errorf("cron: %q: a window opens at given times, not at an interval", w.Cron))
	case s.IsZero():
		errs = append(errs, errors.New("cron: is empty, so the window never opens"))
	}
	if w.Duration <= 0 {
		errs = append(errs, fmt.Errorf("duration: %s: want more than 0, else the window never opens", w.Duration))
	}
	return window{opens: s, duration: w.Duration}, errors.Join(errs...)
}

type window struct {
	opens    Schedule
	duration time.Duration
}

// opening is the last time that the window opened at or before t, if it is still open at t.
func (w window) opening(t time.Time) (time.Time, bool) {
	at, found := time.Time{}, false
	for next := w.opens.Next(t.Add(-w.duration)); !next.IsZero() && !next.After(t); next = w.opens.Next(next) {
		at, found = next, true
	}
	return at, found
}

// Windows are maintenance windows: open while any of them is. The zero value is always open.
type Windows struct {
	windows []window
}

// NewWindows reads windows. No windows are always open. The error joins what is wrong with any of them.
func NewWindows(ws []Window) (Windows, error) {
	var out Windows
	var errs []error
	for i, w := range ws {
		c, err := w.compile()
		if err != nil {
			errs = append(errs, fmt.Errorf("windows[%d]: %w", i, err))
			continue
		}
		out.windows = append(out.windows, c)
	}
	if err := errors.Join(errs...); err != nil {
		return Windows{}, err
	}
	return out, nil
}

// Always tells whether there are no windows, so that it is always open.
func (ws Windows) Always() bool { return len(ws.windows) == 0 }

// Contains tells whether a window is open at t. A window is open from the moment it opens up to, but without, the
// moment it closes.
func (ws Windows) Contains(t time.Time) bool {
	if ws.Always() {
		return true
	}
	for _, w := range ws.windows {
		if next := w.opens.Next(t.Add(-w.duration)); !next.IsZero() && !next.After(t) {
			return true
		}
	}
	return false
}

// NextOpen is t where a window is open at t, else the first moment after t at which one opens. It is the zero time
// where none ever does.
func (ws Windows) NextOpen(t time.Time) time.Time {
	if ws.Contains(t) {
		return t
	}
	var first time.Time
	for _, w := range ws.windows {
		if next := w.opens.Next(t); !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

// longestStretch bounds how far Closes looks: windows that overlap for longer than that never close.
const longestStretch = 14 * 24 * time.Hour

// Closes is the end of the stretch that is open at t, windows that overlap or touch taken together. It is false where
// nothing is open at t and where it does not close within two weeks.
func (ws Windows) Closes(t time.Time) (time.Time, bool) {
	if ws.Always() || !ws.Contains(t) {
		return time.Time{}, false
	}
	end := t
	for ws.Contains(end) {
		for _, w := range ws.windows {
			if at, open := w.opening(end); open && at.Add(w.duration).After(end) {
				end = at.Add(w.duration)
			}
		}
		if end.Sub(t) > longestStretch {
			return time.Time{}, false
		}
	}
	return end, true
}
