package split

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// The command line of a planned static pod starts an etcd of main's version on a prepared directory, with main's
// certificates, and the shard is then what split verify wants before an API server uses it.
func TestPlan_MembersStart(t *testing.T) {
	testproc.RequireReal(t)
	run := keeper(t)
	for _, version := range []string{etcdtest.V35, etcdtest.V36, etcdtest.V37} {
		t.Run(version, func(t *testing.T) {
			main := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}, TLS: true})
			dir := t.TempDir()
			pki := filepath.Dir(main.PKI.CAFile)
			for _, kind := range []string{"crt", "key"} {
				if err := os.WriteFile(filepath.Join(pki, "peer."+kind), []byte(read(t, filepath.Join(pki, "server."+kind))), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ports := testproc.Ports(t, 3)
			etcd := []string{"--endpoints", main.Endpoints()[0], "--cacert", main.PKI.CAFile, "--cert", main.PKI.CertFile, "--key", main.PKI.KeyFile}
			code, out := run(append([]string{"split", "plan", "--resources", "events", "--installer", "static", "--observe", "1s", "-o", filepath.Join(dir, "plan"),
				"--client-port", fmt.Sprint(ports[0]), "--peer-port", fmt.Sprint(ports[1]), "--pki-dir", pki}, etcd...)...)
			if code != 0 {
				t.Fatalf("split plan: %d %s", code, out)
			}
			var plan splitter.Plan
			if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "plan", "plan.json"))), &plan); err != nil {
				t.Fatal(err)
			}
			host := plan.Hosts[0].Name
			var pod corev1.Pod
			if err := yaml.UnmarshalStrict([]byte(read(t, filepath.Join(dir, "plan", "manifests", host, "etcd-events.yaml"))), &pod); err != nil {
				t.Fatal(err)
			}
			snapshot, data := filepath.Join(dir, "main.db"), filepath.Join(dir, "data")
			main.Members[0].Ctl(t, "snapshot", "save", snapshot)
			name, _, _ := strings.Cut(plan.InitialCluster, "=")
			code, out = run(append([]string{"split", "prepare", "--snapshot", snapshot, "--resources", "events", "--data-dir", data, "--name", name,
				"--initial-cluster", plan.InitialCluster, "--initial-cluster-token", plan.Token, "--initial-advertise-peer-urls", fmt.Sprintf("https://127.0.0.1:%d", ports[1])}, etcd...)...)
			if code != 0 {
				t.Fatalf("split prepare: %d %s", code, out)
			}
			args := slices.Clone(pod.Spec.Containers[0].Command[1:])
			for i, a := range args {
				switch flag, _, _ := strings.Cut(a, "="); flag {
				case "--data-dir":
					args[i] = "--data-dir=" + data
				case "--listen-metrics-urls":
					args[i] = fmt.Sprintf("%s=http://127.0.0.1:%d", flag, ports[2])
				}
			}
			log := filepath.Join(dir, "etcd.log")
			p, err := testproc.StartProcess(testproc.Spec{Name: "etcd", Path: etcdtest.Binary(t, version, "etcd"), Args: args, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Kill)
			eventually(t, "split verify --before to be green", func() error {
				if !p.Running() {
					t.Fatalf("etcd %s ended:\n%s", strings.Join(args, " "), testproc.Tail(log, 3000))
				}
				code, out := run(append([]string{"split", "verify", "--before", "--resources", "events", "--shard", plan.ShardServers[0]}, etcd...)...)
				if code != 0 {
					return fmt.Errorf("%d %s", code, out)
				}
				return nil
			})
		})
	}
}
