package keyspace_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

func job() *batchv1.Job {
	created, gone := metav1.NewTime(time.Unix(1_700_000_000, 0)), metav1.NewTime(time.Unix(1_700_000_100, 0))
	yes := true
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "nightly-1", GenerateName: "nightly-", Namespace: "ci", UID: "u-1", CreationTimestamp: created, DeletionTimestamp: &gone,
			Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"x/y", "z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "nightly", UID: "u-0", Controller: &yes}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: "Apply", Time: &created, Subresource: "status"}},
		},
	}
}

func encode(t testing.TB, j *batchv1.Job) map[string][]byte {
	t.Helper()
	raw, err := j.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, Raw: raw}
	envelope, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.YAMLToJSON(text); err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := yaml.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	binary, err := direct.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(binary, []byte{0xd9, 0xd9, 0xf7}) {
		binary = append([]byte{0xd9, 0xd9, 0xf7}, binary...)
	}
	return map[string][]byte{"protobuf": append([]byte("k8s\x00"), envelope...), "json": text, "cbor": binary}
}

func TestReadMeta(t *testing.T) {
	for name, value := range encode(t, job()) {
		t.Run(name, func(t *testing.T) {
			m, err := keyspace.ReadMeta(value)
			if err != nil {
				t.Fatal(err)
			}
			if m.Encoding.String() != name {
				t.Errorf("encoding: got %s", m.Encoding)
			}
			if string(m.APIVersion) != "batch/v1" || string(m.Kind) != "Job" || string(m.Name) != "nightly-1" || string(m.GenerateName) != "nightly-" ||
				string(m.Namespace) != "ci" || string(m.UID) != "u-1" || m.Created != 1_700_000_000 || m.Deleted != 1_700_000_100 {
				t.Errorf("got %+v", m)
			}
			owners := slices.Collect(m.Owners())
			if len(owners) != 1 || string(owners[0].Name) != "nightly" || string(owners[0].UID) != "u-0" || string(owners[0].Kind) != "CronJob" ||
				string(owners[0].APIVersion) != "batch/v1" || !owners[0].Controller {
				t.Errorf("owners: got %+v", owners)
			}
			managers := slices.Collect(m.Managers())
			if len(managers) != 1 || string(managers[0].Name) != "kubectl" || string(managers[0].Operation) != "Apply" ||
				string(managers[0].Subresource) != "status" || managers[0].Time != 1_700_000_000 {
				t.Errorf("managers: got %+v", managers)
			}
			var finalizers []string
			for f := range m.Finalizers() {
				finalizers = append(finalizers, string(f))
			}
			if !slices.Equal(finalizers, []string{"x/y", "z"}) {
				t.Errorf("finalizers: got %v", finalizers)
			}
			for k, v := range m.Labels() {
				if string(k)+string(v) != "ab" {
					t.Errorf("labels: got %s=%s", k, v)
				}
			}
			for k, v := range m.Annotations() {
				if string(k)+string(v) != "cd" {
					t.Errorf("annotations: got %s=%s", k, v)
				}
			}
		})
	}
}

func TestReadMeta_AllocatesNothing(t *testing.T) {
	value := encode(t, job())["protobuf"]
	if n := testing.AllocsPerRun(100, func() {
		if _, err := keyspace.ReadMeta(value); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func TestValueEncoding(t *testing.T) {
	for value, want := range map[string]keyspace.Encoding{
		"": keyspace.EncodingEmpty, "k8s\x00\x0a": keyspace.EncodingProtobuf, "k8s:enc:aescbc:v1:key1:\x00": keyspace.EncodingEncrypted,
		"\xd9\xd9\xf7\xa0": keyspace.EncodingCBOR, " \n{}": keyspace.EncodingJSON, "k8s": keyspace.EncodingUnknown, "\x00": keyspace.EncodingUnknown,
		"plain": keyspace.EncodingUnknown,
	} {
		if got := keyspace.ValueEncoding([]byte(value)); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
	for value, want := range map[string]string{
		"k8s:enc:kms:v2:provider:x": "kms", "k8s:enc:secretbox:v1:": "secretbox", "k8s:enc:": "", "k8s\x00": "", "k8s:enc:no colon": "",
	} {
		if got := keyspace.EncryptionProvider([]byte(value)); string(got) != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// FuzzValueEncoding: what begins as an encoding begins is told as that one, whatever follows, and nothing else is; a
// provider is told for what is encrypted and as it is written.
func FuzzValueEncoding(f *testing.F) {
	for _, v := range encode(f, job()) {
		f.Add("aescbc", v)
	}
	f.Add("kms", []byte("k8s:enc:kms:v2:provider:x"))
	f.Add("", []byte("k8s:enc:"))
	f.Add("x", []byte(" \n{}"))
	f.Add(strings.Repeat("n", 64), []byte("k8s:enc"))
	starts := []struct {
		start string
		want  keyspace.Encoding
	}{{"k8s\x00", keyspace.EncodingProtobuf}, {"k8s:enc:", keyspace.EncodingEncrypted}, {"\xd9\xd9\xf7", keyspace.EncodingCBOR},
		{"{", keyspace.EncodingJSON}, {" \t\r\n{", keyspace.EncodingJSON}}
	f.Fuzz(func(t *testing.T, provider string, value []byte) {
		for _, s := range starts {
			if got := keyspace.ValueEncoding(append([]byte(s.start), value...)); got != s.want {
				t.Errorf("%q and %q: got %s, want %s", s.start, value, got, s.want)
			}
		}
		begins := func(want keyspace.Encoding) bool {
			return slices.ContainsFunc(starts, func(s struct {
				start string
				want  keyspace.Encoding
			}) bool {
				return s.want == want && bytes.HasPrefix(value, []byte(s.start))
			})
		}
		switch got := keyspace.ValueEncoding(value); got {
		case keyspace.EncodingEmpty:
			if len(value) > 0 {
				t.Errorf("%q: got %s", value, got)
			}
		case keyspace.EncodingJSON:
			if !strings.HasPrefix(strings.Trim(string(value), " \t\r\n"), "{") {
				t.Errorf("%q: got %s", value, got)
			}
		default:
			if begins(got) == (got == keyspace.EncodingUnknown) {
				t.Errorf("%q: got %s", value, got)
			}
		}
		encrypted := keyspace.ValueEncoding(value) == keyspace.EncodingEncrypted
		if p := keyspace.EncryptionProvider(value); (p != nil) != encrypted || !bytes.HasPrefix(value, append([]byte("k8s:enc:"), p...)) && encrypted {
			t.Errorf("%q: got provider %q", value, p)
		}
		want := provider
		if i := strings.IndexByte(provider, ':'); i >= 0 {
			want = provider[:i]
		}
		if len(want) >= 64 {
			want = "" // no provider has such a name
		}
		if got := keyspace.EncryptionProvider(append([]byte("k8s:enc:"+provider+":"), value...)); got == nil || string(got) != want {
			t.Errorf("of %q: got %q, want %q", provider, got, want)
		}
	})
}

// FuzzReadMeta: what is read of any value is in the value, lists included, and what cannot be read is told.
func FuzzReadMeta(f *testing.F) {
	for _, v := range encode(f, job()) {
		f.Add(v)
	}
	f.Add([]byte("k8s\x00"))
	f.Add([]byte("k8s:enc:aescbc:v1:"))
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, value []byte) {
		m, err := keyspace.ReadMeta(value)
		encoding := keyspace.ValueEncoding(value)
		opaque := encoding == keyspace.EncodingUnknown || encoding == keyspace.EncodingEmpty || encoding == keyspace.EncodingEncrypted
		if m.Encoding != encoding || errors.Is(err, keyspace.ErrOpaque) != opaque {
			t.Fatalf("%q: got %s, %v", value, m.Encoding, err)
		}
		if err != nil {
			return
		}
		read := [][]byte{m.APIVersion, m.Kind, m.Namespace, m.Name, m.GenerateName, m.UID, m.Body}
		for o := range m.Owners() {
			read = append(read, o.APIVersion, o.Kind, o.Name, o.UID)
		}
		for o := range m.Managers() {
			read = append(read, o.Name, o.Operation, o.Subresource)
		}
		for v := range m.Finalizers() {
			read = append(read, v)
		}
		for k, v := range m.Labels() {
			read = append(read, k, v)
		}
		for k, v := range m.Annotations() {
			read = append(read, k, v)
		}
		if encoding != keyspace.EncodingProtobuf {
			return // decoded: escapes and cases are not what stands there
		}
		for _, b := range read {
			if !bytes.Contains(value, b) {
				t.Errorf("%q is not in %q", b, value)
			}
		}
	})
}

// FuzzReadMeta_RoundTrip: what Kubernetes writes is read back, in each encoding.
func FuzzReadMeta_RoundTrip(f *testing.F) {
	f.Add("nightly-1", "ci", "kubectl", int64(1_700_000_000))
	f.Add("", "", "", int64(1))
	f.Fuzz(func(t *testing.T, name, namespace, manager string, seconds int64) {
		for _, s := range []string{name, namespace, manager} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
				return // no name has others
			}
		}
		if seconds <= 0 || seconds > 1<<35 {
			return
		}
		j := job()
		created := metav1.NewTime(time.Unix(seconds, 0))
		j.Name, j.Namespace, j.ManagedFields[0].Manager, j.CreationTimestamp = name, namespace, manager, created
		for encoding, value := range encode(t, j) {
			m, err := keyspace.ReadMeta(value)
			if err != nil {
				t.Fatalf("%s: %v", encoding, err)
			}
			managers := slices.Collect(m.Managers())
			if string(m.Name) != name || string(m.Namespace) != namespace || m.Created != seconds || len(managers) != 1 || string(managers[0].Name) != manager {
				t.Errorf("%s: got %q in %q of %d, managers %+v; want %q in %q of %d by %q", encoding, m.Name, m.Namespace, m.Created, managers, name, namespace, seconds, manager)
			}
		}
	})
}
