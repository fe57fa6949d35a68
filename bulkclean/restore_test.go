package bulkclean

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

func TestRestorer_Etcd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(30)
	before, err := f.client.Get(t.Context(), "/registry/jobs/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	r := f.execute(f.executor(nil), f.plan())
	f.job("job-00003", func(j *batchv1.Job) { j.UID = "in its place" })
	inPlace := f.all()[jobKey("ns", "job-00003")]
	one := &Restorer{Via: ViaEtcd, Etcd: f.etcd, Keys: []string{jobKey("ns", "job-00001"), "/registry/jobs/ns/never"}}
	res, err := one.Restore(t.Context(), []string{r.Export})
	if err != nil || res.Restored != 1 || !slices.Equal(res.Missing, []string{"/registry/jobs/ns/never"}) {
		t.Errorf("one key: got %+v, %v", res, err)
	}
	res, err = (&Restorer{Via: ViaEtcd, Etcd: f.etcd}).Restore(t.Context(), []string{r.Export})
	if err != nil || res.Restored != 28 || res.Exists != 2 {
		t.Errorf("all: got %+v, %v, want 28 restored and 2 left alone", res, err)
	}
	if got := f.all()[jobKey("ns", "job-00003")]; got != inPlace {
		t.Error("what took its place was overwritten")
	}
	for _, kv := range before.Kvs {
		now, err := f.client.Get(t.Context(), string(kv.Key))
		if err != nil || len(now.Kvs) != 1 {
			t.Fatal(err, now)
		}
		if string(kv.Key) != jobKey("ns", "job-00003") && string(now.Kvs[0].Value) != string(kv.Value) {
			t.Errorf("%s differs", kv.Key)
		}
	}
	other := newFixture(t)
	if _, err := (&Restorer{Via: ViaEtcd, Etcd: other.etcd}).Restore(t.Context(), []string{r.Export}); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("another cluster: got %v, want ErrOtherCluster", err)
	}
}

// creator takes what is created.
type creator struct{ bodies []map[string]any }

func (c *creator) ClusterUID(context.Context) (string, error) { return "cluster-uid", nil }
func (c *creator) Create(_ context.Context, _ kube.Resource, _ string, body []byte) error {
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	c.bodies = append(c.bodies, v)
	return nil
}

func TestRestorer_APINeverRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.job("a", func(j *batchv1.Job) {
		j.Labels = map[string]string{"app": "x", "job-name": "a", "batch.kubernetes.io/controller-uid": "u"}
		j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"batch.kubernetes.io/controller-uid": "u"}}
		j.Spec.Template.Labels = map[string]string{"app": "x", "controller-uid": "u", "batch.kubernetes.io/job-name": "a"}
		j.Spec.TTLSecondsAfterFinished = ptr(int32(5))
	}, ownedByCron("gone", "uid"))
	r := f.execute(f.executor(nil), f.plan())
	c := &creator{}
	res, err := (&Restorer{Via: ViaAPI, API: c}).Restore(t.Context(), []string{r.Export})
	if err != nil || res.Restored != 1 || len(c.bodies) != 1 {
		t.Fatalf("got %+v, %v", res, err)
	}
	var j batchv1.Job
	raw, err := json.Marshal(c.bodies[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &j); err != nil {
		t.Fatal(err)
	}
	if j.Spec.Suspend == nil || !*j.Spec.Suspend {
		t.Error("the Job is not suspended: it would run")
	}
	if j.Spec.Selector != nil || len(j.OwnerReferences) != 0 || j.UID != "" || len(j.Status.Conditions) != 0 || j.Spec.TTLSecondsAfterFinished != nil {
		t.Errorf("got %s, want no selector, owner, uid, status and time to live", raw)
	}
	want := map[string]string{"app": "x"}
	if fmt.Sprint(j.Labels) != fmt.Sprint(want) || fmt.Sprint(j.Spec.Template.Labels) != fmt.Sprint(want) {
		t.Errorf("labels: got %v and %v, want %v", j.Labels, j.Spec.Template.Labels, want)
	}
}

// TestJournal_Damaged: a torn end is cut off, damage in the middle is refused with its line.
func TestJournal_Damaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(20)
	p := f.plan()
	f.execute(f.executor(nil), p)
	path := JournalPath(p.File)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		if n%7 != 0 {
			continue
		}
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(path, p, now)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.SplitAfter(string(data), "\n")
	lines[2] = "{nonsense\n"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(path, p, now); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("got %v, want the line", err)
	}
}

func TestSorter(t *testing.T) {
	s := newSorter(t.TempDir())
	defer s.close()
	var want []record
	for range 3*sorterChunk + 17 {
		r := record{rand.Uint64() % 100, rand.Uint64() % 100, rand.Uint64()}
		want = append(want, r)
		s.add(r)
	}
	slices.SortFunc(want, compareRecords)
	i := 0
	for r, err := range s.sorted() {
		if err != nil {
			t.Fatal(err)
		}
		if r != want[i] {
			t.Fatalf("record %d: got %v, want %v", i, r, want[i])
		}
		i++
	}
	if i != len(want) {
		t.Errorf("got %d records, want %d", i, len(want))
	}
}

// TestToYAML: a YAML library reads what was written.
func TestToYAML(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "true", "no", "1", "1e3", "~", "- a", "a: b", "a #b", " a", "null", "0x1f", "y", "a:", "|", "2026-01-01", "a\nb"}))
	scalar := rapid.OneOf(rapid.Map(text, func(s string) any { return s }), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.IntRange(-1e9, 1e9), func(i int) any { return float64(i) }), rapid.Just[any](nil))
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return scalar
		}
		return rapid.OneOf(scalar,
			rapid.Map(rapid.SliceOfN(value(depth-1), 0, 3), func(v []any) any { return v }),
			rapid.Map(rapid.MapOfN(text, value(depth-1), 0, 3), func(v map[string]any) any { return v }))
	}
	rapid.Check(t, func(t *rapid.T) {
		in, err := json.Marshal(value(3).Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := toYAML(in)
		if err != nil {
			t.Fatal(err)
		}
		back, err := yaml.YAMLToJSON([]byte(out))
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		var a, b any
		if json.Unmarshal(in, &a) != nil || json.Unmarshal(back, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("got %s, want %s, by\n%s", back, in, out)
		}
	})
}

// TestAppendExported: a line is what encoding/json makes of it.
func TestAppendExported(t *testing.T) {
	weird := `{"kind":"X","metadata":{"name":"a","managedFields":[{"manager":"m"}]},"data":"\u0001\u2028<\ud83d\ude00\"\\\n\t\u007f"}`
	for name, value := range map[string][]byte{
		"a Job": stored(t, finishedJob("a"), "batch/v1", "Job"), "JSON": []byte(weird), "encrypted": []byte("k8s:enc:aescbc:v1:k:\x00\xff"),
		"nothing": {}, "not UTF-8": []byte("{\"kind\":\"\xff\"}"), "deep": []byte(strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500)),
	} {
		it := &Item{Key: `/registry/jobs/ns/a"<` + "\n", Value: value, CreateRevision: 1, ModRevision: 2, Version: 3, Lease: 4, FromAPI: name == "JSON"}
		line, err := appendExported([]byte("before\n"), it)
		if err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutPrefix(string(line), "before\n")
		if !ok || strings.Index(text, "\n") != len(text)-1 {
			t.Errorf("%s: got %q, want one line behind what was there", name, line)
		}
		var got Exported
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %v in %s", name, err, text)
		}
		want := Exported{Type: "object", Key: it.Key, Value: value, CreateRevision: 1, ModRevision: 2, Version: 3, Lease: 4, FromAPI: it.FromAPI, YAML: readable(value)}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	if got, want := readable([]byte(weird)), "kind: X\nmetadata:\n  name: a\ndata: "; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want it to begin with %q", got, want)
	}
}

// compacting is a member that is compacted under the scan.
type compacting struct {
	keyspace.Member
	c     *clientv3.Client
	reads atomic.Int64
}

func (m *compacting) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if m.reads.Add(1) == 4 {
		resp, err := m.c.Put(ctx, "/registry/other", "x")
		if err != nil {
			return nil, err
		}
		if _, err := m.c.Compact(ctx, resp.Header.Revision); err != nil {
			return nil, err
		}
	}
	return m.Member.Get(ctx, key, opts...)
}

func TestNewPlan_CompactedMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobs(300)
	m := &compacting{Member: f.client, c: f.client}
	s, err := keyspace.NewLive(t.Context(), m, keyspace.LiveOptions{Pages: true, PageBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	first := s.Revision()
	p, _, err := NewPlan(t.Context(), s, NewSelector("jobs", "ns"), now, PlanOptions{File: f.dir + "/plan.jsonl", Reader: f.etcd, ClusterID: f.id})
	if err != nil {
		t.Fatal(err)
	}
	if s.Stats().Repins == 0 || p.Head.Revision <= first {
		t.Errorf("got %d new pins and revision %d, want a later one than %d", s.Stats().Repins, p.Head.Revision, first)
	}
	if r := f.execute(f.executor(nil), p); r.Deleted != 300 {
		t.Errorf("got %+v, want all 300", r)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(stored(f, finishedJob("a"), "batch/v1", "Job"))
	f.Add([]byte(`{"kind":"Workflow","metadata":{"name":"a"},"status":{"phase":"Failed"}}`))
	f.Add([]byte("k8s:enc:aescbc:v1:k:x"))
	f.Add([]byte{0xd9, 0xd9, 0xf7, 0xa0})
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, k := range Kinds() {
			facts, err := k.decode(value)
			if (facts == nil) == (err == nil) {
				t.Errorf("%s: got %v and %v, want one of them", k.Name, facts, err)
			}
		}
		_ = readable(value)
	})
}

func FuzzOpenPlan(f *testing.F) {
	f.Add([]byte(`{"type":"plan","version":1,"sum":"0123456789abcdef"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := t.TempDir() + "/p"
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := OpenPlan(file); err == nil {
			t.Errorf("a plan of noise was accepted: %+v", p)
		}
	})
}
