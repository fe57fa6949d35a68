package defrag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

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
	b.members = b.members[:0]
	for _, x := range v.Members {
		for _, p := range clientPorts(append([]string{x.Endpoint}, x.ClientURLs...), func(string) bool { return true }) {
			if !slices.Contains(b.members, p) {
				b.members = append(b.members, p)
			}
		}
	}
	// Only what the member announces: what answers on the endpoint's port may be a proxy in front of all members.
	b.ports = clientPorts(b.member.ClientURLs, localHost)
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
		b.able, b.checked = drain.Check(b.ports), now
	}
	note := cluster.DrainNote{Able: b.able == nil, Clients: map[string]int{}, Own: []string{}}
	if b.able != nil {
		note.Reason = b.able.Error()
	}
	others := slices.Clone(b.dead)
	keeperHosts := map[netip.Addr]bool{}
	for _, k := range keepers {
		if k.Drain == nil {
			continue
		}
		for _, own := range k.Drain.Own {
			if a, err := netip.ParseAddrPort(own); err == nil {
				others = append(others, a)
				keeperHosts[a.Addr()] = !a.Addr().IsLoopback()
			}
		}
	}
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
	k.mu.Lock()
	a := k.announcer
	k.mu.Unlock()
	if a == nil {
		return
	}
	a.Tell(k.beside.told())
	if err := a.Announce(ctx); err != nil {
		k.o.Log.Debug("clients not told", "err", err)
	}
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
		defer held.Release()
		// The lease holds the result until the coordinator has read it.
		for end := time.Now().Add(minTurnTTL / 2); time.Now().Before(end); {
			now, err := k.c.ReadTurn(context.WithoutCancel(ctx))
			if err == nil && (now == nil || now.ID != t.ID) || sleep(ctx, time.Second) != nil {
				return
			}
		}
	}
}

// carryOut does what a turn's order says. Every gate is read before clients are turned away, and the turn, the lock and
// the gauges again as the last thing before the call.
func (k *Keeper) carryOut(ctx context.Context, held *cluster.HeldTurn, o turnOrder) (did turnResult) {
	refuse := func(why string) turnResult {
		did.Error, did.NotBegun = why, true
		return did
	}
	s := k.alone(k.c, Options{Log: k.o.Log})
	v, closed := s.fresh(ctx)
	for end := time.Now().Add(openWait); len(closed) > 0 && time.Now().Before(end) && sleep(ctx, time.Second) == nil; {
		v, closed = s.fresh(ctx)
	}
	m, ok := v.Beside(k.c.Config())
	switch {
	case len(closed) > 0:
		return refuse(closed[0].String())
	case !ok || m.ID != held.Member():
		return refuse("this keeper is not beside that member any more")
	}

	// The keeper's own connections pass the rule: they are made anew, marked where that is possible.
	c := k.c
	var d *drain.Drain
	if o.Drain {
		k.beside.mu.Lock()
		ports := k.beside.ports
		k.beside.mu.Unlock()
		exempt, err := k.c.Controlled(drain.Exempt, m.Endpoint)
		if err == nil {
			defer exempt.Close()
			d, err = drain.Start(ports, min(k.cfg.DrainMax, time.Duration(o.DrainMaxSeconds*float64(time.Second))))
		}
		if err != nil {
			did.Notes = append(did.Notes, "not drained: "+err.Error())
			k.o.Log.Warn("clients are not drained", "member", m.String(), "err", err)
		} else {
			c = exempt
			// Whatever happens from here on, also a panic, the rule goes.
			defer func() { _, _ = d.Stop() }()
			if sleep(ctx, drainLead) != nil {
				return refuse("the keeper beside the member stops")
			}
		}
	}
	if why := k.fence(ctx, held, c, v, m); why != "" {
		return refuse(why)
	}
	k.disturb(ctx, c, m, o, &did)
	if d != nil {
		k.undrain(ctx, d, m, &did)
	}
	return did
}

// alone is a run without a lock, which gives no turns: what it does to the member is done from here.
func (k *Keeper) alone(c *cluster.Client, o Options) *run {
	return &run{Runner: &Runner{c: Client{c}, cfg: k.cfg, opts: o, t: defaultTiming(), now: time.Now}, done: map[cluster.ID]bool{}}
}

// fresh reads every gate that a keeper in a turn can read. The lock and the turn are looked at in the fence.
func (s *run) fresh(ctx context.Context) (cluster.View, []cluster.Refusal) {
	if closed := s.c.CheckPause(ctx); len(closed) > 0 {
		return cluster.View{}, closed
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return v, []cluster.Refusal{{Gate: cluster.GateReachable, Reason: err.Error()}}
	}
	closed := cluster.Check(v)
	if len(closed) == 0 {
		closed = s.c.Probe(ctx, v)
	}
	return v, closed
}

// fence is the last look before the member is disturbed: all gauges, and behind them the turn and the lock.
func (k *Keeper) fence(ctx context.Context, held *cluster.HeldTurn, own *cluster.Client, v cluster.View, m cluster.Member) string {
	reasons := make([]string, len(v.Members))
	var wg sync.WaitGroup
	for i, x := range v.Members {
		c := k.c
		if x.ID == m.ID {
			c = own
		}
		wg.Go(func() {
			if n, err := c.InFlight(ctx, x); err != nil {
				reasons[i] = fmt.Sprintf("member %s: %s", x, err)
			} else if n != 0 {
				reasons[i] = fmt.Sprintf("member %s is being defragmented", x)
			}
		})
	}
	wg.Wait()
	for _, r := range reasons {
		if r != "" {
			return cluster.GateInFlight + ": " + r
		}
	}
	if err := held.Check(ctx); err != nil {
		return cluster.GateTurn + ": " + err.Error()
	}
	if ctx.Err() != nil {
		return "the keeper beside the member stops"
	}
	return ""
}

// disturb does the call.
func (k *Keeper) disturb(ctx context.Context, c *cluster.Client, m cluster.Member, o turnOrder, did *turnResult) {
	start := time.Now()
	defer func() {
		if did.Seconds == 0 {
			did.Seconds = time.Since(start).Seconds()
		}
	}()
	if o.Work == workHash {
		h, err := c.HashKV(context.WithoutCancel(ctx), m, o.Revision)
		if did.Hash, did.CompactRevision = h.Hash, h.CompactRevision; err != nil {
			did.Error = err.Error()
		}
		return
	}
	abandon, stop := k.abandon(ctx)
	defer stop()
	s := k.alone(c, Options{Log: k.o.Log, Abandon: abandon})
	row := MemberReport{ID: m.ID, Name: m.Name, PredictedSeconds: &o.PredictedSeconds}
	res := s.defragment(ctx, m, &row, start)
	if !res.ended.IsZero() {
		did.Seconds = res.ended.Sub(start).Seconds()
	}
	switch {
	case res.left:
		did.Error = "it was stopped; the defragmentation goes on in the server"
	case res.err != nil:
		did.Error, did.NotBegun = res.err.Error(), res.notBegun
	}
}

// undrain lets clients in again and asks through their port whether they are served.
func (k *Keeper) undrain(ctx context.Context, d *drain.Drain, m cluster.Member, did *turnResult) {
	res, err := d.Stop()
	if err != nil {
		did.Notes = append(did.Notes, err.Error())
	}
	seconds := res.Duration.Seconds()
	did.DrainedSeconds, did.Moved = &seconds, res.Moved
	if res.Expired {
		did.Notes = append(did.Notes, fmt.Sprintf("clients were let in again after %.0f s (defrag.drainMax), before it was over", seconds))
	}
	k.beside.mu.Lock()
	k.beside.dead = append(k.beside.dead, res.Dead...)
	if extra := len(k.beside.dead) - maxDead; extra > 0 {
		k.beside.dead = slices.Clone(k.beside.dead[extra:])
	}
	k.beside.mu.Unlock()
	if ctx.Err() != nil || did.Error != "" {
		return
	}
	if err := k.knock(ctx, m); err != nil {
		did.Shut = fmt.Sprintf("the rule is removed, and clients cannot reach the member: %s", err)
	}
}

// knock reads through the client port as a client does, over a connection that no rule exempts.
func (k *Keeper) knock(ctx context.Context, m cluster.Member) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutWait)
	defer cancel()
	cl, err := k.c.RoundRobin(ctx, []string{fromOutside(m)})
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = cl.Get(ctx, cluster.Root+"probe", clientv3.WithCountOnly())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s: %w", shutWait, err)
	}
	return err
}
