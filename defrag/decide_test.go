package defrag

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// member is a healthy voter of 3.6.16 with sizes in MiB.
func member(id cluster.ID, size, inUse int64) cluster.Member {
	return cluster.Member{
		ID: id, Name: "m" + id.String(), Endpoint: "http://127.0.0.1:1", Started: true, Reachable: true, Version: "3.6.16",
		LeaderID: 1, Leader: id == 1, RaftTerm: 3, RaftAppliedIndex: 1000, RaftIndex: 1000, Revision: 500,
		DBSize: size << 20, DBSizeInUse: inUse << 20, Quota: ptr(int64(2 << 30)), QuotaSource: cluster.QuotaFromStatus,
		DefragInFlight: ptr(int64(0)),
	}
}

func view(members ...cluster.Member) cluster.View {
	return cluster.View{ClusterID: 7, Taken: noon, Members: members}
}

// healthy has 400, 300 and 200 MiB with half of each free; 1 is the leader.
func healthy() cluster.View {
	return view(member(1, 400, 200), member(2, 300, 150), member(3, 200, 100))
}

// ran is the record of a run that defragmented one member to after MiB in use.
func ran(id cluster.ID, at time.Time, before, after int64, seconds float64) Report {
	return Report{Outcome: Done, Started: at, Members: []MemberReport{{ID: id, Done: true, Seconds: &seconds,
		BeforeBytes: ptr(before << 20), AfterBytes: ptr(after << 20)}}}
}

func TestDecide(t *testing.T) {
	auto := Situation{InWindow: true}
	manual := Situation{Manual: true}
	change := func(f func(m []cluster.Member)) cluster.View {
		v := healthy()
		f(v.Members)
		return v
	}
	tests := []struct {
		name    string
		view    cluster.View
		config  func(c *Config)
		history History
		sit     Situation

		outcome Outcome
		order   []cluster.ID
		reason  string // in the run's reason, a member's or a note
	}{
		{name: "larger gain first, leader last", view: healthy(), sit: auto, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "nothing to do", view: view(member(1, 100, 90), member(2, 100, 90), member(3, 100, 90)), sit: auto, outcome: Nothing, reason: "does not match"},
		{name: "always", view: view(member(1, 10, 9), member(2, 10, 9), member(3, 10, 9)), config: func(c *Config) { c.Rule = "true" }, sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "learner is left alone", view: change(func(m []cluster.Member) { m[2].Learner = true; m[1].Learner = false }), sit: Situation{Manual: true, AllowSmall: true}, outcome: Planned, order: []cluster.ID{2, 1}, reason: "a learner"},
		{name: "a learner does not make a quorum", view: change(func(m []cluster.Member) { m[2].Learner = true }), sit: manual, outcome: Refused, order: []cluster.ID{2, 1}, reason: "quorum: 2 voters"},
		{name: "one voter by opt-in", view: view(member(1, 400, 100)), config: func(c *Config) { c.AllowSmall = true }, sit: auto, outcome: Planned, order: []cluster.ID{1}},

		{name: "unsafe version", view: change(func(m []cluster.Member) { m[1].Version = "3.5.22" }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "version: member m2: version 3.5.22"},
		{name: "downgrade", view: change(func(m []cluster.Member) { m[1].Downgrading = true }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "downgrade"},
		{name: "corrupt", view: change(func(m []cluster.Member) { m[0].Alarms = []string{"CORRUPT"} }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "CORRUPT"},
		{name: "corrupt and out of space", view: change(func(m []cluster.Member) { m[0].Alarms = []string{"NOSPACE", "CORRUPT"} }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "CORRUPT"},
		{name: "voter down", view: change(func(m []cluster.Member) { m[2].Reachable = false; m[2].Error = "refused" }), sit: manual, outcome: Refused, order: []cluster.ID{2, 1}, reason: "reachable: member m3"},
		{name: "unstarted", view: change(func(m []cluster.Member) {
			m[2] = cluster.Member{ID: 3, Error: "added to the cluster, but never started"}
		}), sit: manual, outcome: Refused, order: []cluster.ID{2, 1}, reason: "never started"},
		{name: "gauge not to be read", view: change(func(m []cluster.Member) { m[2].DefragInFlight = nil; m[2].GaugeError = "404" }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "inflight: member m3"},
		{name: "in flight already", view: change(func(m []cluster.Member) { m[2].DefragInFlight = ptr(int64(1)) }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "is being defragmented"},
		{name: "no leader", view: change(func(m []cluster.Member) {
			for i := range m {
				m[i].LeaderID, m[i].Leader = 0, false
			}
		}), sit: manual, outcome: Refused, order: []cluster.ID{1, 2, 3}, reason: "leader"},
		{name: "two leaders", view: change(func(m []cluster.Member) { m[2].LeaderID = 3 }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "do not agree"},
		{name: "another term", view: change(func(m []cluster.Member) { m[2].RaftTerm = 2 }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "term"},
		{name: "lagging", view: change(func(m []cluster.Member) { m[2].RaftAppliedIndex = 899 }), sit: manual, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "101 entries behind"},
		{name: "lagging as much as is allowed", view: change(func(m []cluster.Member) { m[2].RaftAppliedIndex = 900 }), sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}},

		{name: "outside the window", view: healthy(), sit: Situation{NextWindow: noon.Add(time.Hour)}, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "the next opens at 2026-03-01T13:00:00Z"},
		{name: "a person does not wait for the window", view: healthy(), sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "forecast opens the window", view: healthy(), sit: Situation{Forecast: map[cluster.ID]float64{3: 3600}}, outcome: Planned, order: []cluster.ID{2, 3, 1}, reason: "reached in 1h0m0s"},
		{name: "a far forecast does not", view: healthy(), sit: Situation{Forecast: map[cluster.ID]float64{3: 90000}}, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "window"},
		{name: "alarm opens the window", view: change(func(m []cluster.Member) { m[0].Alarms = []string{"NOSPACE"} }), outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "alarm does not where switched off", view: change(func(m []cluster.Member) { m[0].Alarms = []string{"NOSPACE"} }), config: func(c *Config) { c.EmergencyOnAlarm = false }, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "window"},
		{name: "alarm overrules the rule", view: change(func(m []cluster.Member) {
			m[0].Alarms = []string{"NOSPACE"}
			m[0].DBSize = 1900 << 20
			m[0].DBSizeInUse = 1890 << 20
		}),
			config: func(c *Config) { c.Rule = "false" }, sit: manual, outcome: Planned, order: []cluster.ID{1}, reason: "NOSPACE"},

		{name: "cooldown", view: healthy(), history: History{Runs: []Report{ran(2, noon.Add(-10*time.Minute), 600, 150, 2)}}, sit: auto, outcome: Planned, order: []cluster.ID{3, 1}, reason: "left alone for 50m0s"},
		{name: "cooldown over", view: healthy(), history: History{Runs: []Report{ran(2, noon.Add(-2*time.Hour), 600, 150, 2)}}, sit: auto, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "a person does not wait for the cooldown", view: healthy(), history: History{Runs: []Report{ran(2, noon.Add(-10*time.Minute), 600, 150, 2)}}, sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "nothing was reclaimed twice", view: healthy(), history: History{Runs: []Report{ran(2, noon.Add(-5*time.Hour), 300, 299, 2), ran(2, noon.Add(-3*time.Hour), 300, 299, 2)}}, sit: auto, outcome: Planned, order: []cluster.ID{3, 1}, reason: "gave little back"},
		{name: "a clock that went back", view: healthy(), history: History{Runs: []Report{ran(2, noon.Add(48*time.Hour), 600, 150, 2)}}, sit: auto, outcome: Planned, order: []cluster.ID{3, 1}, reason: "left alone"},
		{name: "degraded", view: healthy(), history: History{Runs: []Report{{Failure: true, Started: noon.Add(-3 * time.Hour)}, {Failure: true, Started: noon.Add(-2 * time.Hour)}, {Failure: true, Started: noon.Add(-time.Hour)}}},
			sit: auto, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "degraded: the last 3 runs failed"},
		{name: "degraded long ago", view: healthy(), history: History{Runs: []Report{{Failure: true, Started: noon.Add(-9 * time.Hour)}, {Failure: true, Started: noon.Add(-8 * time.Hour)}, {Failure: true, Started: noon.Add(-7 * time.Hour)}}},
			sit: auto, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "two failures are not three", view: healthy(), history: History{Runs: []Report{{Failure: true, Started: noon.Add(-3 * time.Hour)}, {Outcome: Done, Started: noon.Add(-2 * time.Hour)}, {Failure: true, Started: noon.Add(-time.Hour)}}},
			sit: auto, outcome: Planned, order: []cluster.ID{2, 3, 1}},
		{name: "history not to be read", view: healthy(), history: History{Problem: "permission denied"}, sit: auto, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "permission denied"},
		{name: "a person needs no history", view: healthy(), history: History{Problem: "permission denied"}, sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}},

		{name: "no room on the disk", view: healthy(), sit: Situation{Manual: true, DiskFree: map[cluster.ID]int64{2: 200 << 20}}, outcome: Refused, order: []cluster.ID{2, 3, 1}, reason: "disk: member m2"},
		{name: "room on the disk", view: healthy(), sit: Situation{Manual: true, DiskFree: map[cluster.ID]int64{2: 1 << 30}}, outcome: Planned, order: []cluster.ID{2, 3, 1}, reason: "checked on 1 of 3 members"},
		{name: "disk not seen", view: healthy(), sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}, reason: "checked on 0 of 3 members"},

		{name: "different quotas", view: change(func(m []cluster.Member) { m[1].Quota = ptr(int64(8 << 30)) }), sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}, reason: "different quotas"},
		{name: "quota not known", view: change(func(m []cluster.Member) { m[1].Quota = nil }), config: func(c *Config) { c.Rule = "dbQuotaUsage > 0" }, sit: manual, outcome: Planned, order: []cluster.ID{3, 1}, reason: "quota not known"},
		{name: "a stall that outlasts the liveness probe", view: view(member(1, 40000, 12000), member(2, 40000, 12000), member(3, 40000, 12000)), sit: manual, outcome: Planned, order: []cluster.ID{2, 3, 1}, reason: "liveness probe"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			if tt.config != nil {
				tt.config(&c)
			}
			p := Decide(tt.view, c, tt.history, tt.sit, noon)
			if p.Outcome != tt.outcome || !slices.Equal(p.Order, tt.order) {
				t.Errorf("got %s (%s) in order %v, want %s in order %v", p.Outcome, p.Reason, p.Order, tt.outcome, tt.order)
			}
			words := p.Reason + strings.Join(p.Notes, " ")
			for _, m := range p.Members {
				words += m.Reason
				if m.Reason == "" {
					t.Errorf("member %s has no reason", m.Name)
				}
			}
			if !strings.Contains(words, tt.reason) {
				t.Errorf("got %q, want %q in it", words, tt.reason)
			}
		})
	}
}

func TestDecide_Leader(t *testing.T) {
	leases := func(shortest time.Duration) *cluster.Leases {
		return &cluster.Leases{Count: 10, Sampled: 10, Shortest: shortest}
	}
	// 200 MiB in use are predicted to take 0.1 + 10*200/1024 = 2.05 s.
	tests := []struct {
		name   string
		move   string
		leases *cluster.Leases
		want   string
	}{
		{"leases not known", MoveLeaderAuto, nil, LeaderInPlace},
		{"no lease", MoveLeaderAuto, leases(0), LeaderInPlace},
		{"long leases", MoveLeaderAuto, leases(5 * time.Second), LeaderInPlace},
		{"short leases", MoveLeaderAuto, leases(4 * time.Second), LeaderMoved},
		{"short leases, never", MoveLeaderNever, leases(2 * time.Second), LeaderInPlace},
		{"long leases, always", MoveLeaderAlways, leases(time.Hour), LeaderMoved},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			c.MoveLeader = tt.move
			p := Decide(healthy(), c, History{}, Situation{Manual: true, Leases: tt.leases}, noon)
			if got := p.member(1).Leader; got != tt.want {
				t.Errorf("got %s, want %s: %s", got, tt.want, p.member(1).Reason)
			}
			if p.member(2).Leader != LeaderNo {
				t.Errorf("follower: got %s", p.member(2).Leader)
			}
		})
	}
	t.Run("nobody to move it to", func(t *testing.T) {
		c := DefaultConfig()
		c.MoveLeader = MoveLeaderAlways
		p := Decide(view(member(1, 400, 100)), c, History{}, Situation{Manual: true, AllowSmall: true}, noon)
		if got := p.member(1).Leader; got != LeaderInPlace {
			t.Errorf("got %s, want in-place", got)
		}
	})
}

func TestHistory_Predict(t *testing.T) {
	near := func(got, want float64) bool { return math.Abs(got-want) < 0.01 }
	var h History
	if s, basis := h.Predict(1, 1<<30); !near(s, 10.1) || !strings.Contains(basis, "guess") {
		t.Errorf("without a history: %f, %q", s, basis)
	}
	// 5, 7 and 20 s per GiB: the median counts, and what was too small to measure does not.
	for i, rate := range []float64{5, 20, 7} {
		h.Runs = append(h.Runs, ran(1, noon.Add(time.Duration(i)*time.Hour), 2048, 1024, fixedSeconds+rate))
	}
	h.Runs = append(h.Runs, ran(1, noon, 100, 1, 3))
	if s, basis := h.Predict(1, 512<<20); !near(s, 0.1+7.0/2) || !strings.Contains(basis, "this member's last 3") {
		t.Errorf("its own: %f, %q", s, basis)
	}
	if s, basis := h.Predict(2, 1<<30); !near(s, 7.1) || !strings.Contains(basis, "other members'") {
		t.Errorf("another's: %f, %q", s, basis)
	}
	if s, _ := h.Predict(1, 0); s < fixedSeconds {
		t.Errorf("nothing in use: %f", s)
	}
}

func TestSafeVersionFloors(t *testing.T) {
	for v, safe := range map[string]bool{
		"3.4.37": false, "3.4.38": true, "3.5.0": false, "3.5.22": false, "3.5.23": true, "3.5.35": true, "3.6.0": false, "3.6.4": false, "3.6.5": true,
		"3.7.0": true, "3.8.0-alpha.0": true, "3.6.5-rc.0": false, "3.5.23-rc.1": false, "3.3.27": false, "2.3.8": false, "4.0.0": false,
		"": false, "3.6": false, "three": false, "v3.6.16": true, "3.6.16+build": true, "-1.0.0": false, "3.5.100": true,
	} {
		if err := cluster.SafeVersion(v); (err == nil) != safe {
			t.Errorf("%q: got %v, want safe %v", v, err, safe)
		}
	}
}
