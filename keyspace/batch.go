package keyspace

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// batch is a page, or a part of a stream: entries whose slices are of buf, which is used again for a later batch.
type batch struct {
	buf     []byte
	entries []Entry
	size    int   // of the entries' keys and values
	count   int64 // keys in the range of the request; of a stream, in its last part only
}

// maxKept is the largest buffer that is kept for another batch: a few large values make a batch much larger than the
// size that is aimed at.
const maxKept = 4 << 20

func (b *batch) reset() {
	if cap(b.buf) > maxKept {
		b.buf = nil
	}
	b.buf, b.entries, b.size, b.count = b.buf[:0], b.entries[:0], 0, 0
}

// last is the key of the last entry, nil for none.
func (b *batch) last() []byte {
	if len(b.entries) == 0 {
		return nil
	}
	return b.entries[len(b.entries)-1].Key
}

// Numbers of the fields, from etcd's rpc.proto and kv.proto.
const (
	streamRange          = 1 // RangeStreamResponse.range_response
	rangeKVs, rangeCount = 2, 4
	kvKey, kvCreate      = 1, 2
	kvMod, kvVersion     = 3, 4
	kvValue, kvLease     = 5, 6
)

var errAnswer = errors.New("the member's answer cannot be decoded")

// decode reads a RangeResponse.
func (b *batch) decode(message []byte) error {
	for len(message) > 0 {
		f, n := readField(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errAnswer, protowire.ParseError(n))
		}
		message = message[n:]
		switch {
		case f.Number == rangeCount && f.Type == protowire.VarintType:
			b.count = int64(f.Varint)
		case f.Number == rangeKVs && f.Type == protowire.BytesType:
			if err := b.decodeKV(f.Bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodeStream reads a RangeStreamResponse.
func (b *batch) decodeStream(message []byte) error {
	for len(message) > 0 {
		f, n := readField(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errAnswer, protowire.ParseError(n))
		}
		message = message[n:]
		if f.Number == streamRange && f.Type == protowire.BytesType {
			if err := b.decode(f.Bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batch) decodeKV(message []byte) error {
	b.entries = append(b.entries, Entry{})
	e := &b.entries[len(b.entries)-1]
	for len(message) > 0 {
		f, n := readField(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errAnswer, protowire.ParseError(n))
		}
		message = message[n:]
		switch f.Number {
		case kvKey:
			e.Key = f.Bytes
		case kvCreate:
			e.CreateRevision = int64(f.Varint)
		case kvMod:
			e.ModRevision = int64(f.Varint)
		case kvVersion:
			e.Version = int64(f.Varint)
		case kvValue:
			e.Value = f.Bytes
		case kvLease:
			e.Lease = int64(f.Varint)
		}
	}
	b.size += len(e.Key) + len(e.Value)
	return nil
}

// take fills the batch with what a client decoded.
func (b *batch) take(kvs []*mvccpb.KeyValue, count int64) {
	b.count = count
	for _, kv := range kvs {
		b.entries = append(b.entries, Entry{Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
			Version: kv.Version, Lease: kv.Lease})
		b.size += len(kv.Key) + len(kv.Value)
	}
}
