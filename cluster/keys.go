package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Root is the prefix of all keys that keepers share. Nothing of the keeper's is ever written elsewhere.
const Root = "/etcdkeeper/"

// anyMemberWait is how long one member is given before the next one is asked. A member in defragmentation hangs.
const anyMemberWait = 3 * time.Second

// Any runs f with a client of one member, and of the next one where that member does not answer: the endpoints first,
// then the other members. So the keeper's own keys stay reachable while the member beside it hangs. f may run more
// than once and must be idempotent.
func (c *Client) Any(ctx context.Context, f func(ctx context.Context, cl *clientv3.Client) error) error {
	c.mu.Lock()
	endpoints := slices.Clone(c.cfg.Endpoints)
	for _, e := range c.known {
		if !slices.Contains(endpoints, e) {
			endpoints = append(endpoints, e)
		}
	}
	first := c.lastGood
	c.mu.Unlock()
	if i := slices.Index(endpoints, first); i > 0 {
		endpoints[0], endpoints[i] = endpoints[i], endpoints[0]
	}
	var errs []error
	for _, e := range endpoints {
		err := c.try(ctx, e, f)
		if err == nil {
			c.mu.Lock()
			c.lastGood = e
			c.mu.Unlock()
			return nil
		}
		errs = append(errs, fmt.Errorf("endpoint %s: %w", e, err))
		if !moves(err) || ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func (c *Client) try(ctx context.Context, endpoint string, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, min(anyMemberWait, c.cfg.CommandTimeout))
	defer cancel()
	mc, err := c.conn(ctx, endpoint)
	if err != nil {
		return err
	}
	if err := f(ctx, mc.etcd); err != nil {
		return c.explain(err, mc.last)
	}
	return nil
}

// moves tells whether another member may answer where err came from one.
func moves(err error) bool {
	var held *HeldError
	for _, answer := range []error{ErrNoTokens, errTokenOut, errPauseTokens, ErrTurnOut, ErrTurnGone} {
		if errors.Is(err, answer) {
			return false // every member would say the same
		}
	}
	switch {
	case errors.As(err, &held):
		return false
	case errors.Is(err, context.DeadlineExceeded):
		return true
	case errors.Is(err, rpctypes.ErrTooManyRequests), fromLearner(err):
		return true // a member that lags behind, or a learner: not the cluster
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable || e.Code() == codes.DeadlineExceeded
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown:
		return true
	}
	return false
}

// fromLearner tells whether err is a learner's refusal: it serves next to nothing until it is promoted.
func fromLearner(err error) bool {
	want := rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner)
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Error() == want
	}
	s, ok := status.FromError(err)
	return ok && strings.HasSuffix(s.Message(), want)
}

// IsNoSpace tells whether err is etcd's refusal to write under the NOSPACE alarm.
func IsNoSpace(err error) bool { return errors.Is(err, rpctypes.ErrNoSpace) }
