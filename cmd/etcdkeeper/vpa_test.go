package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
