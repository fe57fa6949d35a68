package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const roleEnv = "ETCDKEEPER_EMBEDDED_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "member":
		if err := RunMember(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "parent":
		os.Exit(parent())
	case "broken":
		fmt.Fprintln(os.Stderr, "cannot start today")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func command(role string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"="+role)
		return cmd
	}
}

// parent starts a cluster, says where it is, and waits to be killed.
func parent() int {
	c, err := Start(context.Background(), Options{Command: command("member"), Dir: os.Getenv("PARENT_DIR")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(c.Members()); err != nil {
		return 1
	}
	if err := os.WriteFile(filepath.Join(c.Dir(), "page.html"), []byte("left by the parent"), 0o600); err != nil {
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}

func startContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func alive(pid int) bool {
	// A zombie that nobody has waited for yet is dead.
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func waitGone(t *testing.T, members []Member, dir string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = nil
		for _, m := range members {
			if alive(m.PID) {
				left = append(left, fmt.Sprintf("process %d of %s", m.PID, m.Name))
			}
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			left = append(left, filepath.Join(dir, e.Name()))
		}
		if left == nil {
			return
		}
	}
	t.Fatalf("left behind: %s", strings.Join(left, ", "))
}

func TestCluster(t *testing.T) {
	ctx := startContext(t)
	dir := t.TempDir()
	c, err := Start(ctx, Options{Command: command("member"), Dir: dir, QuotaBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop() })
	cli, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	list, err := cli.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cli.Close()
	if len(list.Members) != 3 {
		t.Fatalf("got %d members, want 3", len(list.Members))
	}
	for _, m := range c.Members() {
		resp, err := http.Get(m.ClientURL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"etcd_disk_defrag_inflight 0", "etcd_server_quota_backend_bytes 6.7108864e+07"} {
			if !strings.Contains(string(body), want) {
				t.Errorf("member %s: its metrics have no %q", m.Name, want)
			}
		}
	}
	if err := c.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	waitGone(t, c.Members(), dir)
	if err := c.Stop(); err != nil {
		t.Errorf("stop again: %v", err)
	}
}

// Members whose parent is killed end by themselves and take every file with them, the parent's own too.
func TestCluster_ParentKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := command("parent")()
	cmd.Env = append(cmd.Env, "PARENT_DIR="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	r := bufio.NewReader(stdout)
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var members []Member
	if err := json.Unmarshal(line, &members); err != nil {
		t.Fatal(err)
	}
	if word, err := r.ReadString('\n'); err != nil || word != "ready\n" {
		t.Fatalf("got %q, %v", word, err)
	}
	for _, m := range members {
		if !alive(m.PID) {
			t.Fatalf("member %s does not run before its parent is killed", m.Name)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitGone(t, members, dir)
}

// What a kill of every process at once left is removed by the next start, what is in use is not.
func TestStart_SweepsLeftovers(t *testing.T) {
	ctx := startContext(t)
	dir := t.TempDir()
	left := filepath.Join(dir, dirPattern+"left")
	if err := os.MkdirAll(filepath.Join(left, "etcd-0", "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, dirPattern+"foreign") // no lock: not ours to judge
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := Start(ctx, Options{Command: command("member"), Dir: dir, Members: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Stop()
	second, err := Start(ctx, Options{Command: command("member"), Dir: dir, Members: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", left, err)
	}
	for _, want := range []string{foreign, first.Dir(), second.Dir()} {
		if _, err := os.Stat(want); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestStart_MemberFails(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(startContext(t), Options{Command: command("broken"), Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "cannot start today") {
		t.Fatalf("got %v, want what the member said", err)
	}
	waitGone(t, nil, dir)
}

func TestStart_Cancelled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ctx, Options{Command: command("member"), Dir: dir}); err == nil {
		t.Fatal("got no error from a cancelled context")
	}
	waitGone(t, nil, dir)
}

func TestRunMember_WithoutParent(t *testing.T) {
	for _, in := range []string{"", "{}", "no json\n"} {
		if err := RunMember(context.Background(), strings.NewReader(in), io.Discard); err == nil {
			t.Errorf("input %q: got no error", in)
		}
	}
}
