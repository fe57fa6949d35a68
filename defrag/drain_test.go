package defrag

import (
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// beside3 are keepers beside the members 1 to 3 that can drain; each sees the given clients.
func beside3(clients map[string]int) []cluster.Keeper {
	var out []cluster.Keeper
	for id := cluster.ID(1); id <= 3; id++ {
		out = append(out, cluster.Keeper{Member: id, Drain: &cluster.DrainNote{Able: true, Clients: clients}})
	}
	return out
}

func TestDecideDrain(t *testing.T) {
	everywhere := map[string]int{"192.0.2.9": 2, "2001:db8::9": 1}
	tests := []struct {
		name      string
		config    func(c *Config)
		view      func(v *cluster.View)
		predicted float64
		keepers   func(k []cluster.Keeper) []cluster.Keeper
		want      bool
		reason    string
	}{
		{name: "long and movable", predicted: 3, want: true, reason: "3 connections of 2 client addresses can go to other members"},
		{name: "exactly the threshold", predicted: 2, reason: "not more than 2.0 s (defrag.drainAbove)"},
		{name: "another threshold", predicted: 2, config: func(c *Config) { c.DrainAbove = time.Second }, want: true},
		{name: "never", predicted: 100, config: func(c *Config) { c.Drain = DrainNever }, reason: "defrag.drain is never"},
		{name: "always, though it is short", predicted: 0.1, config: func(c *Config) { c.Drain = DrainAlways }, want: true, reason: "always"},
		{name: "always, though clients are pinned", predicted: 0.1, config: func(c *Config) { c.Drain = DrainAlways }, want: true,
			keepers: func(k []cluster.Keeper) []cluster.Keeper {
				k[0].Drain.Clients = map[string]int{"192.0.2.77": 1}
				return k
			}},
		{name: "always, and no keeper", predicted: 9, config: func(c *Config) { c.Drain = DrainAlways },
			keepers: func(k []cluster.Keeper) []cluster.Keeper { return k[1:] }, reason: "no keeper that takes turns is beside it"},
		{name: "no keepers at all", predicted: 9, keepers: func([]cluster.Keeper) []cluster.Keeper { return nil }, reason: "no keeper"},
		{name: "a keeper that takes no turns", predicted: 9, reason: "the keeper beside it takes no turns: its defrag.drain is never or defrag.enabled false",
			keepers: func(k []cluster.Keeper) []cluster.Keeper { k[0].Drain = nil; return k }},
		{name: "no right", predicted: 9, reason: "its keeper cannot: CAP_NET_ADMIN is missing",
			keepers: func(k []cluster.Keeper) []cluster.Keeper {
				k[0].Drain = &cluster.DrainNote{Reason: "CAP_NET_ADMIN is missing", Clients: everywhere}
				return k
			}},
		{name: "a client of this member only", predicted: 9, reason: "clients of 192.0.2.77 use this member only",
			keepers: func(k []cluster.Keeper) []cluster.Keeper {
				k[0].Drain.Clients = map[string]int{"192.0.2.9": 1, "192.0.2.77": 1}
				return k
			}},
		{name: "many of them", predicted: 9, reason: "clients of 192.0.2.1, 192.0.2.2, 192.0.2.3 and 1 more use",
			keepers: func(k []cluster.Keeper) []cluster.Keeper {
				k[0].Drain.Clients = map[string]int{"192.0.2.1": 1, "192.0.2.2": 1, "192.0.2.3": 1, "192.0.2.4": 1}
				return k
			}},
		{name: "seen by one other keeper", predicted: 9, want: true,
			keepers: func(k []cluster.Keeper) []cluster.Keeper { k[2].Drain.Clients = nil; return k }},
		{name: "loopback is not another machine's loopback", predicted: 9, reason: "clients of 127.0.0.1 use this member only",
			keepers: func([]cluster.Keeper) []cluster.Keeper { return beside3(map[string]int{"127.0.0.1": 1}) }},
		{name: "the IPv6 loopback", predicted: 9, reason: "clients of ::1 use",
			keepers: func([]cluster.Keeper) []cluster.Keeper { return beside3(map[string]int{"::1": 1}) }},
		{name: "nobody there", predicted: 9, reason: "no client is connected",
			keepers: func(k []cluster.Keeper) []cluster.Keeper { k[0].Drain.Clients = nil; return k }},
		{name: "too many to tell", predicted: 9, reason: "more than 80 addresses",
			keepers: func(k []cluster.Keeper) []cluster.Keeper { k[0].Drain.More = true; return k }},
		{name: "another voter is away", predicted: 9, reason: "1 other voters serve and are caught up, 2 are wanted",
			view: func(v *cluster.View) { v.Members[2].Reachable = false }},
		{name: "another voter lags", predicted: 9, reason: "1 other voters",
			view: func(v *cluster.View) { v.Members[2].RaftAppliedIndex -= cluster.MaxLag + 1 }},
		{name: "another voter is defragmented", predicted: 9, reason: "1 other voters",
			view: func(v *cluster.View) { v.Members[2].DefragInFlight = ptr(int64(1)) }},
		{name: "a learner does not count", predicted: 9, reason: "1 other voters",
			view: func(v *cluster.View) { v.Members[2].Learner = true }},
		{name: "no space", predicted: 9, reason: "NOSPACE",
			view: func(v *cluster.View) { v.Members[1].Alarms = []string{"NOSPACE"} }},
		{name: "the younger of two keepers counts", predicted: 9, want: true,
			keepers: func(k []cluster.Keeper) []cluster.Keeper {
				old := cluster.Keeper{Member: 1, Since: time.Unix(1, 0), Drain: &cluster.DrainNote{Reason: "old"}}
				k[0].Since = time.Unix(2, 0)
				return append(k, old)
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, v, k := DefaultConfig(), healthy(), beside3(everywhere)
			for i := range v.Members {
				v.Members[i].RaftAppliedIndex = 10_000
			}
			if tt.config != nil {
				tt.config(&c)
			}
			if tt.view != nil {
				tt.view(&v)
			}
			if tt.keepers != nil {
				k = tt.keepers(k)
			}
			got, reason := decideDrain(c, v, v.Members[0], tt.predicted, k, k)
			if got != tt.want || !strings.Contains(reason, tt.reason) || reason == "" {
				t.Errorf("got %t because %q, want %t because of %q", got, reason, tt.want, tt.reason)
			}
		})
	}
}

// TestDecideDrain_AtStart proves that a client that was there before the run is movable only if it was seen elsewhere then
// too: the run's own connections, from a machine where a client knows one member only, make nobody movable. Who has come
// since, as the run itself does from any other machine, is movable where it is seen elsewhere.
func TestDecideDrain_AtStart(t *testing.T) {
	atStart := beside3(map[string]int{"192.0.2.9": 2})
	atStart[0].Drain.Clients = map[string]int{"192.0.2.9": 2, "192.0.2.1": 1}
	now := beside3(map[string]int{"192.0.2.9": 2, "192.0.2.1": 1})
	v := healthy()
	got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, now, atStart)
	if got || !strings.Contains(reason, "clients of 192.0.2.1 use this member only") {
		t.Errorf("got %t because %q", got, reason)
	}
	if got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, now, now); !got {
		t.Errorf("seen at the start too: not drained because %q", reason)
	}
	atStart[0].Drain.Clients = map[string]int{"192.0.2.9": 2}
	if got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, now, atStart); !got {
		t.Errorf("it has come since, to all members: not drained because %q", reason)
	}
	now[1].Drain.Clients, now[2].Drain.Clients = atStart[1].Drain.Clients, atStart[2].Drain.Clients
	if got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, now, atStart); got {
		t.Errorf("it has come since, to this member only: drained because %q", reason)
	}
	if got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, beside3(map[string]int{"192.0.2.9": 2}), nil); !got {
		t.Errorf("the keepers have come since: not drained because %q", reason)
	}
	// A run beside the member reaches it over loopback.
	local := map[string]int{"192.0.2.9": 2, "127.0.0.1": 3}
	if got, reason := decideDrain(DefaultConfig(), v, v.Members[0], 9, beside3(local), atStart); !got || !strings.Contains(reason, "2 connections of 1 client") {
		t.Errorf("the run's own connections over loopback: got %t because %q", got, reason)
	}
	if got, _ := decideDrain(DefaultConfig(), v, v.Members[0], 9, beside3(local), beside3(local)); got {
		t.Error("a client over loopback from before the run: drained")
	}
}

// TestDecide_Drain proves that a plan says once why clients are not drained, and only where they wait for long.
func TestDecide_Drain(t *testing.T) {
	noted := func(c Config, keepers []cluster.Keeper) (n int, all string, p Plan) {
		p = Decide(healthy(), c, History{}, Situation{Manual: true, Keepers: keepers}, time.Now())
		for _, note := range p.Notes {
			if strings.Contains(note, "not drained") {
				n++
			}
		}
		return n, strings.Join(p.Notes, "\n"), p
	}
	c := DefaultConfig()
	c.DrainAbove = time.Minute
	if n, all, p := noted(c, nil); n != 0 || p.Members[0].DrainReason == "" || p.Members[0].Drain {
		t.Errorf("short waits: got %d notes, member %+v\n%s", n, p.Members[0], all)
	}
	c.DrainAbove = 0
	if n, all, p := noted(c, nil); n != 1 || !strings.Contains(all, "no keeper that takes turns") || len(p.Order) < 2 {
		t.Errorf("no keepers: got %d notes of %d members\n%s", n, len(p.Order), all)
	}
	if n, all, p := noted(c, beside3(map[string]int{"192.0.2.9": 1})); n != 0 || !p.Members[0].Drain {
		t.Errorf("drained: got %d notes\n%s", n, all)
	}
	c.Drain = DrainNever
	if n, all, _ := noted(c, nil); n != 0 {
		t.Errorf("never: got %d notes\n%s", n, all)
	}
}
