package vpa

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newRecommender(t *testing.T) *Recommender {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Members = 3
	r, err := NewRecommender(cfg, "8e9e05c52164694d")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// etcdSample is an etcd of 100,000 keys and a database of 1 GiB.
func etcdSample(at time.Time, anon float64) Sample {
	s := NewSample(at)
	s.Anon, s.File, s.LiveHeap, s.CPU = anon, 800*mib, anon/2, 0.3
	s.Memory = s.Anon + s.File
	d := &s.Drivers
	d.Version, d.Keys, d.Revision, d.CompactRevision, d.AppliedEntries, d.PutBytes = "3.6.16", 100_000, 2_000_000, 1_900_000, 3e6, 2000
	d.Watchers, d.WatchStreams, d.DBBytes, d.DBInUseBytes, d.QuotaBytes = 2000, 100, 1.2*gib, gib, 8*gib
	d.SentBytes, d.RangesInFlight, d.SnapshotsSending = 50*mib, 0, 0
	return s
}

// observeDays shows days of an etcd whose anonymous memory swings around base.
func observeDays(r *Recommender, days int, base float64) time.Time {
	at := day0
	for i := range days * 144 {
		at = day0.Add(time.Duration(i) * 10 * time.Minute)
		s := etcdSample(at, base*(1+0.1*math.Sin(float64(i))))
		s.Drivers.DBInUseBytes += float64(i) * 0.1 * mib
		r.Observe(s)
	}
	return at
}

// inJSON is v as it is printed, in which numbers that are not known are equal.
func inJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func checkAmount(t *testing.T, name string, a Amount) {
	t.Helper()
	sum := 0.0
	for _, p := range a.Parts {
		sum += float64(p.Bytes)
		if p.Words == "" || p.Name == "" {
			t.Errorf("%s: part %+v has no words", name, p)
		}
	}
	if math.Abs(sum-float64(a.Bytes)) > mib {
		t.Errorf("%s: %s: the parts add up to %s, want %s", name, a.Words, size(sum), size(float64(a.Bytes)))
	}
}

func TestRecommender_Recommend(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 15, 400*mib)
	rec := r.Recommend(at)
	checkAmount(t, "limit", rec.Memory.Limit)
	checkAmount(t, "request", rec.Memory.Request)
	limit, request := float64(rec.Memory.Limit.Bytes), float64(rec.Memory.Request.Bytes)
	if request >= limit || float64(rec.Memory.Lower) > limit || float64(rec.Memory.Upper) < limit {
		t.Errorf("got request %s, limit %s in [%s, %s], want them in order", size(request), size(limit), size(float64(rec.Memory.Lower)), size(float64(rec.Memory.Upper)))
	}
	if gate := 1.6*400*mib + gib; limit < gate {
		t.Errorf("limit: got %s, want the restart gate %s at least", size(limit), size(gate))
	}
	if g := float64(rec.GoMemLimit.Bytes); g < 1.15*220*mib || g > limit {
		t.Errorf("GOMEMLIMIT: got %s, want 1.15 × the live heap at least, and no more than the limit", size(g))
	}
	if rec.Confidence != 1 || !strings.Contains(rec.ConfidenceWords, "15 days") || rec.Memory.Kind != "anonymous" {
		t.Errorf("got confidence %v (%s) of %s memory, want 1 of anonymous", rec.Confidence, rec.ConfidenceWords, rec.Memory.Kind)
	}
	for _, want := range []string{"database in 30 days", "+"} {
		if !strings.Contains(rec.Memory.Limit.Words, want) {
			t.Errorf("limit in words: got %q, want %q in it", rec.Memory.Limit.Words, want)
		}
	}
	if c := float64(rec.CPU.Request); c < 0.3 || c > 0.35 || !strings.Contains(rec.CPU.NoLimit, "heartbeats") {
		t.Errorf("CPU: got %v (%s), want p95 of 0.3 and no limit", c, rec.CPU.NoLimit)
	}
}

func TestRecommender_WithoutHistory(t *testing.T) {
	rec := newRecommender(t).Recommend(day0)
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"limit":{"bytes":null`, `"requestCores":null`, `"oomKills":[]`, `"confidence":0`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("got %s, want %s in it", b, want)
		}
	}
	if _, err := rec.FormatPatch(Target{Kind: "Pod"}); !errors.Is(err, ErrNothingRecommended) {
		t.Errorf("got %v, want ErrNothingRecommended", err)
	}
}

func TestRecommender_IgnoresWhatIsNoNumber(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 3, 400*mib)
	before := r.Recommend(at)
	for _, v := range []float64{math.NaN(), math.Inf(1), -5} {
		s := NewSample(at.Add(time.Minute))
		s.Memory, s.Anon, s.CPU, s.LiveHeap, s.Drivers.DBInUseBytes = v, v, v, v, v
		r.Observe(s)
	}
	r.Observe(Sample{})
	if diff := cmp.Diff(inJSON(t, before), inJSON(t, r.Recommend(at))); diff != "" {
		t.Errorf("the recommendation changed (-before +after):\n%s", diff)
	}
}

func TestRecommender_OOM(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 8, 400*mib)
	storm := etcdSample(at.Add(time.Minute), 900*mib)
	storm.Drivers.RangesInFlight, storm.Drivers.SentBytes = 6, 3*gib
	r.Observe(storm)
	limit := 2.0 * gib
	kill := etcdSample(at.Add(2*time.Minute), 50*mib) // the new process is small
	kill.OOM, kill.Limit = true, limit
	r.Observe(kill)
	rec := r.Recommend(at.Add(2 * time.Minute))
	if got := float64(rec.Memory.Limit.Bytes); got < 1.5*limit {
		t.Errorf("limit after an OOM kill at %s: got %s, want 1.5 × at least", size(limit), size(got))
	}
	if len(rec.OOMs) != 1 || rec.OOMs[0].Driver != DriverRange {
		t.Errorf("got %+v, want one kill by range reads", rec.OOMs)
	}
}

func TestRecommender_DoesNotFlap(t *testing.T) {
	r := newRecommender(t)
	changes, last := 0, 0.0
	for i := range 20 * 144 {
		at := day0.Add(time.Duration(i) * 10 * time.Minute)
		r.Observe(etcdSample(at, 400*mib*(1+0.15*math.Sin(float64(i)/20))))
		if i < 144 {
			last = r.Limit(at)
			continue
		}
		if l := r.Limit(at); l != last {
			changes++
			last = l
		}
	}
	if changes > 2 {
		t.Errorf("got %d changes in 20 days of a member that only swings, want 2 at most", changes)
	}
}

func TestRecommender_ClockJumps(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 10, 400*mib)
	s := etcdSample(at.Add(time.Hour), 900*mib)
	r.Observe(s)
	peak := r.peaks.level()
	for _, jump := range []time.Duration{3 * 365 * 24 * time.Hour, -2 * 365 * 24 * time.Hour, time.Hour} {
		r.Observe(etcdSample(at.Add(jump), 400*mib))
		if got := r.peaks.level(); got != peak {
			t.Errorf("after a jump of %s: got a level of %s, want %s still", jump, size(got), size(peak))
		}
		if l := r.Limit(at.Add(jump)); !known(l) {
			t.Errorf("after a jump of %s: got limit %v", jump, l)
		}
	}
}

// A spike of 3 GB on a base of 1 GB, once a week: the Vertical Pod Autoscaler's
// upper bound has forgotten it after 4 days.
func TestRecommender_WeeklySpikeIsNotForgotten(t *testing.T) {
	r := newRecommender(t)
	for i := range 29 * 144 {
		at := day0.Add(time.Duration(i) * 10 * time.Minute)
		s := NewSample(at)
		s.Memory = 1e9
		if i%(7*144) == 3*144 {
			s.Memory = 3e9
		}
		r.Observe(s)
		if l := r.Limit(at); i > 3*144 && l < 3e9 {
			t.Fatalf("day %.1f: got limit %s, want the spike in it", float64(i)/144, size(l))
		}
	}
}

func TestRecommender_SaveLoad(t *testing.T) {
	r := newRecommender(t)
	at := observeDays(r, 10, 400*mib)
	kill := etcdSample(at, 10*mib)
	kill.OOM, kill.Limit = true, gib
	r.Observe(kill)
	r.Recommend(at)
	var b bytes.Buffer
	if err := r.Save(&b); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 100<<10 {
		t.Errorf("the checkpoint has %d bytes, want 100 KiB at most", b.Len())
	}
	got := newRecommender(t)
	if err := got.Load(bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	s := etcdSample(at.Add(time.Hour), 420*mib)
	r.Observe(s)
	got.Observe(s)
	a, z := r.Recommend(at.Add(time.Hour)), got.Recommend(at.Add(time.Hour))
	a.CPU, z.CPU = CPURecommendation{}, CPURecommendation{} // the histogram is rounded to 1/10000
	if diff := cmp.Diff(inJSON(t, a), inJSON(t, z)); diff != "" {
		t.Errorf("the loaded one recommends otherwise (-saved +loaded):\n%s", diff)
	}

	whole := b.Bytes()
	for name, tt := range map[string]struct {
		in   []byte
		want error
	}{
		"torn":         {whole[:len(whole)/2], ErrTorn},
		"empty":        {nil, ErrTorn},
		"no end":       {bytes.Replace(whole, []byte(`"end":"end"`), []byte(`"end":""`), 1), ErrTorn},
		"newer":        {bytes.Replace(whole, []byte(`{"version":1`), []byte(`{"version":2`), 1), ErrNewer},
		"other member": {bytes.Replace(whole, []byte("8e9e05c52164694d"), []byte("91bc3c398fb3c146"), 1), ErrOtherMember},
		"bad peak":     {bytes.Replace(whole, []byte(`"demand":[[`), []byte(`"demand":[[1e300,1],[`), 1), ErrTorn},
		"bad bucket":   {bytes.Replace(whole, []byte(`"bucketWeights":{`), []byte(`"bucketWeights":{"999":1,`), 1), ErrTorn},
	} {
		before := r.Limit(at)
		if err := r.Load(bytes.NewReader(tt.in)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
		if r.Limit(at) != before {
			t.Errorf("%s: the history changed", name)
		}
	}
}

func TestRecommender_LoadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vpa.json")
	r := newRecommender(t)
	if err := r.LoadFile(path); err != nil {
		t.Errorf("no file: got %v, want no error", err)
	}
	observeDays(r, 2, 100*mib)
	if err := r.SaveFile(path); err != nil {
		t.Fatal(err)
	}
	got := newRecommender(t)
	if err := got.LoadFile(path); err != nil || got.samples != r.samples {
		t.Errorf("got %d samples, %v, want %d", got.samples, err, r.samples)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
}

// An old checkpoint must be read for ever.
func TestRecommender_LoadVersion1(t *testing.T) {
	path := filepath.Join("testdata", "checkpoint-v1.json")
	if os.Getenv("UPDATE_CHECKPOINT") != "" {
		r := newRecommender(t)
		observeDays(r, 2, 300*mib)
		r.Recommend(day0.Add(48 * time.Hour))
		if err := r.SaveFile(path); err != nil {
			t.Fatal(err)
		}
	}
	r := newRecommender(t)
	if err := r.LoadFile(path); err != nil {
		t.Fatal(err)
	}
	if r.samples != 288 || len(r.peaks.windows) != 48 || !r.steady || r.band.Held == 0 {
		t.Errorf("got %d samples, %d windows, held %v, want 288, 48 and a limit", r.samples, len(r.peaks.windows), r.band.Held)
	}
}

func FuzzRecommender_Load(f *testing.F) {
	old, err := os.ReadFile("testdata/checkpoint-v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(old)
	f.Add([]byte(`{"version":1,"member":"8e9e05c52164694d","end":"end"}`))
	f.Add([]byte(`{"version":1,"member":"8e9e05c52164694d","end":"end","peaks":{"demand":[[1,-1]]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRecommender(t)
		if err := r.Load(bytes.NewReader(b)); err != nil {
			return
		}
		r.Observe(etcdSample(day0, 100*mib))
		if l := r.Limit(day0); !known(l) {
			t.Errorf("got limit %v of %q", l, b)
		}
	})
}

func TestRecommender_VPACheckpoint(t *testing.T) {
	r := newRecommender(t)
	observeDays(r, 10, 400*mib)
	status := r.CheckpointStatus(day0.Add(240 * time.Hour))
	b, err := json.Marshal(map[string]any{"apiVersion": "autoscaling.k8s.io/v1", "kind": "VerticalPodAutoscalerCheckpoint", "status": status})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseCheckpoint(b)
	if err != nil {
		t.Fatal(err)
	}
	got := newRecommender(t)
	if err := got.RestoreCheckpointStatus(parsed); err != nil {
		t.Fatal(err)
	}
	for _, p := range []float64{0.5, 0.9, 0.95} {
		if got.cpu.Percentile(p) != r.cpu.Percentile(p) || got.memory.Percentile(p) != r.memory.Percentile(p) {
			t.Errorf("p%v: got %v cores and %v bytes, want %v and %v", p*100, got.cpu.Percentile(p), got.memory.Percentile(p), r.cpu.Percentile(p), r.memory.Percentile(p))
		}
	}
	if l := got.Limit(day0.Add(240 * time.Hour)); !(l > 440*mib) {
		t.Errorf("got limit %s, want one above the highest peak", size(l))
	}
	for name, bad := range map[string]string{
		"other kind": `{"kind":"Pod","status":{}}`, "no json": `{`,
	} {
		if _, err := ParseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	parsed.Version = "v4"
	if err := got.RestoreCheckpointStatus(parsed); err == nil || !strings.Contains(err.Error(), `"v4"`) {
		t.Errorf("version v4: got %v, want an error that names it", err)
	}
}
