package drain

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Where fields are in a packet's headers, in bytes.
const (
	ipv4Source      = 12
	ipv4Destination = 16
	ipv6Source      = 8
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

// rules of the chain: what is exempt is accepted, then packets with data for one of the drained ports are noted and
// rejected. Loopback is told by address: local clients that use the host's own address travel over the loopback
// interface too.
func rules() []rule {
	mark := make([]byte, 4)
	binary.NativeEndian.PutUint32(mark, Mark)
	loopback6 := netip.IPv6Loopback().As16()
	mapped := netip.AddrFrom4([4]byte{}).As16() // an IPv4 address is noted in its IPv6 form
	drained := rule{
		meta(unix.NFT_META_L4PROTO), equal([]byte{unix.IPPROTO_TCP}),
		load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, tcpDestination, 2), within(drainedSet),
		load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, tcpFlags, 1), bits(pushed), equal([]byte{pushed}),
	}
	network, transport := uint32(unix.NFT_PAYLOAD_NETWORK_HEADER), uint32(unix.NFT_PAYLOAD_TRANSPORT_HEADER)
	source4 := rule{constantTo(keyPart(0), mapped[:12]), loadTo(keyPart(12), network, ipv4Source, 4)}
	source6 := rule{loadTo(keyPart(0), network, ipv6Source, 16)}
	note := rule{loadTo(keyPart(16), transport, tcpSource, 2), noteKey()}
	return []rule{
		{meta(unix.NFT_META_MARK), equal(mark), accept()},
		slices.Concat(family(unix.NFPROTO_IPV4), rule{load(network, ipv4Destination, 1), equal([]byte{127}), accept()}),
		slices.Concat(family(unix.NFPROTO_IPV6), rule{load(network, ipv6Destination, 16), equal(loopback6[:]), accept()}),
		// Noted by rules of their own, since a set that is full ends the rule that adds to it.
		slices.Concat(family(unix.NFPROTO_IPV4), drained, source4, note),
		slices.Concat(family(unix.NFPROTO_IPV6), drained, source6, note),
		slices.Concat(drained, rule{rejectWithReset()}),
	}
}

// keyPart is the register of the part of a noted client's key that begins at the byte.
func keyPart(at uint32) uint32 { return unix.NFT_REG32_00 + at/4 }

func family(f byte) rule { return rule{meta(unix.NFT_META_NFPROTO), equal([]byte{f})} }

func meta(key uint32) expression {
	return expression{"meta", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_META_KEY, key)
		ae.Uint32(unix.NFTA_META_DREG, register)
	}}
}

func load(base, offset, length uint32) expression { return loadTo(register, base, offset, length) }

func loadTo(to, base, offset, length uint32) expression {
	return expression{"payload", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, to)
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

func constantTo(to uint32, b []byte) expression {
	return expression{"immediate", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, to)
		value(ae, unix.NFTA_IMMEDIATE_DATA, b)
	}}
}

func within(set string) expression {
	return expression{"lookup", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_LOOKUP_SET, set)
		ae.Uint32(unix.NFTA_LOOKUP_SREG, register)
	}}
}

func noteKey() expression {
	return expression{"dynset", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_DYNSET_SET_NAME, turnedAwaySet)
		ae.Uint32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD)
		ae.Uint32(unix.NFTA_DYNSET_SREG_KEY, keyPart(0))
	}}
}

func rejectWithReset() expression {
	return expression{"reject", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
		ae.Uint8(unix.NFTA_REJECT_ICMP_CODE, 0)
	}}
}
