package defrag

import (
	"context"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
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
