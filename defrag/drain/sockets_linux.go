package drain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h.
const (
	requestBytes = 56 // struct inet_diag_req_v2
	messageBytes = 72 // struct inet_diag_msg
	diagInfo     = 2  // INET_DIAG_INFO
	sockDestroy  = 21 // SOCK_DESTROY
	// In struct tcp_info.
	infoLastDataRecv  = 52  // milliseconds
	infoBytesReceived = 128 // since Linux 4.1
	stateEstablished  = 1
	stateListen       = 10
)

// sockets asks the kernel for this network namespace's TCP sockets in a state, on a local or a remote port where it is
// not 0. It needs no capability.
func sockets(state int, local, remote uint16) ([]Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("socket diagnostics: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return nil, err
	}
	var out []Conn
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		req := make([]byte, requestBytes)
		req[0], req[1], req[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
		binary.NativeEndian.PutUint32(req[4:], 1<<state)
		binary.BigEndian.PutUint16(req[8:], local)
		binary.BigEndian.PutUint16(req[10:], remote)
		got, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
			Data:   req,
		})
		if err != nil {
			return nil, fmt.Errorf("socket diagnostics: %w", err)
		}
		for _, m := range got {
			c, ok := parseSocket(m.Data)
			if ok && (local == 0 || c.Local.Port() == local) && (remote == 0 || c.Remote.Port() == remote) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(b []byte) (Conn, bool) {
	if len(b) < messageBytes {
		return Conn{}, false
	}
	address := func(at int) netip.Addr {
		if b[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[at : at+4]))
		}
		return netip.AddrFrom16([16]byte(b[at : at+16])).Unmap()
	}
	c := Conn{
		Local:  netip.AddrPortFrom(address(8), binary.BigEndian.Uint16(b[4:])),
		Remote: netip.AddrPortFrom(address(24), binary.BigEndian.Uint16(b[6:])),
		inode:  binary.NativeEndian.Uint32(b[68:]),
		v6:     b[0] == unix.AF_INET6,
		id:     [sockIDBytes]byte(b[4 : 4+sockIDBytes]),
	}
	ad, err := netlink.NewAttributeDecoder(b[messageBytes:])
	if err != nil {
		return c, true
	}
	for ad.Next() {
		info := ad.Bytes()
		if ad.Type() != diagInfo {
			continue
		}
		if len(info) >= infoLastDataRecv+4 {
			c.Silent = time.Duration(binary.NativeEndian.Uint32(info[infoLastDataRecv:])) * time.Millisecond
		}
		if len(info) >= infoBytesReceived+8 {
			c.Received = binary.NativeEndian.Uint64(info[infoBytesReceived:])
		}
	}
	return c, true
}

// destroy ends this machine's end of a connection, whose other end is gone. It needs CAP_NET_ADMIN and a kernel with
// CONFIG_INET_DIAG_DESTROY, which distributions have.
func (c Conn) destroy(conn *netlink.Conn) error {
	req := make([]byte, requestBytes)
	req[0], req[1] = unix.AF_INET, unix.IPPROTO_TCP
	if c.v6 {
		req[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(req[4:], 1<<stateEstablished)
	copy(req[8:], c.id[:])
	_, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   req,
	})
	return err
}

// bury destroys this machine's ends of dead connections, so that the member does not keep them for hours. Those that
// stay are returned.
func bury(dead []Conn) (stay []Conn) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return dead
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return dead
	}
	for _, c := range dead {
		if err := c.destroy(conn); err != nil && !errors.Is(err, unix.ENOENT) {
			stay = append(stay, c)
		}
	}
	return stay
}

// ownInodes are the sockets of this process.
func ownInodes() (map[uint32]bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	own := map[uint32]bool{}
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if number, ok := strings.CutPrefix(target, "socket:["); ok {
			if n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); err == nil {
				own[uint32(n)] = true
			}
		}
	}
	return own, nil
}

// served are the established connections to the ports of this machine.
func served(ports []uint16) ([]Conn, error) {
	var out []Conn
	for _, p := range ports {
		got, err := sockets(stateEstablished, p, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	return out, nil
}

// dialed are the established connections of this process to the ports of any machine.
func dialed(ports []uint16) ([]Conn, error) {
	inodes, err := ownInodes()
	if err != nil {
		return nil, err
	}
	var out []Conn
	for _, p := range ports {
		got, err := sockets(stateEstablished, 0, p)
		if err != nil {
			return nil, err
		}
		for _, c := range got {
			if inodes[c.inode] {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// Look sees the clients of the member whose client ports are local. Members are the client ports of all members, and
// others the ends of connections that are no client's: those that other keepers call their own, and the dead ones of
// an earlier drain. Young is asked for each other end whether it is too early to count it.
func Look(local, members []uint16, others []netip.AddrPort, young func(netip.AddrPort) bool) (Clients, error) {
	s, err := served(local)
	if err != nil {
		return Clients{}, err
	}
	d, err := dialed(members)
	if err != nil {
		return Clients{}, err
	}
	return clients(s, d, others, young), nil
}
