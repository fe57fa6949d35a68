package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/splitter"
)

func runSplit(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = execute(context.Background(), append([]string{"split"}, args...), strings.NewReader(stdin), &out, &errOut)
	return code, out.String(), errOut.String()
}

func TestSplitLint(t *testing.T) {
	manifest := filepath.Join(t.TempDir(), "kube-apiserver.yaml")
	good := "kind: Pod\nmetadata: {name: kube-apiserver}\nspec: {containers: [{name: kube-apiserver, command: [kube-apiserver, '--etcd-servers-overrides=/events#https://10.0.0.1:2379']}]}\n"
	if err := os.WriteFile(manifest, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		code        int
		want        string // in standard output, or in standard error where the code is 2
	}{
		{"good value", "", []string{"/events#https://10.0.0.1:2379"}, exitDone, "no findings"},
		{"commas", "", []string{"/events#https://10.0.0.1:2379,https://10.0.0.2:2379"}, exitFindings, "corrected: --etcd-servers-overrides='/events#https://10.0.0.1:2379;https://10.0.0.2:2379'"},
		{"registry", "", []string{"/registry/events#https://10.0.0.1:2379"}, exitFindings, "registry-path"},
		{"shared", "", []string{"--etcd-servers", "https://10.0.0.1:2379", "/events#https://10.0.0.1:2379"}, exitFindings, "shared-with-main"},
		{"service range", "", []string{"--service-cluster-ip-range", "10.0.0.0/24", "/events#https://10.0.0.1:2379"}, exitFindings, "in-cluster"},
		{"good manifest", "", []string{manifest}, exitDone, "no findings"},
		{"standard input", good, []string{"-"}, exitDone, "no findings"},
		{"no API server", "", []string{empty}, exitUsage, "no kube-apiserver"},
		{"no file", "", []string{"missing.yaml"}, exitUsage, "missing.yaml"},
		{"no argument", "", nil, exitUsage, "want one VALUE or MANIFEST"},
		{"two arguments", "", []string{"a", "b"}, exitUsage, "got 2 arguments"},
		{"pasted", "", []string{"--etcd-servers-overrides=/events#https://10.0.0.1:2379"}, exitDone, "no findings"},
		{"pasted, wrong", "", []string{"--etcd-servers-overrides=/registry/events#https://10.0.0.1:2379"}, exitFindings, "registry-path"},
		{"pasted beside a value", "", []string{"--etcd-servers-overrides=/events#https://10.0.0.1:2379", "/pods"}, exitUsage, "no other is wanted"},
		{"empty value", "", []string{""}, exitFindings, "the value is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errOut := runSplit(t, tt.stdin, append([]string{"lint"}, tt.args...)...)
			text := out
			if tt.code == exitUsage {
				text = errOut
			}
			if code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("got %d %q %q, want %d and %q", code, out, errOut, tt.code, tt.want)
			}
		})
	}
}

func TestSplitLint_JSON(t *testing.T) {
	code, out, _ := runSplit(t, "", "lint", "-w", "json", "/event#https://10.0.0.1:2379")
	var res splitter.LintResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if code != exitFindings || len(res.Findings) != 1 || res.Findings[0].Effect != splitter.Inert || res.Corrected == nil {
		t.Errorf("got %d %s", code, out)
	}
}
