package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MaxSharedBytes bounds every value that keepers share.
const MaxSharedBytes = 8 << 10

// Append adds a record to the ring dir under Root and deletes the oldest ones beyond keep, in one transaction.
// Records are ordered by the revision at which they were made.
func (c *Client) Append(ctx context.Context, dir string, keep int, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if len(value) > MaxSharedBytes {
		return fmt.Errorf("append to %s%s: %d bytes, more than the %d that keepers share", Root, dir, len(value), MaxSharedBytes)
	}
	prefix := Root + dir + "/"
	key := prefix + time.Now().UTC().Format("20060102T150405.000000000Z")
	err = c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
		// An earlier answer may have been lost: the record itself never makes room for itself.
		old := slices.DeleteFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == key })
		ops := []clientv3.Op{clientv3.OpPut(key, string(value))}
		for i := 0; i < len(old)-keep+1 && len(ops) < 100; i++ {
			ops = append(ops, clientv3.OpDelete(string(old[i].Key)))
		}
		_, err = cl.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return fmt.Errorf("append to %s%s: %w", Root, dir, err)
	}
	return nil
}

// Records are the values of a ring or of a set of shared keys, oldest first.
func (c *Client) Records(ctx context.Context, dir string) (map[string][]byte, []string, error) {
	prefix := Root + dir + "/"
	values := map[string][]byte{}
	var names []string
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		clear(values)
		names = names[:0]
		resp, err := cl.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1000))
		if err != nil {
			return err
		}
		slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
		for _, kv := range resp.Kvs {
			name := strings.TrimPrefix(string(kv.Key), prefix)
			values[name] = kv.Value
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read %s%s: %w", Root, dir, err)
	}
	return values, names, nil
}

// Share puts one small value under Root.
func (c *Client) Share(ctx context.Context, name string, value []byte) error {
	if len(value) > MaxSharedBytes {
		return fmt.Errorf("share %s%s: %d bytes, more than the %d that keepers share", Root, name, len(value), MaxSharedBytes)
	}
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		_, err := cl.Put(ctx, Root+name, string(value))
		return err
	})
	if err != nil {
		return fmt.Errorf("share %s%s: %w", Root, name, err)
	}
	return nil
}
