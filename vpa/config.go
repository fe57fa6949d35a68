package vpa

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Defaults of the daemon's tasks. A sample costs etcd one page of metrics; list
// storms last for tens of seconds.
const (
	DefaultSampleInterval = 10 * time.Second
	DefaultApplyInterval  = 10 * time.Minute
)

// Config is the `vpa` section of the configuration.
type Config struct {
	CPUHalfLife    time.Duration     `yaml:"cpuHalfLife" doc:"Half-life of CPU samples in the histogram."`
	MemoryHalfLife time.Duration     `yaml:"memoryHalfLife" doc:"Half-life of daily memory peaks in the histogram."`
	Horizon        time.Duration     `yaml:"horizon" doc:"How far ahead the database's growth is provided for."`
	FileShare      float64           `yaml:"fileShare" doc:"Share of the database that the limit keeps in memory: 1 for all of it, 0.3 at least, 1 with --experimental-memory-mlock."`
	Members        int               `yaml:"members" doc:"Voting members of the cluster, for the watchers that move when one dies. 0: as many as there are."`
	NodeMemory     bytesize.Bytes    `yaml:"nodeMemoryBytes" doc:"Memory of the node that etcd may use, for the quota advice. 0: not known."`
	Volume         bytesize.Bytes    `yaml:"volumeBytes" doc:"Size of etcd's volume, for the quota advice. 0: not known."`
	Apply          Apply             `yaml:"apply" doc:"What is done with a recommendation: off, propose (write a manifest, send an Event) or resize (the member's own pod, in place)."`
	Windows        []schedule.Window `yaml:"windows" doc:"Maintenance windows in which a limit may shrink. None: it never does. Growing needs no window."`
	SampleInterval time.Duration     `yaml:"sampleInterval" doc:"Time between two samples of the daemon."`
	ApplyInterval  time.Duration     `yaml:"applyInterval" doc:"Time between two recommendations of the daemon, shared with the other keepers and applied where that is on."`
	Namespace      string            `yaml:"namespace" doc:"Namespace of the member's pod."`
	Pod            string            `yaml:"pod" doc:"Name of the member's pod, which this keeper is in. Empty: not known."`
	Container      string            `yaml:"container" doc:"Name of etcd's container in the pod."`
	Manifest       string            `yaml:"manifest" doc:"Static pod manifest of the member. A proposal is written beside it, under a name that the kubelet passes over."`
	CgroupDir      string            `yaml:"cgroupDir" doc:"cgroup v2 folder of etcd's container, where it is not found by its process."`
	Policy         Policy            `yaml:"policy"`
}

// DefaultConfig returns the configuration that is used where nothing is set.
func DefaultConfig() Config {
	return Config{
		CPUHalfLife: 7 * 24 * time.Hour, MemoryHalfLife: 7 * 24 * time.Hour, Horizon: 30 * 24 * time.Hour,
		FileShare: 1, Apply: ApplyOff, SampleInterval: DefaultSampleInterval, ApplyInterval: DefaultApplyInterval,
		Namespace: "kube-system", Container: "etcd", Policy: DefaultPolicy(),
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
	switch c.Apply {
	case ApplyOff, ApplyPropose, ApplyResize:
	default:
		bad("apply", "want off, propose or resize, got %q", c.Apply)
	}
	if c.Apply == ApplyResize && c.Pod == "" {
		bad("pod", "apply is resize, so the name of the member's pod is needed (in a manifest, from the field metadata.name)")
	}
	if c.SampleInterval < time.Second || c.SampleInterval > 10*time.Minute {
		bad("sampleInterval", "want 1s to 10m, got %s", c.SampleInterval)
	}
	if c.ApplyInterval < time.Minute || c.ApplyInterval > 24*time.Hour {
		bad("applyInterval", "want 1m to 24h, got %s", c.ApplyInterval)
	}
	if c.Namespace == "" {
		bad("namespace", "is empty")
	}
	if c.Container == "" {
		bad("container", "is empty")
	}
	if _, err := c.windows(); err != nil {
		bad("windows", "%w", err)
	}
	return errors.Join(append(errs, c.Policy.Validate("policy.")...)...)
}

func (c Config) windows() (schedule.Windows, error) { return schedule.NewWindows(c.Windows) }
