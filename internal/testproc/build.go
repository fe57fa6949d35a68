package testproc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const modulePath = "github.com/etcdkeeper/etcdkeeper"

// Module is a Go module of this repository that exists to build programs.
type Module struct {
	// Dir is the module's folder, relative to the repository's root.
	Dir string
	// Programs maps a program's file name to the package that it is built from.
	Programs map[string]string
	// LDFlags are given to the linker after "-s -w".
	LDFlags string
}

// Program returns the path of one of the module's programs. The first use
// builds all of them, which takes minutes for a Kubernetes API server; later
// uses, in this process or another, find them in the cache folder. What is
// built is named by a digest of the module's requirements, so a changed
// version is built anew beside the old one.
func (m Module) Program(ctx context.Context, name string) (string, error) {
	if _, ok := m.Programs[name]; !ok {
		known := slices.Sorted(maps.Keys(m.Programs))
		return "", fmt.Errorf("build %s: no program of that name in %s, which has %s", name, m.Dir, strings.Join(known, ", "))
	}
	root, err := RepositoryRoot()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	cache, err := CacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	source := filepath.Join(root, m.Dir)
	digest, err := m.digest(source)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	dir := filepath.Join(cache, strings.ReplaceAll(m.Dir, "/", "-")+"-"+digest)
	if err := m.buildOnce(ctx, source, dir); err != nil {
		return "", fmt.Errorf("build %s in %s: %w", name, m.Dir, err)
	}
	return filepath.Join(dir, name), nil
}

// buildOnce fills dir unless that was done before. A file lock makes processes
// that want the same programs wait for one build.
func (m Module) buildOnce(ctx context.Context, source, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	building, err := os.MkdirTemp(filepath.Dir(dir), "building-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(building)
	for _, name := range slices.Sorted(maps.Keys(m.Programs)) {
		if err := m.build(ctx, source, filepath.Join(building, name), m.Programs[name]); err != nil {
			return err
		}
	}
	if err := os.Chmod(building, 0o755); err != nil {
		return err
	}
	return os.Rename(building, dir)
}

func (m Module) build(ctx context.Context, source, output, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", strings.TrimSpace("-s -w "+m.LDFlags), "-o", output, pkg)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out.Bytes())
	}
	return nil
}

// digest names what the programs are made of: requirements, checksums, linker
// flags and the platform.
func (m Module) digest(source string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(content))
		h.Write(content)
	}
	fmt.Fprintf(h, "%s\n%s/%s\n", m.LDFlags, runtime.GOOS, runtime.GOARCH)
	for _, name := range slices.Sorted(maps.Keys(m.Programs)) {
		fmt.Fprintf(h, "%s %s\n", name, m.Programs[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// CacheDir returns the folder in which built programs are kept,
// $XDG_CACHE_HOME/etcdkeeper-test or ~/.cache/etcdkeeper-test, made on first use.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder (set XDG_CACHE_HOME or HOME): %w", err)
	}
	dir := filepath.Join(base, "etcdkeeper-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	return dir, nil
}

// RepositoryRoot finds this repository's root from the working folder, which
// for a test is its package's.
func RepositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(content, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the module %s", start, modulePath)
		}
	}
}

// lockFile takes an exclusive lock on a file, waiting until ctx ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock %s: %w", path, context.Cause(ctx)), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
