package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keeper is a keeper that looks after a member and says so.
type Keeper struct {
	Member  ID        `json:"member"` // 0: it looks after the whole cluster alone
	Name    string    `json:"name"`   // of the member, or of the host
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`

	// Tasks are the parts of the keeper that are switched on; nil: a keeper of an older version, which does not tell.
	Tasks []string `json:"tasks"`

	Drain *DrainNote `json:"drain,omitempty"` // nil: of a keeper that takes no turns
}

// Names in Keeper.Tasks of what one keeper does for all.
const (
	TaskDefrag = "defrag"
	TaskCensus = "census"
)

// Runs tells whether a part of the keeper is switched on. One that does not tell counts as if it were.
func (k Keeper) Runs(task string) bool { return k.Tasks == nil || slices.Contains(k.Tasks, task) }

// DrainNote is what a keeper tells of the clients of the member beside it. That it tells something means that it takes
// its member's turns.
type DrainNote struct {
	Able    bool           `json:"able"`    // it can turn clients away
	Reason  string         `json:"reason"`  // why not
	Clients map[string]int `json:"clients"` // connections to the member by the client's address, the keepers' own left out
	More    bool           `json:"more"`    // there are more addresses than are told
	Own     []string       `json:"own"`     // this keeper's own connections to any member, ADDRESS:PORT of its end
}

// Bounds of a DrainNote, so that an announcement stays below MaxSharedBytes.
const (
	MaxDrainClients = 80
	MaxDrainOwn     = 40
)

const keepersDir = "keepers"

// Announcer keeps a keeper's announcement alive under a lease.
type Announcer struct {
	c    *Client
	self Keeper
	ttl  time.Duration

	mu        sync.Mutex // held during a call, so that a withdrawal ends what an announcement has made
	lease     clientv3.LeaseID
	put       []byte // what stands under the lease
	withdrawn bool
}

// NewAnnouncer announces self; an announcement that is not renewed ends after ttl.
func (c *Client) NewAnnouncer(self Keeper, ttl time.Duration) *Announcer {
	return &Announcer{c: c, self: self, ttl: ttl}
}

// Tell changes what the next announcement says of the member's clients.
func (a *Announcer) Tell(d *DrainNote) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.self.Drain = d
}

// Announce renews the announcement, or makes it where it is gone. It is called several times within the ttl. Under
// NOSPACE one that is alive stays alive, and none can be made or changed.
func (a *Announcer) Announce(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.withdrawn {
		return nil
	}
	value, err := json.Marshal(a.self)
	if err != nil {
		return err
	}
	err = a.c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		if a.lease != 0 {
			_, err := cl.KeepAliveOnce(ctx, a.lease)
			if err == nil && !bytes.Equal(value, a.put) {
				if _, err = cl.Put(ctx, a.key(), string(value), clientv3.WithLease(a.lease)); err == nil {
					a.put = value
				}
			}
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
			a.lease = 0
		}
		g, err := cl.Grant(ctx, max(1, int64(a.ttl.Seconds())))
		if err != nil {
			return err
		}
		if _, err = cl.Put(ctx, a.key(), string(value), clientv3.WithLease(g.ID)); err != nil {
			return err
		}
		a.lease, a.put = g.ID, value
		return nil
	})
	if err != nil {
		return fmt.Errorf("announce this keeper: %w", err)
	}
	return nil
}

func (a *Announcer) key() string {
	return fmt.Sprintf("%s%s/%s-%s-%d", Root, keepersDir, a.self.Member, a.self.Host, a.self.PID)
}

// Withdraw ends the announcement for good.
func (a *Announcer) Withdraw() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.withdrawn = true
	if a.lease != 0 {
		a.c.revoke(a.lease)
		a.lease = 0
	}
}

// Keepers are the keepers that announce themselves now.
func (c *Client) Keepers(ctx context.Context) ([]Keeper, error) {
	values, names, err := c.Records(ctx, keepersDir)
	if err != nil {
		return nil, err
	}
	var out []Keeper
	for _, n := range names {
		var k Keeper
		if json.Unmarshal(values[n], &k) == nil {
			out = append(out, k)
		}
	}
	return out, nil
}

// Coordinator is the member whose keeper starts runs: the raft leader where a keeper that defragments is announced beside
// it, else the lowest member id with one. 0 where none is announced beside any member.
func Coordinator(leader ID, keepers []Keeper) ID {
	var lowest ID
	for _, k := range keepers {
		if k.Member == 0 || !k.Runs(TaskDefrag) {
			continue
		}
		if k.Member == leader {
			return leader
		}
		if lowest == 0 || k.Member < lowest {
			lowest = k.Member
		}
	}
	return lowest
}
