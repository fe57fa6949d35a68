package keyspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Member is the etcd member that a Live reads. *clientv3.Client is one; its only endpoint should be the member's. It is
// used concurrently.
type Member interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// Defaults of LiveOptions.
const (
	// DefaultPageBytes is what a page of keys and values is aimed at where the server has no streams: near the
	// request limit of 1.5 MiB, which is also what the server aims its stream's chunks at. With a rate a page is at most
	// what the rate allows in a thirty-second of a second.
	DefaultPageBytes = 2 << 20
	// DefaultPinKey is read to learn the revision. Nothing lies at it; a role that may read the prefix may read it.
	DefaultPinKey = DefaultPrefix + "/"
)

const (
	// smallestPage bounds what small pages cost: each is a request.
	smallestPage = 64 << 10
	// gentleRate is the rate, in bytes a second, up to which pages are asked for also where there are streams: the server
	// makes a stream's chunks 1.5 MiB large, and a put that meets one waits for it. At 5 MiB a second the slowest hundredth
	// of puts took 2.06 times as long as at rest beside a stream, and 1.69 times beside pages of a thirty-second of that.
	gentleRate = 16 << 20
)

// Limits of waiting and retrying. A scan of a large keyspace takes seconds, so that half a minute without any progress
// is a failure, not a delay.
const (
	futureWait    = 30 * time.Second // for a lagging member to reach the pinned revision, or a restarting one to answer
	retryPause    = 250 * time.Millisecond
	maxRetries    = 8 // of what waiting does not heal, in a row without a key read in between
	maxRepinsIdle = 8 // likewise
)

// LiveOptions are the options of NewLive. The zero value is ready to use.
type LiveOptions struct {
	Name      string // how messages call the member
	Rate      int64  // bytes of keys and values a second; 0 means no limit; up to 16 MiB they come in small pages
	PageBytes int    // 0 means DefaultPageBytes, or less with a rate
	PinKey    string // "" means DefaultPinKey
	Pages     bool   // never ask for a stream

	// Pending reads how many proposals wait in the member, from its metrics; nil where that is not known. The scan
	// backs off while they pile up.
	Pending func(ctx context.Context) (int64, error)
}

// LiveStats counts what a Live has done so far.
type LiveStats struct {
	Requests int64         // pages asked for, or streams opened
	Keys     int64         // entries read
	Bytes    int64         // of their keys and values
	Indexed  int64         // keys that the server counted for pages; with streams, those it sent
	Repins   int64         // times that the revision was compacted under the scan and read anew
	BackOff  time.Duration // waited because the member was slow
	Streamed bool          // the server has RangeStream, as far as was tried
}

// Live reads the keys of a running etcd from one member, at a revision that was current, by a linearizable read, when
// the Live was made. Where that revision is compacted meanwhile, the scan goes on behind the last key at a newer one.
// It is safe for concurrent use.
type Live struct {
	member Member
	source source
	opts   LiveOptions
	rev    atomic.Int64
	pages  atomic.Bool // the server has no streams
	pace   *pace

	requests, keys, bytes, indexed, repins atomic.Int64
}

var _ Scanner = (*Live)(nil)

// NewLive pins the revision with one linearizable read. The Live starts nothing that would have to be closed.
func NewLive(ctx context.Context, member Member, opts LiveOptions) (*Live, error) {
	if opts.PageBytes <= 0 {
		opts.PageBytes = DefaultPageBytes
		if opts.Rate > 0 {
			opts.PageBytes = int(min(DefaultPageBytes, max(smallestPage, opts.Rate/32)))
		}
	}
	if opts.PinKey == "" {
		opts.PinKey = DefaultPinKey
	}
	l := &Live{member: member, source: newSource(member), opts: opts, pace: newPace(member, opts)}
	l.pages.Store(opts.Pages || opts.Rate > 0 && opts.Rate <= gentleRate)
	return l, l.pin(ctx)
}

// Revision is the revision that is read.
func (l *Live) Revision() int64 { return l.rev.Load() }

// Stats may be called while a scan runs.
func (l *Live) Stats() LiveStats {
	return LiveStats{Requests: l.requests.Load(), Keys: l.keys.Load(), Bytes: l.bytes.Load(), Indexed: l.indexed.Load(),
		Repins: l.repins.Load(), BackOff: l.pace.backedOff(), Streamed: !l.pages.Load()}
}

func (l *Live) String() string {
	if l.opts.Name == "" {
		return "etcd"
	}
	return "member " + l.opts.Name
}

func (l *Live) pin(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, futureWait)
	defer cancel()
	resp, err := l.member.Get(ctx, l.opts.PinKey, clientv3.WithCountOnly())
	if errors.Is(wire(err), errLearner) {
		// A learner answers serializable reads only. Its revision may lag, and is a revision of the keyspace still.
		resp, err = l.member.Get(ctx, l.opts.PinKey, clientv3.WithCountOnly(), clientv3.WithSerializable())
	}
	switch {
	case err == nil:
	case ctx.Err() != nil && outer.Err() == nil:
		return fmt.Errorf("read the current revision from %s: no answer within %s: %w", l, futureWait, err)
	case errors.Is(wire(err), ErrPermissionDenied):
		return fmt.Errorf("read the current revision from %s: %w: the user needs the right to read what begins with %s", l, err, l.opts.PinKey)
	default:
		return fmt.Errorf("read the current revision from %s: %w", l, err)
	}
	if rev := resp.Header.Revision; rev > l.rev.Load() {
		l.rev.Store(rev)
	}
	return nil
}

// Count is the number of keys in r at the pinned revision. It costs the server a walk over its index and no value.
func (l *Live) Count(ctx context.Context, r Range) (int64, error) {
	key, end := bounds(r)
	for attempt := 0; ; attempt++ {
		resp, err := l.member.Get(ctx, string(key), clientv3.WithRange(string(end)), clientv3.WithCountOnly(),
			clientv3.WithRev(l.rev.Load()), clientv3.WithSerializable())
		if err == nil {
			return resp.Count, nil
		}
		if err := l.recover(ctx, err, attempt); err != nil {
			return 0, fmt.Errorf("count the keys of %s: %w", l, err)
		}
	}
}

// bounds gives the range in the server's words, in which the zero byte stands for both ends of the keyspace.
func bounds(r Range) (key, end []byte) {
	key, end = r.Start, r.End
	if len(key) == 0 {
		key = []byte{0}
	}
	if len(end) == 0 {
		end = []byte{0}
	}
	return key, end
}

// ErrHistory is returned for a Range.History on a live etcd, which shows no superseded revisions.
var ErrHistory = errors.New("a running etcd shows its current keys only; take a snapshot to see history")

// ErrPermissionDenied is returned, wrapped, where etcd's authentication does not let the user read all of a range.
var ErrPermissionDenied = rpctypes.ErrPermissionDenied

// Scan yields the entries of r in key order. Ending the iteration early stops the transfer.
func (l *Live) Scan(ctx context.Context, r Range) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if r.History {
			yield(Entry{}, ErrHistory)
			return
		}
		if len(r.End) > 0 && bytes.Compare(r.Start, r.End) >= 0 {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		s := &scan{Live: l, full: make(chan *batch), free: make(chan *batch, batches), next: r.Start}
		s.more(streamBatches)
		var failed error
		go func() {
			defer close(s.full)
			failed = s.read(ctx, r)
		}()
		defer func() {
			cancel()
			for range s.full { // until the reader has gone
			}
		}()
		for b := range s.full {
			for i := range b.entries {
				if !yield(b.entries[i], nil) {
					return
				}
			}
			s.free <- b
		}
		if failed != nil {
			yield(Entry{}, failed)
		}
	}
}

// How many pages or parts of a stream there are at once: one that is consumed, and those on their way. They are most of
// the memory that a scan needs.
const (
	batches       = maxPieces + 1
	streamBatches = 3
)

// scan is one scan under way.
type scan struct {
	*Live
	full chan *batch // in key order, for whoever consumes the entries
	free chan *batch // to be filled
	next []byte      // the first key that was not handed over yet

	attempt int // in a row without a key read in between
	made    int // batches
}

// more makes batches until there are n.
func (s *scan) more(n int) {
	for ; s.made < n; s.made++ {
		s.free <- new(batch)
	}
}

// batch is one to be filled.
func (s *scan) batch(ctx context.Context) (*batch, error) {
	select {
	case b := <-s.free:
		b.reset()
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send hands a batch over, at the rate that is asked for.
func (s *scan) send(ctx context.Context, b *batch) error {
	if len(b.entries) == 0 {
		s.free <- b
		return nil
	}
	s.attempt = 0
	size := b.size
	s.next = append(append(s.next[:0:0], b.last()...), 0)
	s.keys.Add(int64(len(b.entries)))
	s.bytes.Add(int64(size))
	select {
	case s.full <- b:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.pace.spend(ctx, size)
}

// read hands over the entries of r, through every hindrance that can be overcome.
func (s *scan) read(ctx context.Context, r Range) error {
	pages := false // for the rest of this scan
	for {
		rest := r
		rest.Start = s.next
		if len(r.End) > 0 && bytes.Compare(s.next, r.End) >= 0 {
			return nil
		}
		var err error
		if pages || s.pages.Load() {
			err = s.readPages(ctx, rest)
		} else {
			err = s.readStream(ctx, rest)
		}
		switch {
		case err == nil:
			return nil
		case !s.pages.Load() && noStreams(err):
			s.pages.Store(true)
			continue
		case !pages && tooLarge(err):
			// The keys that come are much larger than those before. A new stream begins small again, with ten of them; where
			// that is too much, pages can be smaller.
			pages = bytes.Equal(s.next, rest.Start)
			continue
		}
		if err := s.recover(ctx, err, s.attempt); err != nil {
			return fmt.Errorf("scan %s at revision %d from key %q: %w", s.Live, s.rev.Load(), s.next, err)
		}
		s.attempt++
	}
}

func (s *scan) readStream(ctx context.Context, r Range) error {
	s.requests.Add(1)
	var held *batch
	next := func() (b *batch, err error) {
		held, err = s.batch(ctx)
		return held, err
	}
	err := s.source.stream(ctx, s.request(r), next, func(b *batch) error {
		held = nil
		s.indexed.Add(int64(len(b.entries)))
		return s.send(ctx, b)
	})
	if held != nil {
		s.free <- held
	}
	return err
}

func (l *Live) request(r Range) *pb.RangeRequest {
	key, end := bounds(r)
	return &pb.RangeRequest{Key: key, RangeEnd: end, Revision: l.rev.Load(), Serializable: true, KeysOnly: r.KeysOnly}
}

// wire gives an error of the server its name, whichever way it came.
func wire(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return rpctypes.Error(s.Err())
	}
	return err
}

var errLearner = rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)

// tooLarge tells whether this client refused an answer by its size.
func tooLarge(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max")
}

// noStreams tells whether the server, or a proxy before it, has no RangeStream, or does not serve it as a learner.
func noStreams(err error) bool {
	err = wire(err)
	return status.Code(err) == codes.Unimplemented || errors.Is(err, errLearner)
}

// recover makes a failed read ready to be tried again, or returns why that is no use.
func (l *Live) recover(ctx context.Context, err error, attempt int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	named := wire(err)
	var server rpctypes.EtcdError
	switch {
	case errors.Is(named, rpctypes.ErrInvalidAuthToken) || errors.Is(named, rpctypes.ErrAuthOldRevision):
		if attempt >= maxRetries {
			return named
		}
		// A request that goes through the client fetches a new token.
		ctx, cancel := context.WithTimeout(ctx, futureWait)
		defer cancel()
		if _, err := l.member.Get(ctx, l.opts.PinKey, clientv3.WithCountOnly(), clientv3.WithSerializable()); err != nil {
			return err
		}
		return nil
	case errors.Is(named, rpctypes.ErrCompacted):
		if attempt >= maxRepinsIdle {
			return fmt.Errorf("the revision was compacted %d times before a key was read: %w", attempt, named)
		}
		l.repins.Add(1)
		return l.pin(ctx)
	case errors.Is(named, rpctypes.ErrFutureRev):
		if time.Duration(attempt)*retryPause >= futureWait {
			return fmt.Errorf("the member lags: it has not reached revision %d within %s; read another one with --from: %w",
				l.rev.Load(), futureWait, named)
		}
	case errors.As(named, &server) && server.Code() != codes.Unavailable,
		status.Code(err) != codes.Unavailable && status.Code(err) != codes.Unknown:
		return named
	case time.Duration(attempt)*retryPause >= futureWait:
		return fmt.Errorf("gave up after %d attempts: %w", attempt, named)
	}
	select {
	case <-time.After(retryPause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
