package defrag

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag/drain"
)

// carryOut does what a turn's order says. Every gate is read before clients are turned away, and the turn, the lock and
// the gauges again as the last thing before the call.
func (k *Keeper) carryOut(ctx context.Context, held *cluster.HeldTurn, o turnOrder) (did turnResult) {
	refuse := func(why string) turnResult {
		did.Error, did.NotBegun = why, true
		return did
	}
	s := k.alone(k.c, Options{Log: k.o.Log})
	v, closed := s.opened(ctx)
	m, ok := v.Beside(k.c.Config())
	switch {
	case len(closed) > 0:
		return refuse(closed[0].String())
	case !ok || m.ID != held.Member():
		return refuse("this keeper is not beside that member any more")
	case o.leads(v, m.ID):
		did.Leads = true
		return refuse("the member has become the leader since its turn was offered")
	}

	// The coordinator sees its own volume only.
	if free, ok := MemberDisk(k.c.Config(), v)[m.ID]; ok && o.Work == workDefragment {
		if closed := noRoom(m.String(), free, m.DBSizeInUse); closed != nil {
			return refuse(closed.String())
		}
	}

	// The keeper's own connections pass the rule: they are made anew, marked where that is possible.
	c := k.c
	var d *drain.Drain
	if o.Drain {
		k.beside.mu.Lock()
		ports, others := k.beside.ports, k.beside.others
		k.beside.mu.Unlock()
		exempt, err := k.c.Controlled(drain.Exempt, m.Endpoint)
		if err == nil {
			defer exempt.Close()
			d, err = drain.Start(ports, min(k.cfg.DrainMax, time.Duration(o.DrainMaxSeconds*float64(time.Second))), others)
		}
		if err != nil {
			did.NotDrained = impossible(err)
			k.o.Log.Warn("clients are not drained", "member", m.String(), "err", err)
		} else {
			c = exempt
			// Whatever happens from here on, also a panic, the rule goes.
			defer func() { _, _ = d.Stop() }()
			_ = sleep(ctx, drainLead) // the fence sees whether ctx has ended
		}
	}
	if why := k.fence(ctx, held, c, v, m); why != "" {
		refuse(why)
	} else {
		k.disturb(ctx, c, m, o, &did)
	}
	if d == nil {
		return did
	}
	// Where this fails nothing is lost: the coordinator asks for the hash at the end.
	if o.Work == workDefragment && o.Revision > 0 && did.Error == "" && d.Active() {
		if err := hashBeside(ctx, c, m, o.Revision, &did); err != nil {
			did.Notes = append(did.Notes, "no hash under the drain: "+err.Error())
		}
	}
	k.undrain(ctx, d, m, &did)
	k.lookAgain(ctx) // for the coordinator, which waits for clients to come back
	return did
}

// alone is a run without a lock, which gives no turns: what it does to the member is done from here.
func (k *Keeper) alone(c *cluster.Client, o Options) *run {
	return &run{Runner: &Runner{c: Client{c}, cfg: k.cfg, opts: o, t: defaultTiming(), now: time.Now}, done: map[cluster.ID]bool{}, beside: true}
}

// opened waits for a while for gates that are closed to open, but for a pause: somebody has ordered it.
func (s *run) opened(ctx context.Context) (v cluster.View, closed []cluster.Refusal) {
	for end := s.now().Add(openWait); ; {
		v, closed = s.fresh(ctx)
		if len(closed) == 0 || closed[0].Gate == cluster.GatePause && !closed[0].Unread {
			return v, closed
		}
		if !s.now().Before(end) || sleep(ctx, time.Second) != nil {
			return v, closed
		}
	}
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
		if err := hashBeside(ctx, c, m, o.Revision, did); err != nil {
			did.Error = err.Error()
			did.Later = errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev)
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

// hashBeside asks the member for its hash.
func hashBeside(ctx context.Context, c *cluster.Client, m cluster.Member, rev int64, did *turnResult) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hashWait+time.Duration(slowHash*hashSeconds(m)*float64(time.Second)))
	defer cancel()
	start := time.Now()
	h, err := c.HashKV(ctx, m, rev)
	if err != nil {
		return err
	}
	did.Hash, did.HashSeconds = &h, time.Since(start).Seconds()
	return nil
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
	for {
		try, cancel := context.WithTimeout(ctx, shutWait/3)
		_, err := cl.Get(try, cluster.Root+"probe", clientv3.WithCountOnly())
		cancel()
		if err == nil {
			return nil
		}
		// A member that has just come back may not have caught up, or have no leader for a moment.
		if sleep(ctx, time.Second) != nil {
			return fmt.Errorf("no answer within %s: %w", shutWait, err)
		}
	}
}
