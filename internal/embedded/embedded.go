// Package embedded runs a small etcd cluster for the demo and for tests: every member is a child process of the same
// binary, since etcd's metrics are global to a process and members that share one would share the gauge of
// defragmentations in flight.
//
// The cluster lives on loopback ports and in one temporary directory. Nothing of it outlives its parent: Stop ends the
// members and removes the directory, and each member watches a pipe from its parent, so that it ends and removes its
// files by itself when the parent is killed. What a kill of all processes at once leaves on the disk is removed by the
// next Start.
//
// It is not a way to run an etcd that anybody needs: data is not synced to the disk unless Options.Fsync is set.
package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// dirPattern names the temporary directories; the sweep of leftovers looks for it too.
const dirPattern = "etcdkeeper-demo-"

// memberStopTimeout is how long a member may take to end before it is killed: etcd closes its database in well under a
// second, a busy disk may take longer.
const memberStopTimeout = 15 * time.Second

// Options configures a cluster.
type Options struct {
	Members int // 3 where 0
	// Command makes the command of one member: the running binary with arguments that lead to RunMember. Its standard
	// input and output and its process group are taken over.
	Command    func() *exec.Cmd
	Dir        string // parent of the temporary directory; the system's where empty
	QuotaBytes int64  // --quota-backend-bytes; etcd's default where 0
	Fsync      bool   // sync writes to the disk as a real etcd does
}

// Member is one running member.
type Member struct {
	Name      string
	ClientURL string
	PeerURL   string
	DataDir   string
	PID       int
}

// Cluster is a running cluster. Its methods are safe for concurrent use.
type Cluster struct {
	dir     string
	lock    *os.File
	members []*member
	ports   []io.Closer
	stop    sync.Once
	stopErr error
}

type member struct {
	Member
	cmd    *exec.Cmd
	life   io.WriteCloser // closing it tells the member to end
	errors *tail
	done   chan struct{}
	err    error // of the process; valid when done is closed
}

// spec is what a member is told on its standard input, as one line of JSON.
type spec struct {
	Name           string   `json:"name"`
	Dir            string   `json:"dir"`    // the member's own directory
	Shared         string   `json:"shared"` // the cluster's directory; removed by the members where the parent is gone
	ClientURL      string   `json:"clientURL"`
	PeerURL        string   `json:"peerURL"`
	InitialCluster string   `json:"initialCluster"`
	Token          string   `json:"token"`
	Names          []string `json:"names"` // of all members: their directories in Shared
	QuotaBytes     int64    `json:"quotaBytes"`
	Fsync          bool     `json:"fsync"`
}

// Start starts a cluster and waits until it has a leader and serves. Where that fails or ctx ends before, everything
// is taken down again.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Command == nil {
		return nil, errors.New("embedded etcd: Options.Command is missing")
	}
	if o.Members <= 0 {
		o.Members = 3
	}
	sweep(o.Dir)
	dir, err := os.MkdirTemp(o.Dir, dirPattern)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: make its directory: %w", err)
	}
	c := &Cluster{dir: dir}
	if c.lock, err = lockDir(dir); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	if err := c.start(ctx, o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o Options) error {
	var initial []string
	specs := make([]spec, o.Members)
	for i := range specs {
		s := &specs[i]
		s.Name = "etcd-" + strconv.Itoa(i)
		s.Dir, s.Shared = filepath.Join(c.dir, s.Name), c.dir
		s.Token, s.QuotaBytes, s.Fsync = filepath.Base(c.dir), o.QuotaBytes, o.Fsync
		for _, url := range []*string{&s.ClientURL, &s.PeerURL} {
			p, addr, err := reservePort()
			if err != nil {
				return fmt.Errorf("embedded etcd: reserve a loopback port: %w", err)
			}
			c.ports = append(c.ports, p)
			*url = "http://" + addr
		}
		initial = append(initial, s.Name+"="+s.PeerURL)
	}
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	ready := make(chan error, o.Members)
	for _, s := range specs {
		s.Names = names
		s.InitialCluster = strings.Join(initial, ",")
		m, started, err := startMember(o.Command(), s, c.lock)
		if err != nil {
			return fmt.Errorf("embedded etcd: start member %s: %w", s.Name, err)
		}
		c.members = append(c.members, m)
		go func() { ready <- <-started }()
	}
	for range specs {
		select {
		case err := <-ready:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("embedded etcd: wait for the members to serve: %w", ctx.Err())
		}
	}
	return nil
}

// startMember starts the process and hands it its spec. The channel gets one value: nil once the member serves.
func startMember(cmd *exec.Cmd, s spec, lock *os.File) (*member, <-chan error, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	m := &member{
		Member: Member{Name: s.Name, ClientURL: s.ClientURL, PeerURL: s.PeerURL, DataDir: s.Dir},
		cmd:    cmd, errors: &tail{}, done: make(chan struct{}),
	}
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	m.life = life
	status := newReady()
	cmd.Stdout, cmd.Stderr = status, m.errors
	cmd.ExtraFiles = []*os.File{lock} // held as long as one process of the cluster lives
	cmd.SysProcAttr = ownGroup()      // a Ctrl-C at the terminal reaches the parent alone
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	m.PID = cmd.Process.Pid
	started := make(chan error, 1)
	go func() {
		m.err = cmd.Wait()
		close(m.done)
	}()
	go func() {
		select {
		case <-status.seen:
			started <- nil
		case <-m.done:
			started <- fmt.Errorf("embedded etcd: member %s ended before it served (%v): %s", m.Name, m.err, m.errors)
		}
	}()
	if _, err := life.Write(append(line, '\n')); err != nil {
		// The process ended at once; started says why.
		return m, started, nil //nolint:nilerr // the reason comes from the process
	}
	return m, started, nil
}

// Members are the members in order of their names.
func (c *Cluster) Members() []Member {
	out := make([]Member, len(c.members))
	for i, m := range c.members {
		out[i] = m.Member
	}
	return out
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	out := make([]string, len(c.members))
	for i, m := range c.members {
		out[i] = m.ClientURL
	}
	return out
}

// Dir is a directory that lives as long as the cluster; the members' directories are in it.
func (c *Cluster) Dir() string { return c.dir }

// Stop ends every member, waits for it and removes all files. Calling it again does nothing.
func (c *Cluster) Stop() error {
	c.stop.Do(func() {
		var errs []error
		for _, m := range c.members {
			_, _ = io.WriteString(m.life, stopWord) // fails where the member is gone
			m.life.Close()
		}
		deadline := time.After(memberStopTimeout)
		for _, m := range c.members {
			select {
			case <-m.done:
				if m.err != nil {
					errs = append(errs, fmt.Errorf("embedded etcd: member %s: %w: %s", m.Name, m.err, m.errors))
				}
			case <-deadline:
				deadline = time.After(0) // the others had their time too
				errs = append(errs, fmt.Errorf("embedded etcd: member %s (pid %d) did not end within %s and was killed", m.Name, m.PID, memberStopTimeout))
				if err := m.cmd.Process.Kill(); err != nil {
					errs = append(errs, fmt.Errorf("embedded etcd: kill member %s: %w", m.Name, err))
				}
				<-m.done
			}
		}
		for _, p := range c.ports {
			p.Close()
		}
		if err := os.RemoveAll(c.dir); err != nil {
			errs = append(errs, fmt.Errorf("embedded etcd: remove its files: %w", err))
		}
		if c.lock != nil {
			c.lock.Close()
		}
		c.stopErr = errors.Join(errs...)
	})
	return c.stopErr
}

// sweep removes the directories of clusters of which no process lives any more.
func sweep(parent string) {
	if parent == "" {
		parent = os.TempDir()
	}
	dirs, err := filepath.Glob(filepath.Join(parent, dirPattern+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if lock, err := relock(dir); err == nil {
			_ = os.RemoveAll(dir) // somebody else's, or in use: left alone
			lock.Close()
		}
	}
}

// ready is the standard output of a member: seen is closed when the first line has come.
type ready struct {
	once sync.Once
	seen chan struct{}
}

func newReady() *ready { return &ready{seen: make(chan struct{})} }

func (r *ready) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.seen) })
	return len(p), nil
}

// tail keeps the last bytes of a member's standard error for the error message.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
