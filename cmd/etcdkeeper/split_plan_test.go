package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSplitPlan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plan")
	args := []string{"plan", "--resources", "events", "--installer", "kubeadm", "--host", "a=10.0.0.1", "--host", "b=10.0.0.2", "--host", "c=10.0.0.3",
		"--no-evidence", "--endpoints", "https://10.1.0.1:2379", "-o", dir}
	code, out, errOut := runSplit(t, "", append(args, "-w", "json")...)
	if code != exitDone {
		t.Fatalf("got %d %s", code, errOut)
	}
	var res struct {
		Override string
		Files    []string
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if want := "/events#https://10.0.0.1:2383;https://10.0.0.2:2383;https://10.0.0.3:2383"; res.Override != want {
		t.Errorf("got %s, want %s", res.Override, want)
	}
	for _, f := range append(res.Files, "runbook.md", "plan.json", "alerts.yaml") {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	if code, _, errOut := runSplit(t, "", args...); code != exitRefused || !strings.Contains(errOut, "not empty") {
		t.Errorf("a second plan into the directory: got %d %s", code, errOut)
	}
}

func TestSplitPlan_Usage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "plan")
	for _, args := range [][]string{
		{"--resources", "events", "--installer", "kubeadm", "--host", "a=1.1.1.1"},
		{"--resources", "events", "--installer", "rancher", "--host", "a=1.1.1.1", "-o", out},
		{"--resources", "workflows.argoproj.io", "--installer", "kops", "--host", "a=1.1.1.1", "-o", out},
		{"--resources", "events", "--installer", "kops", "-o", out},
		{"--resources", "events", "--installer", "kops", "--host", "1.1.1.1", "-o", out},
	} {
		if code, _, errOut := runSplit(t, "", append([]string{"plan", "--no-evidence"}, args...)...); code != exitUsage {
			t.Errorf("%q: got %d %s", args, code, errOut)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a refused plan wrote its directory")
	}
}

func TestSplitPrepare_Usage(t *testing.T) {
	for _, args := range [][]string{{}, {"--snapshot", "x"}, {"--snapshot", "x", "--data-dir", "y", "--resources", "foo.example.com"}} {
		if code, _, errOut := runSplit(t, "", append([]string{"prepare"}, args...)...); code != exitUsage {
			t.Errorf("%q: got %d %s", args, code, errOut)
		}
	}
	if code, _, errOut := runSplit(t, "", "prepare", "--snapshot", "x", "--data-dir", t.TempDir(), "--resources", "events"); code != exitRefused {
		t.Errorf("existing directory: got %d %s", code, errOut)
	}
}

func TestSplitVerify_Usage(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "plan.json")
	if err := os.WriteFile(bad, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{}, {"--shard", "127.0.0.1:1"}, {"--resources", "events"},
		{"--shard", "127.0.0.1:1", "--resources", "widgets.example.com"},
		{"--shard", "ftp://127.0.0.1:1", "--resources", "events"},
		{"--shard", "127.0.0.1:1", "--resources", "events", "--plan", bad},
		{"--shard", "127.0.0.1:1", "--resources", "events", "--plan", bad + ".absent"},
	} {
		if code, _, errOut := runSplit(t, "", append([]string{"verify"}, args...)...); code != exitUsage {
			t.Errorf("%q: got %d %s", args, code, errOut)
		}
	}
}
