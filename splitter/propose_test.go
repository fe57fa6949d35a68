package splitter

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// cluster is evidence of a day: a quota of 4 GiB, calm disks.
func evidence(change func(*Evidence)) Evidence {
	e := Evidence{Taken: time.Unix(1e9, 0), WindowSeconds: figure(86400, FromWAL, Measured)}
	add := func(name string, keys, bytes, writes, creates float64) {
		r := e.resource(name)
		r.Keys, r.Bytes = figure(keys, FromScan, Exact), figure(bytes, FromScan, Exact)
		r.WritesPerSecond, r.WriteBytesPerSecond = figure(writes, FromWAL, Measured), figure(writes*1000, FromWAL, Measured)
		r.CreatesPerSecond, r.DeletesPerSecond = figure(creates, FromWAL, Measured), figure(creates, FromWAL, Measured)
	}
	add("events", 100_000, 100e6, 60, 30)
	add("leases.coordination.k8s.io", 1000, 0.5e6, 100, 0)
	add("pods", 20_000, 80e6, 20, 5)
	add("secrets", 5000, 40e6, 0.1, 0)
	e.find("events")
	e.resource("events").LeasedKeys = figure(100_000, FromScan, Exact)
	e.Stress = Stress{
		FsyncP99Seconds: figure(0.002, FromMetrics, Measured), CommitP99Seconds: figure(0.005, FromMetrics, Measured),
		CompactionSeconds: figure(1, FromMetrics, Measured),
		DBSizeBytes:       figure(500e6, FromStatus, Exact), DBSizeInUseBytes: figure(400e6, FromStatus, Exact),
		QuotaBytes: figure(4<<30, FromStatus, Exact),
	}
	e.EventTTL = figure(3600, FromFlag, Exact)
	change(&e)
	e.sort()
	return e
}

func TestPropose(t *testing.T) {
	slow := func(e *Evidence) { e.Stress.FsyncP99Seconds = figure(0.05, FromMetrics, Measured) }
	for _, tt := range []struct {
		name    string
		change  func(*Evidence)
		verdict Verdict
		moves   string
		reason  string
	}{
		{"calm", func(*Evidence) {}, DoNotSplit, "", "under no stress"},
		{"stress, leases dominate", slow, Split, "leases.coordination.k8s.io", "events would be the wrong split"},
		{"stress, events dominate", func(e *Evidence) { slow(e); e.resource("events").WritesPerSecond = figure(500, FromWAL, Measured) }, Split, "events", "under stress"},
		{"stress, pods dominate", func(e *Evidence) { slow(e); e.resource("pods").WritesPerSecond = figure(900, FromWAL, Measured) }, Split, "pods", "events would be the wrong split"},
		{"stress, none has the share", func(e *Evidence) { slow(e); e.resource("secrets").WritesPerSecond = figure(900, FromWAL, Measured) }, DoNotSplit, "", "threshold 30.0 %"},
		{"stress, a custom resource dominates", func(e *Evidence) {
			slow(e)
			r := e.resource("policyreports.wgpolicyk8s.io")
			r.WritesPerSecond, r.Bytes = figure(900, FromWAL, Measured), figure(1e6, FromScan, Exact)
		}, DoNotSplit, "", "policyreports.wgpolicyk8s.io, which overrides cannot move"},
		{"events fill the quota", func(e *Evidence) { e.resource("events").Bytes = figure(2<<30, FromScan, Exact) }, Split, "events", "of the quota"},
		{"quota runs out", func(e *Evidence) {
			e.Stress.QuotaHorizonSeconds = figure(20*86400, FromModel, Estimated)
			e.Stress.DBSizeInUseBytes = figure(3e9, FromStatus, Exact)
			e.resource("events").Bytes = figure(6e8, FromScan, Exact)
		}, Split, "events", "quota is full in"},
		{"quota runs out, moving is no help", func(e *Evidence) {
			e.Stress.QuotaHorizonSeconds = figure(86400, FromModel, Estimated)
			e.Stress.DBSizeInUseBytes = figure(4e9, FromStatus, Exact)
			e.resource("secrets").Bytes = figure(3.5e9, FromScan, Exact)
		}, DoNotSplit, "", ""},
		{"short window under stress", func(e *Evidence) { slow(e); e.WindowSeconds = figure(30, FromScan, Estimated) }, NotEnoughEvidence, "", "want at least 10m"},
		{"short window, calm", func(e *Evidence) { e.WindowSeconds = figure(30, FromScan, Estimated) }, DoNotSplit, "", ""},
		{"no metrics", func(e *Evidence) { e.Stress.FsyncP99Seconds, e.Stress.CommitP99Seconds = nil, nil }, NotEnoughEvidence, "", "the members' metrics were not read"},
		{"no quota", func(e *Evidence) { e.Stress.QuotaBytes = nil }, NotEnoughEvidence, "", "the quota is not known"},
		{"no events", func(e *Evidence) {
			for i := range e.Resources {
				if e.Resources[i].Resource == "events" {
					e.Resources[i].Resource = "configmaps"
				}
			}
		}, DoNotSplit, "", ""},
		{"no events, nothing else known", func(e *Evidence) {
			*e = Evidence{Revision: 7}
			e.resource("pods").Keys = figure(1, FromScan, Exact)
			e.resource("leases.coordination.k8s.io").Keys = figure(1, FromScan, Exact)
		}, NotEnoughEvidence, "", "for leases"},
		{"none of what could move", func(e *Evidence) {
			*e = Evidence{Revision: 7, WindowSeconds: figure(1, FromScan, Estimated)}
			e.resource("secrets").Keys = figure(1, FromScan, Exact)
		}, DoNotSplit, "", "the keyspace has no events"},
		{"counted, over an unknown time", func(e *Evidence) {
			slow(e)
			e.WindowSeconds = nil
			for i := range e.Resources {
				r := &e.Resources[i]
				r.Puts, r.WritesPerSecond, r.WriteBytesPerSecond = figure(100, FromWAL, Exact), nil, nil
			}
		}, NotEnoughEvidence, "", "100 of 400 writes"},
		{"nothing at all", func(e *Evidence) { *e = Evidence{} }, NotEnoughEvidence, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Propose(evidence(tt.change), DefaultPolicy())
			if p.Verdict != tt.verdict || strings.Join(p.Resources, ",") != tt.moves || !strings.Contains(p.Reason, tt.reason) {
				t.Errorf("got %s %v: %s", p.Verdict, p.Resources, p.Reason)
			}
			if _, err := json.Marshal(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPropose_Predictions(t *testing.T) {
	p := Propose(evidence(func(*Evidence) {}), DefaultPolicy())
	if p.Judged != "events" {
		t.Fatalf("got %s judged", p.Judged)
	}
	near := func(what string, got *float64, want float64) {
		t.Helper()
		if got == nil || *got < want*0.999 || *got > want*1.001 {
			t.Errorf("%s: got %v, want %g", what, got, want)
		}
	}
	near("writes today", p.Before.WritesPerSecond, 180.1)
	near("writes of main", p.Main.WritesPerSecond, 120.1)
	near("writes of the shard", p.Shard.WritesPerSecond, 60)
	if *p.Shard.Keys != 100_000 || *p.Main.Keys != 26_000 {
		t.Errorf("got %d and %d keys", *p.Shard.Keys, *p.Main.Keys)
	}
	if *p.Shard.DBSizeBytes < 110e6 || *p.Shard.DBSizeBytes > 300e6 {
		t.Errorf("got a shard of %d bytes", *p.Shard.DBSizeBytes)
	}
	if *p.Shard.QuotaBytes != 2<<30 {
		t.Errorf("got a quota of %d", *p.Shard.QuotaBytes)
	}
	// Main keeps its measured time of a compaction in proportion to what it walks.
	if c := *p.Main.CompactionSeconds; c <= 0 || c >= 1 {
		t.Errorf("got a compaction of %gs in main, 1s before", c)
	}
}

func TestPropose_Remedies(t *testing.T) {
	p := Propose(evidence(func(e *Evidence) {
		e.Noisy = []NoisySource{{Namespace: "ci", Stem: "runner", Keys: 60_000, Bytes: 60e6, Share: 0.6}}
		e.Stress.DBSizeBytes = figure(900e6, FromStatus, Exact)
		e.resource("events").Keys = figure(400_000, FromScan, Exact) // 30/s × 1 h make 108,000
		e.resource("leaderelections.example.com").Bytes = figure(1, FromScan, Exact)
	}), DefaultPolicy())
	var names []string
	for _, r := range p.Remedies {
		names = append(names, r.Name)
	}
	if got, want := strings.Join(names, ", "), "event TTL, noisiest source, EventRateLimit, immortal events, defragmentation, quota"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(p.CannotMove) != 1 || p.CannotMove[0].Resource != "leaderelections.example.com" {
		t.Errorf("got %v", p.CannotMove)
	}
}

func TestHistory(t *testing.T) {
	var h History
	at := time.Unix(1e9, 0)
	for i := range 200 {
		e := evidence(func(e *Evidence) {
			e.Taken = at.Add(time.Duration(i) * 10 * time.Minute)
			e.WindowSeconds = figure(30, FromScan, Estimated)
			e.Stress.DBSizeInUseBytes = figure(1e9+float64(i)*1e6, FromStatus, Exact)
			e.resource("events").WritesPerSecond = figure(float64(i%2)*100, FromScan, Estimated)
		})
		h.Add(e, 24*time.Hour)
	}
	if n := len(h.Samples); n != 145 {
		t.Errorf("got %d samples of a day, want 145", n)
	}
	dir := t.TempDir()
	if err := h.Save(dir); err != nil {
		t.Fatal(err)
	}
	back, err := LoadHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := back.Evidence()
	if !ok {
		t.Fatal("no evidence")
	}
	if w := e.find("events").WritesPerSecond.Value; w < 49 || w > 51 {
		t.Errorf("got %g writes/s, want the mean of 50", w)
	}
	if w := e.WindowSeconds.Value; w != 145*30 {
		t.Errorf("got a window of %gs", w)
	}
	// 1 MB in 10 minutes, from 1.2 GB to 4.29 GB.
	if d := e.Stress.QuotaHorizonSeconds.Or(0) / 86400; d < 21 || d > 22 {
		t.Errorf("got %g days to the quota, want 21.5", d)
	}
	h.Add(Evidence{ClusterID: "other", Taken: at}, time.Hour)
	if len(h.Samples) != 1 {
		t.Errorf("got %d samples after a change of cluster, want 1", len(h.Samples))
	}
}

// Logs that overlap are not more time than went by.
func TestHistory_Overlap(t *testing.T) {
	var h History
	for i := range 10 {
		e := evidence(func(*Evidence) {})
		e.Taken = time.Unix(1e9+int64(i)*600, 0)
		e.WindowSeconds = figure(7200, FromWAL, Measured)
		h.Add(e, 24*time.Hour)
	}
	e, _ := h.Evidence()
	if got := e.WindowSeconds.Or(0); got != 9*600+7200 {
		t.Errorf("got a window of %g s, want %d", got, 9*600+7200)
	}
	if got := e.find("events").WritesPerSecond.Or(0); got < 59.9 || got > 60.1 {
		t.Errorf("got %g writes/s, want 60", got)
	}
}

func TestLoadHistory_Refuses(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range []string{"{", `{"version":99}`} {
		writeFile(t, dir+"/"+storeFile, bad)
		if _, err := LoadHistory(dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
	if h, err := LoadHistory(t.TempDir()); err != nil || len(h.Samples) != 0 {
		t.Errorf("no file: got %v %v", h, err)
	}
}

// Entries of 100 bytes fill pages well; two of 3 kB take two pages.
func TestFill(t *testing.T) {
	for size, want := range map[float64]float64{100: 0.88, 1000: 0.77, 3117: 0.75, 100_000: 0.99} {
		if got := fill(size); got < want-0.01 || got > want+0.01 {
			t.Errorf("entries of %g bytes fill %.3f, want %.2f", size, got, want)
		}
	}
}

// The compactions of today tell those after the split: large revisions take longer than small ones.
func TestModel_Compaction(t *testing.T) {
	e := Evidence{WindowSeconds: figure(86400, FromWAL, Measured)}
	for name, size := range map[string]float64{"pods": 3000, "events": 1000} {
		r := e.resource(name)
		r.Keys, r.Bytes = figure(20_000, FromScan, Exact), figure(20_000*size, FromScan, Exact)
	}
	bytes := 20_000*4000.0 + 40_000*entryOverhead
	// 39 pauses of 10 ms, and 10 ns a byte.
	e.Stress.CompactionSeconds = figure(0.390+bytes*1e-8, FromMetrics, Measured)
	main, shard := newModel(e, DefaultPolicy()).after("events")
	for what, c := range map[string]struct{ got, want float64 }{
		"main": {*main.CompactionSeconds, 0.190 + 20_000*(3000+entryOverhead)*1e-8}, "shard": {*shard.CompactionSeconds, 0.190 + 20_000*(1000+entryOverhead)*1e-8},
	} {
		if c.got < c.want*0.99 || c.got > c.want*1.01 {
			t.Errorf("%s: got %g s, want %g", what, c.got, c.want)
		}
	}
	// etcd with longer pauses: everything is longer by as much.
	e.Stress.CompactionSeconds = figure(60, FromMetrics, Measured)
	main, shard = newModel(e, DefaultPolicy()).after("events")
	if sum := *main.CompactionSeconds + *shard.CompactionSeconds; sum < 55 || sum > 61 {
		t.Errorf("got %g s together, want about 60", sum)
	}
}

// A compaction needs room for a batch or two of the pages it touches, and none where it deletes nothing.
func TestModel_Rewriting(t *testing.T) {
	e := Evidence{WindowSeconds: figure(86400, FromWAL, Measured)}
	r := e.resource("pods")
	r.Keys, r.Bytes, r.WritesPerSecond, r.WriteBytesPerSecond = figure(20_000, FromScan, Exact), figure(60e6, FromScan, Exact), figure(0, FromWAL, Measured), figure(0, FromWAL, Measured)
	all := func(string) bool { return true }
	if got := newModel(e, DefaultPolicy()).rewriting(all); got != 0 {
		t.Errorf("nothing to delete: got %g bytes", got)
	}
	r.WritesPerSecond, r.WriteBytesPerSecond = figure(50, FromWAL, Measured), figure(150_000, FromWAL, Measured)
	// 1,000 revisions of 3 kB, some of the pages twice.
	if got := newModel(e, DefaultPolicy()).rewriting(all); got < 3e6 || got > 9e6 {
		t.Errorf("got %g bytes", got)
	}
}
