package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Words that Pick takes instead of a member's name or id.
const (
	FromFollower = "follower"
	FromLeader   = "leader"
	FromLocal    = "local"
	FromLearner  = "learner"
)

// ErrUnreachable is returned by Pick, wrapped, for a member that is known and cannot be read now.
var ErrUnreachable = errors.New("does not answer")

// Pick chooses the member to read much from. A follower is one that answers and is closest to the leader's applied
// index; where there is none, as in a cluster of one, it is the leader. Local is the member whose client URL is on
// loopback or among endpoints. Anything else is a member's name or id.
func (v View) Pick(from string, endpoints []string) (Member, error) {
	var able []Member
	for _, m := range v.Members {
		if m.Reachable && m.Endpoint != "" {
			able = append(able, m)
		}
	}
	// The one that lags least first.
	slices.SortStableFunc(able, func(a, b Member) int {
		switch {
		case a.RaftAppliedIndex > b.RaftAppliedIndex:
			return -1
		case a.RaftAppliedIndex < b.RaftAppliedIndex:
			return 1
		}
		return 0
	})
	first := func(want func(Member) bool) (Member, bool) {
		i := slices.IndexFunc(able, want)
		if i < 0 {
			return Member{}, false
		}
		return able[i], true
	}
	leader := func(m Member) bool { return m.Leader }
	switch from {
	case FromFollower, "":
		if m, ok := first(func(m Member) bool { return m.Voter() && !m.Leader }); ok {
			return m, nil
		}
		if m, ok := first(leader); ok {
			return m, nil
		}
		return Member{}, fmt.Errorf("no member to read from: none answers")
	case FromLeader:
		if m, ok := first(leader); ok {
			return m, nil
		}
		return Member{}, fmt.Errorf("no leader to read from: none answers; read a follower, or a member by its name")
	case FromLearner:
		if m, ok := first(func(m Member) bool { return m.Learner }); ok {
			return m, nil
		}
		return Member{}, fmt.Errorf("no learner to read from: the cluster has none that answers")
	case FromLocal:
		if m, ok := first(func(m Member) bool { return slices.ContainsFunc(m.ClientURLs, onLoopback) }); ok && len(endpoints) == 0 {
			return m, nil
		}
		if m, ok := first(func(m Member) bool { return slices.Contains(endpoints, m.Endpoint) }); ok {
			return m, nil
		}
		return Member{}, fmt.Errorf("no local member to read from: none of the given endpoints is a member's; name the member")
	}
	for _, m := range v.Members {
		if m.Name != from && m.ID.String() != from {
			continue
		}
		if !m.Reachable || m.Endpoint == "" {
			return Member{}, fmt.Errorf("member %s %w: %s", m, ErrUnreachable, m.Error)
		}
		return m, nil
	}
	var names []string
	for _, m := range v.Members {
		names = append(names, m.String())
	}
	return Member{}, fmt.Errorf("no member %q: want follower, leader, local, learner or one of %s", from, strings.Join(names, ", "))
}

func onLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// PendingProposals makes a function that reads how many proposals wait in the member, from its metrics.
func (c *Client) PendingProposals(m Member) func(context.Context) (int64, error) {
	const name = "etcd_server_proposals_pending"
	return func(ctx context.Context) (int64, error) {
		families, err := c.Metrics(ctx, m, name)
		if err != nil {
			return 0, err
		}
		n, ok := MetricValue(families, name)
		if !ok {
			return 0, fmt.Errorf("member %s: its metrics have no %s", m, name)
		}
		return int64(n), nil
	}
}
