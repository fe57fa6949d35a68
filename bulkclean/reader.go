package bulkclean

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// Item is one key as it is now.
type Item struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64
	// FromAPI marks a value in the API server's encoding, which is not what etcd stores.
	FromAPI bool
}

// Reader reads single keys.
type Reader interface {
	// Get returns the items of keys in their order, nil for a key that does not exist, and the revision that was read:
	// a live Reader's is the newest.
	Get(ctx context.Context, keys []string) ([]*Item, int64, error)
}

// ObjectReader reads objects by name through the API server.
type ObjectReader interface {
	// Object returns an object in a storage encoding. An error that kube.IsNotFound knows says that there is none.
	Object(ctx context.Context, r kube.Resource, namespace, name string) ([]byte, error)
}

// LeaseReader tells what is known of a lease.
type LeaseReader interface {
	// LeaseSeconds is the time to live that the lease was granted with, 0 where there is no such lease any more.
	LeaseSeconds(ctx context.Context, id int64) (int64, error)
}

// Conn is a set of connections to the members of one etcd; *cluster.Client is one.
type Conn interface {
	// Any runs f with a client of one member, and again with the next one's where that member does not answer.
	Any(ctx context.Context, f func(context.Context, *clientv3.Client) error) error
}

// Etcd reads, deletes and puts single keys of a live etcd. Every read is linearizable, every write is guarded.
type Etcd struct{ conn Conn }

// NewEtcd uses the connections of c.
func NewEtcd(c Conn) *Etcd { return &Etcd{conn: c} }

var (
	_ Reader      = (*Etcd)(nil)
	_ LeaseReader = (*Etcd)(nil)
)

// maxOps is etcd's default --max-txn-ops.
const maxOps = 128

// Get is Reader. At most 128 keys are read in one go.
func (e *Etcd) Get(ctx context.Context, keys []string) ([]*Item, int64, error) {
	if len(keys) > maxOps {
		return nil, 0, fmt.Errorf("read %d keys: at most %d fit a transaction", len(keys), maxOps)
	}
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpGet(k)
	}
	var resp *clientv3.TxnResponse
	err := e.conn.Any(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read %d keys of etcd: %w", len(keys), err)
	}
	items := make([]*Item, len(keys))
	for i, r := range resp.Responses {
		items[i] = itemOf(r.GetResponseRange().Kvs)
	}
	return items, resp.Header.Revision, nil
}

// ClusterID is etcd's cluster id and the newest revision. It asks about a key below registry, so that a role that may
// read the registry suffices.
func (e *Etcd) ClusterID(ctx context.Context, registry string) (id cluster.ID, revision int64, err error) {
	err = e.conn.Any(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, registry+"/", clientv3.WithCountOnly())
		if err == nil {
			id, revision = cluster.ID(resp.Header.ClusterId), resp.Header.Revision
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("ask etcd for its cluster id: %w", err)
	}
	return id, revision, nil
}

// Count is the number of keys with the prefix.
func (e *Etcd) Count(ctx context.Context, prefix string) (n int64, err error) {
	err = e.conn.Any(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil {
			n = resp.Count
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count the keys of %s: %w", prefix, err)
	}
	return n, nil
}

// LeaseSeconds is LeaseReader.
func (e *Etcd) LeaseSeconds(ctx context.Context, id int64) (ttl int64, err error) {
	err = e.conn.Any(ctx, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.TimeToLive(ctx, clientv3.LeaseID(id))
		if err == nil && resp.TTL >= 0 {
			ttl = resp.GrantedTTL
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask etcd for lease %x: %w", id, err)
	}
	return ttl, nil
}

// guarded runs one transaction of one write, in a transaction of its own: watchers that resume at a revision would lose
// all but one of several keys. Where the guard does not hold it returns what is there, nil for nothing. unsure tells
// that an earlier attempt was sent and its answer lost, so that what is there may be that attempt's work.
func (e *Etcd) guarded(ctx context.Context, guard clientv3.Cmp, key string, write clientv3.Op) (done bool, now *Item, unsure bool, err error) {
	attempts := 0
	err = e.conn.Any(ctx, func(ctx context.Context, c *clientv3.Client) error {
		attempts++
		resp, err := c.Txn(ctx).If(guard).Then(write).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		if done = resp.Succeeded; !done {
			now = itemOf(resp.Responses[0].GetResponseRange().Kvs)
		}
		return nil
	})
	return done, now, attempts > 1, err
}

// deleteAt deletes key if it is still at its mod revision.
func (e *Etcd) deleteAt(ctx context.Context, key string, modRevision int64) (done bool, now *Item, unsure bool, err error) {
	return e.guarded(ctx, clientv3.Compare(clientv3.ModRevision(key), "=", modRevision), key, clientv3.OpDelete(key))
}

// putNew puts key if it does not exist.
func (e *Etcd) putNew(ctx context.Context, key string, value []byte, lease int64) (done bool, now *Item, unsure bool, err error) {
	put := clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(lease)))
	return e.guarded(ctx, clientv3.Compare(clientv3.CreateRevision(key), "=", 0), key, put)
}

func itemOf(kvs []*mvccpb.KeyValue) *Item {
	if len(kvs) == 0 {
		return nil
	}
	kv := kvs[0]
	return &Item{Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Lease: kv.Lease}
}

// scanReader reads single keys of a Scanner: a file, where the scan's revision is all there is.
type scanReader struct{ s keyspace.Scanner }

// NewScanReader reads single keys at the revision of s.
func NewScanReader(s keyspace.Scanner) Reader { return scanReader{s} }

func (r scanReader) Get(ctx context.Context, keys []string) ([]*Item, int64, error) {
	items := make([]*Item, len(keys))
	for i, k := range keys {
		for e, err := range r.s.Scan(ctx, keyspace.Range{Start: []byte(k), End: append([]byte(k), 0)}) {
			if err != nil {
				return nil, 0, err
			}
			items[i] = &Item{Key: string(e.Key), Value: bytes.Clone(e.Value), CreateRevision: e.CreateRevision,
				ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease}
		}
	}
	return items, r.s.Revision(), nil
}

// APIObjects is the ObjectReader of an API server.
type APIObjects struct{ Client *kube.Client }

// Object is ObjectReader: built-in resources in protobuf, custom ones in JSON.
func (a APIObjects) Object(ctx context.Context, r kube.Resource, namespace, name string) ([]byte, error) {
	accept := kube.Protobuf
	if r.Custom {
		accept = kube.JSON
	}
	return a.Client.Get(ctx, r, namespace, name, accept)
}

// readAttempts bounds how often a read that failed for a passing reason is tried again: with the pauses between them
// that is a minute and a half, longer than an API server's restart.
const readAttempts = 12

// readObject reads one object and waits out what passes.
func readObject(ctx context.Context, o ObjectReader, r kube.Resource, namespace, name string) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		raw, err := o.Object(ctx, r, namespace, name)
		if err == nil || !kube.IsTransient(err) || attempt == readAttempts || ctx.Err() != nil {
			return raw, err
		}
		wait := max(kube.RetryAfter(err), min(10*time.Second, 100*time.Millisecond<<attempt))
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// kubeSystem is the resource of the namespace whose uid names a cluster.
var kubeSystem = kube.Resource{Version: "v1", Plural: "namespaces"}

// KubeSystemUID is the uid of the namespace kube-system, which names a Kubernetes cluster from the API server's side as
// well as from etcd's. It is empty where there is no such namespace, or it is encrypted and objects is nil.
func KubeSystemUID(ctx context.Context, r Reader, objects ObjectReader, registry string) (string, error) {
	items, _, err := r.Get(ctx, []string{registry + "/namespaces/kube-system"})
	if err != nil {
		return "", fmt.Errorf("read namespace kube-system: %w", err)
	}
	if items[0] == nil {
		return "", nil
	}
	uid, err := metaUID(items[0].Value)
	if errors.Is(err, errEncrypted) {
		if objects == nil {
			return "", nil
		}
		raw, err := readObject(ctx, objects, kubeSystem, "", "kube-system")
		if err != nil {
			return "", fmt.Errorf("read namespace kube-system through the API server: %w", err)
		}
		return metaUID(raw)
	}
	if err != nil {
		return "", fmt.Errorf("read namespace kube-system: %w", err)
	}
	return uid, nil
}
