package drain

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Where fields are in a packet's headers, in bytes.
const (
	ipv4Destination = 16
	ipv6Destination = 24
	tcpSource       = 0
	tcpDestination  = 2
	tcpFlags        = 13
)

const (
	register      = unix.NFT_REG_1
	verdictAccept = 1 // NF_ACCEPT
)

// expression is one step of a rule: a name and its attributes.
type expression struct {
	name       string
	attributes func(*netlink.AttributeEncoder)
}

type rule []expression

func (r rule) encode(list *netlink.AttributeEncoder) error {
	for _, e := range r {
		list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
			elem.String(unix.NFTA_EXPR_NAME, e.name)
			elem.Nested(unix.NFTA_EXPR_DATA, func(data *netlink.AttributeEncoder) error {
				e.attributes(bigEndian(data))
				return nil
			})
			return nil
		})
	}
	return nil
}

// rules of the chain: what is exempt is accepted, then packets with data for one of the ports are noted and rejected.
// Loopback is told by address: local clients that use the host's own address travel over the loopback interface too.
func rules(ports []uint16) []rule {
	mark := make([]byte, 4)
	binary.NativeEndian.PutUint32(mark, Mark)
	loopback6 := netip.IPv6Loopback().As16()
	out := []rule{
		{meta(unix.NFT_META_MARK), equal(mark), accept()},
		{meta(unix.NFT_META_NFPROTO), equal([]byte{unix.NFPROTO_IPV4}), load(unix.NFT_PAYLOAD_NETWORK_HEADER, ipv4Destination, 1), equal([]byte{127}), accept()},
		{meta(unix.NFT_META_NFPROTO), equal([]byte{unix.NFPROTO_IPV6}), load(unix.NFT_PAYLOAD_NETWORK_HEADER, ipv6Destination, 16), equal(loopback6[:]), accept()},
	}
	for _, p := range ports {
		match := rule{
			meta(unix.NFT_META_L4PROTO), equal([]byte{unix.IPPROTO_TCP}),
			load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, tcpDestination, 2), equal(binary.BigEndian.AppendUint16(nil, p)),
			load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, tcpFlags, 1), bits(pushed), equal([]byte{pushed}),
		}
		// Two rules, since a set that is full ends the one that adds to it.
		note := append(rule{}, match...)
		reject := append(rule{}, match...)
		out = append(out,
			append(note, load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, tcpSource, 2), noteKey()),
			append(reject, rejectWithReset()))
	}
	return out
}

func meta(key uint32) expression {
	return expression{"meta", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_META_KEY, key)
		ae.Uint32(unix.NFTA_META_DREG, register)
	}}
}

func load(base, offset, length uint32) expression {
	return expression{"payload", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, register)
		ae.Uint32(unix.NFTA_PAYLOAD_BASE, base)
		ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		ae.Uint32(unix.NFTA_PAYLOAD_LEN, length)
	}}
}

func value(ae *netlink.AttributeEncoder, attribute uint16, b []byte) {
	ae.Nested(attribute, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, b)
		return nil
	})
}

func equal(b []byte) expression {
	return expression{"cmp", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CMP_SREG, register)
		ae.Uint32(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		value(ae, unix.NFTA_CMP_DATA, b)
	}}
}

func bits(mask byte) expression {
	return expression{"bitwise", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_BITWISE_SREG, register)
		ae.Uint32(unix.NFTA_BITWISE_DREG, register)
		ae.Uint32(unix.NFTA_BITWISE_LEN, 1)
		value(ae, unix.NFTA_BITWISE_MASK, []byte{mask})
		value(ae, unix.NFTA_BITWISE_XOR, []byte{0})
	}}
}

func accept() expression {
	return expression{"immediate", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		ae.Nested(unix.NFTA_IMMEDIATE_DATA, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.NFTA_DATA_VERDICT, func(ae *netlink.AttributeEncoder) error {
				bigEndian(ae).Uint32(unix.NFTA_VERDICT_CODE, verdictAccept)
				return nil
			})
			return nil
		})
	}}
}

func noteKey() expression {
	return expression{"dynset", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_DYNSET_SET_NAME, portSet)
		ae.Uint32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD)
		ae.Uint32(unix.NFTA_DYNSET_SREG_KEY, register)
	}}
}

func rejectWithReset() expression {
	return expression{"reject", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
		ae.Uint8(unix.NFTA_REJECT_ICMP_CODE, 0)
	}}
}
