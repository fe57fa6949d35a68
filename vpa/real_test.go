package vpa

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// within polls until done, generously: the tests share slow machines.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("not within 2m: %s", what)
}

func clientOf(t *testing.T, m *etcdtest.Member) (*cluster.Client, cluster.View, cluster.Member) {
	t.Helper()
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = []string{m.ClientURL}
	cfg.DialTimeout, cfg.CommandTimeout = 10*time.Second, 30*time.Second
	c, err := cluster.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	v, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	beside, ok := v.Beside(c.Config())
	if !ok {
		t.Fatalf("no member beside %s in %+v", m.ClientURL, v)
	}
	return c, v, beside
}

func TestReal_SamplesAgree(t *testing.T) {
	testproc.RequireReal(t)
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}})
			client := etcd.Client(t)
			value := strings.Repeat("v", 16<<10)
			for i := range 500 {
				if _, err := client.Put(t.Context(), fmt.Sprintf("/registry/pods/ns/%d", i), value); err != nil {
					t.Fatal(err)
				}
			}
			c, v, m := clientOf(t, etcd.Members[0])
			s, err := NewSizer(c, m, DefaultConfig(), SizerOptions{Local: true, StateDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			var etcdOnly, procOnly Reading
			within(t, "the metrics and /proc agree on the memory", func() bool {
				port := clientPort(m)
				if err := (MetricsSource{c, m}).Read(t.Context(), &etcdOnly); err != nil {
					t.Fatal(err)
				}
				if err := (ProcessSource{Root: "/proc", Exe: "etcd", Port: port}).Read(t.Context(), &procOnly); err != nil {
					t.Fatal(err)
				}
				p, e := procOnly.Process, etcdOnly.Etcd
				near := func(a, b float64) bool { return math.Abs(a-b) <= 0.25*max(a, b)+8*mib }
				return p.PID == etcd.Members[0].PID() && near(p.Anon+p.File, e.Resident) && near(p.Anon, e.GoAnon)
			})
			if d := etcdOnly.Etcd.Drivers; d.Keys != 500 || d.DBBytes < 7*mib || !strings.HasPrefix(d.Version, version) || etcdOnly.Etcd.Puts < 500 {
				t.Errorf("got drivers %+v, want 500 keys in 7 MiB at least", d)
			}
			for range 3 {
				if err := s.Sample(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(300 * time.Millisecond)
			}
			rec := s.Recommend(t.Context())
			checkAmount(t, "limit", rec.Memory.Limit)
			if !known(float64(rec.Memory.Limit.Bytes)) || !known(float64(rec.CPU.Request)) || rec.Memory.Kind != "anonymous" || rec.Confidence > 0.1 {
				t.Errorf("got %+v, want every number with little confidence", rec.Memory)
			}
			shareOnce(t, c, s, v)
			restartIsSeen(t, etcd.Members[0], s)
			if err := s.Save(); err != nil {
				t.Fatal(err)
			}
			again, err := NewSizer(c, m, DefaultConfig(), SizerOptions{StateDir: s.o.StateDir})
			if err != nil || again.rec.samples != s.rec.samples {
				t.Errorf("after a restart of the keeper: got %d samples, %v, want %d", again.rec.samples, err, s.rec.samples)
			}
		})
	}
}

// shareOnce wants one small profile, and no second one within the interval.
func shareOnce(t *testing.T, c *cluster.Client, s *Sizer, v cluster.View) {
	t.Helper()
	for range 3 {
		if err := s.Share(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	values, names, err := c.Records(t.Context(), ProfilesDir)
	if err != nil || len(names) != 1 || len(values[names[0]]) > cluster.MaxSharedBytes {
		t.Fatalf("got profiles %v, %v, want one of 8 KiB at most", names, err)
	}
	if p, err := ParseProfile(values[names[0]]); err != nil || p.Member != s.member.ID.String() || !known(float64(p.Limit)) {
		t.Errorf("got %+v, %v, want the member's limit", p, err)
	}
	after, err := c.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.Members[0].Revision - v.Members[0].Revision; grown != 1 {
		t.Errorf("three shares wrote %d revisions, want 1", grown)
	}
	s.shared = time.Time{}
	full := v
	full.Members = append([]cluster.Member(nil), v.Members...)
	full.Members[0].Alarms = []string{"NOSPACE"}
	if err := s.Share(t.Context(), full); err != nil || !s.shared.IsZero() {
		t.Errorf("under NOSPACE: got %v and shared at %v, want nothing written", err, s.shared)
	}
}

func restartIsSeen(t *testing.T, m *etcdtest.Member, s *Sizer) {
	t.Helper()
	m.Restart(t)
	within(t, "the restart is in a sample", func() bool {
		_ = s.Sample(t.Context())
		return s.latest.Restart
	})
}

func TestReal_PrometheusBackFill(t *testing.T) {
	testproc.RequireReal(t)
	path := testproc.Installed(t, "prometheus", "prometheus")
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36, etcdtest.V36, etcdtest.V36}})
	dir := t.TempDir()
	var targets []string
	for _, m := range etcd.Members {
		targets = append(targets, strings.TrimPrefix(m.MetricsURL, "http://"))
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: etcd\n  static_configs: [{targets: [%s]}]\n", strings.Join(targets, ", "))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := fmt.Sprintf("127.0.0.1:%d", testproc.Ports(t, 1)[0])
	p, err := testproc.StartProcess(testproc.Spec{Name: "prometheus", Path: path, Log: filepath.Join(dir, "log"), Args: []string{
		"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + listen,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	within(t, "prometheus is ready", func() bool {
		resp, err := http.Get("http://" + listen + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	source := Prometheus{URL: "http://" + listen, Selector: `job="etcd"`, Instance: targets[0]}
	var samples []Sample
	history := func() bool {
		samples = nil
		_, err := source.BackFill(t.Context(), 10*time.Minute, time.Now().Add(time.Minute), func(s Sample) { samples = append(samples, s) })
		return err == nil && len(samples) > 0 && known(samples[len(samples)-1].Anon) && known(samples[len(samples)-1].Drivers.DBBytes)
	}
	within(t, "history of etcd's memory in prometheus", history)
	within(t, "three members without an instance are refused", func() bool {
		_, err := Prometheus{URL: source.URL, Selector: source.Selector}.BackFill(t.Context(), 10*time.Minute, time.Now().Add(time.Minute), func(Sample) {})
		return err != nil && strings.Contains(err.Error(), "3 series at once")
	})
	// A month is more points than Prometheus answers at once.
	if n, err := source.BackFill(t.Context(), 30*24*time.Hour, time.Now().Add(time.Minute), func(Sample) {}); err != nil || n == 0 {
		t.Errorf("a month: got %d samples, %v", n, err)
	}
	etcd.Members[0].Restart(t)
	within(t, "the restart is in the history, without CPU use from counters that began anew", func() bool {
		restart := false
		if !history() {
			return false
		}
		for _, s := range samples {
			restart = restart || s.Restart
			if s.CPU < 0 || s.Restart && known(s.CPU) {
				t.Fatalf("got %+v, want no rate over a restart", s)
			}
		}
		return restart
	})
	proc, err := ReadProcess("/proc", etcd.Members[0].PID())
	if err != nil {
		t.Fatal(err)
	}
	if got := samples[len(samples)-1].Memory; got < 0.5*(proc.Anon+proc.File) || got > 2*(proc.Anon+proc.File) {
		t.Errorf("got %s in prometheus, want about the %s of /proc", size(got), size(proc.Anon+proc.File))
	}
	if _, err := (Prometheus{URL: "http://" + listen, Selector: `job="none"`}).BackFill(t.Context(), time.Hour, time.Now(), func(Sample) {}); err == nil {
		t.Error("no series: got no error")
	}
}
