package clean

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

// gone is how many Jobs there are to delete whose owner is gone, besides those without an owner.
const gone = 500

// mixture is so many finished Jobs without labels and owner among all that must stay.
func mixture(objects int) seed.Options {
	return seed.Options{
		Namespaces: []string{"batch"},
		CronJobs: []seed.CronJobSet{
			{Namespace: "batch", Stem: "every", Count: 1, Schedule: "* * * * *"},
			{Namespace: "batch", Stem: "nightly", Count: 2, Schedule: "0 3 * * *"},
			{Namespace: "batch", Stem: "again", Count: 1, Recreated: true, Schedule: "0 3 * * *"},
		},
		Jobs: []seed.JobSet{
			{Namespace: "batch", Stem: "import", Count: objects - 2000},
			{Namespace: "batch", Stem: "withpod", Count: 1000, Pods: 1},
			{Namespace: "batch", Stem: "broken", Count: 1000, State: seed.JobFailed},
			{Namespace: "batch", Stem: "lost", Count: gone, Owner: seed.OwnerCronJobGone},
			{Namespace: "batch", Stem: "keep-run", Count: 50, State: seed.JobRunning},
			{Namespace: "batch", Stem: "keep-susp", Count: 50, State: seed.JobSuspended},
			{Namespace: "batch", Stem: "keep-way", Count: 50, State: seed.JobOnTheWay},
			{Namespace: "batch", Stem: "keep-unc", Count: 50, State: seed.JobUncounted},
			{Namespace: "batch", Stem: "nightly", Count: 50, Owner: seed.OwnerCronJob, Owners: 2},
			{Namespace: "batch", Stem: "again", Count: 50, Owner: seed.OwnerCronJobRecreated},
			{Namespace: "batch", Stem: "keep-unk", Count: 50, Owner: seed.OwnerUnknownKind},
			{Namespace: "batch", Stem: "keep-fin", Count: 50, Finalizers: []string{"example.com/hold"}},
			{Namespace: "batch", Stem: "keep-young", Count: 50, Youngest: time.Minute, Oldest: 20 * time.Hour},
			{Namespace: "batch", Stem: "keep-del", Count: 20, Deleting: true},
			{Namespace: "batch-2", Stem: "elsewhere", Count: 50},
		},
	}
}

// wanted tells whether the Job of a key is one that should go.
func wanted(key string) bool {
	for _, stem := range []string{"import-", "withpod-", "broken-", "lost-"} {
		if strings.HasPrefix(key, "/registry/jobs/batch/"+stem) {
			return true
		}
	}
	return false
}

// TestClean_Ways deletes tens of thousands of Jobs among others by either way, while the tool, the API server and a member are killed.
func TestClean_Ways(t *testing.T) {
	for _, tc := range []struct {
		via, version string
		objects      int
		flags        []string
	}{
		{"etcd", etcdtest.V37, 30000, []string{"--via", "etcd", "--accept-bypass", "--qps", "0"}},
		{"apiserver", etcdtest.V36, 10000, []string{"--via", "apiserver", "--qps", "0"}},
	} {
		t.Run(tc.via, func(t *testing.T) {
			e := newEnv(t, etcdtest.Options{Versions: []string{tc.version, tc.version, tc.version}}, kubetest.Options{})
			e.seed(mixture(tc.objects))
			want := int64(tc.objects + gone)
			before := e.keys("/registry/jobs/")
			plan := filepath.Join(e.dir, "plan.jsonl")

			// A plan of unencrypted Jobs asks the API server for nothing: there is none at this address.
			cmd, stdout, stderr := e.command("clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan, "-w", "json")
			cmd.Env = append(cmd.Env, "KUBECONFIG="+filepath.Join(e.dir, "none"))
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, stderr)
			}
			summary := parse[struct {
				Objects    int64
				Dependents *int64
			}](e, stdout.String())
			if summary.Objects != want || summary.Dependents == nil || *summary.Dependents != 1000 {
				t.Fatalf("got %+v, want %d objects with 1000 pods", summary, want)
			}

			seen := e.inform("batch")
			kill9(e, plan, tc.flags, 3)
			switch tc.via {
			case "apiserver":
				e.during(plan, tc.flags, func() { e.api.Kill(); time.Sleep(2 * time.Second); e.api.Restart(t) })
			case "etcd":
				m := e.etcd.Members[0]
				e.during(plan, tc.flags, func() { m.Kill(); time.Sleep(2 * time.Second); m.Start(t) })
			}
			res := e.apply(plan, tc.flags...)
			if res.Deleted != want || res.Kept+res.Changed+res.Failed+res.Left != 0 {
				t.Errorf("got %+v, want %d deleted and nothing else", res, want)
			}

			others := maps.Clone(before)
			maps.DeleteFunc(others, func(k string, _ object) bool { return wanted(k) })
			if got := e.keys("/registry/jobs/"); !maps.Equal(got, others) {
				t.Errorf("got %d Jobs left, want the %d others unchanged", len(got), len(others))
			}
			within(t, time.Minute, "the informer to see every deletion", func() bool { return seen.deletes.Load() >= want })
			if got := seen.deletes.Load(); got != want {
				t.Errorf("the informer saw %d deletions, want %d", got, want)
			}
			e.collected()
			e.restored(res.Export)
		})
	}
}

// kill9 starts the tool and kills it, several times, at any point.
func kill9(e *env, plan string, flags []string, times int) {
	e.Helper()
	for i := range times {
		cmd, _, stderr := e.command(append([]string{"clean", "apply", plan, "--yes"}, flags...)...)
		if err := cmd.Start(); err != nil {
			e.Fatal(err)
		}
		e.atWork(plan)
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		s := parse[struct{ Deleted, Left int64 }](e, e.run(0, "clean", "status", plan, "-w", "json"))
		e.Logf("kill %d: %d deleted, %d left %s", i+1, s.Deleted, s.Left, stderr)
	}
}

// atWork waits until the journal of the plan grows: the tool deletes.
func (e *env) atWork(plan string) {
	e.Helper()
	size := func() int64 {
		st, err := os.Stat(plan + ".journal")
		if err != nil {
			return 0
		}
		return st.Size()
	}
	before := size()
	within(e.T, time.Minute, "the tool to write its journal", func() bool { return size() > before+1000 })
}

// during runs the tool, lets something happen and ends it in order.
func (e *env) during(plan string, flags []string, happens func()) {
	e.Helper()
	cmd, stdout, stderr := e.command(append([]string{"clean", "apply", plan, "--yes", "-w", "json"}, flags...)...)
	if err := cmd.Start(); err != nil {
		e.Fatal(err)
	}
	e.atWork(plan)
	happens()
	time.Sleep(2 * time.Second)
	_ = cmd.Process.Signal(syscall.SIGINT)
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 4 && code != 0 {
		e.Fatalf("%v: got exit code %d, want 4, or 0 where it was done before\n%s%s", err, code, stdout, stderr)
	}
	e.Logf("after the fault: %s", firstLines(stdout.String(), 7))
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(s, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], " ")
}

// collected starts the controller manager: it removes the pods of the deleted Jobs, and CronJobs go on.
func (e *env) collected() {
	e.Helper()
	others := e.count("/registry/pods/batch/")
	e.api.StartControllerManager(e, kubetest.ControllerManagerOptions{QPS: 300, Burst: 300,
		Controllers: []string{"garbage-collector-controller", "job-controller", "cronjob-controller"}})
	within(e.T, 3*time.Minute, fmt.Sprintf("the pods of deleted Jobs to be collected (%d pods at first)", others), func() bool {
		return e.count("/registry/pods/batch/withpod-") == 0
	})
	within(e.T, 2*time.Minute, "a CronJob to make a Job", func() bool { return e.count("/registry/jobs/batch/every-0-") > 0 })
}

// restored puts Jobs back: their bytes are those that were stored, and none of them runs.
func (e *env) restored(export string) {
	e.Helper()
	f, err := os.Open(export)
	if err != nil {
		e.Fatal(err)
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	values := map[string]string{}
	args := []string{"clean", "restore", export, "--yes"}
	for len(values) < 100 {
		var l struct {
			Type, Key string
			Value     []byte
		}
		if err := dec.Decode(&l); err != nil {
			e.Fatal(err)
		}
		if l.Type == "object" && strings.Contains(l.Key, "/broken-") || strings.Contains(l.Key, "/import-") {
			if _, ok := values[l.Key]; !ok {
				values[l.Key] = string(l.Value)
				args = append(args, "--key", l.Key)
			}
		}
	}
	e.run(0, args...)
	revisions := map[string]int64{}
	for key, value := range values {
		resp, err := e.client.Get(e.Context(), key)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			e.Fatalf("%s was not restored as it was: %v", key, err)
		}
		revisions[key] = resp.Kvs[0].ModRevision
	}
	// Time for the Job controller to do what it would do: another Job of this moment gets its pod.
	e.api.KubectlInput(e, canary, "apply", "-f", "-")
	within(e.T, time.Minute, "the canary's pod", func() bool { return e.count("/registry/pods/batch/canary-") > 0 })
	for key, rev := range revisions {
		name := strings.TrimPrefix(key, "/registry/jobs/batch/")
		if n := e.count("/registry/pods/batch/" + name + "-"); n != 0 {
			e.Errorf("the restored Job %s has %d pods: it ran again", name, n)
		}
		resp, err := e.client.Get(e.Context(), key, clientv3.WithKeysOnly())
		if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != rev {
			e.Errorf("the restored Job %s was written to", name)
		}
	}
}

const canary = `apiVersion: batch/v1
kind: Job
metadata: {name: canary, namespace: batch}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: busybox}]
`

// encryption makes new values encrypted by the provider; what is there stays readable.
func encryption(provider string) string {
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [jobs.batch, cronjobs.batch]
    providers:
      - %s:
          keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]
      - identity: {}
`, provider)
}

// TestClean_Encrypted: names from etcd, objects by name through the API server.
func TestClean_Encrypted(t *testing.T) {
	for _, provider := range []string{"aescbc", "secretbox"} {
		t.Run(provider, func(t *testing.T) {
			e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V36}}, kubetest.Options{EncryptionConfig: encryption(provider)})
			e.seed(seed.Options{
				Namespaces: []string{"batch"},
				CronJobs:   []seed.CronJobSet{{Namespace: "batch", Stem: "nightly", Count: 1}},
				Jobs: []seed.JobSet{
					{Namespace: "batch", Stem: "import", Count: 60},
					{Namespace: "batch", Stem: "keep-run", Count: 10, State: seed.JobRunning},
					{Namespace: "batch", Stem: "nightly", Count: 10, Owner: seed.OwnerCronJob},
				},
			})
			// Written again, they are encrypted.
			e.api.Kubectl(t, "annotate", "jobs", "--all", "-n", "batch", "written=again")
			e.api.Kubectl(t, "annotate", "cronjobs", "--all", "-n", "batch", "written=again")
			before := e.keys("/registry/jobs/batch/")
			for k, o := range before {
				if !strings.HasPrefix(o.value, "k8s:enc:"+provider) {
					t.Fatalf("%s is not encrypted", k)
				}
			}
			plan := filepath.Join(e.dir, "plan.jsonl")
			e.run(0, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
			res := e.apply(plan)
			if res.Deleted != 60 || res.Kept+res.Changed+res.Failed != 0 {
				t.Errorf("got %+v, want 60 deleted", res)
			}
			after := e.keys("/registry/jobs/batch/")
			if len(after) != 20 {
				t.Errorf("got %d Jobs left, want 20", len(after))
			}
			// The stored bytes come back, and the API server reads them.
			e.run(0, "clean", "restore", res.Export, "--yes")
			for k, o := range e.keys("/registry/jobs/batch/") {
				if before[k].value != o.value {
					t.Errorf("%s differs after the restore", k)
				}
			}
			if got := strings.Count(e.api.Kubectl(t, "get", "jobs", "-n", "batch", "-o", "name"), "import-"); got != 60 {
				t.Errorf("the API server shows %d restored Jobs, want 60", got)
			}
		})
	}
}

// TestClean_NoSpace: deleting works where nothing can be written, by either way.
func TestClean_NoSpace(t *testing.T) {
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V37}, QuotaBytes: 64 << 20}, kubetest.Options{})
	e.seed(seed.Options{Namespaces: []string{"batch"}, Jobs: []seed.JobSet{
		{Namespace: "batch", Stem: "import", Count: 200},
		{Namespace: "other", Stem: "import", Count: 200},
	}})
	junk := strings.Repeat("x", 1<<20)
	for i := 0; ; i++ {
		if _, err := e.client.Put(t.Context(), fmt.Sprintf("/junk/%d", i), junk); err != nil {
			break
		}
		if i > 200 {
			t.Fatal("the quota does not end")
		}
	}
	for ns, flags := range map[string][]string{"batch": {"--via", "etcd", "--accept-bypass"}, "other": {"--via", "apiserver"}} {
		plan := filepath.Join(e.dir, ns+".jsonl")
		e.run(0, "clean", "plan", "--kind", "jobs", "-n", ns, "-o", plan)
		if res := e.apply(plan, flags...); res.Deleted != 200 || res.Failed != 0 {
			t.Errorf("%v: got %+v, want 200 deleted", flags, res)
		}
	}
	if n := e.count("/registry/jobs/"); n != 0 {
		t.Errorf("got %d Jobs left", n)
	}
}

// TestClean_RestoreThroughAPI: a Job that is created again does not run.
func TestClean_RestoreThroughAPI(t *testing.T) {
	e := newEnv(t, etcdtest.Options{Versions: []string{etcdtest.V36}}, kubetest.Options{})
	e.seed(seed.Options{Namespaces: []string{"batch"}, Jobs: []seed.JobSet{{Namespace: "batch", Stem: "import", Count: 20}}})
	e.api.StartControllerManager(t, kubetest.ControllerManagerOptions{QPS: 100, Burst: 100, Controllers: []string{"job-controller"}})
	plan := filepath.Join(e.dir, "plan.jsonl")
	e.run(0, "clean", "plan", "--kind", "jobs", "-n", "batch", "-o", plan)
	res := e.apply(plan)
	if res.Deleted != 20 {
		t.Fatalf("got %+v, want 20 deleted", res)
	}
	e.run(0, "clean", "restore", res.Export, "--via", "apiserver", "--yes")
	if n := e.count("/registry/jobs/batch/import-"); n != 20 {
		t.Errorf("got %d Jobs, want 20", n)
	}
	e.api.KubectlInput(t, canary, "apply", "-f", "-")
	within(t, time.Minute, "the canary's pod", func() bool { return e.count("/registry/pods/batch/canary-") > 0 })
	if n := e.count("/registry/pods/batch/import-"); n != 0 {
		t.Errorf("the restored Jobs have %d pods: they ran again", n)
	}
	out := e.api.Kubectl(t, "get", "jobs", "-n", "batch", "-o", `jsonpath={range .items[*]}{.metadata.name}={.spec.suspend}{"\n"}{end}`)
	if got := strings.Count(out, "=true"); got != 20 {
		t.Errorf("got %d suspended Jobs, want 20:\n%s", got, out)
	}
}
