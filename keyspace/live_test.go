package keyspace_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// member wraps a real client: each function may stand in for a call.
type member struct {
	keyspace.Member
	get    func(n int) error // before the nth Get
	stream func(n int) error // before the nth GetStream
	gets   atomic.Int64
	opened int
}

func (m *member) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	n := int(m.gets.Add(1))
	if m.get != nil {
		if err := m.get(n); err != nil {
			return nil, err
		}
	}
	return m.Member.Get(ctx, key, opts...)
}

func (m *member) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	m.opened++
	if m.stream != nil {
		if err := m.stream(m.opened); err != nil {
			return nil, err
		}
	}
	return m.Member.GetStream(ctx, key, opts...)
}

// narrow is a client to which the server cannot send ahead more than a window of 64 KiB beyond what is read. With it,
// and chunks that double from 10 keys on, most of a keyspace of megabytes is not read yet when the first key is seen.
func narrow(t *testing.T, etcd *etcdtest.Embedded) *clientv3.Client {
	t.Helper()
	const window = 64 << 10
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoint}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLive(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	c := etcd.Client(t)
	ctx := t.Context()
	const n = 3000
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := i; j < i+100; j++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/registry/pods/default/web-%05d", j), strings.Repeat("x", 1000)))
		}
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	open := func(t *testing.T, m keyspace.Member, o keyspace.LiveOptions) *keyspace.Live {
		t.Helper()
		l, err := keyspace.NewLive(ctx, m, o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	keys := func(l *keyspace.Live, during func(n int)) (int, error) {
		seen, last := 0, ""
		for e, err := range l.Scan(ctx, keyspace.Prefix("/registry/")) {
			if err != nil {
				return seen, err
			}
			if string(e.Key) <= last {
				return seen, fmt.Errorf("key %q after %q", e.Key, last)
			}
			last = string(e.Key)
			seen++
			if during != nil {
				during(seen)
			}
		}
		return seen, nil
	}

	t.Run("no streams", func(t *testing.T) {
		for _, refusal := range []error{status.Error(codes.Unimplemented, "unknown method RangeStream"), rpctypes.ErrGRPCNotSupportedForLearner} {
			m := &member{Member: c, stream: func(int) error { return refusal }}
			l := open(t, m, keyspace.LiveOptions{})
			if got, err := keys(l, nil); err != nil || got != n {
				t.Errorf("%v: got %d keys and %v", refusal, got, err)
			}
			if m.opened != 1 || l.Stats().Streamed {
				t.Errorf("%v: asked %d times for a stream", refusal, m.opened)
			}
		}
	})
	t.Run("compacted", func(t *testing.T) {
		for _, pages := range []bool{false, true} {
			l := open(t, narrow(t, etcd), keyspace.LiveOptions{Pages: pages, PageBytes: 64 << 10})
			before := l.Revision()
			got, err := keys(l, func(seen int) {
				if seen != 1 {
					return
				}
				resp, err := c.Put(ctx, "/registry/pods/default/web-00001", "new")
				if err == nil {
					_, err = c.Compact(ctx, resp.Header.Revision)
				}
				if err != nil {
					t.Error(err)
				}
			})
			if err != nil || got != n {
				t.Errorf("pages %v: got %d keys and %v", pages, got, err)
			}
			if l.Stats().Repins != 1 || l.Revision() <= before {
				t.Errorf("pages %v: got %+v at revision %d, want a newer one than %d", pages, l.Stats(), l.Revision(), before)
			}
		}
	})
	t.Run("a member that comes back", func(t *testing.T) {
		m := &member{Member: c, stream: func(n int) error {
			if n < 3 {
				return status.Error(codes.Unavailable, "connection refused")
			}
			return nil
		}}
		if got, err := keys(open(t, m, keyspace.LiveOptions{}), nil); err != nil || got != n {
			t.Errorf("got %d keys and %v", got, err)
		}
	})
	t.Run("an error that is final", func(t *testing.T) {
		m := &member{Member: c, stream: func(int) error { return rpctypes.ErrGRPCPermissionDenied }}
		if _, err := keys(open(t, m, keyspace.LiveOptions{Name: "a"}), nil); !errors.Is(err, rpctypes.ErrPermissionDenied) || !strings.Contains(err.Error(), "member a") {
			t.Errorf("got %v", err)
		}
		if m.opened != 1 {
			t.Errorf("tried %d times", m.opened)
		}
	})
	t.Run("too large a page", func(t *testing.T) {
		m := &member{Member: c}
		m.get = func(n int) error {
			if n == 2 {
				return status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 4)")
			}
			return nil
		}
		if got, err := keys(open(t, m, keyspace.LiveOptions{Pages: true}), nil); err != nil || got != n {
			t.Errorf("got %d keys and %v", got, err)
		}
	})
	t.Run("rate", func(t *testing.T) {
		l := open(t, c, keyspace.LiveOptions{Rate: 8 << 20})
		start := time.Now()
		if got, err := keys(l, nil); err != nil || got != n {
			t.Fatalf("got %d keys and %v", got, err)
		}
		// 3 MB less the first burst of a tenth of a second.
		if took := time.Since(start); took < 200*time.Millisecond {
			t.Errorf("3 MB at 8 MiB/s took %s", took)
		}
	})
	t.Run("back-off", func(t *testing.T) {
		calls := 0
		l := open(t, c, keyspace.LiveOptions{Rate: 4 << 20, Pending: func(context.Context) (int64, error) {
			if calls++; calls == 1 {
				return 1000, nil
			}
			return 0, nil
		}})
		if got, err := keys(l, nil); err != nil || got != n {
			t.Fatalf("got %d keys and %v", got, err)
		}
		if l.Stats().BackOff == 0 {
			t.Error("1,000 pending proposals did not hold the scan up")
		}
	})
	t.Run("count", func(t *testing.T) {
		if got, err := open(t, c, keyspace.LiveOptions{}).Count(ctx, keyspace.Prefix("/registry/")); err != nil || got != n {
			t.Errorf("got %d and %v, want %d", got, err, n)
		}
	})
}
