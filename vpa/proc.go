package vpa

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is what /proc says of one process at one time.
type Process struct {
	PID       int
	Name      string
	StartTick uint64  // start in clock ticks since boot: another value is another process
	CPU       float64 // seconds of processor time since the start
	Anon      float64 // bytes, NaN where the kernel does not say
	File      float64
	Shared    float64
}

// clockTicks is USER_HZ, which is 100 on every architecture that Linux serves
// to Go programs.
const clockTicks = 100

// errNoProcess is returned by FindProcess when none matches.
var errNoProcess = errors.New("no such process in this process namespace")

// ReadProcess reads a process below root, which is /proc on a real machine.
func ReadProcess(root string, pid int) (Process, error) {
	dir := filepath.Join(root, strconv.Itoa(pid))
	p := Process{PID: pid, Anon: math.NaN(), File: math.NaN(), Shared: math.NaN()}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, fmt.Errorf("read process %d: %w", pid, err)
	}
	if err := p.parseStat(stat); err != nil {
		return p, fmt.Errorf("read process %d: %w", pid, err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, fmt.Errorf("read process %d: %w", pid, err)
	}
	p.parseStatus(status)
	return p, nil
}

// parseStat takes the name, CPU time and start from /proc/PID/stat; the name
// may hold spaces and brackets.
func (p *Process) parseStat(b []byte) error {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return errors.New("stat has no name")
	}
	p.Name = string(b[open+1 : end])
	fields := strings.Fields(string(b[end+1:]))
	// Fields 14, 15 and 22 of proc(5), counted from the state, which is field 3.
	if len(fields) < 20 {
		return fmt.Errorf("stat has %d fields after the name, expected 20 at least", len(fields))
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 64)
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	start, err3 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	p.CPU = float64(user)/clockTicks + float64(system)/clockTicks
	p.StartTick = start
	return nil
}

func (p *Process) parseStatus(b []byte) {
	for line := range bytes.Lines(b) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		var into *float64
		switch string(key) {
		case "RssAnon":
			into = &p.Anon
		case "RssFile":
			into = &p.File
		case "RssShmem":
			into = &p.Shared
		default:
			continue
		}
		if f := bytes.Fields(value); len(f) == 2 && string(f[1]) == "kB" {
			if n, err := strconv.ParseUint(string(f[0]), 10, 53); err == nil {
				*into = float64(n) * 1024
			}
		}
	}
}

// FindProcess returns the process of the given name (etcd) that listens on the
// TCP port; port 0 takes the only process of that name. It needs a shared
// process namespace when etcd is in another container.
func FindProcess(root, name string, port int) (int, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0, fmt.Errorf("find process %s: %w", name, err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if comm, err := os.ReadFile(filepath.Join(root, e.Name(), "comm")); err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		found = append(found, pid)
	}
	if port != 0 {
		found = slices.DeleteFunc(found, func(pid int) bool { return !listens(root, pid, port) })
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("find process %s listening on port %d: %w: share the pod's process namespace, or give another source", name, port, errNoProcess)
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("find process %s listening on port %d: %d processes match (%v): give the port of the member's client URL", name, port, len(found), found)
}

// listens says whether a process holds a listening TCP socket on the port. The
// socket table is that of the process's own network namespace.
func listens(root string, pid, port int) bool {
	dir := filepath.Join(root, strconv.Itoa(pid))
	inodes := map[string]bool{}
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(filepath.Join(dir, "net", file))
		if err != nil {
			continue
		}
		listening(b, port, inodes)
	}
	if len(inodes) == 0 {
		return false
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if errors.Is(err, fs.ErrPermission) {
		return true // the name and a listener in its namespace are all that can be known
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok && inodes[strings.TrimSuffix(inode, "]")] {
			return true
		}
	}
	return false
}

// listening collects the inodes of sockets of /proc/PID/net/tcp that listen on
// the port.
func listening(b []byte, port int, into map[string]bool) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		_, hexPort, err := net.SplitHostPort(f[1])
		if err != nil {
			continue
		}
		raw, err := hex.DecodeString(hexPort)
		if err == nil && len(raw) == 2 && int(raw[0])<<8|int(raw[1]) == port {
			into[f[9]] = true
		}
	}
}
