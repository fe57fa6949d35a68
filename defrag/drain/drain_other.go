//go:build !linux

package drain

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"
)

func impossible() error {
	return fmt.Errorf("%s has no nftables: %w", runtime.GOOS, ErrImpossible)
}

// Check tells that clients cannot be drained.
func Check([]uint16) error { return impossible() }

// Look tells that clients cannot be seen.
func Look(_, _ []uint16, _ []netip.AddrPort, _ func(netip.AddrPort) bool) (Clients, error) {
	return Clients{}, impossible()
}

// Drain is never made here.
type Drain struct{}

// Start tells that clients cannot be drained.
func Start([]uint16, time.Duration, []netip.AddrPort) (*Drain, error) { return nil, impossible() }

// Active is never true.
func (*Drain) Active() bool { return false }

// Stop does nothing.
func (*Drain) Stop() (Result, error) { return Result{}, impossible() }

// Exempt marks nothing.
func Exempt(string, string, syscall.RawConn) error { return impossible() }
