package drain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nf_tables.h; golang.org/x/sys has no names for these.
const (
	tableOwned     = 0x2 // NFT_TABLE_F_OWNER, since Linux 5.12: only its netlink socket may change the table, which ends with it
	attrTableOwner = 7   // NFTA_TABLE_OWNER

	// The types of a set's keys, by which nft shows them: a port, and an address with a port behind it.
	typePort   = 13
	typeClient = 8<<6 | typePort
)

const (
	inputChain    = "input"
	drainedSet    = "drained"
	turnedAwaySet = "turned_away"
	// Before the filters of others, so that what they let through is seen as well as what they do not.
	chainPriority = -10
	// A reply of the kernel to a netlink message takes microseconds.
	answerWait = 5 * time.Second
	// pushed is the PSH flag, which Linux sets on the last packet of everything that is sent: on every request.
	pushed = 0x08
	// Connections that can be told apart; a member with more counts no further.
	maxTurnedAway = 65535
	// A connection's other end as the set of those that were turned away has it: the address in its IPv6 form, and the
	// port with two bytes behind it.
	clientBytes = 20
)

// table is an nftables table that lives as long as its socket.
type table struct {
	conn *netlink.Conn
	name string
}

// makeTable makes a table with the rules for ports. Its rules find the ports in a set whose elements the kernel lets
// expire after the lifetime, also where this process stands still then. Only a hooked table sees packets. The flags are
// tableOwned but in tests.
func makeTable(name string, ports []uint16, lifetime time.Duration, hooked bool, flags uint32) (*table, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("this kernel has no nftables (%w): %w", err, ErrImpossible)
	}
	t := &table{conn: conn, name: name}
	if err := t.fill(ports, lifetime, hooked, flags); err != nil {
		t.remove()
		return nil, err
	}
	if err := t.owned(); err != nil {
		t.remove()
		return nil, err
	}
	return t, nil
}

func (t *table) fill(ports []uint16, lifetime time.Duration, hooked bool, flags uint32) error {
	msgs := []netlink.Message{
		t.message(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_TABLE_NAME, t.name)
			ae.Uint32(unix.NFTA_TABLE_FLAGS, flags)
		}),
		t.newSet(turnedAwaySet, unix.NFT_SET_EVAL, typeClient, clientBytes, func(ae *netlink.AttributeEncoder) {
			ae.Nested(unix.NFTA_SET_DESC, func(ae *netlink.AttributeEncoder) error {
				bigEndian(ae).Uint32(unix.NFTA_SET_DESC_SIZE, maxTurnedAway)
				return nil
			})
		}),
		t.newSet(drainedSet, unix.NFT_SET_TIMEOUT, typePort, 2, func(*netlink.AttributeEncoder) {}),
		t.fillDrained(ports, lifetime),
		t.message(unix.NFT_MSG_NEWCHAIN, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_CHAIN_TABLE, t.name)
			ae.String(unix.NFTA_CHAIN_NAME, inputChain)
			if !hooked {
				return
			}
			ae.String(unix.NFTA_CHAIN_TYPE, "filter")
			ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
				priority := int32(chainPriority)
				bigEndian(ae).Uint32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_IN)
				ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
				return nil
			})
		}),
	}
	for _, r := range rules() {
		msgs = append(msgs, t.message(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_RULE_TABLE, t.name)
			ae.String(unix.NFTA_RULE_CHAIN, inputChain)
			ae.Nested(unix.NFTA_RULE_EXPRESSIONS, r.encode)
		}))
	}
	return t.batch(msgs)
}

// newSet is the message that makes a set.
func (t *table) newSet(name string, flags, keyType, keyBytes uint32, more func(*netlink.AttributeEncoder)) netlink.Message {
	return t.message(unix.NFT_MSG_NEWSET, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, t.name)
		ae.String(unix.NFTA_SET_NAME, name)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, keyType)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, keyBytes)
		ae.Uint32(unix.NFTA_SET_ID, 1) // for sets without a name, and wanted for all
		more(ae)
	})
}

// fillDrained is the message that makes ports drained for the lifetime.
func (t *table) fillDrained(ports []uint16, lifetime time.Duration) netlink.Message {
	return t.message(unix.NFT_MSG_NEWSETELEM, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, drainedSet)
		ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			for _, p := range ports {
				list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
					value(elem, unix.NFTA_SET_ELEM_KEY, binary.BigEndian.AppendUint16(nil, p))
					bigEndian(elem).Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(1, lifetime.Milliseconds())))
					return nil
				})
			}
			return nil
		})
	})
}

// message is one nf_tables message of the inet family, which is of IPv4 and IPv6.
func (t *table) message(kind int, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) netlink.Message {
	ae := bigEndian(netlink.NewAttributeEncoder())
	attributes(ae)
	data, err := ae.Encode()
	if err != nil {
		panic(err) // of attributes that are longer than 64 KiB
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	}
}

func bigEndian(ae *netlink.AttributeEncoder) *netlink.AttributeEncoder {
	ae.ByteOrder = binary.BigEndian
	return ae
}

// batch sends messages that the kernel takes all or none of.
func (t *table) batch(msgs []netlink.Message) error {
	frame := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	for i := range msgs {
		msgs[i].Header.Flags |= netlink.Acknowledge
	}
	all := append([]netlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, msgs...)
	all = append(all, frame(unix.NFNL_MSG_BATCH_END))
	if err := t.conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	if _, err := t.conn.SendMessages(all); err != nil {
		return explain(err)
	}
	for answered := 0; answered < len(msgs); {
		got, err := t.conn.Receive()
		if err != nil {
			return explain(err)
		}
		answered += len(got)
	}
	return nil
}

// explain says what is missing.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("CAP_NET_ADMIN is missing (%w): give it to the keeper, or set defrag.drain: never: %w", err, ErrImpossible)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel does not know tables that end with their owner, which came with Linux 5.12 (%w): %w", err, ErrImpossible)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("this kernel lacks a part of nftables (%w): %w", err, ErrImpossible)
	}
	return fmt.Errorf("nftables: %w", err)
}

// owned reads the table back: a kernel that does not know the flag would leave the rule behind when this process dies.
func (t *table) owned() error {
	msg := t.message(unix.NFT_MSG_GETTABLE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, t.name)
	})
	got, err := t.conn.Execute(msg)
	if err != nil {
		return explain(err)
	}
	for _, m := range got {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		flagged, owner := false, uint32(0)
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_FLAGS:
				flagged = ad.Uint32()&tableOwned != 0
			case attrTableOwner:
				owner = ad.Uint32()
			}
		}
		if ad.Err() == nil && flagged && owner == t.conn.PID() {
			return nil
		}
	}
	return fmt.Errorf("this kernel did not make the table end with its owner, which it can since Linux 5.12: %w", ErrImpossible)
}

// turnedAway are the other ends of connections of which packets were rejected.
func (t *table) turnedAway() (map[netip.AddrPort]bool, error) {
	msg := t.message(unix.NFT_MSG_GETSETELEM, netlink.Dump, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, turnedAwaySet)
	})
	if err := t.conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return nil, err
	}
	got, err := t.conn.Execute(msg)
	if err != nil {
		return nil, explain(err)
	}
	away := map[netip.AddrPort]bool{}
	for _, m := range got {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return nil, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				ad.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(elem *netlink.AttributeDecoder) error { return readKey(elem, away) })
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return away, nil
}

func readKey(elem *netlink.AttributeDecoder, away map[netip.AddrPort]bool) error {
	for elem.Next() {
		if elem.Type() != unix.NFTA_SET_ELEM_KEY {
			continue
		}
		elem.Nested(func(key *netlink.AttributeDecoder) error {
			for key.Next() {
				if b := key.Bytes(); key.Type() == unix.NFTA_DATA_VALUE && len(b) >= clientBytes {
					away[netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))] = true
				}
			}
			return nil
		})
	}
	return nil
}

// remove deletes the table. Closing the socket does the same; both are done in case one fails.
func (t *table) remove() {
	_ = t.batch([]netlink.Message{t.message(unix.NFT_MSG_DELTABLE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, t.name)
	})})
	_ = t.conn.Close()
}
