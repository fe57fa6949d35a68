package splitter

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// objectClock finds the time that writes happened at inside of the values written: the renewTime of Leases, which
// every node renews every ten seconds. Neither a write-ahead log nor a database file holds any other clock.
type objectClock struct {
	first, last time.Time
	// The order numbers (log index or revision) at first and last.
	firstAt, lastAt uint64
}

// see takes note of a Lease written at the order number at.
func (c *objectClock) see(value []byte, at uint64) {
	t, ok := renewTime(value)
	if !ok {
		return
	}
	if c.first.IsZero() || t.Before(c.first) {
		c.first, c.firstAt = t, at
	}
	if t.After(c.last) {
		c.last, c.lastAt = t, at
	}
}

// window is the time between two order numbers by the clock's pace; false where the clock did not advance.
func (c *objectClock) window(from, to uint64) (time.Duration, bool) {
	span := c.last.Sub(c.first)
	if span <= 0 || c.lastAt <= c.firstAt || to < from {
		return 0, false
	}
	return time.Duration(float64(span) * float64(to-from) / float64(c.lastAt-c.firstAt)), true
}

// renewTime reads spec.renewTime of a Lease in Kubernetes' protobuf storage encoding: "k8s\0", runtime.Unknown (raw 2),
// Lease (spec 2), LeaseSpec (renewTime 4), MicroTime (seconds 1, nanos 2).
func renewTime(value []byte) (time.Time, bool) {
	raw, ok := bytes.CutPrefix(value, []byte("k8s\x00"))
	if !ok {
		return time.Time{}, false
	}
	for _, num := range []protowire.Number{2, 2, 4} {
		if raw, ok = bytesField(raw, num); !ok {
			return time.Time{}, false
		}
	}
	seconds, nanos := int64(0), int64(0)
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 || typ != protowire.VarintType {
			return time.Time{}, false
		}
		raw = raw[n:]
		v, n := protowire.ConsumeVarint(raw)
		if n < 0 {
			return time.Time{}, false
		}
		raw = raw[n:]
		switch num {
		case 1:
			seconds = int64(v)
		case 2:
			nanos = int64(v)
		}
	}
	if seconds <= 0 {
		return time.Time{}, false
	}
	return time.Unix(seconds, nanos), true
}

// bytesField finds the first length-delimited field num.
func bytesField(b []byte, num protowire.Number) ([]byte, bool) {
	for len(b) > 0 {
		got, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		if typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return nil, false
			}
			if got == num {
				return v, true
			}
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(got, typ, b); n < 0 {
			return nil, false
		}
		b = b[n:]
	}
	return nil, false
}
