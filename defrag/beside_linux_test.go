package defrag

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// TestBeside_RunIsNoClient proves that the connections that a run calls its own are not counted, while turns are given.
func TestBeside_RunIsNoClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	// What this program dials itself would be the keeper's own.
	other := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; printf request >&3; read -u 3", port))
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	b := beside{known: true, ports: []uint16{uint16(port)}, members: []uint16{uint16(port)}, checked: time.Now()}
	clients := func(want int) {
		t.Helper()
		b.look([]cluster.Keeper{}, time.Now())
		if note := b.told(); note.Clients["127.0.0.1"] != want {
			t.Errorf("got %+v, want %d connections", note, want)
		}
	}
	clients(1)
	b.run = []netip.AddrPort{netip.MustParseAddrPort(conn.RemoteAddr().String())}
	clients(1) // nobody gives turns any more
	b.active = time.Now().Add(time.Minute)
	clients(0)
}
