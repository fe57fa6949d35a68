package deploy

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// quotedErrors are the texts that docs/troubleshooting.md explains, as they stand there.
func quotedErrors(t *testing.T) []string {
	t.Helper()
	var texts []string
	for line := range strings.Lines(string(read(t, "docs/troubleshooting.md"))) {
		cell, _, row := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if !row || !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			texts = append(texts, m[1])
		}
	}
	if len(texts) < 12 {
		t.Fatalf("the page explains %q", texts)
	}
	return texts
}

// asNobody runs the binary as a user that owns nothing, so that a file's permissions count also where tests run as root.
func asNobody(t *testing.T, path string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		out, _ := run(t, nil, path, args...)
		return out
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(dir, "etcdkeeper")
	if err := os.WriteFile(there, []byte(readFile(t, path)), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), there, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// Every text that the page on troubleshooting explains is one that the binary prints on that fault.
func TestTroubleshooting_QuotesRealErrors(t *testing.T) {
	testproc.RequireReal(t)
	path := binary(t)
	ports := testproc.Ports(t, 2)
	secure := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}, TLS: true, Auth: true})
	plain := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36}})
	apart := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V37}, Auth: true, ExtraArgs: []string{fmt.Sprintf("--listen-client-http-urls=http://127.0.0.1:%d", ports[0])}})
	endpoint, other := secure.Endpoints()[0], plain.Endpoints()[0]
	pki := secure.PKI
	tls := []string{"--endpoints", endpoint, "--cacert", pki.CAFile, "--cert", pki.CertFile, "--key", pki.KeyFile}
	expiredCert, expiredKey := pki.Expired(t)
	dir := t.TempDir()
	guarded := filepath.Join(dir, "guarded.key")
	write(t, guarded, "")
	if err := os.Chmod(guarded, 0); err != nil {
		t.Fatal(err)
	}
	misspelt := filepath.Join(dir, "misspelt.yaml")
	write(t, misspelt, "etcd: {endpoint: x}\n")
	secure.Members[0].Ctl(t, "user", "add", "watcher:secret")
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	say := func(args ...string) func() string {
		return func() string {
			out, _ := run(t, []string{"ETCDKEEPER_ETCD_COMMAND_TIMEOUT=20s", "ETCDKEEPER_ETCD_DIAL_TIMEOUT=20s"}, path, args...)
			return out
		}
	}
	after := func(args, flags []string) func() string { return say(append(slices.Clone(args), flags...)...) }
	prints := map[string]func() string{
		"no endpoint answers": func() string {
			out, _ := run(t, nil, path, "status", "--endpoints", fmt.Sprintf("127.0.0.1:%d", ports[1]))
			return out
		},
		"x509: certificate signed by unknown authority":               say("status", "--endpoints", endpoint, "--cacert", etcdtest.NewPKI(t).CAFile),
		"the client certificate has expired":                          say("status", "--endpoints", endpoint, "--cacert", pki.CAFile, "--cert", expiredCert, "--key", expiredKey),
		"the endpoint hung up: if it does not speak TLS, use http://": say("status", "--endpoints", "https://"+strings.TrimPrefix(other, "http://"), "--cacert", pki.CAFile),
		"the endpoint hangs up: if it speaks TLS, use https://":       say("status", "--endpoints", "http://"+strings.TrimPrefix(endpoint, "https://")),
		"open …: no such file or directory":                           say("status", "--endpoints", endpoint, "--cacert", "/does/not/exist"),
		"open …: permission denied":                                   func() string { return asNobody(t, path, "status", "--endpoints", endpoint, "--cacert", guarded) },
		"wrong user name or password":                                 after([]string{"status", "--user", secure.Username, "--password", "wrong"}, tls),
		"authentication is on in this etcd":                           say("status", "--endpoints", apart.Endpoints()[0]),
		"user … lacks a right":                                        after([]string{"pause", "--user", "watcher", "--password", "secret"}, tls),
		"belong to different clusters":                                say("status", "--user", apart.Username, "--password", apart.Password, "--endpoints", other+","+apart.Endpoints()[0]),
		"where its metrics are served elsewhere, give --metrics-url":  say("status", "--user", apart.Username, "--password", apart.Password, "--endpoints", apart.Endpoints()[0]),
		// No member of such a version is built by any test.
		"corrupts its data when a defragmentation meets a snapshot": func() string { return fmt.Sprint(cluster.SafeVersion("3.5.10")) },
		"the lock is held by …": func() string {
			config := cluster.DefaultConfig()
			config.Endpoints = []string{other}
			c, err := cluster.New(config, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			lock, err := c.Acquire(t.Context(), cluster.LockRun, "another keeper", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
			return say("defrag", "--rule", "true", "--allow-small", "--endpoints", other)()
		},
		"paused by … since …": func() string {
			mustRun(t, nil, path, "pause", "--for", "1h", "--reason", "test", "--endpoints", other)
			defer mustRun(t, nil, path, "resume", "--endpoints", other)
			return say("defrag", "--rule", "true", "--allow-small", "--endpoints", other)()
		},
		"with fewer than three every client waits": say("defrag", "--rule", "true", "--endpoints", other),
		"address already in use":                   say("run", "--listen", held.Addr().String(), "--probe-listen", ""),
		"unknown key: did you mean …?":             say("config", "validate", "--config", misspelt),
		"unknown flag":                             say("status", "--endpoint", other),
		"known variables":                          say("defrag", "--dry-run", "--rule", "dbsize > 1", "--endpoints", other),
	}
	for _, text := range quotedErrors(t) {
		produce := prints[text]
		if produce == nil {
			t.Errorf("docs/troubleshooting.md explains %q, which no fault of this test prints", text)
			continue
		}
		delete(prints, text)
		words := strings.Split(text, "…")
		for i := range words {
			words[i] = regexp.QuoteMeta(words[i])
		}
		if out := produce(); !regexp.MustCompile(strings.Join(words, `.+`)).MatchString(out) {
			t.Errorf("docs/troubleshooting.md explains %q, but the fault prints\n%s", text, out)
		}
	}
	for text := range prints {
		t.Errorf("docs/troubleshooting.md does not explain %q", text)
	}
}
