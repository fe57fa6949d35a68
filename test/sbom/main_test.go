package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, again bytes.Buffer
	if err := run(&out, binary, "v1.2.3", "2026-01-02T03:04:05+02:00"); err != nil {
		t.Fatal(err)
	}
	if err := run(&again, binary, "v1.2.3", "2026-01-02T01:04:05Z"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("two documents of one binary and one time differ")
	}
	var d document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if got := d.CreationInfo.Created; got != "2026-01-02T01:04:05Z" {
		t.Errorf("created %s: SPDX wants UTC with a Z", got)
	}
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	for _, p := range d.Packages {
		if ids[p.SPDXID] || !regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`).MatchString(p.SPDXID) {
			t.Errorf("identifier %s is not valid or used twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
		if p.Name == "" || p.VersionInfo == "" || len(p.ExternalRefs) != 1 {
			t.Errorf("incomplete: %+v", p)
		}
	}
	described := 0
	for _, r := range d.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("a relationship of what is not there: %+v", r)
		}
		if r.Type == "DESCRIBES" {
			described++
		}
	}
	if described != 1 || len(d.Relationships) != len(d.Packages) {
		t.Errorf("got %d relationships, %d DESCRIBES, of %d packages", len(d.Relationships), described, len(d.Packages))
	}
}

func TestRun_Refuses(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ binary, version, created, want string }{
		{binary, "v1", "", "-created"},
		{binary, "v1", "yesterday", "-created"},
		{binary, "", "2026-01-02T01:04:05Z", "-version"},
		{"main.go", "v1", "2026-01-02T01:04:05Z", "main.go"},
		{"/does/not/exist", "v1", "2026-01-02T01:04:05Z", "/does/not/exist"},
	} {
		var out bytes.Buffer
		err := run(&out, tt.binary, tt.version, tt.created)
		if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
			t.Errorf("%+v: got %v and %d bytes, want an error that names %s", tt, err, out.Len(), tt.want)
		}
	}
}

func TestPackageURL(t *testing.T) {
	for _, tt := range [][3]string{
		{"github.com/KimMachineGun/automemlimit", "v0.7.5", "pkg:golang/github.com/kimmachinegun/automemlimit@v0.7.5"},
		{"go.etcd.io/etcd", "v3.3.27+incompatible", "pkg:golang/go.etcd.io/etcd@v3.3.27%2Bincompatible"},
		{stdlib, "go1.26.8", "pkg:golang/stdlib@1.26.8"},
	} {
		if got := packageURL(tt[0], tt[1]); got != tt[2] {
			t.Errorf("got %s, want %s", got, tt[2])
		}
	}
}
