package vpa

import (
	"context"
	"fmt"
	"sync"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// MetricsSource reads etcd's /metrics.
type MetricsSource struct {
	Client *cluster.Client
	Member cluster.Member
}

// Name returns "etcd".
func (MetricsSource) Name() string { return "etcd" }

// Gives says what the page holds.
func (MetricsSource) Gives() string {
	return "live heap and garbage, CPU, and the drivers of memory; anonymous memory only as an estimate, OOM kills only as restarts"
}

// Read fills Reading.Etcd.
func (m MetricsSource) Read(ctx context.Context, into *Reading) error {
	families, err := m.Client.Metrics(ctx, m.Member, EtcdFamilies()...)
	if err != nil {
		return err
	}
	parsed := ParseEtcdMetrics(families)
	if !known(parsed.Resident) && !known(parsed.Drivers.DBBytes) {
		return fmt.Errorf("metrics of member %s: the page has none of etcd's families: give the member's own --metrics-url", m.Member)
	}
	into.Etcd = &parsed
	return nil
}

// ProcessSource reads /proc of the etcd process that listens on Port.
type ProcessSource struct {
	Root string // /proc
	Exe  string // etcd
	Port int    // of the member's client URL, 0 for the only process of that name

	// Last remembers the process between reads, so that not every sample looks at all processes of the machine. Nil: each
	// read looks. It may be shared.
	Last *LastProcess
}

// LastProcess is the process that a ProcessSource found last. The zero value knows none; it is safe for concurrent use.
type LastProcess struct {
	mu    sync.Mutex
	pid   int
	start uint64
}

// find is FindProcess where the process that was found last is gone.
func (p ProcessSource) find() (int, error) {
	if p.Last == nil {
		return FindProcess(p.Root, p.Exe, p.Port)
	}
	p.Last.mu.Lock()
	defer p.Last.mu.Unlock()
	if p.Last.pid != 0 {
		if read, err := ReadProcess(p.Root, p.Last.pid); err == nil && read.Name == p.Exe && read.StartTick == p.Last.start {
			return p.Last.pid, nil
		}
		p.Last.pid = 0
	}
	pid, err := FindProcess(p.Root, p.Exe, p.Port)
	if err != nil {
		return 0, err
	}
	if read, err := ReadProcess(p.Root, pid); err == nil {
		p.Last.pid, p.Last.start = pid, read.StartTick
	}
	return pid, nil
}

// Name returns "proc".
func (ProcessSource) Name() string { return "proc" }

// Gives says what the files hold.
func (ProcessSource) Gives() string {
	return "anonymous and file memory apart, CPU, restarts; needs the pod's process namespace to be shared; knows no limit and no OOM kills"
}

// Read fills Reading.Process.
func (p ProcessSource) Read(_ context.Context, into *Reading) error {
	pid, err := p.find()
	if err != nil {
		return err
	}
	read, err := ReadProcess(p.Root, pid)
	if err != nil {
		return err
	}
	into.Process = &read
	return nil
}

// CgroupSource reads the cgroup v2 folder of the etcd process.
type CgroupSource struct {
	Process    ProcessSource
	CgroupRoot string // /sys/fs/cgroup
	Dir        string // given folder; else that of the process
}

// Name returns "cgroup".
func (CgroupSource) Name() string { return "cgroup" }

// Gives says what the files hold.
func (CgroupSource) Gives() string {
	return "the memory that counts against the limit, the limit, OOM kills, throttling and pressure; a sidecar sees its own folder only, unless the process namespace is shared"
}

// Read fills Reading.Cgroup.
func (g CgroupSource) Read(_ context.Context, into *Reading) error {
	dir := g.Dir
	if dir == "" {
		pid, err := g.Process.find()
		if err != nil {
			return err
		}
		if dir, err = FindCgroup(g.Process.Root, g.CgroupRoot, pid); err != nil {
			return err
		}
	}
	read, err := ReadCgroup(dir)
	if err != nil {
		return err
	}
	into.Cgroup = &read
	return nil
}
