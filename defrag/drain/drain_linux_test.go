package drain

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const port = 12379

// serve echoes what is sent to the port, of IPv4 and IPv6.
func serve(t *testing.T, p int) {
	t.Helper()
	l, err := net.Listen("tcp", ":"+strconv.Itoa(p))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	// A connection that was turned away never ends by itself on this side.
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(c, c) })
		}
	})
}

// client of a served address.
type client struct{ net.Conn }

func dial(t *testing.T, address string, d net.Dialer) client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client{c}
}

// ask makes one request.
func (c client) ask() error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("request")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len("request")))
	return err
}

func (c client) wantServed(t *testing.T, what string) {
	t.Helper()
	if err := c.ask(); err != nil {
		t.Errorf("%s: got %v, want an answer", what, err)
	}
}

func (c client) wantReset(t *testing.T, what string) {
	t.Helper()
	if err := c.ask(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: got %v, want a reset", what, err)
	}
}

func at(host string, p int) string { return net.JoinHostPort(host, strconv.Itoa(p)) }

// tables are the nftables tables that there are.
func tables(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list tables: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func wantNoTable(t *testing.T) {
	t.Helper()
	if got := tables(t); got != "" {
		t.Errorf("tables: got %q, want none", got)
	}
}

// drainAll drains until the test ends, and counts this process's own connections, which it would not, as those of
// others.
func drainAll(t *testing.T) *Drain {
	t.Helper()
	d, err := Start([]uint16{port}, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = d.Stop() })
	if d.before, err = served([]uint16{port}); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDrain(t *testing.T) {
	network(t)
	serve(t, port)
	serve(t, port+1)
	var plain net.Dialer
	exempt := net.Dialer{Control: Exempt}
	names := []string{"192.0.2.1", "2001:db8::1"}
	var old, loopback []client
	for _, n := range names {
		old = append(old, dial(t, at(n, port), plain))
	}
	for _, n := range []string{"127.0.0.1", "::1"} {
		loopback = append(loopback, dial(t, at(n, port), plain))
	}
	other := dial(t, at(names[0], port+1), plain)
	marked := dial(t, at(names[0], port), exempt)
	silent := dial(t, at(names[0], port), plain)
	for _, c := range append(append(old, loopback...), other, marked, silent) {
		c.wantServed(t, "before the drain")
	}
	if err := Check([]uint16{port}); err != nil {
		t.Fatal(err)
	}
	wantNoTable(t)

	d := drainAll(t)
	for i, n := range names {
		old[i].wantReset(t, n)
		dial(t, at(n, port), plain).wantReset(t, "a new connection to "+n)
		dial(t, at(n, port), exempt).wantServed(t, "a new marked connection to "+n)
	}
	for _, c := range loopback {
		c.wantServed(t, "loopback")
	}
	other.wantServed(t, "another port")
	marked.wantServed(t, "the keeper's own")

	res, err := d.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if res.Moved != len(old) || res.Expired || res.Duration <= 0 {
		t.Errorf("got %+v, want %d moved", res, len(old))
	}
	wantNoTable(t)
	// The member does not keep what was turned away.
	all, err := served([]uint16{port})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range old {
		end := netip.MustParseAddrPort(o.LocalAddr().String())
		if slices.ContainsFunc(all, func(c Conn) bool { return c.Remote == end }) || len(res.Dead) != 0 {
			t.Errorf("%s was turned away and is there still; dead are %v", end, res.Dead)
		}
	}
	silent.wantServed(t, "a client that said nothing meanwhile")
	for _, n := range names {
		dial(t, at(n, port), plain).wantServed(t, "after the drain: "+n)
	}
	if again, err := d.Stop(); err != nil || again.Moved != res.Moved || again.Duration != res.Duration {
		t.Errorf("stopped twice: got %+v and %v, want %+v", again, err, res)
	}
}

func TestDrain_Watchdog(t *testing.T) {
	network(t)
	serve(t, port)
	d, err := Start([]uint16{port}, 200*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); tables(t) != ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the watchdog did not remove the rule")
		}
	}
	dial(t, at("192.0.2.1", port), net.Dialer{}).wantServed(t, "after the watchdog")
	if res, err := d.Stop(); err != nil || !res.Expired {
		t.Errorf("got %+v and %v, want an expired drain", res, err)
	}
}

// drainElsewhere drains in a process of its own, which is killed at the end of the test.
func drainElsewhere(t *testing.T, lifetime time.Duration) *os.Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holder+"="+lifetime.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "held\n" || err != nil {
		t.Fatalf("the process that drains: %q, %v", line, err)
	}
	return cmd.Process
}

func TestDrain_EndsWithItsProcess(t *testing.T) {
	network(t)
	serve(t, port)
	p := drainElsewhere(t, time.Hour)
	dial(t, at("192.0.2.1", port), net.Dialer{}).wantReset(t, "while it lives")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = p.Wait()
	wantNoTable(t)
	dial(t, at("192.0.2.1", port), net.Dialer{}).wantServed(t, "after its end")
}

// The kernel lets clients in again after the time, also where the process that drains cannot.
func TestDrain_EndsBesideAFrozenProcess(t *testing.T) {
	network(t)
	serve(t, port)
	p := drainElsewhere(t, 5*time.Second)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	plain := net.Dialer{}
	for end := time.Now().Add(30 * time.Second); dial(t, at("192.0.2.1", port), plain).ask() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the rule did not expire")
		}
	}
	dial(t, at("2001:db8::1", port), plain).wantServed(t, "over IPv6")
	if got := tables(t); !strings.Contains(got, "etcdkeeper_drain_") {
		t.Errorf("the process was to be there with its table, got %q", got)
	}
}

func TestDrain_SamePort(t *testing.T) {
	network(t)
	serve(t, port)
	from := func(host string, p int) net.Dialer {
		return net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host), Port: p}}
	}
	said := dial(t, at("192.0.2.1", port), from("192.0.2.1", 0))
	silent := dial(t, at("192.0.2.1", port), from("192.0.2.2", said.LocalAddr().(*net.TCPAddr).Port))
	said.wantServed(t, "the one that will ask")
	silent.wantServed(t, "the one that will not")
	d := drainAll(t)
	said.wantReset(t, "the one that asks")
	if res, err := d.Stop(); err != nil || res.Moved != 1 {
		t.Errorf("got %+v and %v, want one that was moved", res, err)
	}
	silent.wantServed(t, "the other one of the same port")
}

// withoutRights runs f on a thread that has no capability; the thread ends with it.
func withoutRights(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

func TestCheck_Impossible(t *testing.T) {
	network(t)
	serve(t, port)
	t.Run("no right", func(t *testing.T) {
		var check, started error
		var sees Clients
		var looked error
		withoutRights(func() {
			check = Check([]uint16{port})
			_, started = Start([]uint16{port}, time.Minute, nil)
			sees, looked = Look([]uint16{port}, []uint16{port}, nil, func(netip.AddrPort) bool { return false })
		})
		for _, err := range []error{check, started} {
			if !errors.Is(err, ErrImpossible) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("got %v, want what is missing", err)
			}
		}
		if looked != nil || sees.Addresses == nil {
			t.Errorf("looking at clients needs no right: got %v", looked)
		}
	})
	t.Run("a kernel without the owner flag", func(t *testing.T) {
		if _, err := start([]uint16{port}, time.Minute, nil, 0); !errors.Is(err, ErrImpossible) || !strings.Contains(err.Error(), "5.12") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("a flag that the kernel refuses", func(t *testing.T) {
		if _, err := start([]uint16{port}, time.Minute, nil, 1<<30); !errors.Is(err, ErrImpossible) || !strings.Contains(err.Error(), "5.12") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		if err := Check([]uint16{port + 7}); !errors.Is(err, ErrImpossible) || !strings.Contains(err.Error(), "hostNetwork") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("no port", func(t *testing.T) {
		if err := Check(nil); !errors.Is(err, ErrImpossible) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	wantNoTable(t)
}

func TestLook(t *testing.T) {
	network(t)
	serve(t, port)
	mine := dial(t, at("192.0.2.1", port), net.Dialer{})
	mine.wantServed(t, "mine")
	// Another process's connection, of another address.
	cmd := exec.Command("bash", "-c", "exec 3<>/dev/tcp/192.0.2.2/"+strconv.Itoa(port)+"; echo hello >&3; read -r -u 3; echo there; read -r")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		t.Fatalf("the client: %q, %v", line, err)
	}
	got, err := Look([]uint16{port}, []uint16{port}, nil, func(netip.AddrPort) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if n := got.Addresses[netip.MustParseAddr("192.0.2.2")]; n != 1 || len(got.Addresses) != 1 {
		t.Errorf("got %v, want one connection of 192.0.2.2", got.Addresses)
	}
	local := netip.MustParseAddrPort(mine.LocalAddr().String())
	found := false
	for _, o := range got.Own {
		found = found || o == local
	}
	if !found {
		t.Errorf("own connections: got %v, want %v among them", got.Own, local)
	}
	// A drain counts as a client what Look does.
	all, err := served([]uint16{port})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(c Conn) bool { return c.Remote.Addr() == netip.MustParseAddr("192.0.2.2") })
	for _, x := range []struct {
		others []netip.AddrPort
		want   int
	}{{nil, 1}, {[]netip.AddrPort{all[i].Remote}, 0}} {
		d, err := Start([]uint16{port}, time.Minute, x.others)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.before) != x.want {
			t.Errorf("but %v: got %v, want %d connections", x.others, d.before, x.want)
		}
		if _, err := d.Stop(); err != nil {
			t.Error(err)
		}
	}
}
