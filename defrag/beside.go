package defrag

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag/drain"
)

const (
	// A turn's lease has to live through the leader's defragmentation, in which nothing renews leases: four times what
	// is predicted, and with 60 s no lock was ever lost in one (with 2 s it was).
	minTurnTTL = time.Minute
	// drainLead is given to clients to go elsewhere before the member stops answering, and to what is in flight to end.
	drainLead = 300 * time.Millisecond
	// shutWait is how long the client port may take to answer behind a drain.
	shutWait = 10 * time.Second
	// checkEvery is how often a keeper tries whether it could drain.
	checkEvery = 10 * time.Minute
	// While turns are given clients are looked at more often.
	lookEvery  = 2 * time.Second
	lookActive = time.Minute
	// A connection from a keeper's machine may be that keeper's newest, of which it has told nobody yet: it is counted
	// once it has lived through the keeper's next looks.
	youngFor = 3 * lookEvery
	// A watch for turns is made anew after this time.
	watchFor   = 5 * time.Minute
	watchAgain = time.Second
	// maxDead bounds how many connections that were turned away are remembered.
	maxDead = 4096
	// lookupWait bounds the look for the address of a member's host name.
	lookupWait = 2 * time.Second
	// hashWait is given to the hash of a member beside, and slowHash times what is predicted.
	hashWait = 10 * time.Second
	// openWait is how long a keeper in its turn waits for a gate that has closed since the coordinator read it.
	openWait = 15 * time.Second
)

// beside is what a keeper knows of the member beside it.
type beside struct {
	mu      sync.Mutex
	member  cluster.Member
	known   bool
	members []uint16 // the client ports of all members
	ports   []uint16 // those of the member beside
	able    error
	checked time.Time
	dead    []netip.AddrPort
	run     []netip.AddrPort             // the ends of a run's own connections, while turns are given
	others  []netip.AddrPort             // the ends that are no client's, as they were last seen
	since   map[netip.AddrPort]time.Time // when a client's end was first seen
	note    *cluster.DrainNote
	active  time.Time // clients are looked at often until then
}

// clientPorts are the ports of those of the URLs whose host is local.
func clientPorts(urls []string, local func(host string) bool) []uint16 {
	var ports []uint16
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil || !local(u.Hostname()) {
			continue
		}
		if p, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && !slices.Contains(ports, uint16(p)) {
			ports = append(ports, uint16(p))
		}
	}
	return ports
}

// memberPorts are the client ports of all members.
func memberPorts(v cluster.View) []uint16 {
	var urls []string
	for _, x := range v.Members {
		urls = append(append(urls, x.Endpoint), x.ClientURLs...)
	}
	return clientPorts(urls, func(string) bool { return true })
}

// localHost tells whether a host is an address of this network namespace.
func localHost(host string) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupWait)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	for _, a := range ips {
		ip := a.IP
		if ip.IsLoopback() || slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(ip)
		}) {
			return true
		}
	}
	return false
}

// meet takes the member beside this keeper from a view.
func (b *beside) meet(v cluster.View, m cluster.Member, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known = ok; !ok {
		return
	}
	if m.Endpoint != "" {
		b.member = m
	}
	b.members = memberPorts(v)
	// Only what the member announces: what answers on the endpoint's port may be a proxy in front of all members.
	b.ports = clientPorts(b.member.ClientURLs, localHost)
}

// impossible is why clients cannot be drained.
func impossible(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+drain.ErrImpossible.Error())
}

// addrPorts are those that can be read.
func addrPorts(list []string) (out []netip.AddrPort) {
	for _, s := range list {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// look sees who the member's clients are and whether they could be drained. Keepers are all that announce themselves.
// True: something is new.
func (b *beside) look(keepers []cluster.Keeper, now time.Time) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known {
		return false
	}
	// What is missing may come: the member may not listen yet.
	if since := now.Sub(b.checked); since >= checkEvery || b.able != nil && since >= TickInterval {
		if b.able, b.checked = drain.Check(b.ports), now; len(b.ports) == 0 {
			b.able = fmt.Errorf("none of its client URLs (%s) is on an address of the keeper's network namespace: run the keeper in the member's (hostNetwork), where their names resolve",
				strings.Join(b.member.ClientURLs, ", "))
		}
	}
	note := cluster.DrainNote{Able: b.able == nil, Clients: map[string]int{}, Own: []string{}}
	if b.able != nil {
		note.Reason = impossible(b.able)
	}
	others := slices.Clone(b.dead)
	if now.Before(b.active) {
		others = append(others, b.run...)
	}
	keeperHosts := map[netip.Addr]bool{}
	for _, k := range keepers {
		if k.Drain == nil {
			continue
		}
		for _, a := range addrPorts(k.Drain.Own) {
			others = append(others, a)
			keeperHosts[a.Addr()] = !a.Addr().IsLoopback()
		}
	}
	b.others = others
	since := map[netip.AddrPort]time.Time{}
	seen, err := drain.Look(b.ports, b.members, others, func(a netip.AddrPort) bool {
		since[a] = now
		if first, ok := b.since[a]; ok {
			since[a] = first
		}
		return keeperHosts[a.Addr()] && now.Sub(since[a]) < youngFor
	})
	b.since = since
	if err != nil {
		note.Able, note.Reason = false, err.Error()
	}
	for a, n := range seen.Addresses {
		if len(note.Clients) >= cluster.MaxDrainClients {
			note.More = true
			break
		}
		note.Clients[a.String()] = n
	}
	for _, o := range seen.Own {
		if len(note.Own) < cluster.MaxDrainOwn {
			note.Own = append(note.Own, o.String())
		}
	}
	news = b.note == nil || !reflect.DeepEqual(*b.note, note)
	b.note = &note
	return news
}

func (b *beside) told() *cluster.DrainNote {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.note
}

func (b *beside) isActive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.active)
}

// ServeTurns takes the turns that are given to this keeper and carries them out, for some minutes or until ctx ends. A
// turn under way is brought to its end, for which a stopping daemon does not wait longer than 20 s.
func (k *Keeper) ServeTurns(ctx context.Context) error {
	watch, cancel := context.WithTimeout(ctx, watchFor)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for sleep(watch, lookEvery) == nil {
			if k.beside.isActive() {
				k.lookAgain(watch)
			}
		}
	})
	var turn sync.Mutex
	for {
		err := k.c.WatchTurn(watch, func(t *cluster.Turn) {
			k.beside.mu.Lock()
			k.beside.active = time.Now().Add(lookActive)
			if t != nil && t.Member == 0 {
				k.beside.run = addrPorts(t.Own)
			}
			mine := t != nil && t.State == cluster.TurnOffered && k.beside.known && t.Member == k.beside.member.ID
			k.beside.mu.Unlock()
			if mine && turn.TryLock() {
				wg.Go(func() {
					release := k.takeTurn(ctx, *t)
					turn.Unlock()
					release()
				})
			}
		})
		if watch.Err() != nil {
			return ctx.Err()
		}
		k.o.Log.Debug("the watch for turns broke", "err", err)
		if sleep(watch, watchAgain) != nil {
			return ctx.Err()
		}
	}
}

// lookAgain sees the member's clients and tells the other keepers where something changed.
func (k *Keeper) lookAgain(ctx context.Context) {
	keepers, err := k.c.Keepers(ctx)
	if err != nil || !k.beside.look(keepers, time.Now()) {
		return
	}
	k.tell(ctx)
}

// takeTurn carries out one turn that was offered. The caller releases what it holds.
func (k *Keeper) takeTurn(ctx context.Context, t cluster.Turn) (release func()) {
	nothing := func() {}
	log := k.o.Log.With("member", t.Member.String(), "by", t.By)
	var o turnOrder
	if err := json.Unmarshal(t.Order, &o); err != nil || o.Work != workDefragment && o.Work != workHash {
		log.Warn("an offered turn cannot be read: it is left", "err", err)
		return nothing
	}
	if ctx.Err() != nil {
		return nothing // it stops: the coordinator does it from afar
	}
	ttl := max(minTurnTTL, time.Duration(4*o.PredictedSeconds*float64(time.Second)))
	held, err := k.c.TakeTurn(ctx, t, ttl)
	if err != nil {
		log.Info("the offered turn was not taken", "err", err)
		return nothing
	}
	log.Info("taking the member's turn", "work", o.Work, "drain", o.Drain)
	did := k.carryOut(ctx, held, o)
	state := cluster.TurnDone
	if did.Error != "" {
		state = cluster.TurnFailed
		log.Warn("the turn failed", "err", did.Error, "begun", !did.NotBegun)
	}
	work := context.WithoutCancel(ctx)
	if ctx.Err() != nil {
		stopping, cancel := context.WithTimeout(work, 5*time.Second)
		defer cancel()
		work = stopping
	}
	if err := held.End(work, state, did); err != nil {
		log.Warn("the coordinator was not told how the turn ended", "err", err)
		return held.Release
	}
	return func() {
		// The lease holds the result until the coordinator has read it; where the keeper stops before, it ends by itself.
		for end := time.Now().Add(minTurnTTL / 2); time.Now().Before(end); {
			now, err := k.c.ReadTurn(context.WithoutCancel(ctx))
			if err == nil && (now == nil || now.ID != t.ID) {
				break
			}
			if sleep(ctx, time.Second) != nil {
				return
			}
		}
		held.Release()
	}
}
