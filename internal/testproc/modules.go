package testproc

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// Etcd returns the modules that build etcd, etcdctl and etcdutl, by the minor
// version that they are of.
func Etcd() map[string]Module {
	all := map[string]Module{}
	for _, v := range []string{"3.5", "3.6", "3.7"} {
		all[v] = Module{
			Dir: "test/etcd/v" + v,
			Programs: map[string]string{
				"etcd":    "go.etcd.io/etcd/server/v3",
				"etcdctl": "go.etcd.io/etcd/etcdctl/v3",
				"etcdutl": "go.etcd.io/etcd/etcdutl/v3",
			},
		}
	}
	return all
}

// Kubernetes builds the API server, the controller manager, kubectl and kubeadm. Their
// version is stamped as a release's build would: kubectl refuses a server
// whose version it cannot read.
func Kubernetes() Module {
	const version = "k8s.io/component-base/version"
	return Module{
		Dir: "test/apiserver",
		Programs: map[string]string{
			"kube-apiserver":          "k8s.io/kubernetes/cmd/kube-apiserver",
			"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
			"kubeadm":                 "k8s.io/kubernetes/cmd/kubeadm",
			"kubectl":                 "k8s.io/kubernetes/cmd/kubectl",
		},
		LDFlags: fmt.Sprintf("-X %[1]s.gitVersion=v1.36.3 -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=36 -X %[1]s.gitTreeState=clean", version),
	}
}

// tools returns the modules of the pinned tools, by the tool's name.
func tools() map[string]Module {
	all := map[string]Module{}
	for name, pkg := range map[string]string{
		"helm":        "helm.sh/helm/v3/cmd/helm",
		"jsonnet":     "github.com/google/go-jsonnet/cmd/jsonnet",
		"ko":          "github.com/google/ko",
		"kustomize":   "sigs.k8s.io/kustomize/kustomize/v5",
		"spdx":        ".",
		"staticcheck": "honnef.co/go/tools/cmd/staticcheck",
	} {
		all[name] = Module{Dir: "test/tools/" + name, Programs: map[string]string{name: pkg}}
	}
	return all
}

// Modules returns everything that can be built, by the name that
// test/prebuild takes: "etcd-3.5", "kubernetes", "helm" and so on.
func Modules() map[string]Module {
	all := tools()
	for v, m := range Etcd() {
		all["etcd-"+v] = m
	}
	all["kubernetes"] = Kubernetes()
	return all
}

// Tool returns the path of one of the tools under test/tools, such as helm, of the version that
// its module under test/tools pins. The first use on a machine builds it.
func Tool(tb TB, name string) string {
	tb.Helper()
	RequireReal(tb)
	m, ok := tools()[name]
	if !ok {
		tb.Fatalf("build %s: not one of %s", name, strings.Join(slices.Sorted(maps.Keys(tools())), ", "))
	}
	path, err := m.Program(tb.Context(), name)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return path
}

// Installed returns the path of a program that the system provides, such as
// promtool, chromium or nft. One that is missing fails the test: CI installs
// them before it runs the suites.
func Installed(tb TB, program, debianPackage string) string {
	tb.Helper()
	RequireReal(tb)
	path, err := exec.LookPath(program)
	if err != nil {
		tb.Fatalf("find %s: %v (on Debian: apt-get install %s)", program, err, debianPackage)
	}
	return path
}
