package splitter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// ErrTargetExists is returned by Prepare for a data directory that is already there.
var ErrTargetExists = etcdfile.ErrTargetExists

// ErrPastMargin is returned where main's revision reached the new cluster's before that was started.
var ErrPastMargin = errors.New("main's revision is past the margin")

// The margin above main's revision.
const (
	// marginTime is how long main may go on at its pace between the snapshot and the API servers' restart.
	marginTime = 24 * time.Hour
	// MinMargin covers a day at 12 writes/s, and what a burst adds. A rollback makes watchers wait for main to catch up
	// by the margin, so that it is not simply huge.
	MinMargin = 1_000_000
)

// PrepareOptions say what a new member's data directory is made of.
type PrepareOptions struct {
	Snapshot  string
	DataDir   string
	Resources []string
	Prefix    string // the API server's --etcd-prefix; "" is /registry

	Name           string
	InitialCluster string // NAME=PEERURL,…; "": this member alone
	Token          string
	PeerURLs       []string

	// Revision is what the new cluster begins at; 0: the snapshot's with the margin.
	Revision int64
	// SkipHashCheck takes a file without the checksum that a snapshot carries, such as a copy of a member's database.
	SkipHashCheck bool
	// MainRevision reads main's revision; nil: it is not looked at.
	MainRevision func(context.Context) (int64, error)
}

// Prepared is a data directory that was made.
type Prepared struct {
	Resources        []string `json:"resources"`
	Prefixes         []string `json:"prefixes"` // taken over; none for events, which begin anew
	DataDir          string   `json:"dataDir"`
	Name             string   `json:"name"`
	InitialCluster   string   `json:"initialCluster"`
	Token            string   `json:"initialClusterToken"`
	SnapshotRevision int64    `json:"snapshotRevision"`
	// Revision is what the new cluster begins at and is compacted up to.
	Revision          int64    `json:"revision"`
	MarginRevisions   int64    `json:"marginRevisions"`
	MarginSeconds     *float64 `json:"marginSeconds"` // at the snapshot's pace; null where its history does not tell one
	MainRevision      *int64   `json:"mainRevision"`  // afterwards; null where it was not looked at
	MainLeftRevisions *int64   `json:"mainLeftRevisions"`
	Keys              int64    `json:"keys"`
	Bytes             int64    `json:"bytes"`
	DBSizeBytes       int64    `json:"dbSizeBytes"`
	Notes             []string `json:"notes"`
}

// Prepare makes the data directory of one new member. For events it holds no key: events expire, and copying them would
// only delay the move. For everything else it holds the moved prefixes. It refuses a directory that exists and a
// revision that main has passed, before and after, and leaves nothing behind where it fails.
//
// The revision follows from the snapshot alone, so every member prepared from the same snapshot begins at the same one,
// as it must: members of one cluster that disagree are corrupt.
func Prepare(ctx context.Context, o PrepareOptions) (*Prepared, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(o.DataDir); err == nil {
		return nil, fmt.Errorf("prepare %s: %w", o.DataDir, ErrTargetExists)
	}
	out := &Prepared{DataDir: o.DataDir, Name: o.Name, InitialCluster: o.InitialCluster, Token: o.Token, Prefixes: []string{}, Notes: []string{}}
	for _, name := range o.Resources {
		gr, ok := ParseResource(name)
		if !ok {
			return nil, fmt.Errorf("resource %q: overrides move only what kube-apiserver itself stores, such as events, leases or pods", name)
		}
		if slices.Contains(out.Resources, gr.Name()) {
			continue
		}
		out.Resources = append(out.Resources, gr.Name())
		if gr != Events {
			out.Prefixes = append(out.Prefixes, Prefixes(o.prefix(), gr)...)
		}
	}
	pace, err := out.readSnapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	out.margin(o, pace)
	if out.Revision <= out.SnapshotRevision {
		return nil, fmt.Errorf("revision %d: want more than the snapshot's %d, or clients of main's revisions wait in vain", out.Revision, out.SnapshotRevision)
	}
	if err := out.checkMain(ctx, o); err != nil {
		return nil, err
	}
	shard, err := etcdfile.MakeShard(ctx, etcdfile.ShardOptions{Snapshot: o.Snapshot, Prefixes: out.Prefixes, DataDir: o.DataDir, Name: o.Name,
		PeerURLs: o.PeerURLs, InitialCluster: o.InitialCluster, Token: o.Token, Revision: out.Revision})
	if err != nil {
		return nil, err
	}
	out.Keys, out.Bytes, out.DBSizeBytes = shard.Keys, shard.Bytes, shard.Size
	if err := out.checkMain(ctx, o); err != nil {
		return out, errors.Join(err, os.RemoveAll(o.DataDir))
	}
	if len(out.Prefixes) > 0 && out.Keys == 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("the snapshot has no key under %s: the new cluster is empty", strings.Join(out.Prefixes, ", ")))
	}
	if len(out.Prefixes) > 0 {
		out.Notes = append(out.Notes, "what main writes after the snapshot is not in it: all API servers must have been stopped before")
	}
	if o.MainRevision == nil {
		out.Notes = append(out.Notes, "main's revision was not looked at: give --endpoints to have it compared")
	}
	return out, nil
}

func (o *PrepareOptions) prefix() string {
	if o.Prefix == "" {
		return keyspace.DefaultPrefix
	}
	return o.Prefix
}

func (o *PrepareOptions) complete() error {
	var errs []error
	if o.Snapshot == "" {
		errs = append(errs, errors.New("no snapshot: give --snapshot FILE, as etcdctl snapshot save makes it"))
	}
	if o.DataDir == "" {
		errs = append(errs, errors.New("no directory: give --data-dir DIR"))
	}
	if len(o.Resources) == 0 {
		errs = append(errs, errors.New("no resource: give --resources, such as events"))
	}
	if o.Name == "" {
		o.Name = "default"
	}
	if len(o.PeerURLs) == 0 {
		o.PeerURLs = []string{"http://localhost:2380"}
	}
	for _, p := range o.PeerURLs {
		if u, err := url.Parse(p); err != nil || u.Host == "" || u.Port() == "" {
			errs = append(errs, fmt.Errorf("peer URL %q: want one such as https://10.0.0.1:2382", p))
		}
	}
	if o.InitialCluster == "" {
		o.InitialCluster = o.Name + "=" + strings.Join(o.PeerURLs, ","+o.Name+"=")
	}
	if o.Token == "" {
		o.Token = "etcd-cluster"
	}
	if o.Revision < 0 {
		errs = append(errs, fmt.Errorf("revision %d: want more than 0", o.Revision))
	}
	return errors.Join(errs...)
}

// readSnapshot checks the file and tells its pace in revisions a second, 0 where its history does not.
func (p *Prepared) readSnapshot(ctx context.Context, o PrepareOptions) (pace float64, err error) {
	f, err := keyspace.OpenFile(o.Snapshot)
	if err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	if _, err := f.Verify(ctx); err != nil && (!errors.Is(err, keyspace.ErrNoChecksum) || !o.SkipHashCheck) {
		if errors.Is(err, keyspace.ErrNoChecksum) {
			return 0, fmt.Errorf("read snapshot %s: %w: take one with etcdctl snapshot save, or give --skip-hash-check", o.Snapshot, err)
		}
		return 0, fmt.Errorf("read snapshot %s: %w", o.Snapshot, err)
	}
	p.SnapshotRevision = f.Revision()
	e, err := Scan(ctx, f, keyspace.NewLayout(o.prefix()), ScanOptions{History: true, CompactRevision: f.Info().CompactRevision})
	if err != nil {
		return 0, err
	}
	return e.RevisionsPerSecond.Or(0), nil
}

// margin sets the revision: the given one, or the snapshot's with a day at its own pace.
func (p *Prepared) margin(o PrepareOptions, pace float64) {
	p.Revision = o.Revision
	if p.Revision == 0 {
		// Rounded up, so that a person sees what was added.
		m := max(MinMargin, int64(math.Ceil(pace*marginTime.Seconds()/MinMargin))*MinMargin)
		p.Revision = p.SnapshotRevision + m
	}
	p.MarginRevisions = p.Revision - p.SnapshotRevision
	if pace > 0 {
		s := float64(p.MarginRevisions) / pace
		p.MarginSeconds = &s
	}
}

// checkMain compares main's revision with the new cluster's.
func (p *Prepared) checkMain(ctx context.Context, o PrepareOptions) error {
	if o.MainRevision == nil {
		return nil
	}
	rev, err := o.MainRevision(ctx)
	if err != nil {
		return fmt.Errorf("read main's revision: %w", err)
	}
	left := p.Revision - rev
	p.MainRevision, p.MainLeftRevisions = &rev, &left
	switch {
	case left <= 0:
		return fmt.Errorf("%w: main is at %d, %d past the new cluster's %d: take a new snapshot, or give a higher --revision", ErrPastMargin, rev, -left, p.Revision)
	case rev < p.SnapshotRevision:
		return fmt.Errorf("main is at revision %d, below the snapshot's %d: the snapshot is of another cluster, or main was restored since", rev, p.SnapshotRevision)
	case left < p.MarginRevisions/2:
		note := fmt.Sprintf("main has used %d of %d revisions of the margin: start the new members soon, or prepare again", p.MarginRevisions-left, p.MarginRevisions)
		if !slices.Contains(p.Notes, note) {
			p.Notes = append(p.Notes, note)
		}
	}
	return nil
}
