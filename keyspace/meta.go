package keyspace

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
)

// ErrOpaque is returned for values that cannot be looked into: encrypted, empty or not written by Kubernetes.
var ErrOpaque = errors.New("the value cannot be read")

// Meta is what a stored object says of itself, read without a scheme. Byte slices are slices of the value that was
// read, except for JSON and CBOR; times are Unix seconds, 0 for none.
type Meta struct {
	Encoding         Encoding
	APIVersion, Kind []byte

	Namespace, Name, GenerateName, UID []byte
	Created, Deleted                   int64

	// Body is the protobuf message of the object itself, for Fields; nil for JSON and CBOR.
	Body []byte

	object []byte      // the ObjectMeta message
	text   *textObject // of JSON and CBOR
}

// Owner is an owner reference.
type Owner struct {
	APIVersion, Kind, Name, UID []byte
	Controller                  bool
}

// Manager is an entry of managedFields: who wrote to the object, how and when.
type Manager struct {
	Name, Operation, Subresource []byte
	Time                         int64 // Unix seconds, 0 for none
}

// Numbers of the fields, from the generated.proto files of k8s.io/apimachinery. Every stored Kubernetes type has its
// ObjectMeta as field 1.
const (
	unknownTypeMeta, unknownRaw   = 1, 2
	typeMetaVersion, typeMetaKind = 1, 2
	objectMeta                    = 1

	metaName, metaGenerateName, metaNamespace, metaUID = 1, 2, 3, 5
	metaCreated, metaDeleted                           = 8, 9
	metaLabels, metaAnnotations                        = 11, 12
	metaOwners, metaFinalizers, metaManaged            = 13, 14, 17

	timeSeconds = 1

	ownerKind, ownerName, ownerUID, ownerVersion, ownerController = 1, 3, 4, 5, 6
	managerName, managerOperation, managerTime, managerSub        = 1, 2, 4, 8
)

// textObject is an object in JSON or CBOR.
type textObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name              string            `json:"name"`
		GenerateName      string            `json:"generateName"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		CreationTimestamp *time.Time        `json:"creationTimestamp"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
		Labels            map[string]string `json:"labels"`
		Annotations       map[string]string `json:"annotations"`
		Finalizers        []string          `json:"finalizers"`
		OwnerReferences   []struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Name       string `json:"name"`
			UID        string `json:"uid"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
		ManagedFields []struct {
			Manager     string     `json:"manager"`
			Operation   string     `json:"operation"`
			Subresource string     `json:"subresource"`
			Time        *time.Time `json:"time"`
		} `json:"managedFields"`
	} `json:"metadata"`
}

// ReadMeta reads the metadata of a stored object. For protobuf nothing is allocated. It returns ErrOpaque where the
// value is encrypted, empty or of an unknown encoding, and another error where it is damaged; a Meta without error
// was read whole, lists included.
func ReadMeta(value []byte) (Meta, error) {
	m := Meta{Encoding: ValueEncoding(value)}
	switch m.Encoding {
	case EncodingProtobuf:
		return m, m.readProtobuf(value[len(protobufMagic):])
	case EncodingJSON:
		return m, m.readText(json.Unmarshal, value)
	case EncodingCBOR:
		return m, m.readText(unmarshalCBOR, value)
	}
	return m, ErrOpaque
}

func (m *Meta) readProtobuf(envelope []byte) error {
	for f, err := range Fields(envelope) {
		if err != nil {
			return err
		}
		switch {
		case f.Number == unknownTypeMeta && f.Type == protowire.BytesType:
			for t, err := range Fields(f.Bytes) {
				switch {
				case err != nil:
					return err
				case t.Number == typeMetaVersion:
					m.APIVersion = t.Bytes
				case t.Number == typeMetaKind:
					m.Kind = t.Bytes
				}
			}
		case f.Number == unknownRaw && f.Type == protowire.BytesType:
			m.Body = f.Bytes
		}
	}
	for f, err := range Fields(m.Body) {
		if err != nil {
			return err
		}
		if f.Number == objectMeta && f.Type == protowire.BytesType {
			m.object = f.Bytes
			break
		}
	}
	return m.readObjectMeta()
}

func (m *Meta) readObjectMeta() error {
	for f, err := range Fields(m.object) {
		if err != nil {
			return err
		}
		if f.Type != protowire.BytesType {
			continue
		}
		switch f.Number {
		case metaName:
			m.Name = f.Bytes
		case metaGenerateName:
			m.GenerateName = f.Bytes
		case metaNamespace:
			m.Namespace = f.Bytes
		case metaUID:
			m.UID = f.Bytes
		case metaCreated:
			m.Created, err = protoTime(f.Bytes)
		case metaDeleted:
			m.Deleted, err = protoTime(f.Bytes)
		case metaLabels, metaAnnotations, metaOwners, metaManaged:
			err = wellFormed(f.Bytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func wellFormed(message []byte) error {
	for _, err := range Fields(message) {
		if err != nil {
			return err
		}
	}
	return nil
}

func protoTime(message []byte) (seconds int64, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return 0, err
		}
		if f.Number == timeSeconds {
			seconds = int64(f.Varint)
		}
	}
	return seconds, nil
}

func (m *Meta) readText(unmarshal func([]byte, any) error, value []byte) error {
	t := new(textObject)
	if err := unmarshal(value, t); err != nil {
		return fmt.Errorf("%s object: %w", m.Encoding, err)
	}
	m.text = t
	m.APIVersion, m.Kind = []byte(t.APIVersion), []byte(t.Kind)
	m.Name, m.GenerateName = []byte(t.Metadata.Name), []byte(t.Metadata.GenerateName)
	m.Namespace, m.UID = []byte(t.Metadata.Namespace), []byte(t.Metadata.UID)
	m.Created, m.Deleted = unix(t.Metadata.CreationTimestamp), unix(t.Metadata.DeletionTimestamp)
	return nil
}

// DecodeText decodes a value in JSON or CBOR into what to points to, by its json tags. It returns ErrOpaque for any other
// encoding.
func DecodeText(value []byte, to any) error {
	unmarshal := json.Unmarshal
	switch ValueEncoding(value) {
	case EncodingJSON:
	case EncodingCBOR:
		unmarshal = unmarshalCBOR
	default:
		return ErrOpaque
	}
	if err := unmarshal(value, to); err != nil {
		return fmt.Errorf("%s object: %w", ValueEncoding(value), err)
	}
	return nil
}

// unmarshalCBOR goes through plain values, since the decoder refuses fields that the target does not have.
func unmarshalCBOR(value []byte, to any) error {
	var object map[string]any
	if err := direct.Unmarshal(value, &object); err != nil {
		return err
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func unix(t *time.Time) int64 {
	if t == nil || t.IsZero() {
		return 0
	}
	return t.Unix()
}

// list yields the entries of a repeated field of the metadata, which ReadMeta found well formed.
func (m *Meta) list(number protowire.Number) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for f := range Fields(m.object) {
			if f.Number == number && f.Type == protowire.BytesType && !yield(f.Bytes) {
				return
			}
		}
	}
}

// Owners yields the owner references.
func (m *Meta) Owners() iter.Seq[Owner] {
	return func(yield func(Owner) bool) {
		if m.text != nil {
			for _, o := range m.text.Metadata.OwnerReferences {
				if !yield(Owner{[]byte(o.APIVersion), []byte(o.Kind), []byte(o.Name), []byte(o.UID), o.Controller}) {
					return
				}
			}
			return
		}
		for b := range m.list(metaOwners) {
			var o Owner
			for f := range Fields(b) {
				switch f.Number {
				case ownerKind:
					o.Kind = f.Bytes
				case ownerName:
					o.Name = f.Bytes
				case ownerUID:
					o.UID = f.Bytes
				case ownerVersion:
					o.APIVersion = f.Bytes
				case ownerController:
					o.Controller = f.Varint != 0
				}
			}
			if !yield(o) {
				return
			}
		}
	}
}

// Finalizers yields the finalizers.
func (m *Meta) Finalizers() iter.Seq[[]byte] {
	if m.text == nil {
		return m.list(metaFinalizers)
	}
	return func(yield func([]byte) bool) {
		for _, f := range m.text.Metadata.Finalizers {
			if !yield([]byte(f)) {
				return
			}
		}
	}
}

// Managers yields the entries of managedFields.
func (m *Meta) Managers() iter.Seq[Manager] {
	return func(yield func(Manager) bool) {
		if m.text != nil {
			for _, e := range m.text.Metadata.ManagedFields {
				if !yield(Manager{[]byte(e.Manager), []byte(e.Operation), []byte(e.Subresource), unix(e.Time)}) {
					return
				}
			}
			return
		}
		for b := range m.list(metaManaged) {
			var e Manager
			for f := range Fields(b) {
				switch f.Number {
				case managerName:
					e.Name = f.Bytes
				case managerOperation:
					e.Operation = f.Bytes
				case managerSub:
					e.Subresource = f.Bytes
				case managerTime:
					e.Time, _ = protoTime(f.Bytes)
				}
			}
			if !yield(e) {
				return
			}
		}
	}
}

// Labels yields the labels, in no order.
func (m *Meta) Labels() iter.Seq2[[]byte, []byte] { return m.pairs(metaLabels) }

// Annotations yields the annotations, in no order.
func (m *Meta) Annotations() iter.Seq2[[]byte, []byte] { return m.pairs(metaAnnotations) }

func (m *Meta) pairs(number protowire.Number) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		if m.text != nil {
			texts := m.text.Metadata.Labels
			if number == metaAnnotations {
				texts = m.text.Metadata.Annotations
			}
			for k, v := range texts {
				if !yield([]byte(k), []byte(v)) {
					return
				}
			}
			return
		}
		for b := range m.list(number) {
			var k, v []byte
			for f := range Fields(b) {
				switch f.Number {
				case 1:
					k = f.Bytes
				case 2:
					v = f.Bytes
				}
			}
			if !yield(k, v) {
				return
			}
		}
	}
}
