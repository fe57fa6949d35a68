// Package config composes the configuration of etcdkeeper from its capabilities' own, loads it strictly from a file,
// the environment and flags, and says where each value came from. It connects to nothing and writes nothing.
//
// Its functions are safe for concurrent use; a loaded Config is a value that nobody changes.
package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag"
	"github.com/etcdkeeper/etcdkeeper/splitter"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// Defaults of the daemon.
const (
	// DefaultListen and DefaultProbeListen are on loopback: metrics and status tell names and sizes of a control plane.
	DefaultListen      = "127.0.0.1:9379"
	DefaultProbeListen = "127.0.0.1:9380"
	// DefaultWatchInterval is the usual scrape interval of an etcd: a finer series would show nothing more.
	DefaultWatchInterval = 15 * time.Second
)

// Config is everything that etcdkeeper can be told. The zero value is not valid; Default is.
type Config struct {
	Etcd     cluster.Config   `yaml:"etcd"`
	Listen   Listen           `yaml:"listen"`
	StateDir string           `yaml:"stateDir" doc:"Directory for what outlives a restart: size series and checkpoints. Empty: nothing is written."`
	Watch    Watch            `yaml:"watch"`
	Defrag   defrag.Config    `yaml:"defrag"`
	Census   census.Config    `yaml:"census"`
	Split    splitter.Config  `yaml:"split"`
	VPA      vpa.Config       `yaml:"vpa"`
	Clean    bulkclean.Config `yaml:"clean"`
	Log      Log              `yaml:"log"`
}

// Listen is where the daemon serves.
type Listen struct {
	Address       string `yaml:"address" doc:"Address of metrics, status page and API. Empty: not served."`
	ProbeAddress  string `yaml:"probeAddress" doc:"Address of /livez and /readyz, apart so that TLS and passwords of the other listener do not stop a probe. Empty: not served."`
	WebConfigFile string `yaml:"webConfigFile" doc:"Prometheus web configuration file for TLS, client certificates and basic authentication on listen.address."`
	Pprof         bool   `yaml:"pprof" doc:"Serve Go's profiles under /debug/pprof/ on listen.address."`
}

// Watch is the task that looks at the members' sizes.
type Watch struct {
	Interval time.Duration `yaml:"interval" doc:"Time between two looks at the members."`
}

// Log is what is told on standard error.
type Log struct {
	Level  string `yaml:"level" doc:"Least severe level that is logged: debug, info, warn or error."`
	Format string `yaml:"format" doc:"Form of the log: text or json."`
}

// Default is the configuration of a keeper that was told nothing.
func Default() Config {
	return Config{
		Etcd:   cluster.DefaultConfig(),
		Listen: Listen{Address: DefaultListen, ProbeAddress: DefaultProbeListen},
		Watch:  Watch{Interval: DefaultWatchInterval},
		Defrag: defrag.DefaultConfig(),
		Census: census.DefaultConfig(),
		Split:  splitter.DefaultConfig(),
		VPA:    vpa.DefaultConfig(),
		Clean:  bulkclean.DefaultConfig(),
		Log:    Log{Level: "info", Format: "text"},
	}
}

// Validate joins every error of every section, each with its key in front.
func (c Config) Validate() error {
	var errs []error
	section := func(name string, err error) {
		for _, e := range flatten(err) {
			errs = append(errs, fmt.Errorf("%s.%w", name, e))
		}
	}
	section("etcd", c.Etcd.Validate())
	section("listen", c.Listen.Validate())
	section("watch", c.Watch.Validate())
	section("defrag", c.Defrag.Validate())
	section("census", c.Census.Validate())
	section("split", c.Split.Validate())
	section("vpa", c.VPA.Validate())
	section("clean", c.Clean.Validate())
	section("log", c.Log.Validate())
	return errors.Join(errs...)
}

// Validate joins every error.
func (l Listen) Validate() error {
	var errs []error
	check := func(key, address string) {
		if address == "" {
			return
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: want HOST:PORT: %w", key, address, err))
		}
	}
	check("address", l.Address)
	check("probeAddress", l.ProbeAddress)
	if _, port, _ := net.SplitHostPort(l.Address); l.Address != "" && l.Address == l.ProbeAddress && port != "0" {
		errs = append(errs, fmt.Errorf("probeAddress: %s is listen.address already: want another port", l.Address))
	}
	if l.WebConfigFile != "" && l.Address == "" {
		errs = append(errs, errors.New("webConfigFile: given, but address is empty"))
	}
	return errors.Join(errs...)
}

// Validate refuses an interval that would be a load of its own.
func (w Watch) Validate() error {
	if w.Interval < time.Second {
		return fmt.Errorf("interval: want 1s or more, got %s", w.Interval)
	}
	return nil
}

// Validate joins every error.
func (l Log) Validate() error {
	var errs []error
	oneOf := func(key, got string, want ...string) {
		if !slices.Contains(want, got) {
			errs = append(errs, fmt.Errorf("%s: %q: want one of %s", key, got, strings.Join(want, ", ")))
		}
	}
	oneOf("level", l.Level, "debug", "info", "warn", "error")
	oneOf("format", l.Format, "text", "json")
	return errors.Join(errs...)
}

// flatten takes a joined error apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}
