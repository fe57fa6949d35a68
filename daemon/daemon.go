// Package daemon runs the capabilities as tasks with their own schedules and serves metrics, probes, status and pages.
//
// It decides nothing about etcd: what a task does is its capability's. New wires and starts nothing, Run starts. A task
// that fails, panics or hangs takes neither another one nor the process down. Its exported methods are safe for
// concurrent use.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
)

// DefaultStopTimeout is how long a stop waits for runs that go on. It is below the 30 s after which Kubernetes kills.
const DefaultStopTimeout = 25 * time.Second

// Options is what a daemon is made from.
type Options struct {
	Config  config.Config
	Log     *slog.Logger
	Version string
	// Load reads the configuration again, for Reload. Nil: Reload is refused.
	Load func() (config.Config, error)
	// Loaded is called with a configuration that was accepted by Reload, before its tasks start.
	Loaded              func(config.Config)
	Kubeconfig, Context string        // how the API server is reached
	StopTimeout         time.Duration // 0: DefaultStopTimeout
}

// Daemon runs tasks and serves what is known of them.
type Daemon struct {
	o        Options
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *daemonMetrics
	tasks    *taskMetrics
	host     *Host
	makers   []maker
	started  time.Time
	ready    readiness

	reload sync.Mutex // one reload at a time

	mu    sync.Mutex
	gen   *generation
	slots map[string]*slot
	addrs []net.Addr // what is served, for tests and the log
	run   *running   // nil unless Run is going on
}

type maker struct {
	part  string
	tasks func(Env) ([]Task, error)
}

// running is the life of one Run.
type running struct {
	loops context.Context // ends when nothing new may start
	work  context.Context // ends when runs must end
	wg    sync.WaitGroup  // generations
}

// generation is the tasks of one configuration.
type generation struct {
	config config.Config
	client *cluster.Client
	tasks  []Task
	stop   context.CancelFunc // of the loops
	wg     sync.WaitGroup     // loops and runs
}

// New makes the parts and checks the configuration; it connects to nothing and opens no port.
func New(o Options) (*Daemon, error) {
	reg := prometheus.NewRegistry()
	d, err := newDaemon(o, reg)
	if err != nil {
		return nil, err
	}
	d.registry = reg
	return d, nil
}

func newDaemon(o Options, reg prometheus.Registerer) (*Daemon, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = DefaultStopTimeout
	}
	d := &Daemon{
		o: o, log: o.Log,
		metrics: newDaemonMetrics(reg, o.Version),
		tasks:   newTaskMetrics(reg),
		started: time.Now(),
		slots:   map[string]*slot{},
		host: &Host{
			Registry: reg, Log: o.Log, Version: o.Version, Kubeconfig: o.Kubeconfig, Context: o.Context,
			Watch: NewWatch(o.Config.StateDir, o.Log),
		},
	}
	if err := checkWebConfig(o.Config.Listen.WebConfigFile); err != nil {
		return nil, err
	}
	for _, p := range parts {
		tasks, err := p.setUp(d.host)
		if err != nil {
			return nil, fmt.Errorf("set up %s: %w", p.name, err)
		}
		d.makers = append(d.makers, maker{p.name, tasks})
	}
	gen, err := d.newGeneration(o.Config)
	if err != nil {
		return nil, err
	}
	d.gen = gen
	return d, nil
}

// Registry is the daemon's own; nothing is registered in the default one.
func (d *Daemon) Registry() *prometheus.Registry { return d.registry }

// newGeneration makes the tasks of a configuration and starts none.
func (d *Daemon) newGeneration(c config.Config) (*generation, error) {
	etcd := c.Etcd
	etcd.Endpoints = slices.Clone(etcd.Endpoints) // the client normalises its own
	client, err := cluster.New(etcd, d.log)
	if err != nil {
		return nil, err
	}
	g := &generation{config: c, client: client, stop: func() {}}
	p := &presence{cluster: client, version: d.o.Version, since: d.started, tasks: []string{}}
	seen := map[string]bool{}
	for _, m := range d.makers {
		tasks, err := m.tasks(Env{Config: c, Cluster: client, presence: p})
		for _, t := range tasks {
			if seen[t.Name] {
				err = errors.Join(err, fmt.Errorf("two tasks are called %s", t.Name))
			}
			seen[t.Name] = true
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", m.part, err), client.Close())
		}
		g.tasks = append(g.tasks, tasks...)
		if len(tasks) > 0 {
			p.tasks = append(p.tasks, m.part)
		}
	}
	return g, nil
}

// Run serves and runs the tasks until ctx ends, then starts nothing new, ends what is going on and waits for it for a
// bounded time. Its error is nil after an orderly end.
func (d *Daemon) Run(ctx context.Context) error {
	servers, err := d.listen(d.o.Config.Listen)
	if err != nil {
		return errors.Join(err, d.gen.client.Close())
	}
	r := &running{}
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	r.loops, r.work = loops, work

	failed := make(chan error, len(servers))
	var serving sync.WaitGroup
	for _, s := range servers {
		serving.Go(func() {
			if err := s.serve(d.log); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %s: %w", s.address, err)
			}
		})
	}
	d.mu.Lock()
	d.run = r
	first := d.gen
	d.startGeneration(r, first)
	d.mu.Unlock()
	d.log.Info("etcdkeeper runs", "version", d.o.Version, "endpoints", first.config.Etcd.Endpoints, "tasks", taskNames(first.tasks))
	d.ready.set(true)
	d.notify(systemd.SdNotifyReady)
	alive, stopAlive := context.WithCancel(context.WithoutCancel(ctx))
	serving.Go(func() { d.watchdog(alive) })

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.log.Info("stopping: nothing new is started", "running", d.runningTasks())
	d.notify(systemd.SdNotifyStopping)
	d.ready.set(false)
	d.mu.Lock()
	d.run = nil
	d.mu.Unlock()
	stopLoops()
	stopWork()
	if !waitFor(&r.wg, d.o.StopTimeout) {
		d.log.Warn("stopped although work did not end in time; what a member was told to do goes on in its server", "running", d.runningTasks(), "waited", d.o.StopTimeout)
	}
	d.host.Watch.Save()
	for _, s := range servers {
		err = errors.Join(err, s.stop())
	}
	stopAlive()
	serving.Wait()
	d.log.Info("stopped")
	return err
}

// startGeneration starts the loops of g. d.mu is held.
func (d *Daemon) startGeneration(r *running, g *generation) {
	ctx, stop := context.WithCancel(r.loops)
	g.stop = stop
	for _, t := range g.tasks {
		s := d.slots[t.Name]
		if s == nil {
			s = &slot{name: t.Name, metrics: d.tasks, log: d.log}
			d.slots[t.Name] = s
			d.tasks.declare(t.Name)
		}
		s.plan(t.When.String(), time.Time{})
		g.wg.Go(func() { t.loop(ctx, r.work, s, &g.wg) })
	}
	r.wg.Go(func() {
		g.wg.Wait()
		if err := g.client.Close(); err != nil {
			d.log.Debug("close the connections", "err", err)
		}
	})
}

// Reload reads the configuration again and swaps the tasks. Where it is bad, or cannot be used, the old one stays as it
// is and the error says why. Runs that go on end under the old configuration; the same task does not start before.
func (d *Daemon) Reload() error {
	d.reload.Lock()
	defer d.reload.Unlock()
	if d.o.Load == nil {
		return errors.New("this daemon cannot read its configuration again")
	}
	d.notifyReloading()
	defer d.notify(systemd.SdNotifyReady)
	c, err := d.o.Load()
	var g *generation
	if err == nil {
		g, err = d.newGeneration(c)
	}
	if err != nil {
		d.metrics.loaded(false)
		d.log.Error("the new configuration is refused, the old one stays", "err", err)
		return fmt.Errorf("reload: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == nil {
		d.log.Warn("the configuration is not reloaded: the daemon does not run yet, or is stopping")
		return errors.Join(errors.New("reload: the daemon does not run"), g.client.Close())
	}
	if old := d.gen.config; old.Listen != c.Listen || old.StateDir != c.StateDir {
		d.log.Warn("listen and stateDir take effect at the next start")
	}
	if d.o.Loaded != nil {
		d.o.Loaded(c)
	}
	d.gen.stop()
	d.dropTasks(g)
	d.startGeneration(d.run, g)
	d.gen = g
	d.metrics.loaded(true)
	d.log.Info("configuration reloaded", "tasks", taskNames(g.tasks))
	return nil
}

// dropTasks forgets the tasks that g does not have. One that is running is kept until it is dropped by a later reload.
func (d *Daemon) dropTasks(g *generation) {
	for name, s := range d.slots {
		if slices.Contains(taskNames(g.tasks), name) {
			continue
		}
		s.mu.Lock()
		idle := !s.running
		s.mu.Unlock()
		if idle {
			delete(d.slots, name)
			d.tasks.forget(name)
		} else {
			s.plan("", time.Time{})
		}
	}
}

func (d *Daemon) runningTasks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := []string{}
	for name, s := range d.slots {
		s.mu.Lock()
		if s.running {
			names = append(names, name)
		}
		s.mu.Unlock()
	}
	slices.Sort(names)
	return names
}

func taskNames(tasks []Task) []string {
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = t.Name
	}
	return names
}

// waitFor waits for wg, at most for d.
func waitFor(wg *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
