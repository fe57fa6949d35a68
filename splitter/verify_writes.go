package splitter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// seenWrites is what a watch saw in one cluster.
type seenWrites struct {
	puts, deletes int64
	sample        string
}

// writes watches the moved prefixes in both clusters, the compaction's key, and the pace of the revisions.
func (v *verifier) writes(ctx context.Context) error {
	before, err := v.moment(ctx)
	if err != nil {
		return err
	}
	watchCtx, cancel := context.WithTimeout(ctx, v.o.Watch)
	defer cancel()
	var wg sync.WaitGroup
	var inMain, inShard seenWrites
	var mainErr, shardErr error
	wg.Go(func() { inMain, mainErr = v.watchWrites(watchCtx, v.main, v.mainView) })
	wg.Go(func() { inShard, shardErr = v.watchWrites(watchCtx, v.shard, v.shardView) })
	wg.Wait()
	if err := errors.Join(ctx.Err(), mainErr); err != nil {
		return fmt.Errorf("watch main: %w", err)
	}
	if shardErr != nil {
		return fmt.Errorf("watch shard: %w", shardErr)
	}
	after, err := v.moment(ctx)
	if err != nil {
		return err
	}
	if inMain.puts > 0 {
		v.add("writesInMain", Red, "%d writes of the moved resources went to main in %s, such as %s: an API server has no override, or another one", inMain.puts, v.o.Watch, inMain.sample)
	} else {
		v.add("writesInMain", Green, "no write of the moved resources went to main in %s", v.o.Watch)
	}
	if inShard.puts > 0 {
		v.add("writesInShard", Green, "%d writes of the moved resources went to the shard in %s", inShard.puts, v.o.Watch)
	} else {
		v.add("writesInShard", Unsure, "no write of the moved resources was seen in %s: make one, such as by creating an event, or watch longer", v.o.Watch)
	}
	v.compaction("mainCompaction", before.mainCompact, after.mainCompact)
	v.compaction("shardCompaction", before.shardCompact, after.shardCompact)
	v.score(before, after)
	return nil
}

// watchWrites counts puts and deletes under the moved prefixes until ctx ends.
func (v *verifier) watchWrites(ctx context.Context, c *cluster.Client, view cluster.View) (seenWrites, error) {
	var out seenWrites
	var cl *clientv3.Client
	var err error
	for _, m := range view.Members {
		if m.Reachable && !m.Learner {
			if cl, err = c.Member(ctx, m); err == nil {
				break
			}
		}
	}
	if cl == nil {
		return out, errors.Join(errors.New("no member is reachable"), err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, len(v.prefixes))
	for i, p := range v.prefixes {
		wg.Go(func() {
			for resp := range cl.Watch(clientv3.WithRequireLeader(ctx), p, clientv3.WithPrefix(), clientv3.WithFragment()) {
				if err := resp.Err(); err != nil && ctx.Err() == nil {
					errs[i] = err
					return
				}
				mu.Lock()
				for _, e := range resp.Events {
					if e.Type == clientv3.EventTypeDelete {
						out.deletes++
						continue
					}
					out.puts++
					out.sample = string(e.Kv.Key)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// moment is what is compared over the watch.
type moment struct {
	at                        time.Time
	mainRevision              int64
	shardRevision             int64
	mainCompact, shardCompact compactKey
	main, shard               cluster.View
	// Metrics of each member, where a plan's predictions are compared.
	mainMetrics, shardMetrics map[string]Families
}

// compactKey is the key by which the API servers agree on compaction: each compaction writes it.
type compactKey struct{ version, modRevision int64 }

func (v *verifier) moment(ctx context.Context) (m moment, err error) {
	if m.main, err = v.main.View(ctx); err != nil {
		return m, fmt.Errorf("main: %w", err)
	}
	if m.shard, err = v.shard.View(ctx); err != nil {
		return m, fmt.Errorf("shard: %w", err)
	}
	if v.o.Plan != nil {
		m.mainMetrics, m.shardMetrics = memberMetrics(ctx, v.main, m.main), memberMetrics(ctx, v.shard, m.shard)
	}
	m.at, m.mainRevision, m.shardRevision = time.Now(), newest(m.main), newest(m.shard)
	for _, x := range []struct {
		c  *cluster.Client
		to *compactKey
	}{{v.main, &m.mainCompact}, {v.shard, &m.shardCompact}} {
		err := x.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			resp, err := cl.Get(ctx, keyspace.CompactRevKey)
			if err == nil && len(resp.Kvs) > 0 {
				*x.to = compactKey{resp.Kvs[0].Version, resp.Kvs[0].ModRevision}
			}
			return err
		})
		if err != nil {
			return m, fmt.Errorf("read %s: %w", keyspace.CompactRevKey, err)
		}
	}
	return m, nil
}

func (v *verifier) compaction(name string, before, after compactKey) {
	switch {
	case after.version > before.version:
		v.add(name, Green, "compaction advanced (%s has version %d)", keyspace.CompactRevKey, after.version)
	case v.o.Watch > 2*v.o.CompactEvery:
		v.add(name, Red, "nothing compacted it in %s: no API server's compactor has these servers, or it shares one with another list of servers", v.o.Watch)
	case after.version > 0:
		v.add(name, Green, "the API servers compact it (%s has version %d); watch longer than %s to see it advance", keyspace.CompactRevKey, after.version, 2*v.o.CompactEvery)
	default:
		v.add(name, Unsure, "no API server has compacted it yet: the first time is %s to %s after their start", v.o.CompactEvery, 2*v.o.CompactEvery)
	}
}

// remains counts what is left of the moved prefixes in main, and asks some leases when it expires.
func (v *verifier) remains(ctx context.Context) error {
	const sampled = 200
	for _, p := range v.prefixes {
		r := Remains{Prefix: p}
		err := v.main.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			end := clientv3.GetPrefixRangeEnd(p)
			all, err := cl.Get(ctx, p, clientv3.WithRange(end), clientv3.WithCountOnly())
			if err != nil {
				return err
			}
			r.Keys, r.ExpiresSeconds = all.Count, nil
			// With their values: etcd 3.7 leaves the lease out of an answer with keys only.
			some, err := cl.Get(ctx, p, clientv3.WithRange(end), clientv3.WithLimit(sampled))
			if err != nil {
				return err
			}
			asked := map[int64]bool{}
			for _, kv := range some.Kvs {
				if kv.Lease == 0 || asked[kv.Lease] {
					continue
				}
				asked[kv.Lease] = true
				ttl, err := cl.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
				if err != nil {
					return err
				}
				if s := float64(ttl.TTL); s >= 0 && (r.ExpiresSeconds == nil || s > *r.ExpiresSeconds) {
					r.ExpiresSeconds = &s
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("main: read what is left of %s: %w", p, err)
		}
		v.out.Remains = append(v.out.Remains, r)
	}
	return nil
}

// apiServers wants the override's health check in every API server's /readyz.
func (v *verifier) apiServers(ctx context.Context) error {
	for _, base := range v.o.APIServers {
		url := strings.TrimSuffix(base, "/") + "/readyz?verbose"
		body, err := get(ctx, v.o.HTTP, url)
		switch {
		case err != nil:
			v.add("apiServer", Red, "%s: %v", base, err)
		case !strings.Contains(body, "etcd-override-0"):
			v.add("apiServer", Red, "%s has no health check etcd-override-0: it was started without --etcd-servers-overrides", base)
		case strings.Contains(body, "[-]etcd-override"):
			v.add("apiServer", Red, "%s does not reach the shard: its check etcd-override fails", base)
		default:
			v.add("apiServer", Green, "%s: etcd-override-0 ok", base)
		}
	}
	return nil
}

// get reads a health endpoint, whatever its status is.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	if client == nil {
		client = http.DefaultClient
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return "", fmt.Errorf("%s answered %s: give --apiserver-token-file", url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(data), err
}
