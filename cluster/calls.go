package cluster

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Hash is one member's hash of the keyspace. Two are comparable only where both revisions are equal.
type Hash struct {
	Hash            uint32
	Revision        int64
	CompactRevision int64
}

// HashKV asks one member for the hash of all keys up to rev. It holds the member's read transaction for its whole
// scan, so that member's puts and reads wait meanwhile.
func (c *Client) HashKV(ctx context.Context, m Member, rev int64) (Hash, error) {
	mc, err := c.member(ctx, m)
	if err != nil {
		return Hash{}, err
	}
	resp, err := pb.NewMaintenanceClient(mc.etcd.ActiveConnection()).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
	if err != nil {
		return Hash{}, fmt.Errorf("hash the keys of member %s: %w", m, c.explain(rpctypes.Error(err), mc.last))
	}
	return Hash{Hash: resp.Hash, Revision: rev, CompactRevision: resp.CompactRevision}, nil
}

// Compact discards the history before rev and waits until the leader has done so.
func (c *Client) Compact(ctx context.Context, rev int64) error {
	err := c.leaderCall(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		_, err := cl.Compact(ctx, rev, clientv3.WithCompactPhysical())
		return err
	})
	if err != nil {
		return fmt.Errorf("compact to revision %d: %w", rev, err)
	}
	return nil
}

func (c *Client) leaderCall(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	v, err := c.View(ctx)
	if err != nil {
		return err
	}
	leader, ok := v.Leader()
	if !ok {
		return fmt.Errorf("the members do not agree on a leader")
	}
	mc, err := c.member(ctx, leader)
	if err != nil {
		return err
	}
	return c.explain(f(ctx, mc.etcd), mc.last)
}

// CompactRevision is the revision before which the member has no history; false where its metrics do not say.
func (c *Client) CompactRevision(ctx context.Context, m Member) (int64, bool) {
	families, err := c.Metrics(ctx, m, MetricCompactRev)
	if err != nil {
		return 0, false
	}
	v, ok := MetricValue(families, MetricCompactRev)
	return int64(v), ok
}

// Disarm takes the NOSPACE alarm of the given members away.
func (c *Client) Disarm(ctx context.Context, members []Member) error {
	for _, m := range members {
		err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			_, err := cl.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: uint64(m.ID), Alarm: pb.AlarmType_NOSPACE})
			return err
		})
		if err != nil {
			return fmt.Errorf("disarm the NOSPACE alarm of member %s: %w", m, err)
		}
	}
	return nil
}

// Bounds of the look at leases: so many are asked for their time-to-live, so many at once.
const (
	maxLeaseSample = 500
	leaseWorkers   = 8
)

// Leases is a sample of the leases in use.
type Leases struct {
	Count    int
	Sampled  int
	Shortest time.Duration // the shortest granted time-to-live seen; 0 where no lease was seen
}

// sampleWait bounds the look at leases.
const sampleWait = 10 * time.Second

// SampleLeases asks for the time-to-live of up to 500 leases, spread evenly over all: leases are lost when they are
// not renewed for their time-to-live, and nothing renews them while the leader defragments. Those of keepers do not
// count: a keeper that loses its announcement makes another one.
func (c *Client) SampleLeases(ctx context.Context) (Leases, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleWait)
	defer cancel()
	var l Leases
	err := c.leaderCall(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Leases(ctx)
		if err != nil {
			return err
		}
		// With their values: etcd 3.7 leaves the lease out of an answer of keys only.
		keys, err := cl.Get(ctx, Root+keepersDir+"/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range keys.Kvs {
			resp.Leases = slices.DeleteFunc(resp.Leases, func(s clientv3.LeaseStatus) bool { return int64(s.ID) == kv.Lease })
		}
		l = Leases{Count: len(resp.Leases)}
		step := max(1, (len(resp.Leases)+maxLeaseSample-1)/maxLeaseSample)
		ids := make(chan clientv3.LeaseID)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range leaseWorkers {
			wg.Go(func() {
				for id := range ids {
					t, err := cl.TimeToLive(ctx, id)
					if err != nil || t.GrantedTTL <= 0 || t.TTL < 0 {
						continue
					}
					ttl := time.Duration(t.GrantedTTL) * time.Second
					mu.Lock()
					l.Sampled++
					if l.Shortest == 0 || ttl < l.Shortest {
						l.Shortest = ttl
					}
					mu.Unlock()
				}
			})
		}
		for i := 0; i < len(resp.Leases); i += step {
			ids <- resp.Leases[i].ID
		}
		close(ids)
		wg.Wait()
		return ctx.Err()
	})
	if err != nil {
		return Leases{}, fmt.Errorf("sample the leases: %w", err)
	}
	return l, nil
}

// Snapshot streams the member's database, with the checksum that etcd appends. The caller closes it.
func (c *Client) Snapshot(ctx context.Context, m Member) (io.ReadCloser, error) {
	mc, err := c.member(ctx, m)
	if err != nil {
		return nil, err
	}
	r, err := mc.etcd.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("snapshot of member %s: %w", m, c.explain(err, mc.last))
	}
	return r, nil
}
