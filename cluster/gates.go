package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-semver/semver"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Refusal is a safety gate that is closed. A gate that cannot be read is closed.
type Refusal struct {
	Gate   string `json:"gate"`   // its stable name
	Member string `json:"member"` // "" where it is about the cluster
	Reason string `json:"reason"`
	Unread bool   `json:"-"` // it is closed because it could not be read, not because it says so
}

func (r Refusal) String() string {
	if r.Member != "" {
		return fmt.Sprintf("%s: member %s: %s", r.Gate, r.Member, r.Reason)
	}
	return r.Gate + ": " + r.Reason
}

// Names of the gates, as they stand in reports and metrics.
const (
	GateVersion   = "version"
	GateDowngrade = "downgrade"
	GateUnstarted = "unstarted"
	GateCorrupt   = "corrupt"
	GateReachable = "reachable"
	GateLeader    = "leader"
	GateTerm      = "term"
	GateInFlight  = "inflight"
	GateLag       = "lag"
	GateQuorum    = "quorum"
	GateRead      = "read"
	GatePause     = "pause"
	GateLock      = "lock"
	GateDisk      = "disk"
	GateWindow    = "window"
	GateStable    = "stable"
	GateAlarm     = "alarm"
	GateTurn      = "turn"
)

// MaxLag is how many entries a member's applied index may be behind the leader's. A member that is thousands behind
// refuses requests; one that is a hundred behind catches up in well under a second.
const MaxLag = 100

// SafeVersion tells why a member of that version must not be defragmented; nil where it may. Below 3.4.38, 3.5.23 and
// 3.6.5 a defragmentation that races an applied snapshot corrupts the database (etcd-io/etcd#20271), and 3.5.0 to
// 3.5.5 become inconsistent when killed in it (#14685).
func SafeVersion(version string) error {
	v, err := semver.NewVersion(strings.TrimPrefix(strings.TrimSpace(version), "v"))
	if err != nil {
		return fmt.Errorf("version %q cannot be read", version)
	}
	floors := map[[2]int64]string{{3, 4}: "3.4.38", {3, 5}: "3.5.23", {3, 6}: "3.6.5"}
	floor, ok := floors[[2]int64{v.Major, v.Minor}]
	switch {
	case v.Major < 3 || v.Major == 3 && v.Minor < 4:
		floor = "3.4.38"
	case v.Major > 3:
		return fmt.Errorf("version %s is not known: etcd 3.4 to 3.x are", version)
	case !ok:
		return nil
	}
	if v.LessThan(*semver.New(floor)) {
		return fmt.Errorf("version %s corrupts its data when a defragmentation meets a snapshot: upgrade to %s or newer", version, floor)
	}
	return nil
}

// Check looks at the gates that a view shows: every one that is closed is in the answer. Nil means that a member may
// be disturbed as far as a view can tell.
func Check(v View) []Refusal {
	var out []Refusal
	no := func(gate, member, format string, args ...any) {
		out = append(out, Refusal{Gate: gate, Member: member, Reason: fmt.Sprintf(format, args...)})
	}
	for _, m := range v.Members {
		if !m.Started {
			no(GateUnstarted, m.String(), "it was added to the cluster and never started: start it or remove it")
			continue
		}
		if slices.Contains(m.Alarms, "CORRUPT") {
			no(GateCorrupt, m.String(), "it has the CORRUPT alarm: restore it before anything else")
		}
		for _, a := range m.Alarms {
			if a != "CORRUPT" && a != "NOSPACE" {
				no(GateAlarm, m.String(), "it has the unknown alarm %s", a)
			}
		}
		if !m.Reachable {
			if m.Voter() {
				no(GateReachable, m.String(), "it does not answer: %s", m.Error)
			}
			continue
		}
		if err := SafeVersion(m.Version); err != nil {
			no(GateVersion, m.String(), "%s", err)
		}
		if m.Downgrading {
			no(GateDowngrade, m.String(), "a downgrade is under way: let it end")
		}
	}
	for _, m := range v.Members {
		switch {
		case !m.Started:
		case m.DefragInFlight == nil && !m.Reachable:
			no(GateInFlight, m.String(), "it does not answer, so it cannot be seen whether it is being defragmented (%s): start it or remove it", m.Error)
		case m.DefragInFlight == nil:
			no(GateInFlight, m.String(), "it cannot be seen whether it is being defragmented: %s", m.GaugeError)
		case *m.DefragInFlight != 0:
			no(GateInFlight, m.String(), "it is being defragmented")
		}
	}
	return append(out, checkLeader(v)...)
}

func checkLeader(v View) []Refusal {
	var out []Refusal
	leader, ok := v.Leader()
	if !ok {
		return append(out, Refusal{Gate: GateLeader, Reason: "the members do not agree on a leader, or there is none"})
	}
	if !leader.Reachable || !leader.Leader {
		out = append(out, Refusal{Gate: GateLeader, Member: leader.String(), Reason: "the others take it for the leader, and it does not say so itself"})
	}
	for _, m := range v.Members {
		if !m.Reachable || !m.Voter() {
			continue
		}
		if m.LeaderID == 0 {
			out = append(out, Refusal{Gate: GateLeader, Member: m.String(), Reason: "it sees no leader"})
		}
		if m.RaftTerm != leader.RaftTerm {
			out = append(out, Refusal{Gate: GateTerm, Member: m.String(), Reason: fmt.Sprintf("its raft term is %d, the leader's %d", m.RaftTerm, leader.RaftTerm)})
		}
		if lag := int64(leader.RaftAppliedIndex) - int64(m.RaftAppliedIndex); lag > MaxLag {
			out = append(out, Refusal{Gate: GateLag, Member: m.String(), Reason: fmt.Sprintf("it is %d entries behind the leader, at most %d are allowed", lag, MaxLag)})
		}
	}
	return out
}

// Probe looks at the gates that need requests of their own: a linearizable read through every voter, and every
// voter's applied index against what the leader's was before it was asked.
func (c *Client) Probe(ctx context.Context, v View) []Refusal {
	leader, ok := v.Leader()
	if !ok {
		return checkLeader(v)
	}
	lc, err := c.member(ctx, leader)
	if err != nil {
		return []Refusal{{Gate: GateLeader, Member: leader.String(), Reason: err.Error()}}
	}
	before, err := c.status(ctx, lc)
	if err != nil {
		return []Refusal{{Gate: GateLeader, Member: leader.String(), Reason: err.Error()}}
	}
	voters := v.Voters()
	results := make(chan []Refusal, len(voters))
	for _, m := range voters {
		go func() { results <- c.probeMember(ctx, m, before.RaftAppliedIndex) }()
	}
	var out []Refusal
	for range voters {
		out = append(out, <-results...)
	}
	return out
}

func (c *Client) probeMember(ctx context.Context, m Member, leaderApplied uint64) []Refusal {
	ctx, cancel := context.WithTimeout(ctx, c.memberWait())
	defer cancel()
	mc, err := c.member(ctx, m)
	if err != nil {
		return []Refusal{{Gate: GateReachable, Member: m.String(), Reason: err.Error()}}
	}
	if _, err := mc.etcd.Get(ctx, Root+"probe", clientv3.WithCountOnly()); err != nil {
		return []Refusal{{Gate: GateRead, Member: m.String(), Reason: "a linearizable read through it: " + c.explain(err, mc.last).Error()}}
	}
	st, err := c.status(ctx, mc)
	if err != nil {
		return []Refusal{{Gate: GateReachable, Member: m.String(), Reason: err.Error()}}
	}
	if lag := int64(leaderApplied) - int64(st.RaftAppliedIndex); lag > MaxLag {
		return []Refusal{{Gate: GateLag, Member: m.String(), Reason: fmt.Sprintf("it is %d entries behind the leader, at most %d are allowed", lag, MaxLag)}}
	}
	return nil
}

// CheckPause is the pause as a gate; one that cannot be read is closed.
func (c *Client) CheckPause(ctx context.Context) []Refusal {
	p, err := c.ReadPause(ctx)
	switch {
	case err != nil:
		return []Refusal{{Gate: GatePause, Reason: err.Error(), Unread: true}}
	case p != nil:
		return []Refusal{{Gate: GatePause, Reason: p.String() + " (end it with 'etcdkeeper resume')"}}
	}
	return nil
}

// Quiet returns nil when the in-flight gauge of every started member read 0 in every sample over d, and an error at
// the first that did not.
func (c *Client) Quiet(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); ; {
		v, err := c.View(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, r := range Check(v) {
			if r.Gate == GateInFlight {
				errs = append(errs, errors.New(r.String()))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if time.Now().After(end) {
			return nil
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}
