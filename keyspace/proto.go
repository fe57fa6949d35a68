package keyspace

import (
	"fmt"
	"iter"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field is one field of a protobuf message.
type Field struct {
	Number protowire.Number
	Type   protowire.Type
	Varint uint64 // of a protowire.VarintType, and the bits of fixed ones
	Bytes  []byte // of a protowire.BytesType: a slice of the message
}

// Fields walks the fields of a protobuf message in the order in which they were written, allocating nothing. The
// sequence ends with the first error.
func Fields(message []byte) iter.Seq2[Field, error] {
	return func(yield func(Field, error) bool) {
		for len(message) > 0 {
			f, n := readField(message)
			if n < 0 {
				yield(Field{}, fmt.Errorf("protobuf message: %w", protowire.ParseError(n)))
				return
			}
			message = message[n:]
			if !yield(f, nil) {
				return
			}
		}
	}
}

func readField(b []byte) (f Field, n int) {
	number, typ, tag := protowire.ConsumeTag(b)
	if tag < 0 {
		return f, tag
	}
	f.Number, f.Type = number, typ
	switch typ {
	case protowire.VarintType:
		f.Varint, n = protowire.ConsumeVarint(b[tag:])
	case protowire.BytesType:
		f.Bytes, n = protowire.ConsumeBytes(b[tag:])
	case protowire.Fixed64Type:
		f.Varint, n = protowire.ConsumeFixed64(b[tag:])
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(b[tag:])
		f.Varint = uint64(v)
	default:
		n = protowire.ConsumeFieldValue(number, typ, b[tag:])
	}
	if n < 0 {
		return f, n
	}
	return f, tag + n
}
