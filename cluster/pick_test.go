package cluster

import (
	"errors"
	"testing"
)

func TestView_Pick(t *testing.T) {
	v := View{Members: []Member{
		{ID: 1, Name: "a", Reachable: true, Leader: true, Endpoint: "http://10.0.0.1:2379", RaftAppliedIndex: 100},
		{ID: 2, Name: "b", Reachable: true, Endpoint: "http://10.0.0.2:2379", RaftAppliedIndex: 90},
		{ID: 3, Name: "c", Reachable: true, Endpoint: "http://127.0.0.1:2379", ClientURLs: []string{"http://127.0.0.1:2379"}, RaftAppliedIndex: 99},
		{ID: 4, Name: "d", Endpoint: "http://10.0.0.4:2379", Error: "connection refused"},
		{ID: 5, Name: "e", Reachable: true, Learner: true, Endpoint: "http://10.0.0.5:2379"},
	}}
	alone := View{Members: []Member{{ID: 1, Name: "a", Reachable: true, Leader: true, Endpoint: "x"}}}
	down := View{Members: []Member{{ID: 1, Name: "a"}}}
	for _, tc := range []struct {
		name, from string
		view       View
		endpoints  []string
		want       string // "" for an error
	}{
		{"the follower that lags least", "follower", v, nil, "c"},
		{"the default", "", v, nil, "c"},
		{"leader", "leader", v, nil, "a"},
		{"learner", "learner", v, nil, "e"},
		{"local by loopback", "local", v, nil, "c"},
		{"local by endpoint", "local", v, []string{"http://10.0.0.2:2379"}, "b"},
		{"local, none", "local", v, []string{"http://10.9.9.9:2379"}, ""},
		{"by name", "b", v, nil, "b"},
		{"by id", "5", v, nil, "e"},
		{"a name that does not answer", "d", v, nil, ""},
		{"no such name", "zz", v, nil, ""},
		{"a cluster of one", "follower", alone, nil, "a"},
		{"no learner", "learner", alone, nil, ""},
		{"nothing answers", "follower", down, nil, ""},
		{"no leader", "leader", down, nil, ""},
	} {
		m, err := tc.view.Pick(tc.from, tc.endpoints)
		if m.Name != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v; want %q", tc.name, m.Name, err, tc.want)
		}
		if got := errors.Is(err, ErrUnreachable); got != (tc.from == "d") {
			t.Errorf("%s: got %v, told to be unreachable: %v", tc.name, err, got)
		}
	}
}
