package keyspace

import "bytes"

// Encoding is how the API server wrote a value.
type Encoding uint8

// Encodings.
const (
	EncodingUnknown   Encoding = iota // none of those below
	EncodingEmpty                     // no bytes at all, as a restore with a bumped revision leaves them
	EncodingProtobuf                  // Kubernetes' protobuf envelope: "k8s\0" and a runtime.Unknown
	EncodingJSON                      // custom resources, CustomResourceDefinitions and APIServices
	EncodingCBOR                      // custom resources with CBOR storage
	EncodingEncrypted                 // encrypted at rest
)

func (e Encoding) String() string {
	switch e {
	case EncodingEmpty:
		return "empty"
	case EncodingProtobuf:
		return "protobuf"
	case EncodingJSON:
		return "json"
	case EncodingCBOR:
		return "cbor"
	case EncodingEncrypted:
		return "encrypted"
	}
	return "unknown"
}

var (
	protobufMagic  = []byte("k8s\x00")
	cborMagic      = []byte{0xd9, 0xd9, 0xf7} // the self-describing tag of RFC 8949, section 3.4.6
	encryptedMagic = []byte("k8s:enc:")
)

// ValueEncoding looks at the first bytes of a value. Nothing is decoded or allocated.
func ValueEncoding(value []byte) Encoding {
	switch {
	case len(value) == 0:
		return EncodingEmpty
	case bytes.HasPrefix(value, protobufMagic):
		return EncodingProtobuf
	case bytes.HasPrefix(value, encryptedMagic):
		return EncodingEncrypted
	case bytes.HasPrefix(value, cborMagic):
		return EncodingCBOR
	}
	if text := bytes.TrimLeft(value, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return EncodingJSON
	}
	return EncodingUnknown
}

// EncryptionProvider is the provider that encrypted the value: aescbc, aesgcm, secretbox or kms, and what a later
// Kubernetes adds. It is nil for a value that is not encrypted.
func EncryptionProvider(value []byte) []byte {
	if !bytes.HasPrefix(value, encryptedMagic) {
		return nil
	}
	rest := value[len(encryptedMagic):]
	// A provider's name is short; a value without the colon is damaged.
	if i := bytes.IndexByte(rest[:min(len(rest), 64)], ':'); i >= 0 {
		return rest[:i]
	}
	return rest[:0]
}
