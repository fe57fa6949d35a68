package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/etcdkeeper/etcdkeeper/"

// leaves may be imported by every package, for they import none of ours.
var leaves = []string{"internal/bytesize", "internal/atomicfile", "cluster/forecast"}

var capabilities = []string{"defrag", "census", "splitter", "vpa", "bulkclean"}

// allowed lists, for each package of the product, which others of ours it may
// import. A package that is not listed may import leaves only.
var allowed = map[string][]string{
	"cmd/etcdkeeper": append([]string{"daemon", "config", "report", "cluster", "keyspace", "kube", "schedule", "internal/embedded", "internal/seed"}, capabilities...),
	"daemon":         append([]string{"config", "report", "cluster", "keyspace", "kube", "schedule"}, capabilities...),
	"config":         append([]string{"cluster", "kube", "schedule"}, capabilities...),
	"report":         capabilities,
	"defrag":         {"cluster", "schedule", "internal/etcdfile", "defrag/drain"},
	"census":         {"keyspace", "schedule"},
	"splitter":       {"census", "keyspace", "cluster", "internal/etcdfile"},
	"bulkclean":      {"keyspace", "cluster", "kube", "schedule"},
	"vpa":            {"cluster", "kube", "schedule"},
	"keyspace":       {"internal/etcdfile"},
}

// guarded lists who alone may import what weighs much or has side effects:
// etcd's server fills the default Prometheus registry, client-go is large.
var guarded = []struct {
	prefix string
	by     []string
}{
	{"go.etcd.io/etcd/server/", []string{"internal/etcdfile", "internal/embedded"}},
	{"go.etcd.io/etcd/etcdutl/", []string{"internal/etcdfile", "internal/embedded"}},
	{"go.etcd.io/bbolt", []string{"internal/etcdfile", "internal/embedded"}},
	{"k8s.io/client-go/kubernetes", []string{"nobody: its types of all API groups are 10 MB"}},
	{"k8s.io/client-go/", []string{"kube"}},
}

// forTests are packages that the product never reaches.
var forTests = []string{"internal/arch", "internal/etcdtest", "internal/gendocs", "internal/kubetest", "internal/netnstest", "internal/testproc", "test"}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// list runs "go list -deps" and returns our own packages by their path in the
// module.
func list(t *testing.T, args ...string) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports"}, args...)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaints.String())
	}
	ours := map[string]pkg{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if path, ok := strings.CutPrefix(p.ImportPath, module); ok {
			ours[path] = p
		}
	}
	return ours
}

func TestImports(t *testing.T) {
	ours := list(t, module+"...")
	if len(ours) == 0 {
		t.Fatal("go list found no package of this module")
	}
	for path, p := range ours {
		if isForTests(path) {
			continue
		}
		for _, complaint := range complaints(path, p.Imports) {
			t.Error(complaint)
		}
	}
}

func complaints(path string, imports []string) []string {
	var found []string
	for _, imported := range imports {
		if other, ok := strings.CutPrefix(imported, module); ok {
			if !mayImport(path, other) {
				found = append(found, fmt.Sprintf("%s imports %s, and may import %s", path, other, strings.Join(append(slices.Clone(allowed[path]), leaves...), ", ")))
			}
			continue
		}
		for _, g := range guarded {
			if strings.HasPrefix(imported, g.prefix) && !slices.Contains(g.by, path) {
				found = append(found, fmt.Sprintf("%s imports %s, which only %s may", path, imported, strings.Join(g.by, " and ")))
			}
		}
	}
	return found
}

func mayImport(path, other string) bool {
	return slices.Contains(leaves, other) && !slices.Contains(leaves, path) || slices.Contains(allowed[path], other)
}

func isForTests(path string) bool {
	return slices.ContainsFunc(forTests, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

// TestImports_Rules proves that the rules find what they are for.
func TestImports_Rules(t *testing.T) {
	tests := []struct {
		path, imported string
		want           bool // a complaint
	}{
		{"defrag", module + "cluster", false},
		{"defrag", module + "internal/bytesize", false},
		{"defrag", module + "vpa", true},
		{"defrag", module + "config", true},
		{"defrag", module + "daemon", true},
		{"cluster", module + "schedule", true},
		{"vpa", "k8s.io/client-go/rest", true},
		{"vpa", "k8s.io/api/core/v1", false},
		{"kube", "k8s.io/client-go/rest", false},
		{"census", "go.etcd.io/bbolt", true},
		{"internal/etcdfile", "go.etcd.io/bbolt", false},
		{"daemon", module + "internal/embedded", true},
		{"vpa", module + "internal/etcdtest", true},
		{"internal/bytesize", module + "internal/atomicfile", true},
	}
	for _, tt := range tests {
		got := complaints(tt.path, []string{tt.imported})
		if len(got) > 0 != tt.want {
			t.Errorf("%s imports %s: got complaints %q, want some: %t", tt.path, tt.imported, got, tt.want)
		}
	}
}

func TestProduct_NeverReachesTestHelpers(t *testing.T) {
	for path := range list(t, module+"cmd/etcdkeeper") {
		if isForTests(path) {
			t.Errorf("the binary contains %s, which is for tests", path)
		}
	}
}

func TestProduct_WithoutDemo(t *testing.T) {
	for path := range list(t, "-tags=nodemo", module+"cmd/etcdkeeper") {
		if path == "internal/embedded" || path == "internal/seed" {
			t.Errorf("the binary built with the tag nodemo contains %s", path)
		}
	}
}

// TestEmbedded_DemoOnly holds that no command but the demo starts an etcd.
func TestEmbedded_DemoOnly(t *testing.T) {
	p := list(t, module+"cmd/etcdkeeper")["cmd/etcdkeeper"]
	for _, file := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if imported == module+"internal/embedded" && !strings.HasPrefix(file, "demo") {
				t.Errorf("%s imports %s, which only demo.go may", file, imported)
			}
		}
	}
}
