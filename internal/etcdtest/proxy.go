package etcdtest

import (
	"context"
	"net"
	"net/url"
	"sync"
	"time"
)

// Proxy passes TCP connections on to a server and disturbs them on demand. It
// starts healthy. Its methods are safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	ctx      context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	refuse  bool
	delay   time.Duration
	flowing chan struct{} // closed while bytes may pass
}

// NewProxy starts a proxy to target, a URL or host:port, on a loopback port of
// its own. It ends with the test.
func NewProxy(tb TB, target string) *Proxy {
	tb.Helper()
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		target = u.Host
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("start a proxy to %s: %v", target, err)
	}
	return startProxy(tb, l, target)
}

func startProxy(tb TB, l net.Listener, target string) *Proxy {
	ctx, stop := context.WithCancel(context.Background())
	p := &Proxy{
		listener: l, target: target, ctx: ctx, stop: stop,
		conns: map[net.Conn]struct{}{}, flowing: make(chan struct{}),
	}
	close(p.flowing)
	p.running.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL returns the proxy's address with a scheme, "http" or "https".
func (p *Proxy) URL(scheme string) string { return scheme + "://" + p.Addr() }

// Cut closes every connection and each new one at once, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.CloseConnections()
}

// CloseConnections closes the connections of this moment; new ones pass.
func (p *Proxy) CloseConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Blackhole keeps connections open and accepts new ones, but lets no byte pass
// in either direction, until Heal. Bytes sent meanwhile arrive after it.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default:
	}
}

// Delay holds back every chunk of bytes, in either direction, for d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Heal ends Cut, Blackhole and Delay.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.delay = false, 0
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
	}
}

// Connections returns how many clients are connected.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return (len(p.conns) + 1) / 2
}

func (p *Proxy) close() {
	p.stop()
	_ = p.listener.Close()
	p.CloseConnections()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve passes one connection on until either side or the proxy ends it.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	var dialer net.Dialer
	server, err := dialer.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(server) {
		return
	}
	defer p.forget(server)
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client) })
	both.Go(func() { p.pass(client, server) })
	both.Wait()
}

// pass copies bytes and closes both ends when one of them is done.
func (p *Proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && (!p.wait() || !writeAll(to, buf[:n])) {
			return
		}
		if err != nil {
			return
		}
	}
}

func writeAll(to net.Conn, b []byte) bool {
	_, err := to.Write(b)
	return err == nil
}

// wait holds a chunk back as the proxy's state asks, and says whether it may
// still be sent.
func (p *Proxy) wait() bool {
	p.mu.Lock()
	flowing, delay := p.flowing, p.delay
	p.mu.Unlock()
	select {
	case <-flowing:
	case <-p.ctx.Done():
		return false
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.ctx.Done():
			return false
		}
	}
	return true
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.ctx.Err() != nil {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
