package bulkclean

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// Creator creates objects through an API server; *kube.Client is one.
type Creator interface {
	Create(ctx context.Context, r kube.Resource, namespace string, body []byte) error
	ClusterUID(ctx context.Context) (string, error)
}

// Restorer puts exported objects back.
type Restorer struct {
	Via  Via
	Etcd *Etcd   // for ViaEtcd
	API  Creator // for ViaAPI

	// Keys to restore; empty means all.
	Keys []string
}

// Restored is what became of an export.
type Restored struct {
	Restored int64            `json:"restored"`
	Exists   int64            `json:"exists"`  // a key of that name is there, and was left alone
	Skipped  int64            `json:"skipped"` // cannot be restored this way
	Failed   int64            `json:"failed"`
	Reasons  map[string]int64 `json:"reasons"`
	Missing  []string         `json:"missing"` // keys asked for that the export does not have
}

func (r *Restored) because(n *int64, reason string) {
	*n++
	if _, ok := r.Reasons[reason]; ok || len(r.Reasons) < maxReasons {
		r.Reasons[reason]++
	}
}

// Restore puts the objects of the exports back. In etcd the value is put as it was, and only where there is no such key
// now: a finished Job stays finished. Through the API server a Job is created suspended, without its status, owner and
// generated labels, so that it does not run until somebody resumes it.
func (r *Restorer) Restore(ctx context.Context, files []string) (Restored, error) {
	out := Restored{Reasons: map[string]int64{}, Missing: []string{}}
	missing := slices.Clone(r.Keys)
	for _, f := range files {
		// The last line of a key counts: a batch that was not deleted at once was exported again.
		hash := newHasher()
		last, err := lastLines(f, hash)
		if err != nil {
			return out, err
		}
		err = readExport(f, func(h *ExportHead) error { return r.check(ctx, h) },
			func(n int, h *ExportHead, e *Exported) error {
				if last[hash.of(e.Key)] != n || (len(r.Keys) > 0 && !slices.Contains(r.Keys, e.Key)) {
					return nil
				}
				missing = slices.DeleteFunc(missing, func(k string) bool { return k == e.Key })
				if err := ctx.Err(); err != nil {
					return err
				}
				return r.one(ctx, h, e, &out)
			})
		if err != nil {
			return out, err
		}
	}
	out.Missing = append(out.Missing, missing...)
	return out, nil
}

// check refuses an export of another cluster.
func (r *Restorer) check(ctx context.Context, h *ExportHead) error {
	same := false
	if r.Via == ViaEtcd {
		if h.ClusterID != nil {
			id, _, err := r.Etcd.ClusterID(ctx, h.Registry)
			if err != nil {
				return err
			}
			if err := differ("etcd's cluster id", *h.ClusterID, id.String()); err != nil {
				return err
			}
			same = true
		}
		uid, err := KubeSystemUID(ctx, r.Etcd, nil, h.Registry)
		if err != nil {
			return err
		}
		if uid != "" && h.KubeSystemUID != nil {
			if err := differ("the uid of kube-system in etcd", *h.KubeSystemUID, uid); err != nil {
				return err
			}
			same = true
		}
	} else if h.KubeSystemUID != nil {
		uid, err := r.API.ClusterUID(ctx)
		if err != nil {
			return err
		}
		if err := differ("the uid of kube-system at the API server", *h.KubeSystemUID, uid); err != nil {
			return err
		}
		same = true
	}
	if !same {
		return fmt.Errorf("%w, or it cannot be told: there is nothing to compare", ErrOtherCluster)
	}
	return nil
}

func (r *Restorer) one(ctx context.Context, h *ExportHead, e *Exported, out *Restored) error {
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	if r.Via == ViaEtcd {
		return r.put(rctx, e, out)
	}
	return r.create(rctx, h, e, out)
}

// put puts a value back as it was.
func (r *Restorer) put(ctx context.Context, e *Exported, out *Restored) error {
	if e.FromAPI {
		out.because(&out.Skipped, "exported through the API server, without what etcd stored: restore it with --via apiserver")
		return nil
	}
	lease := e.Lease
	if lease != 0 {
		ttl, err := r.Etcd.LeaseSeconds(ctx, lease)
		if err != nil {
			return err
		}
		if ttl == 0 {
			out.because(&out.Skipped, "its lease is over: without it, it would stay for ever")
			return nil
		}
	}
	put, now, unsure, err := r.Etcd.putNew(ctx, e.Key, e.Value, lease)
	switch {
	case err != nil:
		return fmt.Errorf("restore %s: %w", e.Key, err)
	case put, unsure && now != nil && bytes.Equal(now.Value, e.Value):
		out.Restored++
	default:
		out.because(&out.Exists, "there is such a key")
	}
	return nil
}

// create creates a Job through the API server, suspended.
func (r *Restorer) create(ctx context.Context, h *ExportHead, e *Exported, out *Restored) error {
	kind, err := KindByName(h.Kind)
	if err != nil {
		return err
	}
	if kind != jobKind {
		out.because(&out.Skipped, "created again it would run: only Jobs can be created suspended; restore it with --via etcd")
		return nil
	}
	ns, name, ok := kind.split(h.Registry, e.Key)
	body, err := suspendedJob(e.Value)
	if !ok || err != nil {
		out.because(&out.Skipped, fmt.Sprintf("the value cannot be read: %v", err))
		return nil
	}
	err = r.API.Create(ctx, kind.Resource, ns, body)
	switch {
	case err == nil:
		out.Restored++
	case kube.IsExists(err):
		out.because(&out.Exists, "there is such an object")
	case kube.IsDenied(err), kube.IsTransient(err):
		return fmt.Errorf("restore %s/%s: %w", ns, name, err)
	default:
		out.because(&out.Failed, err.Error())
	}
	return nil
}

// generatedLabels tie a Job to its pods by its uid: a new Job has a new one.
var generatedLabels = []string{"controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"}

// suspendedJob is the stored Job as a new one that does not run.
func suspendedJob(value []byte) ([]byte, error) {
	text, err := storedJSON(value)
	if err != nil {
		return nil, err
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	old, _ := v["metadata"].(map[string]any)
	spec, _ := v["spec"].(map[string]any)
	if old == nil || spec == nil {
		return nil, errors.New("it has no metadata or no spec")
	}
	delete(v, "status")
	m := map[string]any{}
	for _, k := range []string{"name", "namespace", "labels", "annotations"} {
		if old[k] != nil {
			m[k] = old[k]
		}
	}
	v["metadata"] = m
	stripLabels(m)
	spec["suspend"] = true
	delete(spec, "selector")
	delete(spec, "manualSelector")
	delete(spec, "ttlSecondsAfterFinished") // over: it would not last
	if t, ok := spec["template"].(map[string]any); ok {
		if tm, ok := t["metadata"].(map[string]any); ok {
			stripLabels(tm)
			delete(tm, "creationTimestamp")
		}
	}
	return json.Marshal(v)
}

func stripLabels(m map[string]any) {
	if l, ok := m["labels"].(map[string]any); ok {
		for _, k := range generatedLabels {
			delete(l, k)
		}
	}
}

// ExportFiles are the export files that a path names: itself, or all in the directory.
func ExportFiles(path string) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open the export: %w", err)
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	files, err := filepath.Glob(filepath.Join(path, "export-*.jsonl"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("directory %s holds no export-*.jsonl", path)
	}
	return files, err
}

// ReadExportHead reads the first line of an export.
func ReadExportHead(file string) (*ExportHead, error) {
	var head *ExportHead
	errEnough := errors.New("enough")
	err := readExport(file, func(h *ExportHead) error { head = h; return errEnough }, nil)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return head, nil
}

// lastLines is the last line of every key of an export, by the key's hash: hundreds of thousands of keys do not have to be
// held for that.
func lastLines(file string, hash hasher) (map[uint64]int, error) {
	last := map[uint64]int{}
	err := readExport(file, nil, func(n int, _ *ExportHead, e *Exported) error {
		last[hash.of(e.Key)] = n
		return nil
	})
	return last, err
}

// readExport reads an export file. A torn last line, of an object that was not deleted, is passed over.
func readExport(file string, head func(*ExportHead) error, each func(n int, h *ExportHead, e *Exported) error) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open the export: %w", err)
	}
	defer f.Close()
	br := bufio.NewReaderSize(f, 64<<10)
	var h ExportHead
	for n := 1; ; n++ {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if n == 1 {
				return fmt.Errorf("export %s: it is empty", file)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the export: %w", err)
		}
		if n == 1 {
			if err := json.Unmarshal(line, &h); err != nil || h.Type != "export" || h.Version != exportVersion {
				return fmt.Errorf("export %s: line 1 is not the head of an export of version %d", file, exportVersion)
			}
			if head != nil {
				if err := head(&h); err != nil {
					return err
				}
			}
			continue
		}
		var e Exported
		if err := json.Unmarshal(line, &e); err != nil || e.Type != "object" || e.Key == "" {
			return fmt.Errorf("export %s: line %d is damaged: %v", file, n, err)
		}
		if err := each(n, &h, &e); err != nil {
			return err
		}
	}
}
