package drain

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func conn(remote string) Conn {
	return Conn{Local: netip.MustParseAddrPort("192.0.2.1:2379"), Remote: netip.MustParseAddrPort(remote), Received: 1 << 20}
}

func TestClients(t *testing.T) {
	idle := conn("192.0.2.1:6")
	idle.Received, idle.Silent = 500, time.Hour
	young := conn("192.0.2.4:7")
	young.Received, young.Silent = 500, time.Second
	quiet := conn("192.0.2.5:8")
	quiet.Silent = time.Minute
	gone := conn("192.0.2.6:10")
	gone.Silent = time.Hour
	refused := conn("192.0.2.7:11")
	refused.Received = 0
	served := []Conn{
		conn("192.0.2.2:1"), conn("192.0.2.2:2"), // two of one client
		conn("127.0.0.1:3"), // a local one
		conn("127.0.0.1:4"), // this keeper's
		conn("192.0.2.3:5"), // another keeper's
		idle,                // etcd's own gateway
		young, quiet,        // both are clients
		gone, refused, // an earlier drain has turned them away
		conn("[2001:db8::1]:9"),
		conn("192.0.2.3:12"), // it may be the other keeper's newest
	}
	own := []Conn{{Local: netip.MustParseAddrPort("127.0.0.1:4"), Remote: netip.MustParseAddrPort("127.0.0.1:2379")}}
	got := clients(served, own, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.3:5")},
		func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("192.0.2.3:12") })
	want := map[netip.Addr]int{
		netip.MustParseAddr("192.0.2.2"):   2,
		netip.MustParseAddr("127.0.0.1"):   1,
		netip.MustParseAddr("192.0.2.4"):   1,
		netip.MustParseAddr("192.0.2.5"):   1,
		netip.MustParseAddr("2001:db8::1"): 1,
	}
	if !maps.Equal(got.Addresses, want) {
		t.Errorf("got %v, want %v", got.Addresses, want)
	}
	if want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:4")}; !slices.Equal(got.Own, want) {
		t.Errorf("own connections: got %v, want %v", got.Own, want)
	}
}
