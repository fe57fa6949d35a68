package drain

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Check tells whether clients of the ports can be drained here: nil, or why not with ErrImpossible. It makes a table
// that sees no packet, reads it back and removes it.
func Check(ports []uint16) error {
	if len(ports) == 0 {
		return fmt.Errorf("the member has no client port on this machine: %w", ErrImpossible)
	}
	for _, p := range ports {
		l, err := sockets(stateListen, p, 0)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrImpossible)
		}
		if len(l) == 0 {
			return fmt.Errorf("nothing listens on port %d in the keeper's network namespace: run the keeper in the member's (hostNetwork): %w", p, ErrImpossible)
		}
	}
	t, err := makeTable(tableName("check"), ports, time.Minute, false, tableOwned)
	if err != nil {
		return err
	}
	t.remove()
	return nil
}

func tableName(kind string) string {
	return fmt.Sprintf("etcdkeeper_%s_%s", kind, strings.ToLower(rand.Text()[:8]))
}

// Drain is a drain under way.
type Drain struct {
	ports []uint16
	start time.Time
	max   time.Duration

	mu       sync.Mutex
	table    *table
	watchdog *time.Timer
	before   []Conn
	result   Result
	err      error
}

// Start turns the clients of the ports away until Stop, or for max. The kernel ends it where this process dies, and
// after max also where this process stands still. Others are the ends of connections that are no client's: they are
// turned away too, and not counted.
func Start(ports []uint16, max time.Duration, others []netip.AddrPort) (*Drain, error) {
	return start(ports, max, others, tableOwned)
}

func start(ports []uint16, max time.Duration, others []netip.AddrPort, flags uint32) (*Drain, error) {
	if len(ports) == 0 {
		return nil, errors.New("drain: no port was given")
	}
	before, err := served(ports)
	if err != nil {
		return nil, err
	}
	own, err := dialed(ports)
	if err != nil {
		return nil, err
	}
	before = slices.DeleteFunc(before, func(c Conn) bool {
		return c.Remote.Addr().IsLoopback() || c.unused() || slices.Contains(others, c.Remote) || slices.ContainsFunc(own, func(o Conn) bool { return o.Local == c.Remote })
	})
	d := &Drain{ports: ports, before: before, start: time.Now(), max: max}
	if d.table, err = makeTable(tableName("drain"), ports, max, true, flags); err != nil {
		return nil, err
	}
	d.watchdog = time.AfterFunc(max, d.end)
	return d, nil
}

func (d *Drain) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return
	}
	away, err := d.table.turnedAway()
	now, serr := served(d.ports)
	d.table.remove()
	d.table = nil
	d.result.Duration = time.Since(d.start)
	if d.result.Duration >= d.max {
		d.result.Duration, d.result.Expired = d.max, true // by the kernel, where this process is late
	}
	if err != nil {
		d.err = fmt.Errorf("count the connections that were turned away: %w", err)
	}
	for _, c := range d.before {
		if away[c.Remote] {
			d.result.Moved++
		}
	}
	if serr != nil {
		now = d.before
	}
	// Every connection whose packet was rejected is gone at the client's end, also those that clients have tried to make.
	now = slices.DeleteFunc(now, func(c Conn) bool { return !away[c.Remote] || c.Remote.Addr().IsLoopback() })
	for _, c := range bury(now) {
		d.result.Dead = append(d.result.Dead, c.Remote)
	}
}

// Active tells whether clients are turned away still.
func (d *Drain) Active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table != nil && time.Since(d.start) < d.max
}

// Stop removes the rule, where the watchdog has not. The error is about the counts; the rule is gone in every case.
// Calls behind the first one return the same.
func (d *Drain) Stop() (Result, error) {
	d.watchdog.Stop()
	d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.result, d.err
}

// Exempt marks a socket before it connects, so that a drain does not touch the connection. It needs CAP_NET_ADMIN. It
// is the Control of a net.Dialer.
func Exempt(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("mark the keeper's connection: %w", err)
	}
	return nil
}
