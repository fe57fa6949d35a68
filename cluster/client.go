package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// A dead connection is noticed within keepAliveTime + keepAliveTimeout. etcd refuses pings more often than 5 s.
	keepAliveTime    = 20 * time.Second
	keepAliveTimeout = 10 * time.Second
	// A member that comes back is reached again within this time; gRPC's own default is two minutes.
	maxReconnectDelay = 2 * time.Second
	// The longest wait of a View for one member, whatever the command's time-out.
	maxMemberWait = 5 * time.Second
)

// ErrNoMember is returned when none of the endpoints answers.
var ErrNoMember = errors.New("no endpoint answers")

// ErrNotSent is returned when a call was given up before it was sent.
var ErrNotSent = errors.New("nothing was sent")

// ErrDifferentClusters is returned when the given endpoints do not belong to one cluster.
var ErrDifferentClusters = errors.New("the endpoints belong to different clusters")

// Client is the one set of connections to a cluster: one connection a member, made when first needed.
type Client struct {
	cfg  Config
	log  *slog.Logger
	tls  *tlsFiles // nil without TLS
	http *http.Client

	control DialControl // nil: none

	mu       sync.Mutex
	conns    map[string]*memberConn // by endpoint
	home     map[ID]string          // the given endpoint through which a member answered
	known    []string               // client URLs learnt from member lists, for the case that all given endpoints hang
	tokens   map[string]tokenSeen   // by set: the last token seen taken, and since when
	lastGood string                 // the endpoint that last answered a request for keys
	closed   bool
}

type memberConn struct {
	etcd *clientv3.Client
	last *lastErr
}

// DialControl is called with each socket before it connects.
type DialControl func(network, address string, c syscall.RawConn) error

// Controlled is a second set of connections to the same members, whose sockets control prepares. The given endpoints
// replace those of the configuration where there are any. Close ends them.
func (c *Client) Controlled(control DialControl, endpoints ...string) (*Client, error) {
	cfg := c.cfg
	if len(endpoints) > 0 {
		cfg.Endpoints = endpoints
	}
	cfg.Endpoints = slices.Clone(cfg.Endpoints)
	return newClient(cfg, c.log, control)
}

// RoundRobin is a client of all the endpoints at once that takes them in turn, as the API server's does. The caller
// closes it.
func (c *Client) RoundRobin(ctx context.Context, endpoints []string) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		return nil, ErrNoMember
	}
	return c.dial(ctx, &lastErr{}, endpoints...)
}

// New checks the configuration and prepares the connections; it waits for none of them. With a user and password
// it authenticates when a connection is first used. Close ends them.
func New(cfg Config, log *slog.Logger) (*Client, error) { return newClient(cfg, log, nil) }

func newClient(cfg Config, log *slog.Logger, control DialControl) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, log: log, conns: map[string]*memberConn{}, home: map[ID]string{}, tokens: map[string]tokenSeen{}, control: control}
	for i, e := range c.cfg.Endpoints {
		c.cfg.Endpoints[i] = normalEndpoint(e, cfg)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: cfg.DialTimeout, Control: control}).DialContext,
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     2 * time.Minute,
	}
	c.tls = newTLSFiles(cfg)
	c.tls.control = control
	transport.DialTLSContext = c.tls.dialTLS
	if _, err := c.tls.config(); err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: transport}
	return c, nil
}

// normalEndpoint adds the scheme that etcdctl would: https where TLS files are given, else http.
func normalEndpoint(e string, cfg Config) string {
	if strings.Contains(e, "://") {
		return e
	}
	if cfg.CACert != "" || cfg.Cert != "" || cfg.InsecureSkipTLSVerify {
		return "https://" + e
	}
	return "http://" + e
}

// Config is the configuration with its endpoints in URL form.
func (c *Client) Config() Config { return c.cfg }

// Close ends all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, m := range c.conns {
		errs = append(errs, m.etcd.Close())
	}
	c.conns = map[string]*memberConn{}
	c.http.CloseIdleConnections()
	return ignoreClosed(errors.Join(errs...))
}

func ignoreClosed(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Member is a client of that member alone.
func (c *Client) Member(ctx context.Context, m Member) (*clientv3.Client, error) {
	if m.Endpoint == "" {
		return nil, fmt.Errorf("member %s: no client URL is known", m)
	}
	mc, err := c.conn(ctx, m.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m, err)
	}
	return mc.etcd, nil
}

func (c *Client) conn(ctx context.Context, endpoint string) (*memberConn, error) {
	c.mu.Lock()
	mc, ok := c.conns[endpoint]
	c.mu.Unlock()
	if ok {
		return mc, nil
	}
	last := &lastErr{}
	cl, err := c.dial(ctx, last, endpoint)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = cl.Close()
		return nil, errors.New("the connections are closed")
	}
	if other, ok := c.conns[endpoint]; ok {
		_ = cl.Close()
		return other, nil
	}
	mc = &memberConn{etcd: cl, last: last}
	c.conns[endpoint] = mc
	return mc, nil
}

// receiveWindow is how many bytes a member may send ahead of what is read. gRPC would let it grow to 16 MiB, which is a
// quarter of what a scan may take; with this one a stream over a millisecond of distance still runs at 1 GiB a second.
const receiveWindow = 1 << 20

func (c *Client) dial(ctx context.Context, last *lastErr, endpoints ...string) (*clientv3.Client, error) {
	endpoint := endpoints[0]
	user, password := c.cfg.Credentials()
	opts := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnectDelay},
			MinConnectTimeout: c.cfg.DialTimeout,
		}),
		grpc.WithChainUnaryInterceptor(defragmentOnce),
		grpc.WithInitialWindowSize(receiveWindow),
		grpc.WithInitialConnWindowSize(receiveWindow),
	}
	if strings.HasPrefix(endpoint, "https://") || strings.HasPrefix(endpoint, "unixs:") {
		opts = append(opts, grpc.WithTransportCredentials(rotatingCreds{files: c.tls, last: last}))
	}
	if c.control != nil && !strings.HasPrefix(endpoint, "unix") {
		d := net.Dialer{Control: c.control}
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}))
	}
	type result struct {
		cl  *clientv3.Client
		err error
	}
	done := make(chan result, 1)
	go func() {
		cl, err := clientv3.New(clientv3.Config{
			Endpoints:            endpoints,
			DialTimeout:          c.cfg.DialTimeout,
			DialKeepAliveTime:    keepAliveTime,
			DialKeepAliveTimeout: keepAliveTimeout,
			Username:             user,
			Password:             password,
			DialOptions:          opts,
			Logger:               zap.NewNop(),
		})
		done <- result{cl, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, c.explain(r.err, last)
		}
		return r.cl, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.cl != nil {
				_ = r.cl.Close()
			}
		}()
		return nil, c.explain(ctx.Err(), last)
	}
}

// explain says what an operator can do about err.
func (c *Client) explain(err error, last *lastErr) error {
	if err == nil {
		return nil
	}
	if h := last.get(); errors.Is(h, io.EOF) {
		return fmt.Errorf("TLS handshake: %w (the endpoint hung up: if it does not speak TLS, use http://)", h)
	} else if h != nil {
		return explainTLS(h)
	}
	user, _ := c.cfg.Credentials()
	switch rpctypes.ErrorDesc(err) {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed):
		return fmt.Errorf("%w (wrong user name or password: check --user and --password)", err)
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty):
		return fmt.Errorf("%w (authentication is on in this etcd: give --user and --password)", err)
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied):
		if user == "" {
			return fmt.Errorf("%w (the user named by the client certificate's common name lacks a right: 'etcdkeeper auth grant --print' prints the role it needs; defragmenting and moving the leader need 'etcdctl user grant-role NAME root')", err)
		}
		return fmt.Errorf("%w (user %s lacks a right: 'etcdkeeper auth grant --print' prints the role it needs; defragmenting and moving the leader need 'etcdctl user grant-role %s root')", err, user, user)
	}
	explained := explainTLS(err)
	if msg := err.Error(); explained == err && last.handshaken() && (strings.Contains(msg, "broken pipe") || strings.Contains(msg, "connection reset")) {
		// TLS 1.3 refuses a client certificate only behind the handshake, and its word may get lost.
		if c.tls != nil && c.tls.expired() {
			return errExpired(err)
		}
		return fmt.Errorf("%w (the member hung up behind the TLS handshake: where it is up, it refuses the client certificate or misses one: check --cert and --key)", err)
	}
	return explained
}

type onceKey struct{}

// once lets a Defragment call leave this process a single time: the etcd client would repeat a call that the server
// ended with a cancelled status, and a second call queues a second full defragmentation in the server. The call may
// be made again only after it was turned away for its token, so before the server began.
type once struct{ spent atomic.Bool }

func defragmentOnce(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method != pb.Maintenance_Defragment_FullMethodName {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	o, ok := ctx.Value(onceKey{}).(*once)
	if !ok || o.spent.Swap(true) {
		return status.Error(codes.FailedPrecondition, "a Defragment call is never repeated")
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken) || rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision) {
		o.spent.Store(false)
	}
	return err
}

// Defragment makes the member rebuild its database file. It blocks until the member answers, however long that
// takes, is never repeated and has no deadline of its own: ending ctx ends the waiting, not the server's work. The
// member behind the connection is asked for its id first, so that the call cannot reach another one.
func (c *Client) Defragment(ctx context.Context, m Member) error {
	mc, err := c.member(ctx, m)
	if err != nil {
		return fmt.Errorf("defragment: %w: %w", ErrNotSent, err)
	}
	ctx = context.WithValue(ctx, onceKey{}, &once{})
	if _, err := pb.NewMaintenanceClient(mc.etcd.ActiveConnection()).Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
		return fmt.Errorf("defragment member %s: %w", m, c.explain(rpctypes.Error(err), mc.last))
	}
	return nil
}

// member is the connection to m once the member behind it has said that it is m.
func (c *Client) member(ctx context.Context, m Member) (*memberConn, error) {
	if m.Endpoint == "" {
		return nil, fmt.Errorf("member %s: no client URL is known", m)
	}
	mc, err := c.conn(ctx, m.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m, err)
	}
	st, err := c.status(ctx, mc)
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m, err)
	}
	if got := ID(st.Header.MemberId); got != m.ID {
		return nil, fmt.Errorf("member %s: endpoint %s is answered by member %s now", m, m.Endpoint, got)
	}
	return mc, nil
}

// MoveLeader hands the leadership from one member to another. Only the leader takes the call.
func (c *Client) MoveLeader(ctx context.Context, from, to Member) error {
	mc, err := c.member(ctx, from)
	if err != nil {
		return err
	}
	if _, err := pb.NewMaintenanceClient(mc.etcd.ActiveConnection()).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: uint64(to.ID)}); err != nil {
		return fmt.Errorf("move the leader from %s to %s: %w", from, to, c.explain(rpctypes.Error(err), mc.last))
	}
	return nil
}
