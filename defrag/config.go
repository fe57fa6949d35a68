package defrag

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Defaults, each with its reason.
const (
	// A rule is cheap to evaluate, and a database seldom fragments in less time.
	DefaultInterval = 10 * time.Minute
	// A member that was just defragmented fragments again no faster than its history is compacted, which is minutes;
	// an hour keeps a rule that is too eager from making members hang all day.
	DefaultCooldown = time.Hour
	// After a member answers again its clients come back and its applied index catches up.
	DefaultSettle = 10 * time.Second
	// Between two members the gates may be closed for a moment, by a lagging member for example.
	DefaultGateTimeout = 2 * time.Minute
	// Somebody on call can still act within a day.
	DefaultEmergencyForecast = 24 * time.Hour
	// After three failed runs a person should look; where nobody does, the quota may be the worse danger.
	DefaultDegradedBackoff = 6 * time.Hour
	// What watchers may be behind when the keeper has to compact: the API server compacts what is five minutes old.
	DefaultCompactMargin = 5 * time.Minute
	DefaultSnapshotKeep  = 3
	// A client that is turned away loses up to one request a connection and comes back after gRPC's first back-off of
	// about a second: below 2 s waiting is the lesser evil. Above it kube-apiserver's readiness check of etcd, which
	// gives up after 2 s, takes the API server out of service.
	DefaultDrainAbove = 2 * time.Second
	// 8 GiB at 10 s per GiB take 80 s: what takes half as long again has gone wrong, and waiting clients are told
	// nothing worse than without a drain.
	DefaultDrainMax = 2 * time.Minute
)

// When clients of a member are drained before it is defragmented.
const (
	DrainNever  = "never"
	DrainAuto   = "auto"   // where they would wait for longer than drainAbove and can go to other members
	DrainAlways = "always" // whatever they would wait, and also where they cannot go elsewhere
)

// How the leader is defragmented.
const (
	MoveLeaderAuto   = "auto"   // moved only where leases would be lost in place
	MoveLeaderNever  = "never"  // always in place
	MoveLeaderAlways = "always" // always moved first
)

// Config is how members are defragmented.
type Config struct {
	Enabled           bool              `yaml:"enabled" doc:"Whether the daemon defragments. The command works either way."`
	Rule              string            `yaml:"rule" doc:"Expression that says when a member is defragmented."`
	Schedule          schedule.Schedule `yaml:"schedule" doc:"When the daemon evaluates the rule: a cron expression or @every DURATION."`
	Windows           []schedule.Window `yaml:"windows" doc:"Maintenance windows of routine runs. None: always."`
	AllowSmall        bool              `yaml:"allowSmall" doc:"Also defragment clusters of fewer than three voters, whose clients have to wait."`
	Cooldown          time.Duration     `yaml:"cooldown" doc:"How long the daemon leaves a member alone after it was defragmented. Doubled, up to a day, each time nothing was reclaimed."`
	Settle            time.Duration     `yaml:"settle" doc:"Pause after each member."`
	GateTimeout       time.Duration     `yaml:"gateTimeout" doc:"How long a run waits for a closed gate between two members before it stops."`
	EmergencyForecast time.Duration     `yaml:"emergencyForecast" doc:"A quota that is forecast to be reached within this time makes a run happen outside the windows. 0: never."`
	EmergencyOnAlarm  bool              `yaml:"emergencyOnAlarm" doc:"Whether a NOSPACE alarm makes a run happen outside the windows."`
	DegradedBackoff   time.Duration     `yaml:"degradedBackoff" doc:"How long the daemon starts no run after three failed ones. 'etcdkeeper resume' clears it."`
	MoveLeader        string            `yaml:"moveLeader" doc:"auto: defragment the leader in place unless leases would be lost; never; always."`
	HashCheck         bool              `yaml:"hashCheck" doc:"Compare the members' HashKV in a run: behind each defragmentation where clients are drained, else at the end. Each call makes its member wait for about 0.25 s per GiB in use."`
	CompactOnNoSpace  bool              `yaml:"compactOnNoSpace" doc:"Compact under the NOSPACE alarm where defragmenting alone would not help: the API server cannot compact then."`
	CompactMargin     time.Duration     `yaml:"compactMargin" doc:"History that such a compaction keeps, where the keeper has watched long enough to know its revision; else a tenth of the retained revisions, 1000 at most."`
	SnapshotDir       string            `yaml:"snapshotDir" doc:"Directory for a snapshot before each run. Empty: none is taken."`
	SnapshotKeep      int               `yaml:"snapshotKeep" doc:"How many snapshots are kept there."`
	Drain             string            `yaml:"drain" doc:"auto: turn the clients of a member away while it is defragmented, where they would wait for longer than drainAbove and have other members to go to; never; always: also where neither holds. Needs a keeper with CAP_NET_ADMIN beside the member, in its network namespace; without it clients wait."`
	DrainAbove        time.Duration     `yaml:"drainAbove" doc:"The predicted wait above which auto drains. A connection that is turned away may lose one request and comes back after about a second."`
	DrainMax          time.Duration     `yaml:"drainMax" doc:"After this time clients are let in again although the defragmentation goes on."`
	Probe             bool              `yaml:"probe" doc:"Read one key 20 times a second through all members in turn during a run, as a client of all endpoints does, and report the longest wait."`
}

// DefaultConfig is safe on every cluster of three voters and more.
func DefaultConfig() Config {
	return Config{
		Enabled: true, Rule: DefaultRule, Schedule: schedule.Every(DefaultInterval), Cooldown: DefaultCooldown, Settle: DefaultSettle,
		GateTimeout: DefaultGateTimeout, EmergencyForecast: DefaultEmergencyForecast, EmergencyOnAlarm: true,
		DegradedBackoff: DefaultDegradedBackoff, MoveLeader: MoveLeaderAuto, HashCheck: true,
		CompactOnNoSpace: true, CompactMargin: DefaultCompactMargin, SnapshotKeep: DefaultSnapshotKeep,
		Drain: DrainAuto, DrainAbove: DefaultDrainAbove, DrainMax: DefaultDrainMax, Probe: true,
	}
}

// Validate joins every error.
func (c Config) Validate() error {
	var errs []error
	if _, err := ParseRule(c.Rule); err != nil {
		errs = append(errs, err)
	}
	if c.Schedule.IsZero() {
		errs = append(errs, errors.New("schedule: is empty: use enabled: false to switch the daemon's defragmentation off"))
	}
	if _, err := schedule.NewWindows(c.Windows); err != nil {
		errs = append(errs, fmt.Errorf("windows: %w", err))
	}
	switch c.MoveLeader {
	case MoveLeaderAuto, MoveLeaderNever, MoveLeaderAlways:
	default:
		errs = append(errs, fmt.Errorf("moveLeader: want auto, never or always, got %q", c.MoveLeader))
	}
	switch c.Drain {
	case DrainAuto, DrainNever, DrainAlways:
	default:
		errs = append(errs, fmt.Errorf("drain: want auto, never or always, got %q", c.Drain))
	}
	if c.DrainMax <= 0 {
		errs = append(errs, fmt.Errorf("drainMax: want more than 0, got %s", c.DrainMax))
	}
	for name, d := range map[string]time.Duration{"drainAbove": c.DrainAbove, "cooldown": c.Cooldown, "settle": c.Settle, "emergencyForecast": c.EmergencyForecast,
		"degradedBackoff": c.DegradedBackoff, "compactMargin": c.CompactMargin} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: want 0 or more, got %s", name, d))
		}
	}
	if c.GateTimeout <= 0 {
		errs = append(errs, fmt.Errorf("gateTimeout: want more than 0, got %s", c.GateTimeout))
	}
	if c.SnapshotKeep < 1 {
		errs = append(errs, fmt.Errorf("snapshotKeep: want 1 or more, got %d", c.SnapshotKeep))
	}
	return errors.Join(errs...)
}
