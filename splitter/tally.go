package splitter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// ScanOptions are the options of Scan.
type ScanOptions struct {
	// History reads every retained revision: of a database file only.
	History bool
	// CompactRevision is the last one that was compacted: only behind it is the history whole. With History.
	CompactRevision int64
	// Since is a revision that was current Window before the scan's. With it, the keys written meanwhile give rates.
	Since  int64
	Window time.Duration
	// EventTTL is the API server's --event-ttl; 0: not known.
	EventTTL time.Duration
}

// maxNoisy bounds the sources of events that are counted; the rest is left out of the ranking.
const (
	maxNoisy   = 1 << 13
	shownNoisy = 10
)

// scanTally is one resource's part of a scan.
type scanTally struct {
	keys, bytes, leased      int64
	revisions, historyBytes  int64
	puts, tombstones         int64 // of the history, within the retained revisions
	writeBytes               int64
	recent, created, recentB int64 // since ScanOptions.Since
}

// Scan is one pass over a keyspace: sizes of each resource and, from history or from the revisions since an earlier
// moment, rates. Its memory does not grow with the keyspace. Where etcd's authentication lets the user read the keys of
// Kubernetes alone, the evidence is of those, with a note that says so.
func Scan(ctx context.Context, s keyspace.Scanner, layout *keyspace.Layout, o ScanOptions) (Evidence, error) {
	e, err := scanRange(ctx, s, keyspace.Range{History: o.History}, layout, o)
	if !errors.Is(err, keyspace.ErrPermissionDenied) {
		return e, err
	}
	r := keyspace.Prefix(layout.Prefix())
	r.History = o.History
	if e, err = scanRange(ctx, s, r, layout, o); err != nil {
		return Evidence{}, fmt.Errorf("%w; the user needs the right to read all keys, or those under %s", err, layout.Prefix())
	}
	e.Notes = append(e.Notes, fmt.Sprintf("only keys under %s were read: etcd lets this user read no others", layout.Prefix()))
	return e, nil
}

func scanRange(ctx context.Context, s keyspace.Scanner, r keyspace.Range, layout *keyspace.Layout, o ScanOptions) (Evidence, error) {
	t := &scanner{o: o, layout: layout, byName: map[string]*scanTally{}, noisy: map[noisyKey]*NoisySource{}}
	err := keyspace.Guarded(s, func() error {
		for e, err := range s.Scan(ctx, r) {
			if err != nil {
				return err
			}
			t.entry(e)
		}
		return nil
	})
	if err != nil {
		return Evidence{}, fmt.Errorf("scan the keyspace: %w", err)
	}
	return t.evidence(s.Revision()), nil
}

type noisyKey struct{ namespace, stem string }

type scanner struct {
	o      ScanOptions
	layout *keyspace.Layout
	byName map[string]*scanTally
	noisy  map[noisyKey]*NoisySource
	clock  writeClock

	last int64 // newest revision of the history
	cut  bool
}

func (s *scanner) entry(e keyspace.Entry) {
	p := s.layout.Parts(e.Key)
	name := string(p.Resource)
	if len(p.Group) > 0 {
		name += "." + string(p.Group)
	}
	t := s.byName[name]
	if t == nil {
		t = &scanTally{}
		s.byName[name] = t
	}
	size := int64(len(e.Key) + len(e.Value))
	if s.o.History {
		t.revisions++
		s.last = max(s.last, e.ModRevision)
		switch {
		case e.ModRevision <= s.o.CompactRevision: // kept because it was current then
		case e.Tombstone:
			t.tombstones++
		default:
			t.puts++
			t.writeBytes += size
			if e.Version == 1 {
				t.created++
			}
			s.clock.see(name, e.Value, uint64(e.ModRevision))
		}
		if e.Tombstone || e.Superseded {
			t.historyBytes += size
			return
		}
	}
	t.keys++
	t.bytes += size
	if e.Lease != 0 {
		t.leased++
	}
	if s.o.Since > 0 && e.ModRevision > s.o.Since {
		n := int64(1)
		if e.CreateRevision > s.o.Since {
			n = e.Version
			t.created++
		}
		t.recent += n
		t.recentB += n * size
	}
	if name == Events.Resource {
		s.source(p, size)
	}
}

// source counts the event for what it is about: the API server's clients name an event after its object, with a
// hexadecimal time behind the last dot.
func (s *scanner) source(p keyspace.Parts, size int64) {
	k := noisyKey{string(p.Namespace), string(stem(p.Name))}
	n := s.noisy[k]
	if n == nil {
		if len(s.noisy) >= maxNoisy {
			s.cut = true
			return
		}
		n = &NoisySource{Namespace: k.namespace, Stem: k.stem}
		s.noisy[k] = n
	}
	n.Keys++
	n.Bytes += size
}

// stem cuts from an event's name the time behind the last dot and then the parts that a controller made up: trailing
// elements between dashes that are numbers or have a digit and no meaning.
func stem(name []byte) []byte {
	if dot := lastIndex(name, '.'); dot > 0 {
		name = name[:dot]
	}
	for range 3 {
		dash := lastIndex(name, '-')
		if dash <= 0 || !generated(name[dash+1:]) {
			break
		}
		name = name[:dash]
	}
	return name
}

// generated tells a made-up element: digits, or Kubernetes' random letters (without vowels, so that no word comes out),
// or a hash.
func generated(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	digits, vowels := 0, 0
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u':
			vowels++
		}
	}
	return digits == len(b) || (len(b) == 5 || len(b) >= 8) && (vowels == 0 || digits > 0)
}

func lastIndex(b []byte, c byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == c {
			return i
		}
	}
	return -1
}

func (s *scanner) evidence(revision int64) Evidence {
	source := FromScan
	if s.o.History {
		source = FromSnapshot
	}
	e := Evidence{Taken: time.Now(), Revision: revision}
	window := s.o.Window.Seconds()
	rates := s.o.Since > 0 && window > 0
	conf := Estimated
	if s.o.History {
		conf = Measured
		w, ok := s.clock.window(uint64(s.o.CompactRevision), uint64(s.last))
		window, rates = w.Seconds(), ok && w > 0
		if !ok {
			e.note("no history of Leases or events to tell the retained interval by: the file gives sizes and counts, not rates")
		}
	}
	if rates {
		e.WindowSeconds = figure(window, source, conf)
	}
	var seen int64
	for name, t := range s.byName {
		r := e.resource(name)
		r.Keys = figure(float64(t.keys), source, Exact)
		r.Bytes = figure(float64(t.bytes), source, Exact)
		r.LeasedKeys = figure(float64(t.leased), source, Exact)
		switch {
		case s.o.History:
			r.Revisions = figure(float64(t.revisions), source, Exact)
			r.HistoryBytes = figure(float64(t.historyBytes), source, Exact)
			r.Puts, r.PutBytes, r.Deletes = figure(float64(t.puts), source, Exact), figure(float64(t.writeBytes), source, Exact), figure(float64(t.tombstones), source, Exact)
			if rates {
				r.WritesPerSecond = figure(float64(t.puts+t.tombstones)/window, source, conf)
				r.WriteBytesPerSecond = figure(float64(t.writeBytes)/window, source, conf)
				r.DeletesPerSecond = figure(float64(t.tombstones)/window, source, conf)
				r.CreatesPerSecond = figure(float64(t.created)/window, source, conf)
			}
		case rates:
			seen += t.recent
			deletes := 0.0
			if t.leased > 0 {
				deletes = float64(t.created) // what expires is, in the steady state, what was made
			}
			r.WritesPerSecond = figure((float64(t.recent)+deletes)/window, source, Estimated)
			r.WriteBytesPerSecond = figure(float64(t.recentB)/window, source, Estimated)
			r.CreatesPerSecond = figure(float64(t.created)/window, source, Estimated)
			r.DeletesPerSecond = figure(deletes/window, source, Estimated)
		}
	}
	if rates && s.o.History {
		e.RevisionsPerSecond = figure(float64(s.last-s.o.CompactRevision)/window, FromSnapshot, Measured)
	} else if rates {
		e.RevisionsPerSecond = figure(float64(revision-s.o.Since)/window, FromStatus, Measured)
		e.Unattributed = figure(max(0, float64(revision-s.o.Since-seen)/window), FromModel, Estimated)
	}
	s.littlesLaw(&e)
	s.rankNoisy(&e)
	e.sort()
	return e
}

// littlesLaw gives events a rate where nothing else did: what lives for a TTL was made at count ÷ TTL.
func (s *scanner) littlesLaw(e *Evidence) {
	if s.o.EventTTL <= 0 {
		return
	}
	e.EventTTL = figure(s.o.EventTTL.Seconds(), FromFlag, Exact)
	for i := range e.Resources {
		r := &e.Resources[i]
		if r.Resource != Events.Resource || r.CreatesPerSecond != nil || r.Keys.Or(0) == 0 {
			continue
		}
		rate := r.Keys.Value / s.o.EventTTL.Seconds()
		r.CreatesPerSecond = figure(rate, FromModel, Estimated)
		r.DeletesPerSecond = figure(rate, FromModel, Estimated)
		r.WritesPerSecond = figure(2*rate, FromModel, Estimated)
		r.WriteBytesPerSecond = figure(rate*r.Bytes.Value/r.Keys.Value, FromModel, Estimated)
		e.note("the rate of events is their number ÷ the TTL (Little's law): repeated events, which update one, are not in it")
	}
}

func (s *scanner) rankNoisy(e *Evidence) {
	var total int64
	for _, n := range s.noisy {
		total += n.Keys
		e.Noisy = append(e.Noisy, *n)
	}
	sortBy(e.Noisy, func(a, b NoisySource) bool {
		if a.Keys != b.Keys {
			return a.Keys > b.Keys
		}
		return a.Namespace+"/"+a.Stem < b.Namespace+"/"+b.Stem
	})
	if len(e.Noisy) > shownNoisy {
		e.Noisy = e.Noisy[:shownNoisy]
	}
	for i := range e.Noisy {
		e.Noisy[i].Share = float64(e.Noisy[i].Keys) / float64(max(1, total))
	}
	if s.cut {
		e.note(fmt.Sprintf("more than %d sources of events: the ranking is of the first ones", maxNoisy))
	}
}
