package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"etcdkeeper": main})
}

// TestScripts runs the command line as a user does: a process, its streams and its exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"HOME", "KUBECONFIG"} {
				env.Setenv(name, env.WorkDir)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// waitfile FILE REGEXP: waits until the file has a match.
			"waitfile": func(ts *testscript.TestScript, _ bool, args []string) {
				want := regexp.MustCompile(args[1])
				var data []byte
				for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					if data, _ = os.ReadFile(ts.MkAbs(args[0])); want.Match(data) {
						return
					}
				}
				ts.Fatalf("%s has no match for %s:\n%s", args[0], want, data)
			},
			// signal NAME PIDFILE: sends a signal to the process whose id is in the file.
			"signal": func(ts *testscript.TestScript, _ bool, args []string) {
				pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
				ts.Check(err)
				ts.Check(syscall.Kill(pid, map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}[args[0]]))
			},
			// exits CODE COMMAND ARGS…: the command ends with CODE.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				got := 0
				if err != nil {
					if _, err := fmt.Sscanf(err.Error(), "exit status %d", &got); err != nil {
						ts.Fatalf("%s: %v", strings.Join(args[1:], " "), err)
					}
				}
				if got != want {
					ts.Fatalf("%s: got exit code %d, want %d", strings.Join(args[1:], " "), got, want)
				}
			},
		},
	})
}

// Every command refuses an unknown flag, an unknown format and a bad configuration with 2, before it does anything.
func TestEveryCommand_RefusesBadInput(t *testing.T) {
	bad := t.TempDir() + "/bad.yaml"
	if err := os.WriteFile(bad, []byte("etcd: {endpoint: a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range runnable(newRootCmd(&app{})) {
		path := strings.Fields(c.CommandPath())[1:]
		if len(path) == 0 || path[0] == "completion" || path[0] == "help" {
			continue
		}
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			for _, args := range [][]string{{"--no-such-flag"}, {"-w", "xml"}, {"--dial-timeout", "soon"}} {
				code, stdout, stderr := runCmd(t, append(path, args...)...)
				if code != exitUsage || stdout != "" || stderr == "" {
					t.Errorf("%s: got exit code %d, standard output %q, standard error %q; want 2 and the reason", args, code, stdout, stderr)
				}
			}
			if !strings.Contains(c.UseLine(), " [") && c.Args != nil && c.Args(c, []string{"extra"}) == nil && !strings.Contains(c.Use, " ") {
				t.Error("an argument that means nothing is accepted")
			}
		})
	}
}

// runnable are the commands that do something, without hidden ones.
func runnable(root *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range allCommands(root) {
		if c.Runnable() && !c.HasSubCommands() && !c.Hidden {
			out = append(out, c)
		}
	}
	return out
}

// Ctrl-C before anything was changed is 130, whatever the command was waiting for.
func TestExecute_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	if code := execute(ctx, []string{"status", "--endpoints", "127.0.0.1:1"}, strings.NewReader(""), &out, &errs); code != exitInterrupted {
		t.Errorf("got exit code %d, standard error %q, want %d", code, errs.String(), exitInterrupted)
	}
}
