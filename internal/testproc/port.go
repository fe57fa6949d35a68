package testproc

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	lowestPort = 10000
	// defaultEphemeral is where Linux starts giving ports to outgoing
	// connections unless told otherwise.
	defaultEphemeral = 32768
)

// Ports reserves n loopback TCP ports until the test ends. They lie below the
// range that the kernel takes for outgoing connections, and a lock file keeps
// other test processes off them, so a server that is stopped and started again
// finds its port free.
func Ports(tb TB, n int) []int {
	tb.Helper()
	cache, err := CacheDir()
	if err != nil {
		tb.Fatalf("reserve ports: %v", err)
	}
	dir := filepath.Join(cache, "ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatalf("reserve ports: %v", err)
	}
	ports := make([]int, 0, n)
	top := ephemeralStart()
	for range 20000 {
		if len(ports) == n {
			return ports
		}
		port := lowestPort + rand.IntN(top-lowestPort)
		release, ok := reservePort(dir, port)
		if !ok {
			continue
		}
		tb.Cleanup(release)
		ports = append(ports, port)
	}
	if len(ports) < n {
		tb.Fatalf("reserve ports: found %d of %d free ones between %d and %d", len(ports), n, lowestPort, top)
	}
	return ports
}

func reservePort(dir string, port int) (release func(), ok bool) {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, false
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, false
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		_ = f.Close()
		return nil, false
	}
	_ = l.Close()
	return func() { _ = f.Close() }, true
}

func ephemeralStart() int {
	content, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return defaultEphemeral
	}
	var low, high int
	if _, err := fmt.Sscan(strings.TrimSpace(string(content)), &low, &high); err != nil || low < lowestPort+1000 {
		return defaultEphemeral
	}
	return low
}
