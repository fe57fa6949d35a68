package splitter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// ErrOneCluster is returned where main and shard are the same cluster.
var ErrOneCluster = errors.New("main and shard are one cluster")

// State is what a check came to.
type State string

// States of a check.
const (
	Green  State = "green"
	Red    State = "red"
	Unsure State = "unknown" // nothing speaks against it, and it was not seen
)

// Check is one thing that must hold after a split, or before it.
type Check struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Reason string `json:"reason"`
}

// Remains is what is left of a moved resource in main.
type Remains struct {
	Prefix string `json:"prefix"`
	Keys   int64  `json:"keys"`
	// ExpiresSeconds is when the last of the sampled keys expires; null where they have no lease, or none is left.
	ExpiresSeconds *float64 `json:"expiresSeconds"`
}

// Verification is the result of Verify.
type Verification struct {
	Green     bool      `json:"green"` // no check is red
	Before    bool      `json:"before"`
	Checks    []Check   `json:"checks"`
	Remains   []Remains `json:"remains"`
	Scorecard []Score   `json:"scorecard"`
}

// DefaultVerifyWatch is long enough to see every node's lease three times, and some events of a cluster at work.
const DefaultVerifyWatch = 30 * time.Second

// VerifyOptions are the options of Verify.
type VerifyOptions struct {
	Resources []string
	Prefix    string        // the API server's --etcd-prefix; "" is /registry
	Watch     time.Duration // how long writes are watched in both clusters; 0: DefaultVerifyWatch
	// CompactEvery is the API server's --etcd-compaction-interval; 0: 5m. A watch of twice that sees compaction advance.
	CompactEvery time.Duration
	// Before checks a shard that no API server uses yet: no writes are expected, and none but moved keys.
	Before bool
	// APIServers are base URLs whose /readyz must name the override's health check.
	APIServers []string
	HTTP       *http.Client // for APIServers; nil: the default client
	Plan       *Plan        // whose predictions are compared; nil: none
}

// verifier carries one run.
type verifier struct {
	main, shard *cluster.Client
	o           VerifyOptions
	prefixes    []string
	out         Verification

	mainView, shardView cluster.View
}

// Verify checks a split. It reads only, and watches the moved prefixes for a while in both clusters.
func Verify(ctx context.Context, main, shard *cluster.Client, o VerifyOptions) (*Verification, error) {
	v := &verifier{main: main, shard: shard, o: o, out: Verification{Before: o.Before, Checks: []Check{}, Remains: []Remains{}, Scorecard: []Score{}}}
	if o.Watch <= 0 {
		v.o.Watch = DefaultVerifyWatch
	}
	if o.CompactEvery <= 0 {
		v.o.CompactEvery = 5 * time.Minute
	}
	if v.o.Prefix == "" {
		v.o.Prefix = keyspace.DefaultPrefix
	}
	for _, name := range o.Resources {
		gr, ok := ParseResource(name)
		if !ok {
			return nil, fmt.Errorf("resource %q: overrides move only what kube-apiserver itself stores, such as events, leases or pods", name)
		}
		v.prefixes = append(v.prefixes, Prefixes(v.o.Prefix, gr)...)
	}
	if len(v.prefixes) == 0 {
		return nil, errors.New("no resource: give --resources, such as events")
	}
	if up, err := v.look(ctx); err != nil || !up {
		return &v.out, err
	}
	if v.mainView.ClusterID == v.shardView.ClusterID {
		return nil, fmt.Errorf("%w (%s): nothing was moved, or one was given twice", ErrOneCluster, v.mainView.ClusterID)
	}
	v.health("mainHealthy", v.mainView)
	v.health("shardHealthy", v.shardView)
	v.space("mainSpace", v.mainView)
	v.space("shardSpace", v.shardView)
	steps := []step{{"revisionOrder", v.order}, {"shardKeys", v.foreign}}
	if !o.Before {
		steps = append(steps, step{"apiServer", v.apiServers}, step{"writes", v.writes}, step{"remains", v.remains})
	}
	for _, s := range steps {
		if err := s.run(ctx); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil {
			// A cluster without a quorum still has members that tell of themselves: what it does not answer is red.
			v.add(s.name, Red, "%v", err)
		}
	}
	v.out.Green = !slices.ContainsFunc(v.out.Checks, func(c Check) bool { return c.State == Red })
	return &v.out, nil
}

// step is a part of a run, with the name of the check that is red where it cannot be carried out.
type step struct {
	name string
	run  func(context.Context) error
}

// look reads both clusters. One of which no member answers is red, and nothing more can be said of it: up is false then.
func (v *verifier) look(ctx context.Context) (up bool, err error) {
	up = true
	for _, x := range []struct {
		name, check string
		c           *cluster.Client
		view        *cluster.View
	}{{"main", "mainHealthy", v.main, &v.mainView}, {"shard", "shardHealthy", v.shard, &v.shardView}} {
		view, err := x.c.View(ctx)
		if ctx.Err() != nil {
			return false, fmt.Errorf("%s: %w", x.name, ctx.Err())
		}
		if err != nil {
			v.add(x.check, Red, "no member answers: %v", err)
			up = false
			continue
		}
		*x.view = view
	}
	return up, nil
}

func (v *verifier) add(name string, s State, format string, args ...any) {
	v.out.Checks = append(v.out.Checks, Check{name, s, fmt.Sprintf(format, args...)})
}

// health wants every member up, one leader, and no alarm.
func (v *verifier) health(name string, view cluster.View) {
	var wrong []string
	for _, m := range view.Members {
		switch {
		case !m.Reachable:
			wrong = append(wrong, fmt.Sprintf("member %s is not reachable: %s", m, m.Error))
		case len(m.Alarms) > 0:
			wrong = append(wrong, fmt.Sprintf("member %s raises %s", m, strings.Join(m.Alarms, ", ")))
		case len(m.StatusErrors) > 0:
			wrong = append(wrong, fmt.Sprintf("member %s reports %s", m, strings.Join(m.StatusErrors, ", ")))
		}
	}
	if _, ok := view.Leader(); !ok {
		wrong = append(wrong, "there is no leader that all members agree on")
	}
	if len(wrong) > 0 {
		v.add(name, Red, "%s", strings.Join(wrong, "; "))
		return
	}
	v.add(name, Green, "%d members, one leader, no alarm", len(view.Members))
}

// fullShare is the part of the quota from which a cluster is not fine: etcd's own alerts begin there.
const fullShare = 0.8

func (v *verifier) space(name string, view cluster.View) {
	for _, m := range view.Members {
		if !m.Reachable {
			continue
		}
		if m.Quota == nil {
			v.add(name, Unsure, "the quota of member %s is not known", m)
			return
		}
		if float64(m.DBSize) > fullShare*float64(*m.Quota) {
			v.add(name, Red, "member %s: %s of %s quota", m, human(float64(m.DBSize)), human(float64(*m.Quota)))
			return
		}
	}
	v.add(name, Green, "every member is below %.0f %% of its quota", 100*fullShare)
}

// order wants the shard's revision above main's: a watch from a revision that the shard has not reached yet hears
// nothing. Long after the move main may have overtaken; then the revisions at the move count, which are main's last
// write of the moved keys and the shard's first one.
func (v *verifier) order(ctx context.Context) error {
	mainRev, shardRev := newest(v.mainView), newest(v.shardView)
	if shardRev > mainRev {
		v.add("revisionOrder", Green, "the shard is at revision %d, %d above main's %d", shardRev, shardRev-mainRev, mainRev)
		return nil
	}
	if !v.o.Before {
		last, err := v.edge(ctx, v.main, clientv3.WithLastRev(), func(kv *mvccpb.KeyValue) int64 { return kv.ModRevision }, maxInt)
		if err != nil {
			return fmt.Errorf("main: %w", err)
		}
		first, err := v.edge(ctx, v.shard, clientv3.WithFirstCreate(), func(kv *mvccpb.KeyValue) int64 { return kv.CreateRevision }, minInt)
		if err != nil {
			return fmt.Errorf("shard: %w", err)
		}
		if first > 0 && last > 0 && first > last {
			v.add("revisionOrder", Green, "main has overtaken since (%d, the shard %d): at the move the shard's %d was above main's %d", mainRev, shardRev, first, last)
			return nil
		}
		if first > MinMargin && last == 0 {
			v.add("revisionOrder", Unsure, "main is at %d, the shard at %d, and nothing is left in main that tells its revision at the move", mainRev, shardRev)
			return nil
		}
	}
	v.add("revisionOrder", Red, "the shard is at revision %d, %d below main's %d: clients that watch from main's revisions hear nothing until it gets there; prepare it anew with etcdkeeper split prepare", shardRev, mainRev-shardRev, mainRev)
	return nil
}

// edge is the moved key that which selects: by it, the newest ModRevision or the oldest CreateRevision. 0 for no key.
func (v *verifier) edge(ctx context.Context, c *cluster.Client, which []clientv3.OpOption, of func(*mvccpb.KeyValue) int64, better func(a, b int64) int64) (int64, error) {
	var edge int64
	for _, p := range v.prefixes {
		err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			resp, err := cl.Get(ctx, p, append(slices.Clone(which), clientv3.WithRange(clientv3.GetPrefixRangeEnd(p)), clientv3.WithKeysOnly())...)
			if err != nil || len(resp.Kvs) == 0 {
				return err
			}
			if rev := of(resp.Kvs[0]); edge == 0 {
				edge = rev
			} else {
				edge = better(edge, rev)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return edge, nil
}

func maxInt(a, b int64) int64 { return max(a, b) }

func minInt(a, b int64) int64 { return min(a, b) }

func newest(view cluster.View) int64 {
	var rev int64
	for _, m := range view.Members {
		rev = max(rev, m.Revision)
	}
	return rev
}

// foreign wants nothing but moved keys, the API server's own and the keeper's in the shard: other keys are another
// cluster's, and two Kubernetes clusters must never share one.
func (v *verifier) foreign(ctx context.Context) error {
	count := func(key, end string) (int64, error) {
		var n int64
		err := v.shard.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			resp, err := cl.Get(ctx, key, clientv3.WithRange(end), clientv3.WithCountOnly())
			if err == nil {
				n = resp.Count
			}
			return err
		})
		return n, err
	}
	total, err := count("\x00", "\x00")
	if err != nil {
		return fmt.Errorf("shard: count keys: %w", err)
	}
	known := append(slices.Clone(v.prefixes), cluster.Root, keyspace.CompactRevKey)
	for _, p := range known {
		n, err := count(p, clientv3.GetPrefixRangeEnd(p))
		if err != nil {
			return fmt.Errorf("shard: count keys of %s: %w", p, err)
		}
		total -= n
	}
	if total > 0 {
		v.add("shardKeys", Red, "the shard holds %d keys that are not of %s: it is used by something else, or by another Kubernetes cluster", total, strings.Join(v.prefixes, ", "))
		return nil
	}
	v.add("shardKeys", Green, "the shard holds nothing but keys of %s", strings.Join(v.prefixes, ", "))
	return nil
}
