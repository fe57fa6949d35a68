package netnstest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/etcdkeeper/etcdkeeper/internal/kubetest"
)

// requestWait bounds one request: the wait for a member that hangs is noticed whole.
const requestWait = 2 * time.Minute

// Noticed is what clients noticed.
type Noticed struct {
	LongestPut, LongestGet time.Duration
	Requests               int
	Failed                 []error
}

// Load makes requests at a steady rate, each in a goroutine of its own, so that one that waits holds none back.
type Load struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
	once sync.Once

	mu  sync.Mutex
	got Noticed
}

// StartLoad makes so many requests a second: even ones with put, odd ones with get. It ends with the test.
func StartLoad(tb TB, rate int, put, get func(ctx context.Context, n int) error) *Load {
	tb.Helper()
	ctx, stop := context.WithCancel(tb.Context())
	l := &Load{stop: stop}
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			l.wg.Go(func() { l.request(context.WithoutCancel(ctx), n, put, get) })
		}
	})
	tb.Cleanup(func() { l.Stop() })
	return l
}

func (l *Load) request(ctx context.Context, n int, put, get func(ctx context.Context, n int) error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	do, longest := get, &l.got.LongestGet
	if n%2 == 0 {
		do, longest = put, &l.got.LongestPut
	}
	start := time.Now()
	err := do(ctx, n)
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got.Requests++
	*longest = max(*longest, took)
	if err != nil {
		l.got.Failed = append(l.got.Failed, err)
	}
}

// Stop ends the load, waits for the last answers and tells what was noticed.
func (l *Load) Stop() Noticed {
	l.once.Do(func() {
		l.stop()
		l.wg.Wait()
	})
	return l.got
}

// loadKeys is among how many keys a load spreads its writes.
const loadKeys = 100

// RoundRobin is a load of a client of all members.
func (l *Lab) RoundRobin(tb TB, rate int) *Load {
	tb.Helper()
	cl := l.Client(tb)
	key := func(n int) string { return fmt.Sprintf("/load/%d", n/2%loadKeys) }
	return StartLoad(tb, rate,
		func(ctx context.Context, n int) error {
			_, err := cl.Put(ctx, key(n), "x")
			return err
		},
		func(ctx context.Context, n int) error {
			_, err := cl.Get(ctx, key(n))
			return err
		})
}

// KeepLease holds a lease of that many seconds through all members until lost is called, which tells whether etcd gave
// it up.
func (l *Lab) KeepLease(tb TB, seconds int64) (lost func() bool) {
	tb.Helper()
	cl := l.Client(tb)
	lease, err := cl.Grant(tb.Context(), seconds)
	if err != nil {
		tb.Fatalf("grant a lease: %v", err)
	}
	alive, err := cl.KeepAlive(tb.Context(), lease.ID)
	if err != nil {
		tb.Fatalf("keep a lease: %v", err)
	}
	go func() {
		for range alive {
		}
	}()
	return func() bool {
		ctx, cancel := context.WithTimeout(tb.Context(), requestWait)
		defer cancel()
		left, err := cl.TimeToLive(ctx, lease.ID)
		if err == nil {
			_, _ = cl.Revoke(ctx, lease.ID)
		}
		return err != nil || left.TTL < 0
	}
}

// Terms are the members' raft terms.
func (l *Lab) Terms(tb TB) (out []uint64) {
	tb.Helper()
	for _, m := range l.Members {
		ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
		st, err := l.Client(tb, m.URL).Status(ctx, m.URL)
		cancel()
		if err != nil {
			tb.Fatalf("status of %s: %v", m.Name, err)
		}
		out = append(out, st.RaftTerm)
	}
	return out
}

// APIServer starts a kube-apiserver over all members.
func (l *Lab) APIServer(tb TB) *kubetest.Server {
	tb.Helper()
	return kubetest.Start(tb, kubetest.Options{EtcdEndpoints: l.Endpoints(), EtcdPKI: l.PKI})
}

// ConfigMaps is a load that creates ConfigMaps through the API server and gets them.
func ConfigMaps(tb TB, s *kubetest.Server, rate int) *Load {
	tb.Helper()
	cl, err := rest.HTTPClientFor(s.Config())
	if err != nil {
		tb.Fatalf("client of the API server: %v", err)
	}
	tb.Cleanup(cl.CloseIdleConnections)
	url := s.URL + "/api/v1/namespaces/default/configmaps"
	run := time.Now().UnixNano()
	call := func(ctx context.Context, method, url, body string) error {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := cl.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, bytes.TrimSpace(answer))
		}
		return err
	}
	create := func(ctx context.Context, name string) error {
		return call(ctx, http.MethodPost, url, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"a":"b"}}`, name))
	}
	base := fmt.Sprintf("load-%d", run)
	for end := time.Now().Add(ready); ; time.Sleep(200 * time.Millisecond) {
		err := create(tb.Context(), base)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			tb.Fatalf("create a ConfigMap: %v", err)
		}
	}
	return StartLoad(tb, rate,
		func(ctx context.Context, n int) error { return create(ctx, fmt.Sprintf("%s-%d", base, n)) },
		func(ctx context.Context, _ int) error { return call(ctx, http.MethodGet, url+"/"+base, "") })
}
