package splitter

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Policy holds the thresholds of a verdict.
type Policy struct {
	Resources      []string       `yaml:"resources" doc:"Resources whose move is judged, each alone; the best one is named."`
	WriteShare     float64        `yaml:"writeShare" doc:"Part of all writes that a resource must have before moving it relieves a main cluster under stress. 0.3: below it, main keeps most of its load and the price of three members buys little."`
	SizeShare      float64        `yaml:"sizeShare" doc:"Part of the quota that a resource must take, with its history, before its size alone is a reason."`
	QuotaHorizon   time.Duration  `yaml:"quotaHorizon" doc:"Time to a full quota below which a move that pushes it out is a reason."`
	FsyncP99       time.Duration  `yaml:"fsyncP99" doc:"99th percentile of the write-ahead log's fsync above which the main cluster is under stress. 10ms is etcd's own recommendation."`
	CommitP99      time.Duration  `yaml:"commitP99" doc:"99th percentile of the backend's commit above which the main cluster is under stress. 25ms is etcd's own recommendation."`
	CompactionTime time.Duration  `yaml:"compactionTime" doc:"Duration of one compaction above which the main cluster is under stress."`
	MinWindow      time.Duration  `yaml:"minWindow" doc:"Shortest time that rates must have been taken over before they decide."`
	EventTTL       time.Duration  `yaml:"eventTTL" doc:"The API server's --event-ttl, whose default is 1h."`
	CompactEvery   time.Duration  `yaml:"compactEvery" doc:"The API server's --etcd-compaction-interval, whose default is 5m. History is kept for one to two of it."`
	ShardQuota     bytesize.Bytes `yaml:"shardQuota" doc:"Quota of the new members. 0: four times the predicted database, at least 2GiB, at most 8GiB."`
}

// DefaultPolicy is calibrated on published clusters (docs/split.md has the sources).
func DefaultPolicy() Policy {
	return Policy{
		Resources:      []string{"events", "leases.coordination.k8s.io", "pods"},
		WriteShare:     0.30,
		SizeShare:      0.20,
		QuotaHorizon:   30 * 24 * time.Hour,
		FsyncP99:       10 * time.Millisecond,
		CommitP99:      25 * time.Millisecond,
		CompactionTime: 10 * time.Second,
		MinWindow:      10 * time.Minute,
		EventTTL:       time.Hour,
		CompactEvery:   5 * time.Minute,
	}
}

// Validate joins every error of the policy.
func (p Policy) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if len(p.Resources) == 0 {
		bad("resources", "want at least one, such as events")
	}
	for _, r := range p.Resources {
		if _, ok := ParseResource(r); !ok {
			bad("resources", "%q cannot be moved: want resources that kube-apiserver itself stores, such as events, leases or pods", r)
		}
	}
	for key, v := range map[string]float64{"writeShare": p.WriteShare, "sizeShare": p.SizeShare} {
		if v <= 0 || v > 1 {
			bad(key, "want a part between 0 and 1, such as 0.3, got %g", v)
		}
	}
	for key, d := range map[string]time.Duration{"quotaHorizon": p.QuotaHorizon, "fsyncP99": p.FsyncP99, "commitP99": p.CommitP99,
		"compactionTime": p.CompactionTime, "minWindow": p.MinWindow, "eventTTL": p.EventTTL, "compactEvery": p.CompactEvery} {
		if d <= 0 {
			bad(key, "want more than 0, got %s", d)
		}
	}
	if p.ShardQuota < 0 {
		bad("shardQuota", "want 0 or more, got %d", int64(p.ShardQuota))
	}
	return errors.Join(errs...)
}

// Config is the section split of the configuration.
type Config struct {
	Enabled  bool          `yaml:"enabled" doc:"Gather evidence and judge it regularly."`
	Interval time.Duration `yaml:"interval" doc:"Time between two samples of the evidence."`
	Keep     time.Duration `yaml:"keep" doc:"How far back samples are kept and judged, in stateDir."`
	Prefix   string        `yaml:"prefix" doc:"The API server's --etcd-prefix."`
	Policy   Policy        `yaml:"policy"`
}

// MaxSamples bounds the evidence that is kept, whatever Interval and Keep say.
const MaxSamples = 1000

// DefaultConfig samples every ten minutes, a day back: 144 samples of a few KiB.
func DefaultConfig() Config {
	return Config{Enabled: true, Interval: 10 * time.Minute, Keep: 24 * time.Hour, Prefix: "/registry", Policy: DefaultPolicy()}
}

// Validate joins every error of the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Interval < time.Minute {
		errs = append(errs, fmt.Errorf("interval: want at least 1m, got %s", c.Interval))
	}
	if c.Keep < c.Interval {
		errs = append(errs, fmt.Errorf("keep: want at least interval (%s), got %s", c.Interval, c.Keep))
	}
	if len(c.Prefix) < 2 || c.Prefix[0] != '/' {
		errs = append(errs, fmt.Errorf("prefix: want an absolute key such as /registry, got %q", c.Prefix))
	}
	if err := c.Policy.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("policy: %w", err))
	}
	return errors.Join(errs...)
}
