package bulkclean

import (
	"context"
	"errors"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// OpenLive prepares a plan of a live etcd: a scanner of one member at a revision that is current, and in o everything
// that is read of the cluster.
func OpenLive(ctx context.Context, c *cluster.Client, registry string, o *PlanOptions) (*keyspace.Live, error) {
	v, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	m, err := scanned(v)
	if err != nil {
		return nil, err
	}
	client, err := c.Member(ctx, m)
	if err != nil {
		return nil, err
	}
	etcd := NewEtcd(c)
	o.Reader, o.Leases, o.ClusterID = etcd, etcd, v.ClusterID.String()
	return keyspace.NewLive(ctx, client, keyspace.LiveOptions{Name: m.String(), PinKey: registry + "/"})
}

// scanned chooses the member that a scan reads: a follower before the leader, and never a learner, which may lag.
func scanned(v cluster.View) (cluster.Member, error) {
	var found *cluster.Member
	for i, m := range v.Members {
		if m.Reachable && !m.Learner && (found == nil || found.Leader) {
			found = &v.Members[i]
		}
	}
	if found == nil {
		return cluster.Member{}, errors.New("scan the keyspace: no voting member answers; see etcdkeeper status")
	}
	return *found, nil
}
