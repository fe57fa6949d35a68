package etcdfile

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// WALKind is what an operation of the write-ahead log does.
type WALKind uint8

// Operations. Reads are not in the log, authentication and membership are not visited.
const (
	WALPut WALKind = iota + 1
	WALDelete
	WALGrant
	WALRevoke
	WALCompact
)

// WALOp is one operation of a raft entry. The operations of a transaction are those of its success branch: which branch
// was taken is decided when the entry is applied and does not stand in the log.
type WALOp struct {
	Index uint64
	Kind  WALKind
	InTxn bool // one of a transaction, which may have failed

	Key      []byte // of a put or delete
	RangeEnd []byte // of a delete: nil deletes one key
	Value    []byte // of a put
	Lease    int64  // attached by a put, granted or revoked
	Revision int64  // compacted to
}

var errDamaged = errors.New("a raft entry with a valid checksum cannot be decoded")

// entry visits the operations of one raftpb.Entry (Type 1, Term 2, Index 3, Data 4).
func (r *walReader) entry(b []byte) error {
	e, ok := fieldsOf(b)
	if !ok {
		return errDamaged
	}
	index := e.n[3]
	if r.sum.LastIndex != 0 && index <= r.sum.LastIndex {
		r.sum.Overwritten += r.sum.LastIndex - index + 1
	}
	if r.sum.FirstIndex == 0 {
		r.sum.FirstIndex = index
	}
	r.sum.LastIndex = index
	r.sum.Entries++
	if e.n[1] != 0 || len(e.b[4]) == 0 { // a change of members, or a new leader's empty entry
		return nil
	}
	return r.request(index, e.b[4])
}

// request visits an etcdserverpb.InternalRaftRequest.
func (r *walReader) request(index uint64, b []byte) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errDamaged
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errDamaged
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errDamaged
		}
		b = b[n:]
		var err error
		r.op = WALOp{Index: index}
		switch num {
		case 4:
			err = r.put(v)
		case 5:
			err = r.remove(v)
		case 6:
			r.op.InTxn = true
			err = r.txn(v, 0)
		case 7:
			err = r.number(v, WALCompact, 1)
		case 8:
			err = r.number(v, WALGrant, 2)
		case 9:
			err = r.number(v, WALRevoke, 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *walReader) put(b []byte) error {
	f, ok := fieldsOf(b)
	if !ok {
		return errDamaged
	}
	r.op.Kind, r.op.Key, r.op.Value, r.op.Lease, r.op.RangeEnd = WALPut, f.b[1], f.b[2], int64(f.n[3]), nil
	return r.visit(&r.op)
}

func (r *walReader) remove(b []byte) error {
	f, ok := fieldsOf(b)
	if !ok {
		return errDamaged
	}
	r.op.Kind, r.op.Key, r.op.RangeEnd, r.op.Value, r.op.Lease = WALDelete, f.b[1], f.b[2], nil, 0
	return r.visit(&r.op)
}

// number visits a request that is one number, the field at.
func (r *walReader) number(b []byte, kind WALKind, at int) error {
	f, ok := fieldsOf(b)
	if !ok {
		return errDamaged
	}
	r.op.Kind = kind
	if kind == WALCompact {
		r.op.Revision = int64(f.n[at])
	} else {
		r.op.Lease = int64(f.n[at])
	}
	return r.visit(&r.op)
}

// maxTxnDepth bounds transactions within transactions, which etcd itself allows without end.
const maxTxnDepth = 16

// txn visits a TxnRequest's success branch (field 2), whose RequestOp are range 1, put 2, delete 3, txn 4.
func (r *walReader) txn(b []byte, depth int) error {
	if depth > maxTxnDepth {
		return nil
	}
	for len(b) > 0 {
		num, v, rest, ok := nextBytes(b)
		if !ok {
			return errDamaged
		}
		b = rest
		if num != 2 {
			continue
		}
		for len(v) > 0 {
			num, op, rest, ok := nextBytes(v)
			if !ok {
				return errDamaged
			}
			v = rest
			var err error
			switch num {
			case 2:
				err = r.put(op)
			case 3:
				err = r.remove(op)
			case 4:
				err = r.txn(op, depth+1)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// nextBytes reads one field; its value is nil where it is not length-delimited.
func nextBytes(b []byte) (protowire.Number, []byte, []byte, bool) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, nil, false
	}
	b = b[n:]
	if typ == protowire.BytesType {
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, nil, nil, false
		}
		return num, v, b[n:], true
	}
	if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
		return 0, nil, nil, false
	}
	return 0, nil, b[n:], true
}

// fields are the scalar and length-delimited fields 1 to 4 of a message.
type fields struct {
	n [5]uint64
	b [5][]byte
}

// fieldsOf reads a message's first fields without copying.
func fieldsOf(b []byte) (fields, bool) {
	var f fields
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return f, false
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return f, false
			}
			if num < 5 {
				f.n[num] = v
			}
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return f, false
			}
			if num < 5 {
				f.b[num] = v
			}
			b = b[n:]
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return f, false
			}
			b = b[n:]
		}
	}
	return f, true
}

// walRecord reads a walpb.Record: type 1, crc 2, data 3.
func walRecord(b []byte) (kind uint64, crc uint32, data []byte, ok bool) {
	f, ok := fieldsOf(b)
	return f.n[1], uint32(f.n[2]), f.b[3], ok
}
