package census

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Defaults of Config.
const (
	// DefaultRate reads 1 GiB in three and a half minutes. At six times as much, the slowest hundredth of the puts to a
	// member on two cores took five times as long as at rest, at this rate less than twice as long (docs/benchmarks/census.md).
	DefaultRate = 5 * bytesize.MiB
	// DefaultInterval shows the growth of a day in four points.
	DefaultInterval = 6 * time.Hour
	// DefaultMetricsTop bounds the series of each metric by resource.
	DefaultMetricsTop = 30
	maxMetricsTop     = 200
)

// Config is the census in the daemon and the defaults of the command.
type Config struct {
	Enabled    bool              `yaml:"enabled" doc:"Take a census on a schedule."`
	Schedule   schedule.Schedule `yaml:"schedule" doc:"When the daemon takes a census: an interval or a cron expression."`
	Rate       bytesize.Bytes    `yaml:"rate" doc:"Bytes of keys and values that are read in a second, such as 32MiB, or 0 for no limit."`
	From       string            `yaml:"from" doc:"Member that is read: follower, leader, local, learner or a member's name."`
	Prefix     string            `yaml:"prefix" doc:"The API server's --etcd-prefix."`
	Top        int               `yaml:"top" doc:"Rows of the lists of largest objects, namespaces and stems."`
	MetricsTop int               `yaml:"metricsTop" doc:"Resources with metrics of their own; the rest is added up as other."`
	Thresholds Thresholds        `yaml:"thresholds"`
}

// Thresholds say from where on something is a finding.
type Thresholds struct {
	// ObjectLimit is etcd's default of --max-request-bytes, 1.5 MiB, which an update of the object must not pass.
	ObjectLimit bytesize.Bytes `yaml:"objectLimit" doc:"The request limit of etcd (--max-request-bytes)."`
	// NearLimit leaves room for managedFields and status to grow.
	NearLimit float64 `yaml:"nearLimit" doc:"Share of objectLimit from which an object is near it, 0 to 1."`
	// LargeObject: every update writes the whole object, and every watcher receives it.
	LargeObject bytesize.Bytes `yaml:"largeObject" doc:"Size from which an object counts as large."`
	// NamespaceShare and NamespaceKeys: a namespace that holds most of a resource is one team or one runaway controller.
	NamespaceShare float64 `yaml:"namespaceShare" doc:"Share of a resource's keys from which one namespace holds most of it, 0 to 1."`
	NamespaceKeys  int64   `yaml:"namespaceKeys" doc:"Keys that the namespace must have for that to be a finding."`
	// Nodes to DeploymentsPerNamespace are Kubernetes' published thresholds:
	// github.com/kubernetes/community, sig-scalability/configs-and-limits/thresholds.md.
	Nodes                   int64 `yaml:"nodes" doc:"Nodes, by Kubernetes' scalability thresholds. 0: never."`
	Namespaces              int64 `yaml:"namespaces" doc:"Namespaces, by Kubernetes' scalability thresholds. 0: never."`
	Pods                    int64 `yaml:"pods" doc:"Pods, by Kubernetes' scalability thresholds. 0: never."`
	Services                int64 `yaml:"services" doc:"Services, by Kubernetes' scalability thresholds. 0: never."`
	PodsPerNamespace        int64 `yaml:"podsPerNamespace" doc:"Pods in a namespace, by Kubernetes' scalability thresholds. 0: never."`
	ServicesPerNamespace    int64 `yaml:"servicesPerNamespace" doc:"Services in a namespace, by Kubernetes' scalability thresholds. 0: never."`
	DeploymentsPerNamespace int64 `yaml:"deploymentsPerNamespace" doc:"Deployments in a namespace, by Kubernetes' scalability thresholds. 0: never."`
	// FinishedWithoutTTL: finished Jobs that stay until somebody deletes them, CronJobs' aside.
	FinishedWithoutTTL int64 `yaml:"finishedWithoutTTL" doc:"Finished Jobs or Workflows without a TTL."`
	// FinishedPerCron: by default a CronJob keeps 3 successful and 1 failed; this leaves room for higher limits.
	FinishedPerCron int64 `yaml:"finishedPerCron" doc:"Finished Jobs or Workflows for each CronJob or CronWorkflow from which history limits do not seem to hold. 0: never."`
	// Secrets: whole-cluster watchers (ingress and certificate controllers) hold all of them in memory.
	Secrets int64 `yaml:"secrets" doc:"Secrets that every whole-cluster watcher has to hold. 0: never."`
	// EventsWithoutLease: those never expire. A few are written by hand or by restores.
	EventsWithoutLease int64 `yaml:"eventsWithoutLease" doc:"Events without a lease, which never expire."`
	// EventTTL is kube-apiserver's default of --event-ttl.
	EventTTL       time.Duration `yaml:"eventTTL" doc:"The API server's --event-ttl. 0: no event is past it."`
	EventTTLFactor float64       `yaml:"eventTTLFactor" doc:"Times eventTTL from which an event is far past it."`
	// EventsPastTTL: a change of etcd's leader gives every lease its time anew, so that a few outlive it in any cluster.
	EventsPastTTL float64 `yaml:"eventsPastTTL" doc:"Share of the events that may be far past eventTTL, 0 to 1."`
	// UnencryptedSecrets: one is enough to be read from a backup.
	UnencryptedSecrets int64 `yaml:"unencryptedSecrets" doc:"Secrets that are not encrypted at rest."`
	// OutsideKeys: other programs in the control plane's etcd share its quota and its latency.
	OutsideKeys int64 `yaml:"outsideKeys" doc:"Keys that are not Kubernetes' own, etcdkeeper's aside."`
}

// DefaultConfig is the census of a keeper that was told nothing.
func DefaultConfig() Config {
	return Config{Enabled: true, Schedule: schedule.Every(DefaultInterval), Rate: DefaultRate, From: "follower",
		Prefix: keyspace.DefaultPrefix, Top: DefaultTop, MetricsTop: DefaultMetricsTop, Thresholds: DefaultThresholds()}
}

// DefaultThresholds are those published by Kubernetes, and for the rest what the comments at Thresholds say.
func DefaultThresholds() Thresholds {
	return Thresholds{
		ObjectLimit: 1536 * bytesize.KiB, NearLimit: 0.8, LargeObject: 256 * bytesize.KiB,
		NamespaceShare: 0.5, NamespaceKeys: 5000,
		Nodes: 5000, Namespaces: 10_000, Pods: 150_000, Services: 10_000,
		PodsPerNamespace: 3000, ServicesPerNamespace: 5000, DeploymentsPerNamespace: 2000,
		FinishedWithoutTTL: 100, FinishedPerCron: 20, Secrets: 100_000,
		EventsWithoutLease: 10, EventTTL: time.Hour, EventTTLFactor: 4, EventsPastTTL: 0.05,
		UnencryptedSecrets: 1, OutsideKeys: 1,
	}
}

// Validate joins every error.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Rate < 0 {
		bad("rate: want 0 or more, got %s", c.Rate)
	}
	if c.From == "" {
		bad("from: want follower, leader, local, learner or a member's name")
	}
	if c.Top < 1 || c.Top > 1000 {
		bad("top: want 1 to 1000, got %d", c.Top)
	}
	if c.MetricsTop < 1 || c.MetricsTop > maxMetricsTop {
		bad("metricsTop: want 1 to %d, got %d", maxMetricsTop, c.MetricsTop)
	}
	th := c.Thresholds
	if th.ObjectLimit <= 0 || th.LargeObject <= 0 {
		bad("thresholds: objectLimit and largeObject: want more than 0")
	}
	for _, s := range []struct {
		name string
		v    float64
	}{{"nearLimit", th.NearLimit}, {"namespaceShare", th.NamespaceShare}} {
		if s.v <= 0 || s.v > 1 {
			bad("thresholds.%s: want more than 0 and at most 1, got %v", s.name, s.v)
		}
	}
	for _, n := range []struct {
		name string
		v    int64
	}{
		{"namespaceKeys", th.NamespaceKeys}, {"nodes", th.Nodes}, {"namespaces", th.Namespaces}, {"pods", th.Pods}, {"services", th.Services},
		{"podsPerNamespace", th.PodsPerNamespace}, {"servicesPerNamespace", th.ServicesPerNamespace},
		{"deploymentsPerNamespace", th.DeploymentsPerNamespace}, {"finishedWithoutTTL", th.FinishedWithoutTTL},
		{"finishedPerCron", th.FinishedPerCron}, {"secrets", th.Secrets}, {"eventsWithoutLease", th.EventsWithoutLease},
		{"unencryptedSecrets", th.UnencryptedSecrets}, {"outsideKeys", th.OutsideKeys},
	} {
		if n.v < 0 {
			bad("thresholds.%s: want 0 or more, got %d", n.name, n.v)
		}
	}
	if th.EventTTL < 0 || th.EventTTLFactor < 1 {
		bad("thresholds: eventTTL: want 0 or more; eventTTLFactor: want 1 or more")
	}
	if th.EventsPastTTL < 0 || th.EventsPastTTL > 1 {
		bad("thresholds.eventsPastTTL: want 0 to 1, got %v", th.EventsPastTTL)
	}
	return errors.Join(errs...)
}
