package bulkclean

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a protobuf message: bytes for length-delimited ones, num for varints.
type field struct {
	id    protowire.Number
	bytes []byte
	num   uint64
}

// fields calls f for every field of the message b. The slices belong to b.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		id, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("protobuf tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		v := field{id: id}
		switch typ {
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v.num, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(id, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("protobuf field %d: %w", id, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// timestamp reads Kubernetes' Time and MicroTime. A message without seconds is the zero time, as metav1.Time writes it.
func timestamp(b []byte) (time.Time, error) {
	var sec, nano int64
	err := fields(b, func(f field) error {
		switch f.id {
		case 1:
			sec = int64(f.num)
		case 2:
			nano = int64(int32(f.num))
		}
		return nil
	})
	if err != nil || (sec == 0 && nano == 0) {
		return time.Time{}, err
	}
	return time.Unix(sec, nano).UTC(), nil
}

// readTime reads a timestamp into t.
func readTime(t *time.Time, b []byte) error {
	v, err := timestamp(b)
	*t = v
	return err
}

// metadata reads an ObjectMeta into o.
func (o *Facts) metadata(b []byte) error {
	return fields(b, func(f field) error {
		switch f.id {
		case 1:
			o.Name = string(f.bytes)
		case 3:
			o.Namespace = string(f.bytes)
		case 5:
			o.UID = string(f.bytes)
		case 6:
			o.resourceVersion = string(f.bytes)
		case 8:
			return readTime(&o.Created, f.bytes)
		case 9:
			o.Deleting = true
		case 11:
			return mapEntry(f.bytes, o.label)
		case 12:
			return mapEntry(f.bytes, o.annotation)
		case 13:
			return o.owner(f.bytes)
		case 14:
			o.Finalizers = append(o.Finalizers, string(f.bytes))
		case 17:
			return o.managedField(f.bytes)
		}
		return nil
	})
}

func mapEntry(b []byte, f func(k, v []byte)) error {
	var k, v []byte
	err := fields(b, func(e field) error {
		switch e.id {
		case 1:
			k = e.bytes
		case 2:
			v = e.bytes
		}
		return nil
	})
	if err == nil {
		f(k, v)
	}
	return err
}

func (o *Facts) owner(b []byte) error {
	var r OwnerRef
	err := fields(b, func(f field) error {
		switch f.id {
		case 1:
			r.Kind = string(f.bytes)
		case 3:
			r.Name = string(f.bytes)
		case 4:
			r.UID = string(f.bytes)
		case 5:
			r.APIVersion = string(f.bytes)
		case 6:
			r.Controller = f.num != 0
		}
		return nil
	})
	if err == nil {
		o.Owners = append(o.Owners, r)
	}
	return err
}

// managedField keeps the manager of the oldest entry that is not of a subresource: whoever created the object.
func (o *Facts) managedField(b []byte) error {
	var manager, sub string
	var at time.Time
	err := fields(b, func(f field) error {
		switch f.id {
		case 1:
			manager = string(f.bytes)
		case 4:
			return readTime(&at, f.bytes)
		case 8:
			sub = string(f.bytes)
		}
		return nil
	})
	if err == nil {
		o.manager(manager, sub, at)
	}
	return err
}

func (o *Facts) manager(name, subresource string, at time.Time) {
	if subresource == "" && (o.Manager == "" || at.Before(o.managedAt)) {
		o.Manager, o.managedAt = name, at
	}
}

// label and annotation keep what a rule asks for.
func (o *Facts) label(k, v []byte) {
	if string(k) == archivingLabel {
		o.archiving = string(v)
	}
}

func (o *Facts) annotation(k, v []byte) {
	switch string(k) {
	case KeepAnnotation:
		o.OptedOut = string(v) != "false"
	case mirrorAnnotation:
		o.mirror = true
	}
}
