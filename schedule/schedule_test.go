package schedule

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestSchedule_Next(t *testing.T) {
	for _, tt := range []struct {
		name, zone, expr, from string
		want                   []string // RFC 3339
	}{
		{"plain", "UTC", "30 2 * * *", "2026-01-01T00:00:00Z", []string{"2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"}},
		{"strictly after", "UTC", "30 2 * * *", "2026-01-01T02:30:00Z", []string{"2026-01-02T02:30:00Z"}},
		{"interval", "UTC", "@every 10m", "2026-01-01T00:00:07Z", []string{"2026-01-01T00:10:07Z"}},
		{"bare interval", "UTC", "90s", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:01:30Z"}},
		{"descriptor", "UTC", "@daily", "2026-01-01T00:00:01Z", []string{"2026-01-02T00:00:00Z"}},
		{"leap day across 2100", "UTC", "0 0 29 2 *", "2096-03-01T00:00:00Z", []string{"2104-02-29T00:00:00Z"}},
		{"given hour, skipped in spring", "Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"two skipped times are one moment", "Europe/Berlin", "0,30 2 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"given hour, repeated in autumn", "Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"from within the repeated hour", "Europe/Berlin", "30 2 * * *", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		{"every hour, skipped", "Europe/Berlin", "15 * * * *", "2026-03-29T00:30:00+01:00", []string{"2026-03-29T01:15:00+01:00", "2026-03-29T03:15:00+02:00"}},
		{"every hour, repeated", "Europe/Berlin", "15 * * * *", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:15:00+02:00", "2026-10-25T02:15:00+01:00", "2026-10-25T03:15:00+01:00"}},
		{"every hour at the change itself", "Europe/Berlin", "0 * * * *", "2026-03-29T01:00:00+01:00", []string{"2026-03-29T03:00:00+02:00"}},
		{"midnight is skipped", "America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00:00-03:00", []string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},
		{"half an hour is skipped", "Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"half an hour is repeated", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", []string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		{"half an hour is repeated, every hour", "Australia/Lord_Howe", "45 * * * *", "2026-04-05T01:00:00+11:00", []string{"2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30", "2026-04-05T02:45:00+10:30"}},
		{"a day is skipped", "Pacific/Apia", "0 3 30 12 *", "2011-12-01T00:00:00-10:00", []string{"2011-12-31T00:00:00+14:00", "2012-12-30T03:00:00+14:00"}},
		{"zone in the expression", "UTC", "CRON_TZ=Asia/Tokyo 0 9 * * *", "2026-01-01T00:00:01Z", []string{"2026-01-02T09:00:00+09:00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse(tt.expr)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(tt.expr, "TZ=") && s.spec != nil {
				s.loc = zone(t, tt.zone)
			}
			at, err := time.Parse(time.RFC3339, tt.from)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				at = s.Next(at)
				if got := at.Format(time.RFC3339); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	for expr, want := range map[string]string{
		"0 3 30 2 *":                  "never happens",
		"0 3 * *":                     "want five fields",
		"61 * * * *":                  "above maximum",
		"@every":                      "unrecognized descriptor",
		"@every soon":                 "want a duration",
		"10ms":                        "want 1s or more",
		"-5m":                         "want 1s or more",
		"TZ=":                         "want an expression",
		"CRON_TZ=Mars/Base 0 3 * * *": "time zone",
		"nonsense":                    "want five fields",
	} {
		if _, err := Parse(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want it to contain %q", expr, err, want)
		}
	}
}

func TestSchedule_Zero(t *testing.T) {
	s, err := Parse(" ")
	if err != nil || !s.IsZero() || !s.Next(time.Now()).IsZero() {
		t.Errorf("got %v, %v, want the schedule that never happens", s, err)
	}
}

func TestSchedule_TextRoundTrip(t *testing.T) {
	for _, text := range []string{"0 3 * * 1-5", "@every 10m0s", "CRON_TZ=UTC @daily", "5m", ""} {
		var s Schedule
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		var again Schedule
		if err := again.UnmarshalText([]byte(s.String())); err != nil {
			t.Fatalf("%q became %q: %v", text, s, err)
		}
		now := time.Now()
		if !again.Next(now).Equal(s.Next(now)) {
			t.Errorf("%q became %q, which is another schedule", text, s)
		}
	}
}

// zones have changes of an hour, of half an hour, at midnight, southern ones, and none.
var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Tehran", "Africa/Casablanca"}

// happens is what Next must find, minute by minute: the definition in the package comment.
func happens(s Schedule, loc *time.Location, t time.Time) bool {
	matches := func(wall time.Time) bool { return s.spec.Next(wall.Add(-time.Second)).Equal(wall) }
	wall := wallOf(t.In(loc))
	_, now := t.In(loc).Zone()
	_, before := t.Add(-time.Minute).In(loc).Zone()
	if s.spec.Hour&starHour != 0 {
		return matches(wall)
	}
	for skipped := wall.Add(-time.Duration(now-before) * time.Second); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
		if matches(skipped) {
			return true
		}
	}
	if !matches(wall) {
		return false
	}
	for back := time.Minute; back <= 3*time.Hour; back += time.Minute { // the second time does not count
		if wallOf(t.Add(-back).In(loc)).Equal(wall) {
			return false
		}
	}
	return true
}

func TestSchedule_NextIsTheFirstMinuteThatHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loc := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		minute := rapid.SampledFrom([]string{"0", "15", "30", "*/20", "45", "7,37"}).Draw(t, "minute")
		hour := rapid.SampledFrom([]string{"*", "0", "1", "2", "3", "*/2", "0-3", "23"}).Draw(t, "hour")
		s, err := parse(minute+" "+hour+" * * *", loc)
		if err != nil {
			t.Fatal(err)
		}
		// Around a change of clocks, or anywhere where there is none.
		day := time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, rapid.IntRange(0, 365*9).Draw(t, "day"))
		if _, end := day.In(loc).ZoneBounds(); !end.IsZero() {
			day = end.UTC().Truncate(time.Minute)
		}
		from := day.Add(time.Duration(rapid.IntRange(-26*60, 4*60).Draw(t, "minutes")) * time.Minute)
		got := s.Next(from)
		for at := from.Add(time.Minute); ; at = at.Add(time.Minute) {
			if happens(s, loc, at) {
				if !got.Equal(at) {
					t.Fatalf("%s in %s after %s: got %s, want %s", s.text, loc, from.In(loc), got, at.In(loc))
				}
				return
			}
			if at.Sub(from) > 72*time.Hour {
				t.Fatalf("nothing within three days, Next says %s", got)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"0 3 * * *", "@every 10m", "CRON_TZ=Europe/Berlin 0 3 * * *", "TZ=", "@daily", "5m", "0 0 29 2 *", "*/0 * * * *"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil || s.IsZero() {
			return
		}
		now := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
		if next := s.Next(now); !next.After(now) {
			t.Errorf("%q: next after %s is %s", text, now, next)
		}
	})
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		time.Hour + 5*time.Second: "1h0m5s", -2 * time.Hour: "-2h", 1500 * time.Millisecond: "1.5s",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d ns: got %q, want %q", d, got, want)
		}
	}
}
