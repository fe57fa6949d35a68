package vpa

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Cgroup is what the cgroup v2 folder of a container says. Unknown numbers are
// NaN: a kernel or a controller that is not there leaves files out.
type Cgroup struct {
	Current      float64 // memory.current, page cache included
	Peak         float64 // memory.peak
	Max          float64 // memory.max, +Inf for none
	Anon, File   float64 // memory.stat
	InactiveFile float64
	OOMKills     float64 // memory.events oom_kill
	CPU          float64 // cpu.stat usage, seconds
	Periods      float64 // cpu.stat nr_periods
	Throttled    float64 // cpu.stat nr_throttled
	Pressure     float64 // memory.pressure some avg10, percent
}

// ReadCgroup reads a cgroup v2 folder. Every file is optional; an error means
// that there was none of them.
func ReadCgroup(dir string) (Cgroup, error) {
	n := math.NaN()
	c := Cgroup{n, n, n, n, n, n, n, n, n, n, n}
	found := 0
	read := func(name string, parse func([]byte)) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return
		}
		found++
		parse(b)
	}
	single := func(into *float64) func([]byte) {
		return func(b []byte) { *into = cgroupNumber(string(bytes.TrimSpace(b))) }
	}
	keyed := func(fields map[string]*float64) func([]byte) {
		return func(b []byte) {
			for line := range bytes.Lines(b) {
				if key, value, ok := strings.Cut(strings.TrimSpace(string(line)), " "); ok && fields[key] != nil {
					*fields[key] = cgroupNumber(value)
				}
			}
		}
	}
	read("memory.current", single(&c.Current))
	read("memory.peak", single(&c.Peak))
	read("memory.max", single(&c.Max))
	read("memory.stat", keyed(map[string]*float64{"anon": &c.Anon, "file": &c.File, "inactive_file": &c.InactiveFile}))
	read("memory.events", keyed(map[string]*float64{"oom_kill": &c.OOMKills}))
	read("cpu.stat", keyed(map[string]*float64{"usage_usec": &c.CPU, "nr_periods": &c.Periods, "nr_throttled": &c.Throttled}))
	c.CPU /= 1e6
	read("memory.pressure", func(b []byte) {
		for f := range strings.FieldsSeq(string(b)) {
			if v, ok := strings.CutPrefix(f, "avg10="); ok {
				c.Pressure = cgroupNumber(v)
				return // the first line is "some"
			}
		}
	})
	if found == 0 {
		return c, fmt.Errorf("read cgroup %s: no file of cgroup v2 is there: is the folder the container's, and the machine on cgroup v2?", dir)
	}
	return c, nil
}

func cgroupNumber(s string) float64 {
	if s == "max" {
		return math.Inf(1)
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !known(v) {
		return math.NaN()
	}
	return v
}

// FindCgroup returns the cgroup v2 folder of a process: the one that its own
// mount namespace shows, which is how a sidecar that shares the process
// namespace sees etcd's, else the one below cgroupRoot.
func FindCgroup(procRoot, cgroupRoot string, pid int) (string, error) {
	own := filepath.Join(procRoot, strconv.Itoa(pid))
	b, err := os.ReadFile(filepath.Join(own, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	path := ""
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			path = string(rest)
		}
	}
	if path == "" {
		return "", fmt.Errorf("find the cgroup of process %d: it is in no cgroup v2 (cgroup v1 is not read)", pid)
	}
	// A path that leads upward by ".." is outside this cgroup namespace.
	var errs []error
	dirs := []string{filepath.Join(own, "root", "sys/fs/cgroup")}
	if !strings.Contains(path, "..") {
		dirs = append([]string{filepath.Join(cgroupRoot, path)}, dirs...)
	}
	for _, dir := range dirs {
		_, err := os.Stat(filepath.Join(dir, "memory.current"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return "", errors.Join(append(errs, fmt.Errorf("find the cgroup of process %d: no memory.current for %s: is the memory controller on cgroup v1, which is not read?", pid, path))...)
}
