// Package drain turns the clients of one etcd member away while the member cannot answer, so that they go to the other
// members at once instead of waiting. It works with nftables on the member's own machine, in its network namespace: a
// table that the kernel removes when the process that made it dies in any way. It also sees which clients a member has.
//
// Only packets that carry data to the member's client ports are rejected, with a TCP reset: answers to what is in
// flight still arrive. Loopback addresses and connections that bear Mark are exempt, peers, metrics listeners and
// every other port are not touched. The package never changes a table that it has not made, and never disturbs a member.
//
// All functions may be called concurrently.
package drain

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Mark is the socket mark of connections that a drain does not touch. Its bits are none that kube-proxy (0xc000),
// Cilium (0x0f00), Calico and Tailscale (the upper half) give a meaning to.
const Mark = 0x20ed

// ErrImpossible is the error of Check and Start where clients of this machine's member cannot be drained. The text in
// front of it says why and what would help.
var ErrImpossible = errors.New("clients cannot be drained")

// Conn is an established TCP connection as one of its ends on this machine sees it.
type Conn struct {
	Local, Remote netip.AddrPort // IPv4 addresses are never in their IPv6 form
	Received      uint64         // bytes that were received over it; 0 where the kernel does not tell
	Silent        time.Duration  // since when nothing was received
	inode         uint32
	v6            bool              // the socket's family, also for an IPv4 address
	id            [sockIDBytes]byte // by which the kernel knows the socket
}

const sockIDBytes = 48

// Clients of a member, as the machine that it runs on sees them.
type Clients struct {
	// Addresses have connections to the member's client ports: address by address, how many. What this process itself
	// and what carries no requests, such as the connection of etcd's own gateway, do not count.
	Addresses map[netip.Addr]int

	// Own are the connections of this process to any member's client port, for other keepers not to count them.
	Own []netip.AddrPort
}

const (
	// A connection that has brought less than this and is silent for longer than that has never carried a request: a
	// handshake with a client certificate takes about 5 KiB, and a client that works sends something every few seconds.
	neverUsedBytes  = 8 << 10
	neverUsedSilent = 10 * time.Second
	// Nobody waits behind a connection that is silent for this long; it may be one that only this end still knows of,
	// which an earlier drain has turned away. kube-apiserver's say something every 30 s.
	unusedSilent = 2 * time.Minute
)

// unused tells whether no client works over a connection, as the serving end sees it.
func (c Conn) unused() bool {
	return c.Received == 0 || c.Silent >= unusedSilent || c.Received < neverUsedBytes && c.Silent >= neverUsedSilent
}

// clients sorts connections: served are those to this machine's ports, own those that this process has dialed, others
// are ends that are no client's, and young tells the ends of which that is not known yet.
func clients(served, own []Conn, others []netip.AddrPort, young func(netip.AddrPort) bool) Clients {
	c := Clients{Addresses: map[netip.Addr]int{}}
	for _, o := range own {
		c.Own = append(c.Own, o.Local)
	}
	slices.SortFunc(c.Own, netip.AddrPort.Compare)
	for _, s := range served {
		if slices.Contains(c.Own, s.Remote) || slices.Contains(others, s.Remote) || s.unused() || young(s.Remote) {
			continue
		}
		c.Addresses[s.Remote.Addr()]++
	}
	return c
}

// Result is what a drain did.
type Result struct {
	Duration time.Duration
	Moved    int  // clients' connections that were turned away
	Expired  bool // the watchdog ended it

	// Dead are the ends of connections that were turned away and that the member does not know to be gone, for the
	// kernel could not tell it: they must not be taken for clients until it sends something.
	Dead []netip.AddrPort
}
