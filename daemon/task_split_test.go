package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// splitDaemon runs a daemon whose only capability is the split's, with the evidence in dir.
func splitDaemon(t *testing.T, m *etcdtest.Embedded, dir string) (d *Daemon, log *syncBuffer, stop func() error) {
	t.Helper()
	old := parts
	parts = []part{{"watch", setUpWatch}, {"split", splitObserving(time.Second)}}
	defer func() { parts = old }()
	cfg := testConfig()
	cfg.Etcd.Endpoints = []string{m.Endpoint}
	cfg.StateDir = dir
	log = &syncBuffer{}
	d, err := New(Options{Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop = start(t, d)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", log)
		}
	})
	return d, log, stop
}

// splitStatus waits until the daemon has judged, and returns what /api/status says of it.
func splitStatus(t *testing.T, d *Daemon) (verdict, reason string) {
	t.Helper()
	var status struct {
		Parts struct {
			Split *struct{ Verdict, Reason string }
		}
	}
	eventually(t, "a verdict", func() bool {
		_, body := get(t, d, 0, "/api/status")
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		return status.Parts.Split != nil
	})
	return status.Parts.Split.Verdict, status.Parts.Split.Reason
}

// The task judges, shows the verdict everywhere, and its evidence outlives the daemon.
func TestSplit_KeepsItsEvidence(t *testing.T) {
	m := etcdtest.Embed(t, etcdtest.EmbedOptions{QuotaBytes: 16 << 20})
	c := m.Client(t)
	value := strings.Repeat("v", 10_000)
	for i := range 500 { // 5 of 16 MiB
		if _, err := c.Put(context.Background(), fmt.Sprintf("/registry/events/ns/web-%04d.17f3a2c4", i), value); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for run := 1; run <= 2; run++ {
		d, _, stop := splitDaemon(t, m, dir)
		if verdict, reason := splitStatus(t, d); verdict != string(splitter.Split) || !strings.Contains(reason, "of the quota") {
			t.Errorf("got %s: %s", verdict, reason)
		}
		if code, body := get(t, d, 0, "/split"); code != http.StatusOK || !strings.Contains(body, "events") {
			t.Errorf("page: %d %.200s", code, body)
		}
		_, metrics := get(t, d, 0, "/metrics")
		for _, want := range []string{`etcdkeeper_split_verdict{resource="events",verdict="split"} 1`, `etcdkeeper_split_resource_bytes{resource="events"}`, "etcdkeeper_split_evidence_window_seconds"} {
			if !strings.Contains(metrics, want) {
				t.Errorf("%s is missing in\n%s", want, metrics)
			}
		}
		eventually(t, "the evidence in stateDir", func() bool {
			h, err := splitter.LoadHistory(dir)
			return err == nil && len(h.Samples) == run
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// Evidence that cannot be read is said once and begun anew; the verdict stands without it.
func TestSplit_DamagedEvidence(t *testing.T) {
	m := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	dir := t.TempDir()
	file := filepath.Join(dir, "split-evidence.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, log, stop := splitDaemon(t, m, dir)
	if verdict, reason := splitStatus(t, d); verdict != string(splitter.DoNotSplit) || !strings.Contains(reason, "no events") {
		t.Errorf("an empty keyspace: got %s: %s", verdict, reason)
	}
	eventually(t, "the evidence to be begun anew", func() bool {
		h, err := splitter.LoadHistory(dir)
		return err == nil && len(h.Samples) == 1
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "split-evidence.json") {
		t.Errorf("the log does not name the file:\n%s", log)
	}
}
