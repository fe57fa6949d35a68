package defrag

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// drainVoters is how many other voters have to serve while a member's clients are turned away: one of them may fail
// then and etcd still answers reads, and the clients do not all fall upon one.
const drainVoters = 2

// seemPinned is in the reason for which clients that have nowhere to go are not drained.
const seemPinned = "use this member only"

// decideDrain says whether the clients of m are turned away while it is busy for the predicted seconds, and why or why
// not. Keepers is what the keepers tell of themselves now, and atStart what they told when the run began: the run's own
// connections were not among the clients then.
func decideDrain(c Config, v cluster.View, m cluster.Member, predicted float64, keepers, atStart []cluster.Keeper) (bool, string) {
	if c.Drain == DrainNever {
		return false, "defrag.drain is never"
	}
	note, ok := notes(keepers)[m.ID]
	switch {
	case len(nospaceMembers(v)) > 0:
		return false, "etcd takes no writes (NOSPACE), so no keeper can be given a turn"
	case !ok && slices.ContainsFunc(keepers, func(k cluster.Keeper) bool { return k.Member == m.ID }):
		return false, "the keeper beside it takes no turns: its defrag.drain is never or defrag.enabled false, it has just started, or it is of an older version"
	case !ok:
		return false, "no keeper that takes turns is beside it"
	case !note.Able:
		return false, "its keeper cannot: " + note.Reason
	}
	if why := othersServe(v, m); why != "" {
		return false, why
	}
	if c.Drain == DrainAlways {
		return true, "defrag.drain is always"
	}
	if above := c.DrainAbove.Seconds(); predicted <= above {
		return false, fmt.Sprintf("clients wait for about %.1f s, which is not more than %.1f s (defrag.drainAbove)", predicted, above)
	}
	return movable(m.ID, note, keepers, atStart)
}

// notes are what the keepers beside members tell, of two beside one member the younger one.
func notes(keepers []cluster.Keeper) map[cluster.ID]cluster.DrainNote {
	out := map[cluster.ID]cluster.DrainNote{}
	since := map[cluster.ID]time.Time{}
	for _, k := range keepers {
		if k.Member != 0 && k.Drain != nil && !k.Since.Before(since[k.Member]) {
			out[k.Member], since[k.Member] = *k.Drain, k.Since
		}
	}
	return out
}

// othersServe tells why the other voters could not serve the clients of m; "" where they can.
func othersServe(v cluster.View, m cluster.Member) string {
	var applied uint64
	for _, x := range v.Members {
		applied = max(applied, x.RaftAppliedIndex)
	}
	able := 0
	for _, x := range v.Voters() {
		if x.ID != m.ID && x.Reachable && applied-x.RaftAppliedIndex <= cluster.MaxLag && (x.DefragInFlight == nil || *x.DefragInFlight == 0) {
			able++
		}
	}
	if able < drainVoters {
		return fmt.Sprintf("%d other voters serve and are caught up, %d are wanted", able, drainVoters)
	}
	return ""
}

// movable tells whether every client of a member can go elsewhere: only an address that other keepers see too has
// connections to other members. A client of this member alone would wait longer for its next attempt to connect than
// it waits for the member. One that was there when the run began was to be seen elsewhere then too: a command on a
// client's machine is connected to all members. One that has come since, as the command itself has, is taken as it is,
// and left out on a loopback address, which is never turned away.
func movable(id cluster.ID, note cluster.DrainNote, keepers, atStart []cluster.Keeper) (bool, string) {
	if note.More {
		return false, fmt.Sprintf("it has clients of more than %d addresses, of which it is not known whether they can go elsewhere", cluster.MaxDrainClients)
	}
	elsewhere, before := seenElsewhere(id, keepers), seenElsewhere(id, atStart)
	old, known := notes(atStart)[id]
	var pinned []string
	movable := map[string]int{}
	for _, a := range slices.Sorted(maps.Keys(note.Clients)) {
		addr, err := netip.ParseAddr(a)
		switch loopback := err == nil && addr.IsLoopback(); {
		case loopback && known && old.Clients[a] == 0:
		case loopback || !elsewhere[a] || old.Clients[a] > 0 && !before[a]:
			pinned = append(pinned, a)
		default:
			movable[a] = note.Clients[a]
		}
	}
	switch {
	case len(pinned) > 0:
		return false, fmt.Sprintf("clients of %s %s, as far as the keepers see: they would wait longer", some(pinned), seemPinned)
	case connections(movable) == 0:
		return false, "no client is connected to it"
	}
	return true, fmt.Sprintf("%d connections of %d client addresses can go to other members", connections(movable), len(movable))
}

// seenElsewhere are the addresses of clients that keepers beside other members see.
func seenElsewhere(id cluster.ID, keepers []cluster.Keeper) map[string]bool {
	seen := map[string]bool{}
	for other, n := range notes(keepers) {
		if other == id {
			continue
		}
		for a := range n.Clients {
			seen[a] = true
		}
	}
	return seen
}

// some is a list that stays short.
func some(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// tellNotDrained notes once, not member by member, why clients are not drained although they would wait for long, as the
// rows now say it.
func (p *Plan) tellNotDrained(c Config) {
	p.Notes = slices.DeleteFunc(p.Notes, func(n string) bool { return slices.Contains(p.notDrained, n) })
	p.notDrained = nil
	reasons := map[string][]string{}
	for _, id := range p.Order {
		row := p.member(id)
		if !row.Drain && c.Drain != DrainNever && *row.PredictedSeconds > c.DrainAbove.Seconds() {
			reasons[row.DrainReason] = append(reasons[row.DrainReason], cmp.Or(row.Name, row.ID.String()))
		}
	}
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		p.notDrained = append(p.notDrained, fmt.Sprintf("clients of %s are not drained: %s", strings.Join(reasons[why], ", "), why))
	}
	p.Notes = append(p.Notes, p.notDrained...)
}

// drain decides for each member that is to be defragmented whether its clients are drained.
func (d *decider) drain() {
	for _, id := range d.plan.Order {
		row := d.plan.member(id)
		i := slices.IndexFunc(d.v.Members, func(m cluster.Member) bool { return m.ID == id })
		row.Drain, row.DrainReason = decideDrain(d.c, d.v, d.v.Members[i], *row.PredictedSeconds, d.s.Keepers, d.s.Keepers)
	}
	d.plan.tellNotDrained(d.c)
}
