package vpa

import (
	"errors"
	"fmt"
	"time"
)

// Config is the `vpa` section of the configuration.
type Config struct {
	CPUHalfLife    time.Duration `yaml:"cpuHalfLife" doc:"Half-life of CPU samples in the histogram."`
	MemoryHalfLife time.Duration `yaml:"memoryHalfLife" doc:"Half-life of daily memory peaks in the histogram."`
	Policy         Policy        `yaml:"policy" doc:"The statistics behind the memory limit."`
}

// DefaultConfig returns the configuration that is used where nothing is set.
func DefaultConfig() Config {
	return Config{CPUHalfLife: 7 * 24 * time.Hour, MemoryHalfLife: 7 * 24 * time.Hour, Policy: DefaultPolicy()}
}

// Validate returns every fault of the configuration, joined.
func (c Config) Validate() error {
	var errs []error
	if c.CPUHalfLife <= 0 {
		errs = append(errs, fmt.Errorf("cpuHalfLife %s: must be positive", c.CPUHalfLife))
	}
	if c.MemoryHalfLife <= 0 {
		errs = append(errs, fmt.Errorf("memoryHalfLife %s: must be positive", c.MemoryHalfLife))
	}
	return errors.Join(append(errs, c.Policy.Validate())...)
}
