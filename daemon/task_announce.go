package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

const (
	// announceInterval is how often a keeper says that it is there.
	announceInterval = 15 * time.Second
	// announceTTL: a keeper that is silent for three intervals is absent.
	announceTTL = 3 * announceInterval
)

// setUpAnnounce makes the task that tells the other keepers of this one and of what is switched on in it, whatever that
// is: they choose by it who of them does what one keeper is to do.
func setUpAnnounce(h *Host) (func(Env) ([]Task, error), error) {
	return func(e Env) ([]Task, error) {
		run := func(ctx context.Context) error {
			v, ok := h.Watch.Latest()
			if !ok || !e.presence.made() { // what was seen before a reload may be of another cluster
				var err error
				if v, err = e.Cluster.View(ctx); err != nil {
					return err
				}
			}
			err := e.presence.announce(ctx, v)
			if cluster.IsNoSpace(err) {
				err = fmt.Errorf("%w: under NOSPACE no announcement can be made or changed", ErrSkipped)
			}
			keepers, kerr := e.Cluster.Keepers(ctx)
			if kerr == nil && h.census != nil {
				h.census.look(v, keepers, e)
			}
			return errors.Join(err, kerr)
		}
		return []Task{{Name: "announce", When: schedule.Every(announceInterval), AtStart: true, Timeout: time.Minute, Run: run,
			Close: e.presence.end}}, nil
	}, nil
}

// presence is the announcement of this keeper under one configuration. It is safe for concurrent use.
type presence struct {
	cluster *cluster.Client
	version string
	since   time.Time
	tasks   []string // set before the first task runs

	mu        sync.Mutex
	note      *cluster.DrainNote
	announcer *cluster.Announcer // nil before the cluster was seen
	member    cluster.ID         // what it announces
	ended     bool
}

// keeperIn is this keeper by the names that tell it from others.
func keeperIn(v cluster.View, cfg cluster.Config) cluster.Keeper {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	k := cluster.Keeper{Name: host, Host: host, PID: os.Getpid()}
	if m, ok := v.Beside(cfg); ok {
		k.Member, k.Name = m.ID, m.Name
	}
	return k
}

// sameKeeper tells whether two are one: their announcements have the same key.
func sameKeeper(a, b cluster.Keeper) bool {
	return a.Member == b.Member && a.Host == b.Host && a.PID == b.PID
}

// made tells whether this keeper has announced itself.
func (p *presence) made() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.announcer != nil
}

// announce makes or renews the announcement.
func (p *presence) announce(ctx context.Context, v cluster.View) error {
	self := keeperIn(v, p.cluster.Config())
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil
	}
	if p.announcer == nil || self.Member != 0 && self.Member != p.member {
		if p.announcer != nil {
			go p.announcer.Withdraw()
		}
		self.Version, self.Since, self.Tasks = p.version, p.since.UTC().Truncate(time.Second), p.tasks
		p.announcer, p.member = p.cluster.NewAnnouncer(self, announceTTL), self.Member
		p.announcer.Tell(p.note)
	}
	a := p.announcer
	p.mu.Unlock()
	return a.Announce(ctx)
}

// tell changes what is said of the clients of the member beside, at once where this keeper has announced itself.
func (p *presence) tell(ctx context.Context, note *cluster.DrainNote) error {
	p.mu.Lock()
	p.note = note
	a := p.announcer
	if a == nil {
		p.mu.Unlock()
		return nil
	}
	a.Tell(note)
	p.mu.Unlock()
	return a.Announce(ctx)
}

// end withdraws the announcement, so that other keepers take over at once.
func (p *presence) end() {
	p.mu.Lock()
	a := p.announcer
	p.ended = true
	p.mu.Unlock()
	if a != nil {
		a.Withdraw()
	}
}
