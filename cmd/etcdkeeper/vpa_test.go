package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// usageFile writes four days of one series at 5 minutes, with a spike on the third.
func usageFile(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("series,step,cpu_percent,memory_percent\n")
	for i := range 4 * 288 {
		v := 20.0
		if i == 600 {
			v = 60
		}
		fmt.Fprintf(&b, "a,%d,5,%g\n", i, v)
	}
	path := filepath.Join(t.TempDir(), "usage.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVPAReplay_JSON(t *testing.T) {
	code, stdout, stderr := runCmd(t, "vpa", "replay", usageFile(t), "-w", "json")
	if code != exitDone {
		t.Fatalf("got exit code %d and %q, want 0", code, stderr)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"series": 1, "ooms": 1, "seriesWithOoms": 1, "changes": 1, "judgedSteps": 864} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	for _, name := range []string{"overProvisionedGiBHours", "limitOverUsed"} {
		if v, ok := got[name].(float64); !ok || v <= 0 {
			t.Errorf("%s: got %v, want a number above 0", name, got[name])
		}
	}
}

func TestVPAReplay_Table(t *testing.T) {
	code, stdout, _ := runCmd(t, "vpa", "replay", usageFile(t), "--per-series", "--memory-gib", "4")
	if code != exitDone || !strings.Contains(stdout, "SERIES WITH OOMS") || !strings.Contains(stdout, "LAST LIMIT GIB") {
		t.Errorf("got exit code %d and %q, want both tables", code, stdout)
	}
}

func TestVPAReplay_NothingJudged(t *testing.T) {
	code, stdout, _ := runCmd(t, "vpa", "replay", usageFile(t), "--warm-up", "240h", "-w", "json")
	if code != exitDone || !strings.Contains(stdout, `"limitOverUsed": null`) || !strings.Contains(stdout, `"seriesNotJudged": 1`) {
		t.Errorf("got exit code %d and %q, want a null ratio and one series not judged", code, stdout)
	}
}

func TestVPAReplay_Refuses(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(bad, []byte("series,step,cpu_percent,memory_percent\na,0,1,2\na,one,1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"bad row", []string{bad}, exitFailed, "line 3: step \"one\""},
		{"no file", []string{filepath.Join(t.TempDir(), "none")}, exitFailed, "no such file"},
		{"no argument", nil, exitUsage, "want one file"},
		{"bad step", []string{bad, "--step", "0s"}, exitUsage, "step 0s"},
		{"bad cores", []string{bad, "--cores", "-1"}, exitUsage, "cores -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runCmd(t, append([]string{"vpa", "replay"}, tt.args...)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) || stdout != "" {
				t.Errorf("got exit code %d, %q and output %q, want %d and %q", code, stderr, stdout, tt.code, tt.want)
			}
		})
	}
}

func TestVPARecommend_NoSource(t *testing.T) {
	code, stdout, stderr := runCmd(t, "vpa", "recommend", "--endpoints", "127.0.0.1:1", "--command-timeout", "1s")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "nothing is recommended; tried etcd") {
		t.Errorf("got exit code %d, %q and output %q, want 1 and what was tried", code, stderr, stdout)
	}
}

// The process and the cgroup are there where etcd itself hangs.
func TestVPARecommend_EtcdDoesNotAnswer(t *testing.T) {
	args := []string{"vpa", "recommend", "--endpoints", "127.0.0.1:1", "--dial-timeout", "1s", "--observe", "0s"}
	code, stdout, stderr := runCmd(t, append(args, "--proc", "", "--cgroup", "../../vpa/testdata/cgroup", "-w", "json")...)
	if code != exitDone || !strings.Contains(stdout, "highest anonymous memory 1.2 GiB") {
		t.Errorf("got exit code %d, %s%s, want the cgroup's memory in the limit", code, stdout, stderr)
	}
	code, stdout, stderr = runCmd(t, args...)
	if code != exitFailed || stdout != "" {
		t.Errorf("no source: got exit code %d and %q, want 1 and nothing recommended", code, stdout)
	}
	for _, want := range []string{"nothing is recommended", "etcd: ", "proc: ", "cgroup: "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no source: got %q, want %q in it", stderr, want)
		}
	}
}

func TestVPARecommend_Refuses(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--format helm", `--format "helm"`},
		{"--manifest x", "--format manifest"},
		{"--census a --census b --census c", "got 3"},
		{"--propose", "--propose goes with"},
		{"--format vpa --target-kind Pod", "--target-kind StatefulSet"},
		{"--target-kind Job", `--target-kind "Job"`},
		{"--since 1y", "--since"},
		{"--observe 2h", "--observe 2h"},
		{"extra", "unknown command"},
	} {
		code, stdout, stderr := runCmd(t, append([]string{"vpa", "recommend"}, strings.Fields(tt.args)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: got exit code %d, %q, want 2 and %q", tt.args, code, stderr, tt.want)
		}
	}
}

func TestVPARecommend_Embedded(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	dir := t.TempDir()
	manifest := filepath.Join(dir, "etcd.yaml")
	if err := os.WriteFile(manifest, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  containers: [{name: etcd, image: e}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		all := append([]string{"vpa", "recommend", "--endpoints", e.Endpoint, "--proc", "", "--observe", "0s"}, args...)
		code, stdout, stderr := runCmd(t, all...)
		if code != exitDone {
			t.Fatalf("%v: got exit code %d and %q, want 0", args, code, stderr)
		}
		return stdout
	}
	var got struct {
		Memory struct {
			Limit struct {
				Bytes float64
				Words string
				Parts []any
			}
		}
		Confidence float64
		Sources    []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(run("-w", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Memory.Limit.Bytes < 64<<20 || len(got.Memory.Limit.Parts) == 0 || !strings.HasPrefix(got.Memory.Limit.Words, "limit ") || got.Confidence > 0.1 || len(got.Sources) == 0 {
		t.Errorf("got %+v, want a limit in words with little confidence", got)
	}
	for _, want := range []string{"memory limit", "GOMEMLIMIT", "source etcd"} {
		if out := run(); !strings.Contains(out, want) {
			t.Errorf("table: got %s, want %q in it", out, want)
		}
	}
	for _, f := range []string{"patch", "podresources", "checkpoint"} {
		if out := run("--format", f); !strings.Contains(out, "memory") {
			t.Errorf("--format %s: got %q", f, out)
		}
	}
	if out := run("--format", "vpa"); !strings.Contains(out, "kind: StatefulSet") || !strings.Contains(out, `updateMode: "Off"`) {
		t.Errorf("--format vpa: got %s, want a StatefulSet's", out)
	}
	if out := run("--format", "patch", "-w", "json"); !json.Valid([]byte(out)) || !strings.Contains(out, `"memory"`) {
		t.Errorf("--format patch -w json: got %s, want JSON", out)
	}
	if out := run("--format", "manifest", "--manifest", manifest, "--propose"); out != "" {
		t.Errorf("--propose: got %q on standard output, want none", out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, ".etcd.proposed.yaml")); err != nil || !strings.Contains(string(b), "GOMEMLIMIT") {
		t.Errorf("the proposal: got %s, %v", b, err)
	}
}

func TestVPARecommend_Census(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	client := e.Client(t)
	dir := t.TempDir()
	census := func(name string, keys int) string {
		t.Helper()
		for i := range keys {
			if _, err := client.Put(t.Context(), fmt.Sprintf("/registry/events/default/an-event-%03d", i), "k8s"); err != nil {
				t.Fatal(err)
			}
		}
		code, stdout, stderr := runCmd(t, "census", "--endpoints", e.Endpoint, "-w", "json")
		if code != exitDone {
			t.Fatalf("census: got exit code %d and %q", code, stderr)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(stdout), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, latest := census("old.json", 10), census("latest.json", 60)
	args := []string{"vpa", "recommend", "--endpoints", e.Endpoint, "--proc", "", "--observe", "0s"}
	code, stdout, stderr := runCmd(t, append(args, "--census", latest, "--census", old)...)
	if code != exitDone || !strings.Contains(stdout, "mostly events") || !strings.Contains(stdout, "source census") {
		t.Errorf("got exit code %d, %s%s, want the events in the index", code, stdout, stderr)
	}
	code, _, stderr = runCmd(t, append(args, "--census", filepath.Join(dir, "none.json"))...)
	if code != exitUsage || !strings.Contains(stderr, "none.json") {
		t.Errorf("no such census: got exit code %d, %q", code, stderr)
	}
}

func TestVPAApply(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "vpa.apply is off"},
		{"--mode propose", "nothing to propose to"},
		{"--mode resize", "vpa.pod"},
		{"--mode all", `got "all"`},
	} {
		code, _, stderr := runCmd(t, append([]string{"vpa", "apply"}, strings.Fields(tt.args)...)...)
		if code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: got exit code %d, %q, want 2 and %q", tt.args, code, stderr, tt.want)
		}
	}
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	manifest := filepath.Join(t.TempDir(), "etcd.yaml")
	if err := os.WriteFile(manifest, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  containers: [{name: etcd, image: e}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runCmd(t, "vpa", "apply", "--mode", "propose", "--manifest", manifest, "--endpoints", e.Endpoint, "--proc", "", "--observe", "0s", "-w", "json")
	if code != exitDone || !strings.Contains(stdout, `"outcome": "proposed"`) || !strings.Contains(stdout, ".etcd.proposed.yaml") {
		t.Errorf("got exit code %d, %q, %q, want a proposal", code, stdout, stderr)
	}
	if b, err := os.ReadFile(manifest); err != nil || strings.Contains(string(b), "limits") {
		t.Errorf("the manifest itself: got %s, %v, want it as it was", b, err)
	}
}
