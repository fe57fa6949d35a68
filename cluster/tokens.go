package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Under the NOSPACE alarm etcd takes no put and grants no lease, but it takes a transaction that only deletes. So
// keepers put tokens down while there is space, and under the alarm a lock is taken by deleting the first of them.
//
// Tokens of one name are numbered and taken in order: the lowest that is left says how many were taken. A taken token
// has no time-to-live of its own. A keeper that has watched the same token be the lowest for a whole time-to-live may
// take that one: the one before it is then taken for dead. The holder checks before each act that no further token was
// taken and that its own time is not over. When etcd can be written again, the tokens are put back.
const tokenCount = 8

// Names of the token sets.
const (
	tokensRun   = LockRun
	tokensPause = "pause"
)

// ErrNoTokens is returned when a lock is wanted under NOSPACE in a cluster where no keeper has put tokens down.
var ErrNoTokens = errors.New("etcd is out of space (NOSPACE), so the lock cannot be made, and there are no tokens since no keeper ran here before")

var errTokenOut = errors.New("a token is out")

func tokenDir(name string) string        { return Root + "token/" + name + "/" }
func tokenKey(name string, i int) string { return fmt.Sprintf("%s%d", tokenDir(name), i) }
func tokenMark(name string) string       { return tokenDir(name) + "made" }

// tokenState is what is left of a token set.
type tokenState struct {
	made   bool
	taken  int           // how many of the first ones are gone
	modRev map[int]int64 // of those that are left
}

// next is the lowest token that is left.
func (s tokenState) next() (index int, rev int64, ok bool) {
	if s.taken >= tokenCount {
		return 0, 0, false
	}
	return s.taken, s.modRev[s.taken], true
}

type tokenHold struct {
	index int
	until time.Time
}

type tokenSeen struct {
	taken int
	since time.Time
}

func readTokens(ctx context.Context, cl *clientv3.Client, name string) (tokenState, error) {
	resp, err := cl.Get(ctx, tokenDir(name), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return tokenState{}, err
	}
	s := tokenState{modRev: map[int]int64{}}
	for _, kv := range resp.Kvs {
		var i int
		switch _, err := fmt.Sscanf(string(kv.Key), tokenDir(name)+"%d", &i); {
		case string(kv.Key) == tokenMark(name):
			s.made = true
		case err == nil && i >= 0 && i < tokenCount:
			s.modRev[i] = kv.ModRevision
		}
	}
	for s.taken < tokenCount && s.modRev[s.taken] == 0 {
		s.taken++
	}
	if !s.made {
		s.taken = 0
	}
	return s, nil
}

// EnsureTokens puts the run and pause tokens down where there are none yet. It is called while etcd can be written;
// under NOSPACE it does nothing.
func (c *Client) EnsureTokens(ctx context.Context) error {
	for _, name := range []string{tokensRun, tokensPause} {
		err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
			s, err := readTokens(ctx, cl, name)
			if err != nil || s.made {
				return err
			}
			_, err = cl.Txn(ctx).
				If(clientv3.Compare(clientv3.CreateRevision(tokenMark(name)), "=", 0)).
				Then(tokenPuts(name)...).
				Commit()
			return err
		})
		if err != nil && !IsNoSpace(err) {
			return fmt.Errorf("put tokens down: %w", err)
		}
	}
	return nil
}

func tokenPuts(name string) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpPut(tokenMark(name), "1")}
	for i := range tokenCount {
		ops = append(ops, clientv3.OpPut(tokenKey(name, i), "1"))
	}
	return ops
}

// restoreTokens makes a set whole again if it still is as it was seen.
func (c *Client) restoreTokens(ctx context.Context, name string, taken int) error {
	return c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		var guard []clientv3.Cmp
		if taken > 0 {
			guard = append(guard, clientv3.Compare(clientv3.CreateRevision(tokenKey(name, taken-1)), "=", 0))
		}
		if taken < tokenCount {
			guard = append(guard, clientv3.Compare(clientv3.CreateRevision(tokenKey(name, taken)), ">", 0))
		}
		_, err := cl.Txn(ctx).If(guard...).Then(tokenPuts(name)...).Commit()
		return err
	})
}

// acquireToken takes the lock of l under NOSPACE.
func (c *Client) acquireToken(ctx context.Context, l *Lock, ttl time.Duration) error {
	var took int
	asked := time.Now() // others count from when they see the token taken, which is later
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		s, err := readTokens(ctx, cl, l.name)
		if err != nil {
			return err
		}
		if !s.made {
			return ErrNoTokens
		}
		index, rev, ok := s.next()
		if held := c.tokenHeld(l.name, s, ttl); held != nil {
			return held
		}
		if !ok {
			return &HeldError{Holder: "a keeper that took the last token", Since: time.Now(), Left: -1,
				Broken: "all tokens are taken: free space, disarm the alarm, and the next keeper puts them back"}
		}
		resp, err := cl.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(tokenKey(l.name, index)), "=", rev),
				clientv3.Compare(clientv3.CreateRevision(lockKey(l.name)), "=", 0)).
			Then(clientv3.OpDelete(tokenKey(l.name, index))).
			Else(clientv3.OpGet(lockKey(l.name))).
			Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
				return heldBy(ctx, cl, kvs[0]) // a lock from before the alarm
			}
			return &HeldError{Holder: "another keeper, by token", Since: time.Now(), Left: ttl}
		}
		took = index
		return nil
	})
	if err != nil {
		return err
	}
	l.token = &tokenHold{index: took, until: asked.Add(ttl)}
	return nil
}

// tokenHeld tells whether a taken token still has to be respected: until this process has seen it be the last one
// taken for ttl.
func (c *Client) tokenHeld(name string, s tokenState, ttl time.Duration) *HeldError {
	if s.taken == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, ok := c.tokens[name]
	if !ok || seen.taken != s.taken {
		seen = tokenSeen{taken: s.taken, since: time.Now()}
		c.tokens[name] = seen
	}
	if left := ttl - time.Since(seen.since); left > 0 {
		return &HeldError{Holder: "a keeper that took token " + fmt.Sprint(s.taken-1) + " under NOSPACE", Since: seen.since, Left: left}
	}
	return nil
}

// checkToken is Lock.Check for a lock by token.
func (c *Client) checkToken(ctx context.Context, l *Lock) error {
	if time.Now().After(l.token.until) {
		err := fmt.Errorf("%w: the time of its token is over", ErrLockLost)
		l.cancel(err)
		return err
	}
	var s tokenState
	var other bool
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		var err error
		if s, err = readTokens(ctx, cl, l.name); err != nil {
			return err
		}
		resp, err := cl.Get(ctx, lockKey(l.name), clientv3.WithCountOnly())
		other = err == nil && resp.Count > 0
		return err
	})
	if err != nil {
		return fmt.Errorf("read the tokens: %w", err)
	}
	if other || s.taken != l.token.index+1 {
		err := fmt.Errorf("%w: another keeper acts now", ErrLockLost)
		l.cancel(err)
		return err
	}
	return nil
}

// releaseToken puts the tokens back where etcd can be written again.
func (c *Client) releaseToken(l *Lock) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.CommandTimeout)
	defer cancel()
	if err := c.restoreTokens(ctx, l.name, l.token.index+1); err != nil {
		c.log.Warn("tokens not put back: the next keeper that can write does it", "err", err)
	}
}
