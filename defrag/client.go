package defrag

import (
	"context"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag/drain"
)

// Client makes a connected cluster what a Runner works on.
type Client struct{ *cluster.Client }

var _ Cluster = Client{}

// Lock takes the cluster's lock for runs.
func (c Client) Lock(ctx context.Context, holder string, ttl time.Duration) (Lock, error) {
	l, err := c.Acquire(ctx, cluster.LockRun, holder, ttl)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Own are this program's connections to the members, as far as they can be seen and told.
func (c Client) Own(v cluster.View) []string {
	seen, err := drain.Look(nil, memberPorts(v), nil, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range seen.Own[:min(len(seen.Own), cluster.MaxDrainOwn)] {
		out = append(out, a.String())
	}
	return out
}
