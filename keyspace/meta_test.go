package keyspace_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

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

func FuzzReadMeta(f *testing.F) {
	for _, v := range encode(f, job()) {
		f.Add(v)
	}
	f.Add([]byte("k8s\x00"))
	f.Add([]byte("k8s:enc:aescbc:v1:"))
	f.Fuzz(func(t *testing.T, value []byte) {
		m, err := keyspace.ReadMeta(value)
		if err != nil {
			return
		}
		for range m.Owners() {
		}
		for range m.Managers() {
		}
		for range m.Finalizers() {
		}
		for range m.Labels() {
		}
		for range m.Annotations() {
		}
	})
}
