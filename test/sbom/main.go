// Command sbom writes the modules that a binary was built from as an SPDX 2.3 document, read from the build information
// that the Go toolchain puts into every binary.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creationInfo   `json:"creationInfo"`
	Packages          []pkg          `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creationInfo struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	SPDXID           string      `json:"SPDXID"`
	Name             string      `json:"name"`
	VersionInfo      string      `json:"versionInfo"`
	DownloadLocation string      `json:"downloadLocation"`
	FilesAnalyzed    bool        `json:"filesAnalyzed"`
	LicenseConcluded string      `json:"licenseConcluded"`
	LicenseDeclared  string      `json:"licenseDeclared"`
	CopyrightText    string      `json:"copyrightText"`
	Checksums        []checksum  `json:"checksums,omitempty"`
	ExternalRefs     []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm     string `json:"algorithm"`
	ChecksumValue string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

func main() {
	binary := flag.String("binary", "", "binary to read")
	version := flag.String("version", "", "version of the main module, which a local build does not know")
	created := flag.String("created", "", "time of creation in RFC 3339, such as the commit's, so that the document is reproducible")
	flag.Parse()
	if err := run(os.Stdout, *binary, *version, *created); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, binary, version, created string) error {
	at, err := time.Parse(time.RFC3339, created)
	if err != nil {
		return fmt.Errorf("-created: want a time in RFC 3339, such as git log -1 --format=%%cI prints: %w", err)
	}
	if version == "" {
		return errors.New("-version: the version of the main module is missing")
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read the build information of %s: %w", binary, err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	doc := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
		Name:              filepath.Base(binary) + "-" + version,
		DocumentNamespace: "https://" + info.Main.Path + "/spdx/" + digest,
		CreationInfo:      creationInfo{Created: at.UTC().Format(time.RFC3339), Creators: []string{"Tool: " + info.Main.Path + "/test/sbom"}},
	}
	add := func(m *debug.Module, version string) string {
		for m.Replace != nil {
			m, version = m.Replace, m.Replace.Version
		}
		id := "SPDXRef-" + unsafeID.ReplaceAllString(m.Path+"-"+version, "-")
		doc.Packages = append(doc.Packages, pkg{
			SPDXID: id, Name: m.Path, VersionInfo: version, DownloadLocation: "NOASSERTION",
			LicenseConcluded: "NOASSERTION", LicenseDeclared: "NOASSERTION", CopyrightText: "NOASSERTION",
			ExternalRefs: []reference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: packageURL(m.Path, version)}},
		})
		return id
	}
	main := add(&info.Main, version)
	doc.Packages[0].Checksums = []checksum{{Algorithm: "SHA256", ChecksumValue: digest}}
	doc.Packages[0].LicenseDeclared = "Apache-2.0"
	doc.Relationships = []relationship{{Element: doc.SPDXID, Type: "DESCRIBES", Related: main}}
	for _, d := range append([]*debug.Module{{Path: stdlib, Version: info.GoVersion}}, info.Deps...) {
		doc.Relationships = append(doc.Relationships, relationship{Element: main, Type: "DEPENDS_ON", Related: add(d, d.Version)})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// packageURL is the package URL of a module: its type wants the path in lower case, and a version may not hold a plus.
// The standard library is known by its version without "go".
func packageURL(path, version string) string {
	if path == stdlib {
		version = strings.TrimPrefix(version, "go")
	}
	return "pkg:golang/" + strings.ToLower(path) + "@" + strings.ReplaceAll(version, "+", "%2B")
}

// stdlib is the name under which vulnerability databases know the standard library.
const stdlib = "stdlib"

// unsafeID is what may not stand in an SPDX identifier.
var unsafeID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)
