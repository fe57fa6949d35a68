package census_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

var readAt = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestTake_OldFile: a file is judged by its own time, not by that of who reads it.
func TestTake_OldFile(t *testing.T) {
	old := readAt.Add(-48 * time.Hour)
	o := census.Options{Now: readAt, Modified: readAt.Add(-time.Hour)}
	t.Run("events", func(t *testing.T) {
		f := &fakeFile{}
		f.live.seed(t, seed.Options{Now: old, Events: 2000, Nodes: 5})
		c := take(t, f, o)
		if got := find(c, "events-past-ttl"); len(got) != 0 {
			t.Errorf("events of the hour before the snapshot: %+v", got)
		}
		if c.AsOfBasis != census.AsOfObjects || c.AsOf.After(old) || c.AsOf.Before(old.Add(-10*time.Minute)) || !c.Taken.Equal(readAt) {
			t.Errorf("got as of %s (%s), taken %s; the last event is of shortly before %s", c.AsOf, c.AsOfBasis, c.Taken, old)
		}
		if a := row(t, c, "events").Activity; len(a) != 4 || a[1].Created != 2000 {
			t.Errorf("events created in the day before the snapshot: got %+v, want 2000", a)
		}
	})
	t.Run("events past their time", func(t *testing.T) {
		f := &fakeFile{}
		f.live.seed(t, seed.Options{Now: old, Events: 2000, EventsNoLease: 1000})
		got := find(take(t, f, o), "events-past-ttl")
		if len(got) != 1 || math.Abs(got[0].Value-1000) > 60 || got[0].Threshold != 150 || !strings.Contains(got[0].Message, "more than 4h ago although they should live for 1h (") {
			t.Errorf("got %+v, want about 1000 events above 5 per cent of 3000", got)
		}
		th := census.DefaultThresholds()
		th.EventsPastTTL = 0.5
		if got := find(take(t, f, census.Options{Now: readAt, Thresholds: th}), "events-past-ttl"); len(got) != 0 {
			t.Errorf("a third where a half is allowed: %+v", got)
		}
		th.EventsPastTTL, th.EventTTL = 0, 0
		if got := find(take(t, f, census.Options{Now: readAt, Thresholds: th}), "events-past-ttl"); len(got) != 0 {
			t.Errorf("without a TTL: %+v", got)
		}
	})
	t.Run("events that go on happening", func(t *testing.T) {
		for last, want := range map[time.Duration]int{time.Minute: 0, 30 * time.Hour: 1} {
			f := &fakeLive{}
			for i := range 100 {
				f.add(fmt.Sprintf("/registry/events/a/back-off.%016x", i), fmt.Sprintf(
					`{"kind":"Event","metadata":{"name":"x","creationTimestamp":%q,"managedFields":[{"manager":"kubelet","operation":"Update","time":%q}]},"count":900}`,
					old.Format(time.RFC3339), readAt.Add(-last).Format(time.RFC3339)))
			}
			if got := find(take(t, f, census.Options{Now: readAt}), "events-past-ttl"); len(got) != want {
				t.Errorf("made two days ago and last written %s ago: got %+v, want %d findings", last, got, want)
			}
		}
	})
	t.Run("a clock that is ahead", func(t *testing.T) {
		f := &fakeFile{}
		f.live.add("/registry/pods/a/one", made(old))
		f.live.add("/registry/pods/a/two", made(readAt.Add(-time.Minute))) // after the file was written
		f.live.add("/registry/pods/a/three", made(readAt.Add(time.Hour)))
		if c := take(t, f, o); !c.AsOf.Equal(old) {
			t.Errorf("got as of %s, want %s", c.AsOf, old)
		}
	})
	t.Run("the file's time was lost", func(t *testing.T) {
		f := &fakeFile{}
		f.live.add("/registry/pods/a/one", made(old))
		f.live.add("/registry/pods/a/two", made(readAt.Add(time.Hour)))
		if c := take(t, f, census.Options{Now: readAt, Modified: time.Unix(0, 0)}); !c.AsOf.Equal(old) || c.AsOfBasis != census.AsOfObjects {
			t.Errorf("got as of %s (%s), want %s", c.AsOf, c.AsOfBasis, old)
		} else if a := row(t, c, "pods").Activity; len(a) != 4 || a[0].Created != 2 {
			t.Errorf("got %+v, want two pods made within the hour before the latest of them", a)
		}
	})
	t.Run("no times", func(t *testing.T) {
		f := &fakeFile{}
		f.live.add("/registry/pods/a/one", "k8s:enc:aescbc:v1:key1:x")
		if c := take(t, f, o); !c.AsOf.Equal(o.Modified) || c.AsOfBasis != census.AsOfFile || len(c.Resources[0].Activity) != 0 {
			t.Errorf("got as of %s (%s), want the file's time", c.AsOf, c.AsOfBasis)
		}
	})
	t.Run("managers", func(t *testing.T) {
		f := &fakeFile{}
		f.live.add("/registry/pods/a/one", fmt.Sprintf(`{"metadata":{"creationTimestamp":%q,"managedFields":[{"manager":"m","time":%q}]}}`,
			old.Add(-time.Hour).Format(time.RFC3339), old.Format(time.RFC3339)))
		if c := take(t, f, o); !c.AsOf.Equal(old) {
			t.Errorf("got as of %s, want the last write, %s", c.AsOf, old)
		}
	})
	t.Run("live", func(t *testing.T) {
		f := &fakeLive{}
		f.add("/registry/pods/a/one", made(old))
		if c := take(t, f, census.Options{Now: readAt}); !c.AsOf.Equal(readAt) || c.AsOfBasis != census.AsOfClock {
			t.Errorf("got as of %s (%s), want the time of reading", c.AsOf, c.AsOfBasis)
		}
	})
}

// TestCompare_OldFiles: growth is over the time between what two files hold, not between two readings of them.
func TestCompare_OldFiles(t *testing.T) {
	of := func(at time.Time, events int, read time.Duration) *census.Census {
		f := &fakeFile{}
		for i := range events {
			f.live.add(fmt.Sprintf("/registry/events/a/%05d", i), made(at))
		}
		return take(t, f, census.Options{Now: readAt.Add(read), Modified: readAt.Add(-time.Minute)})
	}
	d := census.Compare(of(readAt.Add(-96*time.Hour), 100, 0), of(readAt.Add(-48*time.Hour), 300, time.Minute))
	if d.Seconds != 48*3600 || len(d.Resources) != 1 || d.Resources[0].BytesPerDay == nil {
		t.Fatalf("got %+v", d)
	}
	if growth := d.Resources[0].Bytes.Growth; growth <= 0 || *d.Resources[0].BytesPerDay != float64(growth)/2 {
		t.Errorf("got %v bytes a day of a growth of %d in two days", *d.Resources[0].BytesPerDay, growth)
	}
}

// TestTake_Activity compares creates and last writes with the times at which they were made.
func TestTake_Activity(t *testing.T) {
	windows := []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}
	type truth struct{ created, written [4]int64 }
	t.Run("steady", func(t *testing.T) {
		// One key in two minutes for forty days; every third is written again half its age later, at its own revision.
		f := &fakeLive{}
		const keys, pace = 28_800, 2 * time.Minute
		want := map[string]*truth{"": {}}
		for i := range int64(keys) {
			name := fmt.Sprintf("team-%d", i%3)
			if want[name] == nil {
				want[name] = &truth{}
			}
			// Revision 100·(i+1) is made at this time; those between them are of keys that are gone.
			at := readAt.Add(-time.Duration(keys-i) * pace)
			e := f.add(fmt.Sprintf("/registry/configmaps/%s/%06d", name, i), made(at))
			e.CreateRevision, e.ModRevision = 100*(i+1), 100*(i+1)
			last := at
			if i%5 == 0 {
				e.ModRevision += (100*keys - e.ModRevision) / 2
				last = at.Add(readAt.Sub(at) / 2)
			}
			for w, window := range windows {
				for _, sum := range []*truth{want[""], want[name]} {
					if readAt.Sub(at) <= window {
						sum.created[w]++
					}
					if readAt.Sub(last) <= window {
						sum.written[w]++
					}
				}
			}
		}
		f.revision = 100 * keys
		c := take(t, f, census.Options{Now: readAt})
		check := func(name string, got []census.Activity, want *truth) {
			t.Helper()
			if len(got) != len(windows) {
				t.Fatalf("%s: got %+v", name, got)
			}
			for w, a := range got {
				for what, pair := range map[string][2]int64{"created": {a.Created, want.created[w]}, "last written": {a.LastWritten, want.written[w]}} {
					if math.Abs(float64(pair[0]-pair[1])) > 2+0.05*float64(pair[1]) {
						t.Errorf("%s: %s within %s: got %d, want about %d", name, what, windows[w], pair[0], pair[1])
					}
				}
			}
		}
		check("configmaps", row(t, c, "configmaps").Activity, want[""])
		for _, n := range row(t, c, "configmaps").Namespaces {
			check("configmaps in "+n.Namespace, n.Activity, want[n.Namespace])
		}
		for _, n := range c.Namespaces {
			check(n.Namespace, n.Activity, want[n.Namespace])
		}
	})
	t.Run("quiet", func(t *testing.T) {
		// Nothing was created for two days. Fifty leases are written every ten seconds; nothing tells when.
		f := &fakeLive{}
		for i := range 500 {
			f.add(fmt.Sprintf("/registry/configmaps/a/%03d", i), made(readAt.Add(-72*time.Hour+time.Duration(i)*170*time.Second)))
		}
		for i := range 50 {
			f.add(fmt.Sprintf("/registry/leases/a/%03d", i), made(readAt.Add(-72*time.Hour))).ModRevision = 0
		}
		f.revision += 50 * 6 * 60 * 48
		for i := range f.entries {
			if e := &f.entries[i]; e.ModRevision == 0 {
				e.ModRevision = f.revision - int64(i-500)
			}
		}
		c := take(t, f, census.Options{Now: readAt})
		leases, maps := row(t, c, "leases.coordination.k8s.io").Activity, row(t, c, "configmaps").Activity
		if len(leases) != 4 || leases[0].LastWritten != 50 || leases[1].Created != 0 || leases[2].Created != 50 {
			t.Errorf("leases: got %+v, want all written within the hour and created within the week alone", leases)
		}
		if len(maps) != 4 || maps[1].LastWritten != 0 || maps[2].LastWritten != 500 {
			t.Errorf("config maps: got %+v, want all written within the week and none within the day", maps)
		}
	})
	t.Run("more namespaces than have room", func(t *testing.T) {
		f := &fakeLive{}
		const kept, more = 6000, 50
		for i := range kept + more {
			f.add(fmt.Sprintf("/registry/configmaps/ns-%04d/a", i), made(readAt.Add(-time.Minute)))
		}
		f.add("/registry/configmaps/ns-0000/b", made(readAt.Add(-time.Minute)))
		f.add("/registry/secrets/ns-0000/a", made(readAt.Add(-time.Minute))) // beyond the bound: so is its namespace
		c := take(t, f, census.Options{Now: readAt, Top: 10_000})
		if a := row(t, c, "configmaps").Activity; a[0].Created != kept+more+1 || a[0].LastWritten != kept+more+1 {
			t.Errorf("config maps: got %+v, want all %d", a, kept+more+1)
		}
		empty := map[bool]int{}
		for _, n := range row(t, c, "configmaps").Namespaces {
			if len(n.Activity) > 0 && n.Activity[0].Created != n.Keys {
				t.Errorf("config maps in %s: got %+v", n.Namespace, n)
			}
			empty[len(n.Activity) == 0]++
		}
		if empty[true] != more || empty[false] != kept {
			t.Errorf("got %v config maps by whether activity is left out, want %d and %d", empty, more, kept)
		}
		for _, n := range c.Namespaces {
			if (len(n.Activity) == 0) != (n.Namespace == "ns-0000" || n.Namespace >= "ns-6000") {
				t.Errorf("%s: got %+v", n.Namespace, n)
			}
		}
	})
}
