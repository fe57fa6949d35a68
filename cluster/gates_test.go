package cluster_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestSafeVersion(t *testing.T) {
	for version, safe := range map[string]bool{
		"3.3.27": false, "3.4.37": false, "3.4.38": true, "3.5.0": false, "3.5.22": false, "3.5.23": true, "3.5.35": true,
		"3.6.0": false, "3.6.4": false, "3.6.5": true, "3.7.0": true, "3.7.3": true, "3.8.0": true, "v3.7.3": true,
		"3.6.5-rc.1": false, "4.0.0": false, "2.3.8": false, "": false, "not decided": false, "3.7": false,
	} {
		if err := cluster.SafeVersion(version); (err == nil) != safe {
			t.Errorf("version %q: got %v, want safe %v", version, err, safe)
		}
	}
}

func three() cluster.View {
	var v cluster.View
	for id := cluster.ID(1); id <= 3; id++ {
		v.Members = append(v.Members, cluster.Member{ID: id, Name: "m" + id.String(), Started: true, Reachable: true, Version: "3.7.3",
			LeaderID: 1, Leader: id == 1, RaftTerm: 2, RaftAppliedIndex: 1000, DefragInFlight: new(int64)})
	}
	return v
}

func TestCheck(t *testing.T) {
	one := int64(1)
	tests := []struct {
		name   string
		change func(v *cluster.View)
		gates  []string // that are closed
		reason string
	}{
		{"all is well", func(*cluster.View) {}, nil, ""},
		{"an unsafe version", func(v *cluster.View) { v.Members[1].Version = "3.5.22" }, []string{cluster.GateVersion}, "upgrade to 3.5.23"},
		{"a version that is not told", func(v *cluster.View) { v.Members[1].Version = "" }, []string{cluster.GateVersion}, "cannot be read"},
		{"a downgrade", func(v *cluster.View) { v.Members[2].Downgrading = true }, []string{cluster.GateDowngrade}, "downgrade"},
		{"a member that never started", func(v *cluster.View) {
			v.Members[2] = cluster.Member{ID: 3}
		}, []string{cluster.GateUnstarted}, "start it or remove it"},
		{"a corrupt member", func(v *cluster.View) { v.Members[2].Alarms = []string{"CORRUPT"} }, []string{cluster.GateCorrupt}, "restore it"},
		{"NOSPACE and CORRUPT", func(v *cluster.View) { v.Members[2].Alarms = []string{"NOSPACE", "CORRUPT"} }, []string{cluster.GateCorrupt}, ""},
		{"NOSPACE alone closes nothing", func(v *cluster.View) { v.Members[2].Alarms = []string{"NOSPACE"} }, nil, ""},
		{"an alarm of the future", func(v *cluster.View) { v.Members[2].Alarms = []string{"FIRE"} }, []string{cluster.GateAlarm}, "FIRE"},
		{"a voter does not answer", func(v *cluster.View) {
			v.Members[2].Reachable, v.Members[2].Error = false, "refused"
		}, []string{cluster.GateReachable}, "refused"},
		{"a learner does not answer", func(v *cluster.View) {
			v.Members[2].Reachable, v.Members[2].Learner = false, true
		}, nil, ""},
		{"a stopped learner", func(v *cluster.View) {
			m := &v.Members[2]
			m.Reachable, m.Learner, m.DefragInFlight, m.Error, m.GaugeError = false, true, nil, "refused", "give --metrics-url"
		}, []string{cluster.GateInFlight}, "(refused): start it or remove it"},
		{"a gauge that cannot be read", func(v *cluster.View) {
			v.Members[2].DefragInFlight, v.Members[2].GaugeError = nil, "404"
		}, []string{cluster.GateInFlight}, "cannot be seen"},
		{"a learner's gauge counts too", func(v *cluster.View) {
			v.Members[2].Learner, v.Members[2].DefragInFlight = true, nil
		}, []string{cluster.GateInFlight}, ""},
		{"a member in defragmentation", func(v *cluster.View) { v.Members[0].DefragInFlight = &one }, []string{cluster.GateInFlight}, "is being defragmented"},
		{"two leaders", func(v *cluster.View) { v.Members[2].LeaderID = 3 }, []string{cluster.GateLeader}, "do not agree"},
		{"no leader", func(v *cluster.View) {
			for i := range v.Members {
				v.Members[i].LeaderID, v.Members[i].Leader = 0, false
			}
		}, []string{cluster.GateLeader}, "there is none"},
		{"one sees no leader", func(v *cluster.View) { v.Members[2].LeaderID = 0 }, []string{cluster.GateLeader}, "sees no leader"},
		{"a leader that is none", func(v *cluster.View) { v.Members[0].Leader = false }, []string{cluster.GateLeader}, "does not say so itself"},
		{"the leader is not a member", func(v *cluster.View) {
			for i := range v.Members {
				v.Members[i].LeaderID = 9
			}
		}, []string{cluster.GateLeader}, ""},
		{"an older term", func(v *cluster.View) { v.Members[2].RaftTerm = 1 }, []string{cluster.GateTerm}, "1, the leader's 2"},
		{"at the edge of the lag", func(v *cluster.View) { v.Members[2].RaftAppliedIndex = 1000 - cluster.MaxLag }, nil, ""},
		{"a lagging member", func(v *cluster.View) { v.Members[2].RaftAppliedIndex = 1000 - cluster.MaxLag - 1 }, []string{cluster.GateLag}, "101 entries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := three()
			tt.change(&v)
			var gates []string
			text := ""
			for _, r := range cluster.Check(v) {
				gates = append(gates, r.Gate)
				text += r.String() + "\n"
			}
			if !slices.Equal(gates, tt.gates) || !strings.Contains(text, tt.reason) {
				t.Errorf("got %q, want %q with %q", text, tt.gates, tt.reason)
			}
		})
	}
}
