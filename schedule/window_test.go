package schedule

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustWindows(t interface{ Fatal(...any) }, ws ...Window) Windows {
	out, err := NewWindows(ws)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWindows(t *testing.T) {
	night := Window{Cron: "0 1 * * *", Duration: 4 * time.Hour, TimeZone: "Europe/Berlin"}
	skipped := Window{Cron: "30 2 * * *", Duration: time.Hour, TimeZone: "Europe/Berlin"}
	for _, tt := range []struct {
		name    string
		windows []Window
		at      string
		open    bool
		next    string
		closes  string // "": not open, or never
	}{
		{"none is always open", nil, "2026-01-01T00:00:00Z", true, "2026-01-01T00:00:00Z", ""},
		{"before", []Window{night}, "2026-01-10T00:59:59+01:00", false, "2026-01-10T01:00:00+01:00", ""},
		{"at its opening", []Window{night}, "2026-01-10T01:00:00+01:00", true, "2026-01-10T01:00:00+01:00", "2026-01-10T05:00:00+01:00"},
		{"at its end", []Window{night}, "2026-01-10T05:00:00+01:00", false, "2026-01-11T01:00:00+01:00", ""},
		{"spans the spring change, four real hours", []Window{night}, "2026-03-29T01:30:00+01:00", true, "2026-03-29T01:30:00+01:00", "2026-03-29T06:00:00+02:00"},
		{"spans the autumn change, four real hours", []Window{night}, "2026-10-25T01:30:00+02:00", true, "2026-10-25T01:30:00+02:00", "2026-10-25T04:00:00+01:00"},
		{"skipped opening is at the change", []Window{skipped}, "2026-03-29T03:00:00+02:00", true, "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"},
		{"repeated opening is the first", []Window{skipped}, "2026-10-25T02:45:00+01:00", false, "2026-10-26T02:30:00+01:00", ""},
		{"touching windows are one stretch", []Window{night, {Cron: "0 5 * * *", Duration: time.Hour, TimeZone: "Europe/Berlin"}}, "2026-01-10T02:00:00+01:00", true, "2026-01-10T02:00:00+01:00", "2026-01-10T06:00:00+01:00"},
		{"a window longer than its period never closes", []Window{{Cron: "@daily", Duration: 25 * time.Hour, TimeZone: "UTC"}}, "2026-01-10T02:00:00Z", true, "2026-01-10T02:00:00Z", ""},
		{"across midnight", []Window{{Cron: "0 23 * * *", Duration: 3 * time.Hour, TimeZone: "UTC"}}, "2026-01-10T01:59:59Z", true, "2026-01-10T01:59:59Z", "2026-01-10T02:00:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ws, at := mustWindows(t, tt.windows...), mustTime(t, tt.at)
			if got := ws.Contains(at); got != tt.open {
				t.Errorf("Contains: got %v, want %v", got, tt.open)
			}
			if got, want := ws.NextOpen(at), mustTime(t, tt.next); !got.Equal(want) {
				t.Errorf("NextOpen: got %s, want %s", got, want)
			}
			got, ok := ws.Closes(at)
			if ok != (tt.closes != "") {
				t.Fatalf("Closes: got %s, %v, want %q", got, ok, tt.closes)
			}
			if ok && !got.Equal(mustTime(t, tt.closes)) {
				t.Errorf("Closes: got %s, want %s", got, tt.closes)
			}
		})
	}
}

func TestNewWindows_Refuses(t *testing.T) {
	_, err := NewWindows([]Window{
		{Cron: "0 3 30 2 *", Duration: time.Hour},
		{Cron: "0 3 * * *"},
		{Cron: "@every 1h", Duration: time.Hour},
		{Cron: "0 3 * *", Duration: -time.Hour, TimeZone: "Mars/Base"},
		{Duration: time.Hour},
	})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		"windows[0]: cron: \"0 3 30 2 *\": never happens",
		"windows[1]: duration: 0s: want more than 0",
		"windows[2]: cron: \"@every 1h\": a window opens at given times",
		"windows[3]: timeZone: time zone \"Mars/Base\"", "want five fields", "duration: -1h0m0s",
		"windows[4]: cron: is empty",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to contain %q", err, want)
		}
	}
}

// A window is open at t if, and only if, it opened within its duration before t; it closes exactly where it stops to
// contain, and it opens where it starts to.
func TestWindows_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(zones).Draw(t, "zone")
		loc := zone(t, name)
		w := Window{
			Cron:     rapid.SampledFrom([]string{"0 1 * * *", "30 2 * * *", "0 0 * * *", "45 1 * * 0", "15 * * * *"}).Draw(t, "cron"),
			Duration: time.Duration(rapid.IntRange(1, 300).Draw(t, "duration")) * time.Minute,
			TimeZone: name,
		}
		if strings.HasPrefix(w.Cron, "15 *") {
			w.Duration = w.Duration%(40*time.Minute) + time.Minute
		}
		ws := mustWindows(t, w)
		at := time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, rapid.IntRange(0, 365*9).Draw(t, "day"))
		if _, end := at.In(loc).ZoneBounds(); !end.IsZero() {
			at = end.Truncate(time.Minute)
		}
		at = at.Add(time.Duration(rapid.IntRange(-600, 600).Draw(t, "minutes")) * time.Minute)

		opened := false
		for back := time.Duration(0); back < w.Duration; back += time.Minute {
			opened = opened || ws.windows[0].opens.Next(at.Add(-back-time.Nanosecond)).Equal(at.Add(-back))
		}
		if got := ws.Contains(at); got != opened {
			t.Fatalf("at %s: contains %v, opened within its duration %v", at.In(loc), got, opened)
		}
		open := ws.NextOpen(at)
		if !ws.Contains(open) || (!open.Equal(at) && ws.Contains(open.Add(-time.Nanosecond))) {
			t.Fatalf("NextOpen %s is not where it opens", open.In(loc))
		}
		closes, ok := ws.Closes(open)
		if !ok || ws.Contains(closes) || !ws.Contains(closes.Add(-time.Nanosecond)) {
			t.Fatalf("Closes %s, %v is not where it closes", closes.In(loc), ok)
		}
	})
}
