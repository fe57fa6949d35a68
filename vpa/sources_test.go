package vpa

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func recordedMetrics(t *testing.T, version string) EtcdMetrics {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "metrics-"+version+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(f)
	if err != nil {
		t.Fatal(err)
	}
	return ParseEtcdMetrics(families)
}

func TestParseEtcdMetrics_Recorded(t *testing.T) {
	for _, version := range []string{"3.5", "3.6", "3.7"} {
		t.Run(version, func(t *testing.T) {
			m := recordedMetrics(t, version)
			if !strings.HasPrefix(m.Drivers.Version, version+".") {
				t.Errorf("version: got %q, want %s", m.Drivers.Version, version)
			}
			for name, v := range map[string]float64{"resident": m.Resident, "cpu": m.CPU, "start": m.Start, "goAnon": m.GoAnon,
				"heapAlloc": m.HeapAlloc, "heapLive": m.HeapLive, "revision": m.Drivers.Revision, "db": m.Drivers.DBBytes,
				"dbInUse": m.Drivers.DBInUseBytes, "quota": m.Drivers.QuotaBytes, "applied": m.Drivers.AppliedEntries} {
				if !known(v) || v <= 0 {
					t.Errorf("%s: got %v, want a number above 0", name, v)
				}
			}
			for name, v := range map[string]float64{"keys": m.Drivers.Keys, "watchers": m.Drivers.Watchers, "compact revision": m.Drivers.CompactRevision,
				"ranges": m.Drivers.RangesInFlight, "snapshots": m.Drivers.SnapshotsSending} {
				if v != 0 {
					t.Errorf("%s: got %v, want 0 for an empty etcd", name, v)
				}
			}
			if m.HeapLive > m.HeapAlloc || m.GoAnon > m.Resident {
				t.Errorf("got live heap %v of %v and anonymous %v of %v", m.HeapLive, m.HeapAlloc, m.GoAnon, m.Resident)
			}
		})
	}
}

func TestParseEtcdMetrics_NothingKnown(t *testing.T) {
	m := ParseEtcdMetrics(nil)
	for _, v := range []float64{m.Resident, m.CPU, m.GoAnon, m.HeapLive, m.Drivers.Keys, m.Drivers.RangesInFlight} {
		if known(v) {
			t.Errorf("got %v of an empty page, want unknown", v)
		}
	}
	s := NewCollector().Sample(Reading{Time: day0, Etcd: &m})
	if known(s.Demand()) {
		t.Errorf("got a demand of %v, want unknown", s.Demand())
	}
}

func TestCollector_RatesAndEvents(t *testing.T) {
	at := func(seconds int) time.Time { return day0.Add(time.Duration(seconds) * time.Second) }
	c := NewCollector()
	first := &Process{PID: 7, StartTick: 100, CPU: 10, Anon: 100 * mib, File: 50 * mib}
	if s := c.Sample(Reading{Time: at(0), Process: first}); known(s.CPU) || s.Restart || s.Demand() != 100*mib {
		t.Errorf("first sample: got %+v, want no rate and the anonymous memory", s)
	}
	second := *first
	second.CPU = 12
	if s := c.Sample(Reading{Time: at(10), Process: &second}); s.CPU != 0.2 || s.Restart {
		t.Errorf("got %v cores and restart %v, want 0.2 and false", s.CPU, s.Restart)
	}
	other := second
	other.PID, other.StartTick, other.CPU = 8, 900, 1
	if s := c.Sample(Reading{Time: at(20), Process: &other}); known(s.CPU) || !s.Restart {
		t.Errorf("after a restart: got %v cores and restart %v, want unknown and true", s.CPU, s.Restart)
	}
	// The clock goes back: no rate, and no negative one.
	other2 := other
	other2.CPU = 2
	if s := c.Sample(Reading{Time: at(5), Process: &other2}); known(s.CPU) {
		t.Errorf("after the clock went back: got %v cores, want unknown", s.CPU)
	}
}

// What rose and fell between two samples is in the cgroup's peak.
func TestCollector_SpikesBetweenSamples(t *testing.T) {
	at := func(second int, peak float64) Reading {
		p := Process{PID: 1, StartTick: 1, Anon: 400 * mib, File: 200 * mib}
		g := Cgroup{Current: 700 * mib, Peak: peak, Anon: 410 * mib, File: 290 * mib, InactiveFile: 100 * mib}
		return Reading{Time: day0.Add(time.Duration(second) * time.Second), Process: &p, Cgroup: &g}
	}
	c := NewCollector()
	for i, tt := range []struct{ peak, anon float64 }{
		{900 * mib, 400 * mib},           // a peak of before the first sample is nobody's
		{900 * mib, 400 * mib},           // no new one
		{2000 * mib, (2000 - 290) * mib}, // all of it but the file pages
		{2000 * mib, 400 * mib},
		{math.NaN(), 400 * mib}, // a kernel before 5.19
		{math.NaN(), 400 * mib},
	} {
		if got := c.Sample(at(i, tt.peak)).Anon; got != tt.anon {
			t.Errorf("sample %d: got %s of anonymous memory, want %s", i, size(got), size(tt.anon))
		}
	}
	c = NewCollector()
	for i, tt := range []struct{ peak, anon float64 }{{500 * mib, 410 * mib}, {1290 * mib, 1000 * mib}} {
		r := at(i, tt.peak)
		r.Process = nil
		if got := c.Sample(r).Anon; got != tt.anon {
			t.Errorf("without /proc, sample %d: got %s, want %s", i, size(got), size(tt.anon))
		}
	}
}

func TestCollector_CountersThatReset(t *testing.T) {
	c := NewCollector()
	reading := func(seconds int, cpu, kills, sent float64) Sample {
		g := Cgroup{Current: 10, InactiveFile: 4, Anon: 3, File: 2, Max: 20, CPU: cpu, OOMKills: kills, Periods: math.NaN(), Throttled: math.NaN(), Pressure: 1}
		m := ParseEtcdMetrics(nil)
		m.Sent, m.Resident, m.GoAnon = sent, 6, 4
		return c.Sample(Reading{Time: day0.Add(time.Duration(seconds) * time.Second), Cgroup: &g, Etcd: &m})
	}
	reading(0, 5, 1, 100)
	s := reading(10, 6, 2, 150)
	if s.CPU != 0.1 || !s.OOM || s.Limit != 20 || s.Memory != 6 || s.Anon != 3 || s.Drivers.SentBytes != 50 {
		t.Errorf("got %+v, want 0.1 cores, an OOM kill, limit 20, working set 6, anonymous 3, 50 sent", s)
	}
	s = reading(20, 1, 0, 10)
	if known(s.CPU) || s.OOM || known(s.Drivers.SentBytes) {
		t.Errorf("after a reset: got %v cores, OOM %v, %v sent, want unknown, false, unknown", s.CPU, s.OOM, s.Drivers.SentBytes)
	}
}

// wantRecordedCgroup holds that the recorded folder is read to the last number.
func wantRecordedCgroup(t *testing.T) {
	t.Helper()
	c, err := ReadCgroup("testdata/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	want := Cgroup{Current: 2179989504, Peak: 2684354560, Max: 2684354560, Anon: 1287651328, File: 873463808, InactiveFile: 440401920,
		OOMKills: 2, CPU: 91823.34421, Periods: 120000, Throttled: 840, Pressure: 1.53}
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestReadCgroup(t *testing.T) {
	wantRecordedCgroup(t)
	dir := t.TempDir()
	if _, err := ReadCgroup(dir); err == nil {
		t.Error("an empty folder: got no error")
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte("max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadCgroup(dir); err != nil || !math.IsInf(c.Max, 1) || known(c.Current) {
		t.Errorf("got %+v, %v, want no limit and the rest unknown", c, err)
	}
}

func TestFindCgroup(t *testing.T) {
	proc, root := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(proc, "7/cgroup"), "0::/kubepods/pod1/etcd\n")
	write(filepath.Join(root, "kubepods/pod1/etcd/memory.current"), "1\n")
	if dir, err := FindCgroup(proc, root, 7); err != nil || dir != filepath.Join(root, "kubepods/pod1/etcd") {
		t.Errorf("on the host: got %q, %v", dir, err)
	}
	// Beside it in a cgroup namespace: the path leads out, the process's own mounts show it.
	write(filepath.Join(proc, "8/cgroup"), "0::/../etcd\n")
	write(filepath.Join(root, "memory.current"), "the keeper's own\n")
	mounts := filepath.Join(proc, "8", "root", "sys", "fs", "cgroup")
	write(filepath.Join(mounts, "memory.current"), "1\n")
	if dir, err := FindCgroup(proc, root, 8); err != nil || dir != mounts {
		t.Errorf("in a sidecar: got %q, %v", dir, err)
	}
	write(filepath.Join(proc, "9/cgroup"), "4:memory:/x\n")
	if _, err := FindCgroup(proc, root, 9); err == nil || !strings.Contains(err.Error(), "v1") {
		t.Errorf("cgroup v1: got %v, want an error that says so", err)
	}
}

func TestReadProcess_Self(t *testing.T) {
	p, err := ReadProcess("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !known(p.Anon) || p.Anon < mib || p.StartTick == 0 || p.Name == "" {
		t.Errorf("got %+v, want this process's memory, start and name", p)
	}
}

func TestProcess_ParseStat(t *testing.T) {
	var p Process
	if err := p.parseStat([]byte("12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 4242 100 1")); err != nil {
		t.Fatal(err)
	}
	if p.Name != "a (b) c" || p.CPU != 3 || p.StartTick != 4242 {
		t.Errorf("got %+v, want name a (b) c, 3 s, start 4242", p)
	}
	for _, bad := range []string{"", "12 a S", "12 (a) S 1", ") ("} {
		if err := p.parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func FuzzProcess_Parse(f *testing.F) {
	f.Add("12 (a) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 4242 100 1", "RssAnon:\t 12 kB\n")
	f.Add(")(", "RssAnon")
	f.Fuzz(func(t *testing.T, stat, status string) {
		p := Process{Anon: math.NaN(), File: math.NaN()}
		_ = p.parseStat([]byte(stat))
		p.parseStatus([]byte(status))
		if known(p.CPU) != true || (!math.IsNaN(p.Anon) && !known(p.Anon)) {
			t.Errorf("got %+v of %q and %q", p, stat, status)
		}
	})
}

func TestFindProcess_ByNameAndPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	self, err := ReadProcess("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := FindProcess("/proc", self.Name, port); err != nil || pid != os.Getpid() {
		t.Errorf("got %d, %v, want this process %d", pid, err, os.Getpid())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := FindProcess("/proc", self.Name, port); !errors.Is(err, errNoProcess) {
		t.Errorf("nobody listens: got %v, want errNoProcess", err)
	}
	if _, err := FindProcess(t.TempDir(), "etcd", 0); !errors.Is(err, errNoProcess) {
		t.Errorf("an empty /proc: got %v, want errNoProcess", err)
	}
}

type failing struct{ name string }

func (f failing) Name() string                         { return f.name }
func (f failing) Gives() string                        { return "nothing" }
func (f failing) Read(context.Context, *Reading) error { return fmt.Errorf("%s is away", f.name) }

func TestCollector_NoSource(t *testing.T) {
	s, reports := NewCollector(failing{"a"}, failing{"b"}).Collect(t.Context(), day0)
	if known(s.Demand()) || len(reports) != 2 || reports[0].OK || reports[1].Error != "b is away" {
		t.Errorf("got %+v and %+v, want nothing known and both errors", s, reports)
	}
	err := &NoSourceError{reports}
	if !strings.Contains(err.Error(), "a: a is away; b: b is away") || !strings.Contains(err.Error(), "nothing is recommended") {
		t.Errorf("got %q, want what was tried", err)
	}
}

// The process that was found is kept as long as it is the same one, and looked for again when another has its id.
func TestProcessSource_RemembersItsProcess(t *testing.T) {
	root := t.TempDir()
	process := func(pid int, name string, start int) {
		dir := filepath.Join(root, strconv.Itoa(pid))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 %d 0 0\n", pid, name, start)
		for file, content := range map[string]string{"stat": stat, "comm": name + "\n", "status": "RssAnon:\t1 kB\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := ProcessSource{Root: root, Exe: "etcd", Last: new(LastProcess)}
	want := func(what string, pid int) {
		t.Helper()
		if got, err := p.find(); err != nil || got != pid {
			t.Errorf("%s: got %d, %v, want %d", what, got, err, pid)
		}
	}
	process(10, "etcd", 100)
	want("first", 10)
	process(11, "etcd", 200) // without memory two would be ambiguous
	want("another etcd beside it", 10)
	process(10, "bash", 300) // the id was given to another process
	want("the first one is gone", 11)
	process(11, "etcd", 400)
	want("restarted under the same id", 11)
	process(11, "bash", 500)
	if _, err := p.find(); !errors.Is(err, errNoProcess) {
		t.Errorf("all gone: got %v, want errNoProcess", err)
	}
}
