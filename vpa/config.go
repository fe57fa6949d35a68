package vpa

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Config is the `vpa` section of the configuration.
type Config struct {
	CPUHalfLife    time.Duration  `yaml:"cpuHalfLife" doc:"Half-life of CPU samples in the histogram."`
	MemoryHalfLife time.Duration  `yaml:"memoryHalfLife" doc:"Half-life of daily memory peaks in the histogram."`
	Horizon        time.Duration  `yaml:"horizon" doc:"How far ahead the database's growth is provided for."`
	FileShare      float64        `yaml:"fileShare" doc:"Share of the database that the limit keeps in memory: 1 for all of it, 0.3 at least, 1 with --experimental-memory-mlock."`
	Members        int            `yaml:"members" doc:"Voting members of the cluster, for the watchers that move when one dies. 0: as many as there are."`
	NodeMemory     bytesize.Bytes `yaml:"nodeMemoryBytes" doc:"Memory of the node that etcd may use, for the quota advice. 0: not known."`
	Volume         bytesize.Bytes `yaml:"volumeBytes" doc:"Size of etcd's volume, for the quota advice. 0: not known."`
	Policy         Policy         `yaml:"policy"`
}

// DefaultConfig returns the configuration that is used where nothing is set.
func DefaultConfig() Config {
	return Config{
		CPUHalfLife: 7 * 24 * time.Hour, MemoryHalfLife: 7 * 24 * time.Hour, Horizon: 30 * 24 * time.Hour,
		FileShare: 1, Policy: DefaultPolicy(),
	}
}

// Validate returns every fault of the configuration, joined.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if c.CPUHalfLife <= 0 {
		bad("cpuHalfLife", "want more than 0, got %s", c.CPUHalfLife)
	}
	if c.MemoryHalfLife <= 0 {
		bad("memoryHalfLife", "want more than 0, got %s", c.MemoryHalfLife)
	}
	if c.Horizon <= 0 {
		bad("horizon", "want more than 0, got %s", c.Horizon)
	}
	if !finite(c.FileShare) || c.FileShare < 0.3 || c.FileShare > 1 {
		bad("fileShare", "want 0.3 to 1, got %v", c.FileShare)
	}
	if c.Members < 0 || c.Members > 99 {
		bad("members", "want 0 to 99, got %d", c.Members)
	}
	if c.NodeMemory < 0 {
		bad("nodeMemoryBytes", "want 0 or more, got %d", int64(c.NodeMemory))
	}
	if c.Volume < 0 {
		bad("volumeBytes", "want 0 or more, got %d", int64(c.Volume))
	}
	return errors.Join(append(errs, c.Policy.Validate("policy.")...)...)
}
