package etcdtest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echoServer answers each line with the same line.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

type line struct {
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, p *Proxy) line {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return line{c, bufio.NewReader(c)}
}

func (l line) ask(wait time.Duration) error {
	if err := l.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := l.Write([]byte("hello\n")); err != nil {
		return err
	}
	_, err := l.r.ReadString('\n')
	return err
}

func TestProxy_Cut(t *testing.T) {
	p := NewProxy(t, echoServer(t))
	c := connect(t, p)
	if err := c.ask(time.Minute); err != nil {
		t.Fatalf("healthy: %v", err)
	}
	if got := p.Connections(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
	p.Cut()
	if err := c.ask(time.Minute); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v on a cut connection, want it closed", err)
	}
	if err := connect(t, p).ask(time.Minute); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v on a new connection, want it closed", err)
	}
	p.Heal()
	if err := connect(t, p).ask(time.Minute); err != nil {
		t.Errorf("healed: %v", err)
	}
}

func TestProxy_CloseConnections(t *testing.T) {
	p := NewProxy(t, "http://"+echoServer(t))
	c := connect(t, p)
	if err := c.ask(time.Minute); err != nil {
		t.Fatal(err)
	}
	p.CloseConnections()
	if err := c.ask(time.Minute); err == nil {
		t.Error("the old connection still works")
	}
	if err := connect(t, p).ask(time.Minute); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestProxy_Blackhole(t *testing.T) {
	p := NewProxy(t, echoServer(t))
	c := connect(t, p)
	if err := c.ask(time.Minute); err != nil {
		t.Fatal(err)
	}
	p.Blackhole()
	p.Blackhole()
	if err := c.ask(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want silence", err)
	}
	p.Heal()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got, err := c.r.ReadString('\n'); err != nil || got != "hello\n" {
		t.Errorf("got %q, %v, want what was held back", got, err)
	}
}

func TestProxy_Delay(t *testing.T) {
	p := NewProxy(t, echoServer(t))
	p.Delay(100 * time.Millisecond)
	c := connect(t, p)
	start := time.Now()
	if err := c.ask(time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := time.Since(start); got < 200*time.Millisecond {
		t.Errorf("got an answer after %s, want at least 100 ms each way", got)
	}
}
