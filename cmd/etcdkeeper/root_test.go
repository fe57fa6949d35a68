package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

// runCmd runs the command line in this process.
func runCmd(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestExecute_UsageErrors(t *testing.T) {
	for _, tt := range []struct{ name, args, want string }{
		{"unknown command", "statu", `unknown command "statu" for "etcdkeeper"`},
		{"unknown child", "config prin", "did you mean print?"},
		{"missing child", "config", "want one of print, validate"},
		{"extra argument", "version now", "unknown command"},
		{"unknown flag", "version --bad", "unknown flag: --bad"},
		{"unknown format", "version -w xml", `--write-out "xml": want one of table, json, yaml`},
		{"page of a command without", "version -w html", "want one of"},
		{"bad duration", "config print --dial-timeout 5", "want a duration such as 90s"},
		{"missing file", "config print --config /does/not/exist", "/does/not/exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runCmd(t, strings.Fields(tt.args)...)
			if code != exitUsage {
				t.Errorf("got exit code %d, want %d", code, exitUsage)
			}
			if !strings.Contains(stderr, tt.want) {
				t.Errorf("got standard error %q, want it to contain %q", stderr, tt.want)
			}
			if stdout != "" {
				t.Errorf("got standard output %q, want none", stdout)
			}
		})
	}
}

func TestExecute_EveryHelpHasTheExitCodes(t *testing.T) {
	root := newRootCmd(&app{stdout: io.Discard, stderr: io.Discard})
	for _, c := range allCommands(root) {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		code, stdout, _ := runCmd(t, args...)
		if code != exitDone || !strings.Contains(stdout, "130  interrupted before anything was changed") {
			t.Errorf("%s --help: got exit code %d and %q, want the exit codes", c.CommandPath(), code, stdout)
		}
	}
}
