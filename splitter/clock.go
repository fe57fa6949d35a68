package splitter

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// writeClock finds the time that writes happened at inside of the values written: the renewTime of Leases, which every
// node renews every ten seconds, and where there are none the times of events. Neither a write-ahead log nor a database
// file holds any other clock.
type writeClock struct{ leases, events objectClock }

// see takes note of a value of a resource written at the order number at.
func (c *writeClock) see(resource string, value []byte, at uint64) {
	switch resource {
	case leasesName:
		if t, ok := renewTime(value); ok {
			c.leases.see(t, at)
		}
	case Events.Resource:
		if t, ok := eventTime(value); ok {
			c.events.see(t, at)
		}
	}
}

// window is the time between two order numbers, by Leases before events: the pace of the renewals is the steadier one.
func (c *writeClock) window(from, to uint64) (time.Duration, bool) {
	if w, ok := c.leases.window(from, to); ok {
		return w, true
	}
	return c.events.window(from, to)
}

// objectClock is the times of one kind of objects.
type objectClock struct {
	first, last time.Time
	// The order numbers (log index or revision) at first and last.
	firstAt, lastAt uint64
}

// see takes note of an object written at t and at the order number at.
func (c *objectClock) see(t time.Time, at uint64) {
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
	return protoTime(raw)
}

// eventTime reads the latest of an Event's times: its metadata's creationTimestamp (1, 8), firstTimestamp (6),
// lastTimestamp (7), eventTime (10) and its series' lastObservedTime (11, 2). An Event in another encoding tells none.
func eventTime(value []byte) (latest time.Time, ok bool) {
	raw, ok := bytes.CutPrefix(value, []byte("k8s\x00"))
	if ok {
		raw, ok = bytesField(raw, 2)
	}
	if !ok {
		return latest, false
	}
	for _, path := range [][]protowire.Number{{1, 8}, {6}, {7}, {10}, {11, 2}} {
		field, found := raw, true
		for _, num := range path {
			if field, found = bytesField(field, num); !found {
				break
			}
		}
		if !found {
			continue
		}
		if t, ok := protoTime(field); ok && t.After(latest) {
			latest = t
		}
	}
	return latest, !latest.IsZero()
}

// protoTime reads a Time or MicroTime: seconds 1, nanos 2.
func protoTime(raw []byte) (time.Time, bool) {
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
