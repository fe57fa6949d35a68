package bulkclean

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
)

const exportVersion = 1

// ExportHead is the first line of an export.
type ExportHead struct {
	Type          string    `json:"type"` // export
	Version       int       `json:"version"`
	Plan          string    `json:"plan"` // Plan.ID
	Kind          string    `json:"kind"`
	ClusterID     *string   `json:"clusterId"`
	KubeSystemUID *string   `json:"kubeSystemUid"`
	Registry      string    `json:"registry"`
	Made          time.Time `json:"made"`
}

// Exported is the line of one object, as it was just before it was deleted.
type Exported struct {
	Type           string `json:"type"` // object
	Key            string `json:"key"`
	Value          []byte `json:"value"` // base64
	CreateRevision int64  `json:"createRevision"`
	ModRevision    int64  `json:"modRevision"`
	Version        int64  `json:"version"`
	Lease          int64  `json:"lease"`
	// FromAPI marks a value in the API server's encoding: it cannot be put back byte by byte.
	FromAPI bool `json:"fromApi,omitempty"`
	// YAML is for people; empty where the value cannot be read.
	YAML string `json:"yaml"`
}

// exporter appends objects to an export file.
type exporter struct {
	path string
	file *os.File
}

// openExport opens or begins the export of p in dir. A torn last line is cut off; the objects of a batch that was
// exported and not deleted are exported again.
func openExport(dir string, p *Plan, kind *Kind, now time.Time) (*exporter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the export's directory: %w", err)
	}
	path := filepath.Join(dir, "export-"+p.ID+".jsonl")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the export: %w", err)
	}
	size, err := wholeLines(file)
	if err == nil {
		err = file.Truncate(size)
	}
	if err == nil {
		_, err = file.Seek(size, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open the export: %w", err)
	}
	x := &exporter{path: path, file: file}
	if size == 0 {
		h := &p.Head
		head, err := json.Marshal(ExportHead{Type: "export", Version: exportVersion, Plan: p.ID, Kind: kind.Name, ClusterID: h.ClusterID,
			KubeSystemUID: h.KubeSystemUID, Registry: h.Selector.Registry, Made: now.UTC()})
		if err == nil {
			err = errors.Join(x.write(append(head, '\n')), x.settle(), atomicfile.SyncDir(dir))
		}
		if err != nil {
			file.Close()
			return nil, fmt.Errorf("begin the export: %w", err)
		}
	}
	return x, nil
}

// wholeLines is the length of the file without a torn last line.
func wholeLines(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := st.Size()
	buf := make([]byte, 64<<10)
	for end > 0 {
		n := min(int64(len(buf)), end)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return end - n + i + 1, nil
			}
		}
		end -= n
	}
	return 0, nil
}

// appendExported appends the line of one object to b. It is what encoding/json makes of Exported; every deletion waits for
// it, and most of it is base64 and text without anything to escape.
func appendExported(b []byte, it *Item) ([]byte, error) {
	head, err := json.Marshal(Exported{Type: "object", Key: it.Key, CreateRevision: it.CreateRevision, ModRevision: it.ModRevision,
		Version: it.Version, Lease: it.Lease, FromAPI: it.FromAPI})
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", it.Key, err)
	}
	before, after, ok := bytes.Cut(head, []byte(`"value":null`))
	if !ok {
		return nil, fmt.Errorf("export %s: it has no place for a value", it.Key)
	}
	b = append(b, before...)
	b = append(b, `"value":"`...)
	b = base64.StdEncoding.AppendEncode(b, it.Value)
	b = append(b, '"')
	b = append(b, bytes.TrimSuffix(after, []byte(`""}`))...)
	b = appendText(b, readable(it.Value))
	return append(b, "}\n"...), nil
}

// appendText appends valid UTF-8 as a JSON string.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		var escaped string
		switch c := s[i]; {
		case c == '\n':
			escaped = `\n`
		case c == '"':
			escaped = `\"`
		case c == '\\':
			escaped = `\\`
		case c < ' ':
			escaped = fmt.Sprintf(`\u%04x`, c)
		default:
			continue
		}
		b = append(b, s[from:i]...)
		b = append(b, escaped...)
		from = i + 1
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// write adds whole lines.
func (x *exporter) write(lines []byte) error {
	if _, err := x.file.Write(lines); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	return nil
}

// settle makes everything that was written durable. It may be called while more is written.
func (x *exporter) settle() error {
	if err := fileutil.Fdatasync(x.file); err != nil {
		return fmt.Errorf("sync the export: %w", err)
	}
	return nil
}

func (x *exporter) close() error { return x.file.Close() }

// readable is the value in YAML without its managedFields, which nobody reads; empty where the value cannot be read.
func readable(value []byte) string {
	text := value
	if !json.Valid(value) {
		var err error
		if text, err = storedJSON(value); err != nil {
			return ""
		}
	}
	out, err := toYAML(text)
	if err != nil {
		return ""
	}
	return out
}

// storedJSON is a stored object in JSON, with its kind and version, without managedFields.
func storedJSON(value []byte) ([]byte, error) {
	if bytes.HasPrefix(value, protobufMagic) {
		return storedProtobuf(value)
	}
	v, err := generic(value)
	if err != nil {
		return nil, err
	}
	if m, ok := v["metadata"].(map[string]any); ok {
		delete(m, "managedFields")
	}
	return json.Marshal(v)
}

// genericJSON is a value that is stored in JSON or CBOR in JSON.
func genericJSON(value []byte) ([]byte, error) {
	if len(value) > 0 && value[0] == '{' {
		return value, nil
	}
	v, err := generic(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// generic is a value that is stored in JSON or CBOR.
func generic(value []byte) (v map[string]any, err error) {
	switch {
	case bytes.HasPrefix(value, cborMagic):
		if err := cbor.Unmarshal(value, &v); err != nil {
			return nil, fmt.Errorf("CBOR: %w", err)
		}
	case len(value) > 0 && value[0] == '{':
		dec := json.NewDecoder(bytes.NewReader(value))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("JSON: %w", err)
		}
	default:
		return nil, errEncrypted
	}
	return v, nil
}

func storedProtobuf(value []byte) ([]byte, error) {
	var u runtime.Unknown
	if err := u.Unmarshal(value[len(protobufMagic):]); err != nil {
		return nil, fmt.Errorf("protobuf envelope: %w", err)
	}
	var obj interface {
		Unmarshal([]byte) error
		metav1.Object
	}
	t := metav1.TypeMeta{APIVersion: u.APIVersion, Kind: u.Kind}
	switch u.Kind {
	case "Job":
		obj = &batchv1.Job{TypeMeta: t}
	case "Pod":
		obj = &corev1.Pod{TypeMeta: t}
	case "Event":
		obj = &corev1.Event{TypeMeta: t}
	default:
		return nil, fmt.Errorf("kind %q is not known", u.Kind)
	}
	if err := obj.Unmarshal(u.Raw); err != nil {
		return nil, fmt.Errorf("%s: %w", u.Kind, err)
	}
	obj.SetManagedFields(nil)
	return json.Marshal(obj)
}
