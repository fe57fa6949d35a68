package deploy

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

// A keeper whose user has what auth grant prints, and no more, does all that is switched on, without root where
// nothing needs it; on every version of etcd.
func TestAuthGrant_IsEnough(t *testing.T) {
	testproc.RequireReal(t)
	path := binary(t)
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}, Auth: true})
			client := etcd.Client(t)
			populate(t, client)
			before := keysUnder(t, client, "/registry/jobs/")
			dir := t.TempDir()
			config := filepath.Join(dir, "etcdkeeper.yaml")
			write(t, config, fmt.Sprintf(`etcd: {endpoints: [%s], user: etcdkeeper, password: secret}
stateDir: %q
defrag: {enabled: false}
clean:
  policies: [{name: old, schedule: "@every 5s", kind: jobs, allNamespaces: true, mode: apply, via: etcd, acceptBypass: true, cap: 10}]
`, etcd.Endpoints()[0], dir))
			printed := mustRun(t, nil, path, "auth", "grant", "--print", "--config", config)
			if strings.Contains(printed, "root") && !strings.Contains(printed, "needs the root role") {
				t.Errorf("root is wanted although nothing needs it:\n%s", printed)
			}
			for line := range strings.Lines(printed) {
				command, ok := strings.CutPrefix(strings.TrimSpace(line), "etcdctl ")
				if !ok {
					continue
				}
				// The password would be asked for.
				etcd.Members[0].Ctl(t, strings.Fields(strings.Replace(command, "user add etcdkeeper", "user add etcdkeeper:secret", 1))...)
			}
			k := startKeeper(t, path, "keeper", "--config", config)
			k.await(t)
			within(t, "every task that is switched on succeeds", func() error {
				_, metrics, err := get("http://" + k.listen + "/metrics")
				if err != nil {
					return err
				}
				for _, task := range []string{"watch", "census", "split", "clean-old"} {
					if !regexp.MustCompile(`etcdkeeper_task_runs_total\{result="success",task="` + task + `"\} [1-9]`).MatchString(metrics) {
						return fmt.Errorf("%s has not: %s", task, k.process.LogTail(5))
					}
				}
				return nil
			})
			if n := keysUnder(t, client, "/registry/jobs/"); n >= before {
				t.Errorf("the policy deleted nothing: %d jobs, %d before", n, before)
			}
			if log := readFile(t, k.spec.Log); strings.Contains(log, "permission denied") {
				t.Errorf("a right was missing:\n%s", log)
			}
			// The role is the least: it writes nothing else of Kubernetes'.
			out, err := run(t, nil, etcdtest.Binary(t, version, "etcdctl"), "--endpoints", etcd.Endpoints()[0], "--user", "etcdkeeper:secret", "put", "/registry/secrets/x/y", "z")
			if err == nil || !strings.Contains(out, "permission denied") {
				t.Errorf("the keeper's user may write a Secret: %v\n%s", err, out)
			}
		})
	}
}

// populate writes objects of every kind that the keepers look at.
func populate(t *testing.T, client *clientv3.Client) {
	t.Helper()
	o := seed.Stuck(time.Now(), 300)
	o.Nodes, o.Events, o.EventsNoLease, o.Secrets, o.Deployments = 5, 2500, 20, 20, 5
	if _, err := seed.Write(t.Context(), client, seed.Generate(o), seed.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// await waits until the keeper serves; one that ends is reported with its last words.
func (k *keeper) await(t *testing.T) {
	t.Helper()
	within(t, "the keeper serves", func() error {
		if !k.process.Running() {
			t.Fatalf("the keeper ended: %v\n%s", k.process.Err(), k.process.LogTail(20))
		}
		code, body, err := get("http://" + k.probes + "/livez")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
}
