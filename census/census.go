// Package census says who fills an etcd: keys, bytes, writes, age and writers by Kubernetes resource and namespace, the
// largest objects, families of names, and findings with what to do about them. It reads one scan of the keyspace and
// changes nothing. Take is safe for concurrent use.
package census

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// Census is the result of Take. Pointers are nil where a number is not known: a live etcd shows no history.
type Census struct {
	Taken time.Time `json:"taken"` // when it was read
	// AsOf is the time that ages, activity and growth are told from; AsOfBasis is what is known of it. A file is of the
	// past: its time is the latest that its sampled objects name, or else that of the file itself.
	AsOf      time.Time `json:"asOf"`
	AsOfBasis string    `json:"asOfBasis"` // AsOfClock, AsOfObjects or AsOfFile
	Source    string    `json:"source"`    // the member or the file that was read
	Prefix    string    `json:"prefix"`    // of the API server's keys, with the slash at its end
	Revision  int64     `json:"revision"`
	// Repins is how often the revision was compacted under the scan of a running etcd, which went on at a newer one:
	// above 0, what was read is of several revisions, and Revision is the last of them.
	Repins  int64   `json:"repins"`
	Keys    int64   `json:"keys"`
	Bytes   int64   `json:"bytes"` // of all current keys and values
	Seconds float64 `json:"seconds"`
	// Scope is what all keys that were read begin with, where the user may not read others; "" for the whole keyspace.
	Scope string `json:"scope,omitempty"`

	Resources  []Resource  `json:"resources"`  // by bytes, the largest first
	Namespaces []Namespace `json:"namespaces"` // by keys, the largest first; at most Options.Top
	Largest    []Object    `json:"largest"`
	Stems      []Stem      `json:"stems"` // by keys
	Findings   []Finding   `json:"findings"`
	File       *File       `json:"file"`

	NamespaceCount int64 `json:"namespaceCount"` // those that have keys
	// Folded is the number of keys that were counted in their resource but not in their namespace, since more
	// namespaces and resources than can be kept were seen.
	Folded int64 `json:"foldedKeys"`
	// StemsApproximate tells that rare stems were dropped on the way, so that counts may be too low.
	StemsApproximate bool `json:"stemsApproximate"`
}

// Resource is what one Kubernetes resource takes.
type Resource struct {
	Group        string  `json:"group"`
	Resource     string  `json:"resource"`
	Keys         int64   `json:"keys"`
	Bytes        int64   `json:"bytes"` // key and value
	ValueBytes   int64   `json:"valueBytes"`
	MeanBytes    int64   `json:"meanBytes"`
	LargestBytes int64   `json:"largestBytes"`
	Share        float64 `json:"share"` // of all bytes, 0 to 1
	// Versions is the sum of the keys' versions: how often keys that still live were written.
	Versions  int64 `json:"versions"`
	Leased    int64 `json:"leased"`
	Encrypted int64 `json:"encrypted"`

	// From a file only.
	HistoryKeys  *int64 `json:"historyKeys"`
	HistoryBytes *int64 `json:"historyBytes"`
	Tombstones   *int64 `json:"tombstones"`

	Namespaces     []Share    `json:"namespaces"` // of this resource, by bytes; at most Options.Top
	NamespaceCount int64      `json:"namespaceCount"`
	Activity       []Activity `json:"activity"`
	Managers       []Manager  `json:"managers"` // by objects, estimated from samples
	Sampled        int64      `json:"sampled"`  // values that were looked into
	Providers      []string   `json:"encryptionProviders,omitempty"`
}

// Name is the resource as kubectl takes it.
func (r Resource) Name() string { return keyspace.GroupResource(r.Group, r.Resource) }

// Figures are what is counted in a namespace.
type Figures struct {
	Keys         int64      `json:"keys"`
	Bytes        int64      `json:"bytes"`
	MeanBytes    int64      `json:"meanBytes"`
	LargestBytes int64      `json:"largestBytes"`
	Share        float64    `json:"share"` // of all bytes, 0 to 1
	Versions     int64      `json:"versions"`
	Leased       int64      `json:"leased"`
	Encrypted    int64      `json:"encrypted"`
	Activity     []Activity `json:"activity"` // empty where it was counted by resource alone
}

// Share is what one namespace has of a resource.
type Share struct {
	Namespace string `json:"namespace"` // "" for what has none
	Figures
}

// Namespace is what one namespace takes.
type Namespace struct {
	Namespace string `json:"namespace"`
	Figures
	// Resource is what most of its bytes are.
	Resource string `json:"resource"`
}

// Object is one key.
type Object struct {
	Group       string `json:"group"`
	Resource    string `json:"resource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Bytes       int64  `json:"bytes"`
	Version     int64  `json:"version"`
	ModRevision int64  `json:"modRevision"`
}

// ResourceName is the resource as kubectl takes it.
func (o Object) ResourceName() string { return keyspace.GroupResource(o.Group, o.Resource) }

// Stem is a family of objects whose names differ in a generated part only.
type Stem struct {
	Group     string `json:"group"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace"`
	Stem      string `json:"stem"` // with … where the names differ, behind what divides the parts of the name
	Keys      int64  `json:"keys"`
	Bytes     int64  `json:"bytes"`
}

// ResourceName is the resource as kubectl takes it.
func (s Stem) ResourceName() string { return keyspace.GroupResource(s.Group, s.Resource) }

// Activity is how many of the keys were created, and how many were last written, within a time before the census. The
// times of revisions come from sampled objects, and between those by interpolation.
type Activity struct {
	WithinSeconds float64 `json:"withinSeconds"`
	Created       int64   `json:"created"`
	LastWritten   int64   `json:"lastWritten"`
}

// Manager is a program that wrote objects, from managedFields.
type Manager struct {
	Manager string `json:"manager"`
	Objects int64  `json:"objects"` // estimated
}

// Finding is something to look at.
type Finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"` // info, warning or critical
	Resource string `json:"resource"`
	// Subject is what of the resource it is about: an object, a namespace or another program; "" for all of it.
	Subject   string  `json:"subject,omitempty"`
	Message   string  `json:"message"`
	Value     float64 `json:"value"`
	Threshold float64 `json:"threshold"` // in the unit of Value
	Advice    string  `json:"advice"`
}

// File is what a database file is made of. The five parts add up to SizeBytes.
type File struct {
	SizeBytes      int64 `json:"sizeBytes"`
	LiveBytes      int64 `json:"liveBytes"`      // current keys and values
	HistoryBytes   int64 `json:"historyBytes"`   // keys and values that were written again or deleted since
	TombstoneBytes int64 `json:"tombstoneBytes"` // keys of deletions
	OverheadBytes  int64 `json:"overheadBytes"`  // revisions, page headers, unused room in pages, other buckets, a checksum
	FreeBytes      int64 `json:"freeBytes"`      // free pages
	// Fill is the part of the used pages that is keys and values, 0 to 1.
	Fill            float64 `json:"fill"`
	CompactRevision int64   `json:"compactRevision"`
	StorageVersion  string  `json:"storageVersion"`

	// What a check of the whole file found, empty where none was asked for: the checksum that the snapshot carries, and
	// the hash that "etcdutl snapshot status" prints.
	SHA256 string `json:"sha256,omitempty"`
	Hash   string `json:"hash,omitempty"`
}

// Options are the options of Take.
type Options struct {
	Source string
	Prefix string // of the API server's keys; "" means keyspace.DefaultPrefix
	Top    int    // rows of lists that would otherwise grow with the keyspace; 0 means DefaultTop
	Range  keyspace.Range
	Now    time.Time // 0 means the current time
	// Modified is when the file was last written, of a scanner over a file: what it holds is not younger. 0 means Now.
	Modified time.Time
	// Thresholds of the findings; the zero value means DefaultThresholds.
	Thresholds Thresholds
	// Progress is called now and then with what has been read.
	Progress func(keys, bytes int64)
}

// DefaultTop is how many rows the lists have that would otherwise grow with the keyspace.
const DefaultTop = 20

// Values of Census.AsOfBasis.
const (
	AsOfClock   = "clock"   // the clock of who read it
	AsOfObjects = "objects" // the latest creation or write that a sampled object tells of
	AsOfFile    = "file"    // the file's time: its objects tell none
)

// database is what a scanner over a file can tell beyond its entries.
type database interface {
	Size() int64
	Info() keyspace.FileInfo
	Pages(ctx context.Context) (keyspace.FilePages, error)
}

// Take reads the keyspace once. Of a file it also counts history and free pages. It ends with the scanner's first
// error: a census of a part would be misread as one of all. Where etcd's authentication lets the user read the keys of
// Kubernetes alone, the census is of those, and says so in Scope and in a finding.
func Take(ctx context.Context, s keyspace.Scanner, o Options) (*Census, error) {
	c, err := take(ctx, s, o)
	if !errors.Is(err, keyspace.ErrPermissionDenied) || len(o.Range.Start)+len(o.Range.End) > 0 {
		return c, err
	}
	prefix := keyspace.NewLayout(o.Prefix).Prefix()
	o.Range = keyspace.Prefix(prefix)
	if c, err = take(ctx, s, o); err != nil {
		return nil, fmt.Errorf("%w; the user needs the right to read all keys, or those under %s", err, prefix)
	}
	c.Scope = prefix
	c.Findings = append(c.Findings, Finding{ID: "prefix-only", Severity: Info, Resource: keyspace.Other, Subject: prefix,
		Message: fmt.Sprintf("Only keys under %s were read: etcd lets this user read no others, and what they hold is not in the sums.", prefix),
		Advice:  "Grant the role the right to read from the first key on, to see keys of other programs."})
	return c, nil
}

func take(ctx context.Context, s keyspace.Scanner, o Options) (*Census, error) {
	start := time.Now()
	if o.Top <= 0 {
		o.Top = DefaultTop
	}
	if o.Now.IsZero() {
		o.Now = start
	}
	if o.Thresholds == (Thresholds{}) {
		o.Thresholds = DefaultThresholds()
	}
	db, isFile := s.(database)
	r := o.Range
	r.KeysOnly, r.History = false, isFile
	layout := keyspace.NewLayout(o.Prefix)
	latest, basis := o.Now, AsOfClock
	if isFile && !o.Modified.IsZero() && o.Modified.Before(o.Now) {
		latest, basis = o.Modified, AsOfFile
	}
	t := newTally(layout, o, s.Revision(), latest)
	repins := repinsOf(s)
	read := func() error {
		n := 0
		for e, err := range s.Scan(ctx, r) {
			if err != nil {
				return err
			}
			t.add(&e)
			if n++; n%progressEvery == 0 && o.Progress != nil {
				o.Progress(t.keys, t.bytes)
			}
		}
		return nil
	}
	if err := keyspace.Guarded(s, read); err != nil { // values are touched first here
		return nil, fmt.Errorf("census: %w", err)
	}
	if o.Progress != nil {
		o.Progress(t.keys, t.bytes)
	}
	// A file's time that is before all that its objects tell of was lost, as by an archive that sets every file's to 0.
	if at := t.clock.sightings().latest; isFile && at > 0 {
		latest, basis = time.Unix(at, 0).UTC(), AsOfObjects
	}
	c := t.result(isFile, latest)
	c.Taken, c.Source, c.Prefix, c.Revision, c.Repins = o.Now, o.Source, layout.Prefix(), s.Revision(), repinsOf(s)-repins
	c.AsOf, c.AsOfBasis = latest, basis
	if isFile {
		pages, err := db.Pages(ctx)
		if err != nil {
			return nil, fmt.Errorf("census: %w", err)
		}
		info := db.Info()
		c.File = &File{SizeBytes: db.Size(), LiveBytes: c.Bytes, HistoryBytes: t.historyBytes, TombstoneBytes: t.tombstoneBytes,
			FreeBytes: pages.Free, CompactRevision: info.CompactRevision, StorageVersion: info.StorageVersion}
		c.File.OverheadBytes = c.File.SizeBytes - c.File.LiveBytes - c.File.HistoryBytes - c.File.TombstoneBytes - c.File.FreeBytes
		if used := c.File.SizeBytes - c.File.FreeBytes; used > 0 {
			c.File.Fill = float64(used-c.File.OverheadBytes) / float64(used)
		}
	}
	c.Findings = findings(c, t, o)
	c.Seconds = time.Since(start).Seconds()
	return c, nil
}

// repinsOf is how often a live scanner has had to take a newer revision; 0 for a file.
func repinsOf(s keyspace.Scanner) int64 {
	if live, ok := s.(interface{ Stats() keyspace.LiveStats }); ok {
		return live.Stats().Repins
	}
	return 0
}

const progressEvery = 4096
