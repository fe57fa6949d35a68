package seed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// EventTTL is how long the leases of events live: the API server's default of --event-ttl.
const EventTTL = time.Hour

// Limits of one bulk transaction. etcd's defaults are 128 operations and 1.5 MiB a request.
const (
	batchOps   = 120
	batchBytes = 1 << 20
)

// WriteOptions says how objects are written.
type WriteOptions struct {
	LeaseTTL    time.Duration // of the leases that objects ask for; EventTTL where 0
	Concurrency int           // transactions in flight; 8 where 0
}

// Count is what was written of one resource.
type Count struct {
	Keys  int64
	Bytes int64 // keys and values
}

// Stats is what was written, by "group/resource" ("/pods", "batch/jobs"); keys that are no Kubernetes object are
// under "".
type Stats struct {
	Resources map[string]Count
	Total     Count
	Leases    []clientv3.LeaseID
}

// Of is the count of one resource.
func (s Stats) Of(group, resource string) Count { return s.Resources[group+"/"+resource] }

// Writer is what Write needs of an etcd client.
type Writer interface {
	clientv3.KV
	clientv3.Lease
}

// Write puts the objects into etcd in bulk transactions: many keys share one revision, which is fine for filling an
// etcd and for nothing else. It ends with the first error and tells what had been sent by then.
func Write(ctx context.Context, to Writer, objects iter.Seq2[Object, error], o WriteOptions) (Stats, error) {
	if o.LeaseTTL <= 0 {
		o.LeaseTTL = EventTTL
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	st := Stats{Resources: map[string]Count{}}
	leases := map[int]clientv3.LeaseID{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Concurrency)
	var ops []clientv3.Op
	size := 0
	flush := func() {
		if len(ops) == 0 {
			return
		}
		batch := ops
		ops, size = nil, 0
		g.Go(func() error {
			if _, err := to.Txn(ctx).Then(batch...).Commit(); err != nil {
				return fmt.Errorf("write %d keys from %q on: %w", len(batch), batch[0].KeyBytes(), err)
			}
			return nil
		})
	}
	var firstErr error
	for obj, err := range objects {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			firstErr = err
			break
		}
		var opts []clientv3.OpOption
		if obj.Lease != 0 {
			id, ok := leases[obj.Lease]
			if !ok {
				r, err := to.Grant(ctx, int64(o.LeaseTTL/time.Second))
				if err != nil {
					firstErr = fmt.Errorf("grant a lease for %q: %w", obj.Key, err)
					break
				}
				id = r.ID
				leases[obj.Lease] = id
				st.Leases = append(st.Leases, id)
			}
			opts = append(opts, clientv3.WithLease(id))
		}
		n := len(obj.Key) + len(obj.Value)
		if len(ops) == batchOps || size+n > batchBytes {
			flush()
		}
		ops = append(ops, clientv3.OpPut(obj.Key, string(obj.Value), opts...))
		size += n
		st.add(obj, int64(n))
	}
	flush()
	// The group's error is the cause where the context ended because of it.
	if err := g.Wait(); err != nil {
		return st, err
	}
	return st, firstErr
}

func (s *Stats) add(o Object, n int64) {
	name := o.Group + "/" + o.Resource
	if o.Resource == "" {
		name = ""
	}
	c := s.Resources[name]
	c.Keys++
	c.Bytes += n
	s.Resources[name] = c
	s.Total.Keys++
	s.Total.Bytes += n
}

// Churn makes free pages: it writes rounds × keys values of valueBytes under prefix, deletes them and compacts up to
// what it wrote. The keyspace is as before, the database file is larger.
func Churn(ctx context.Context, c *clientv3.Client, prefix string, rounds, keys, valueBytes int) error {
	if prefix == "" {
		return errors.New("churn: an empty prefix would delete everything")
	}
	g := New(Options{Seed: 1})
	g.reset()
	for round := range rounds {
		eg, ctx := errgroup.WithContext(ctx)
		eg.SetLimit(8)
		for i := range keys {
			value := string(g.text(valueBytes))
			eg.Go(func() error {
				key := fmt.Sprintf("%s%06d", prefix, i)
				if _, err := c.Put(ctx, key, value); err != nil {
					return fmt.Errorf("churn round %d, put %q: %w", round, key, err)
				}
				return nil
			})
		}
		if err := eg.Wait(); err != nil {
			return err
		}
	}
	d, err := c.Delete(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("churn: delete what it wrote under %q: %w", prefix, err)
	}
	if _, err := c.Compact(ctx, d.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("churn: compact at revision %d: %w", d.Header.Revision, err)
	}
	return nil
}
