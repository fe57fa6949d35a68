package bulkclean

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Config is the `clean` section of the configuration.
type Config struct {
	Policies []Policy `yaml:"policies" doc:"What the daemon cleans by itself. None: nothing."`
}

// Modes of a Policy.
const (
	ModeReport = "report" // plan, and tell what would be deleted
	ModeApply  = "apply"
)

// Policy is a selection that the daemon plans, and may delete, on a schedule. A field that is empty has the default of
// the command clean plan.
type Policy struct {
	Name          string            `yaml:"name" doc:"Name in metrics, logs and files: lower-case letters, digits and dashes."`
	Mode          string            `yaml:"mode" doc:"report: plan and tell; apply: delete. Empty: report."`
	Schedule      schedule.Schedule `yaml:"schedule" doc:"When it runs: a cron expression or @every DURATION."`
	Kind          string            `yaml:"kind" doc:"What is cleaned: jobs, pods, events, workflows.argoproj.io or sparkapplications.sparkoperator.k8s.io."`
	Namespaces    []string          `yaml:"namespaces" doc:"Namespaces that are cleaned."`
	AllNamespaces bool              `yaml:"allNamespaces" doc:"Clean all namespaces."`
	OlderThan     time.Duration     `yaml:"olderThan" doc:"Least time since the end. 0: 24h."`
	States        []string          `yaml:"state" doc:"How they ended: complete, failed. None: both."`
	Owners        []string          `yaml:"owner" doc:"What became of their owner: none, gone. None: both."`
	NameStem      string            `yaml:"nameStem" doc:"Name without its generated end."`
	NameRegex     string            `yaml:"nameRegex" doc:"Regular expression that the name matches."`
	Keep          int               `yaml:"keep" doc:"The newest so many of each owner or name stem stay."`
	Cap           int               `yaml:"cap" doc:"Most objects that one run deletes, the oldest ones. Required in mode apply."`
	MaxShare      float64           `yaml:"maxShare" doc:"Refuse to delete more than this share of what was scanned. 0: 1."`
	Via           string            `yaml:"via" doc:"apiserver, or etcd, which bypasses authorization, admission, audit, finalizers and flow control. Empty: apiserver."`
	AcceptBypass  bool              `yaml:"acceptBypass" doc:"With via: etcd, accept what that bypasses."`
	QPS           float64           `yaml:"qps" doc:"Most deletions a second. 0: 200 through the API server, 2000 in etcd."`
	EtcdPrefix    string            `yaml:"etcdPrefix" doc:"Prefix of the API server's keys. Empty: /registry."`
}

// DefaultConfig has no policies: the daemon deletes nothing that it was not told to.
func DefaultConfig() Config { return Config{} }

var policyName = regexp.MustCompile("^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")

// Validate joins every error of every policy.
func (c Config) Validate() error {
	var errs []error
	seen := map[string]bool{}
	for i, p := range c.Policies {
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("policies[%d]: %w", i, err))
		}
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("policies[%d]: two policies are called %s", i, p.Name))
		}
		seen[p.Name] = true
	}
	return errors.Join(errs...)
}

// Validate joins every error of the policy.
func (p Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !policyName.MatchString(p.Name) {
		bad("name %q: want lower-case letters, digits and dashes", p.Name)
	}
	if p.Schedule.IsZero() {
		bad("schedule: want a cron expression or @every DURATION")
	}
	switch p.Mode {
	case "", ModeReport:
	case ModeApply:
		if p.Cap <= 0 {
			bad("cap: a policy that deletes needs one")
		}
	default:
		bad("mode %q: want report or apply", p.Mode)
	}
	switch Via(p.Via) {
	case "", ViaAPI:
	case ViaEtcd:
		if !p.AcceptBypass {
			bad("via etcd bypasses authorization, admission, audit, finalizers and flow control: set acceptBypass to accept that")
		}
	default:
		bad("via %q: want apiserver or etcd", p.Via)
	}
	if p.QPS < 0 {
		bad("qps: want 0 or more, got %v", p.QPS)
	}
	if p.Cap < 0 {
		bad("cap: want 0 or more, got %d", p.Cap)
	}
	if err := p.Selector().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Selector is what the policy selects.
func (p Policy) Selector() Selector {
	s := NewSelector(p.Kind, p.Namespaces...)
	s.AllNamespaces, s.NameStem, s.NameRegex, s.Keep, s.Limit = p.AllNamespaces, p.NameStem, p.NameRegex, p.Keep, p.Cap
	if p.OlderThan != 0 {
		s.OlderThan = p.OlderThan
	}
	if len(p.States) > 0 {
		s.States = nil
		for _, st := range p.States {
			s.States = append(s.States, State(st))
		}
	}
	if len(p.Owners) > 0 {
		s.Owners = nil
		for _, o := range p.Owners {
			s.Owners = append(s.Owners, OwnerState(o))
		}
	}
	if p.MaxShare != 0 {
		s.MaxShare = p.MaxShare
	}
	s.Registry = Registry(p.EtcdPrefix)
	return s
}

// way is how the policy deletes, and how fast at most.
func (p Policy) way() (Via, float64) {
	via, qps := ViaAPI, DefaultAPIQPS
	if Via(p.Via) == ViaEtcd {
		via, qps = ViaEtcd, DefaultEtcdQPS
	}
	if p.QPS > 0 {
		qps = p.QPS
	}
	return via, qps
}
