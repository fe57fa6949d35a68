package deploy

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/internal/testproc"
)

const releaseVersion = "v0.0.1-test"

// release runs make release in a copy of the repository, and returns the directory with what it made.
func release(t *testing.T, platforms string) string {
	t.Helper()
	source, dist := t.TempDir(), t.TempDir()
	files := strings.Split(strings.TrimSuffix(mustRun(t, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00"), "\x00")
	for _, f := range files {
		content, err := os.ReadFile(root + f)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted and not committed
		} else if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(source, f), string(content))
	}
	out, err := runIn(t, source, []string{"MAKEFLAGS="}, "make", "release", "DIST="+dist, "PLATFORMS="+platforms,
		"VERSION="+releaseVersion, "COMMIT=0123456789abcdef0123456789abcdef01234567", "DATE=2026-01-02T03:04:05+01:00")
	if err != nil {
		t.Fatalf("make release: %v\n%s", err, out)
	}
	return dist
}

// A release is the same bytes whoever builds it where; its checksums hold, its archives have a static binary of the
// platform, and its SBOMs are read by SPDX's own library and name what the binary is made of.
func TestRelease(t *testing.T) {
	testproc.RequireReal(t)
	dist := release(t, "linux/amd64 linux/arm64")
	again := release(t, "linux/amd64")
	sums := sha256Sums(t, dist)
	for name, sum := range sha256Sums(t, again) {
		if sums[name] != sum {
			t.Errorf("%s differs between two builds in two directories", name)
		}
	}
	if out, err := runIn(t, dist, nil, "sha256sum", "--check", "--strict", "SHA256SUMS"); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	files, err := os.ReadDir(dist)
	if err != nil || len(files) != 5 || len(sums) != 4 {
		t.Errorf("got %d files and %d sums, want two archives, two SBOMs and their sums: %v", len(files), len(sums), err)
	}
	for _, p := range []struct {
		arch    string
		machine elf.Machine
	}{{"amd64", elf.EM_X86_64}, {"arm64", elf.EM_AARCH64}} {
		name := fmt.Sprintf("etcdkeeper-%s-linux-%s", releaseVersion, p.arch)
		binary := filepath.Join(t.TempDir(), "etcdkeeper")
		if got, want := unpack(t, filepath.Join(dist, name+".tar.gz"), binary), []string{name + "/", name + "/LICENSE", name + "/etcdkeeper"}; !slices.Equal(got, want) {
			t.Errorf("the archive has %v, want %v", got, want)
		}
		wantStatic(t, binary, p.machine)
		if p.arch == "amd64" {
			if out := mustRun(t, nil, binary, "version"); !strings.Contains(out, releaseVersion) || !strings.Contains(out, "0123456789abcdef") {
				t.Errorf("the binary does not know its version:\n%s", out)
			}
		}
		sbom := filepath.Join(dist, name+".spdx.json")
		if out := mustRun(t, nil, testproc.Tool(t, "spdx"), sbom); !strings.Contains(out, "SPDX-2.3") {
			t.Errorf("SPDX's library reads %s", out)
		}
		content, err := os.ReadFile(sbom)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(readFile(t, binary)))
		for _, want := range []string{hex.EncodeToString(sum[:]), `"created": "2026-01-02T02:04:05Z"`, "pkg:golang/go.etcd.io/etcd/client/v3@v", "pkg:golang/stdlib@1."} {
			if !strings.Contains(string(content), want) {
				t.Errorf("the SBOM of %s does not have %s", name, want)
			}
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func sha256Sums(t *testing.T, dist string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for line := range strings.Lines(readFile(t, filepath.Join(dist, "SHA256SUMS"))) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("SHA256SUMS has the line %q", line)
		}
		sums[name] = sum
	}
	return sums
}

// unpack writes the archive's binary to a file and returns the names of all entries.
func unpack(t *testing.T, archive, binary string) []string {
	t.Helper()
	var names []string
	eachEntry(t, archive, func(h *tar.Header, r io.Reader) {
		names = append(names, h.Name)
		if h.Uid != 0 || h.Mode&0o022 != 0 {
			t.Errorf("%s belongs to %d with mode %o", h.Name, h.Uid, h.Mode)
		}
		if strings.HasSuffix(h.Name, "/etcdkeeper") {
			writeBinary(t, binary, r)
		}
	})
	return names
}

// eachEntry goes through a compressed archive.
func eachEntry(t *testing.T, archive string, visit func(*tar.Header, io.Reader)) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		visit(h, r)
	}
}

func writeBinary(t *testing.T, path string, r io.Reader) {
	t.Helper()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o700); err != nil {
		t.Fatal(err)
	}
}

// wantStatic refuses a binary that wants a loader, which an image from scratch does not have.
func wantStatic(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("got a binary for %v, want %v", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is linked dynamically")
		}
	}
}

// descriptor is what manifests name blobs with.
type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

// baseImage serves a registry with one image of two platforms, without layers, for the user 65532.
func baseImage(t *testing.T) string {
	t.Helper()
	const kind = "application/vnd.oci.image."
	blobs := map[string][]byte{}
	types := map[string]string{}
	add := func(mediaType string, content any) descriptor {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		d := descriptor{MediaType: kind + mediaType + "+json", Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(b)}
		blobs[d.Digest], types[d.Digest] = b, d.MediaType
		return d
	}
	var manifests []descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		config := add("config.v1", map[string]any{"os": "linux", "architecture": arch, "config": map[string]any{"User": "65532"},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}})
		m := add("manifest.v1", map[string]any{"schemaVersion": 2, "mediaType": kind + "manifest.v1+json", "config": config, "layers": []string{}})
		m.Platform = map[string]string{"os": "linux", "architecture": arch}
		manifests = append(manifests, m)
	}
	index := add("index.v1", map[string]any{"schemaVersion": 2, "mediaType": kind + "index.v1+json", "manifests": manifests})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if name == "latest" {
			name = index.Digest
		}
		if r.URL.Path == "/v2/" {
			return
		}
		b, ok := blobs[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", types[name])
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/base:latest"
}

// ko builds the image of both platforms by .ko.yaml, on the base that it is told: a static binary of the platform as
// the entry point, and nothing that makes it root.
func TestImage_Ko(t *testing.T) {
	ko := testproc.Tool(t, "ko")
	// ko takes the path for a repository's name, which has no capitals.
	layout, err := os.MkdirTemp("", "image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(layout) })
	out := mustRun(t, []string{"KO_DEFAULTBASEIMAGE=" + baseImage(t), "KO_DOCKER_REPO=ko.test", "VERSION=" + releaseVersion, "KOCACHE=" + t.TempDir()},
		ko, "build", "--push=false", "--sbom=none", "--oci-layout-path="+layout, "./cmd/etcdkeeper")
	blob := func(digest string, into any) {
		t.Helper()
		content := readFile(t, filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
		if err := json.Unmarshal([]byte(content), into); err != nil {
			t.Fatal(err)
		}
	}
	var top, index struct{ Manifests []descriptor }
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(layout, "index.json"))), &top); err != nil || len(top.Manifests) != 1 {
		t.Fatalf("index.json: %v, %+v\n%s", err, top, out)
	}
	blob(top.Manifests[0].Digest, &index)
	var arches []string
	for _, d := range index.Manifests {
		arches = append(arches, d.Platform["architecture"])
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		blob(d.Digest, &manifest)
		var config struct {
			Architecture string
			Config       struct {
				User       string
				Entrypoint []string
			}
		}
		blob(manifest.Config.Digest, &config)
		if config.Config.User != "65532" || len(config.Config.Entrypoint) != 1 {
			t.Errorf("got user %q and entry point %q", config.Config.User, config.Config.Entrypoint)
		}
		binary := filepath.Join(t.TempDir(), "etcdkeeper")
		for _, l := range manifest.Layers {
			layer := filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(l.Digest, "sha256:"))
			binaryOf(t, layer, strings.TrimPrefix(config.Config.Entrypoint[0], "/"), binary)
		}
		wantStatic(t, binary, map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[d.Platform["architecture"]])
		if config.Architecture == "amd64" {
			if out := mustRun(t, nil, binary, "version"); !strings.Contains(out, releaseVersion) {
				t.Errorf("the image's binary does not know its version:\n%s", out)
			}
			if out, err := run(t, nil, binary, "demo"); err == nil {
				t.Errorf("the image's binary has the demo's etcd server:\n%s", out)
			}
		}
	}
	slices.Sort(arches)
	if !slices.Equal(arches, []string{"amd64", "arm64"}) {
		t.Errorf("got an image of %v", arches)
	}
}

// binaryOf takes the file that the entry point names out of a layer that has it.
func binaryOf(t *testing.T, layer, name, into string) {
	t.Helper()
	eachEntry(t, layer, func(h *tar.Header, r io.Reader) {
		if strings.TrimPrefix(h.Name, "/") == name && h.Typeflag == tar.TypeReg {
			writeBinary(t, into, r)
		}
	})
}
