package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const pauseKey = Root + "pause"

// Pause is the order to all keepers of the cluster to stand down.
type Pause struct {
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until"` // nil: until it is resumed
	Reason string     `json:"reason"`
	By     string     `json:"by"`
}

func (p Pause) String() string {
	s := "paused by " + p.By + " since " + p.Since.UTC().Format(time.RFC3339)
	if p.Until != nil {
		s += " until " + p.Until.UTC().Format(time.RFC3339)
	} else {
		s += " until resumed"
	}
	if p.Reason != "" {
		s += ": " + p.Reason
	}
	return s
}

// SetPause stands every keeper down. With an end, etcd removes it by itself then. Under NOSPACE a pause token is
// deleted instead: such a pause has neither an end nor a reason, and the returned pause says so.
func (c *Client) SetPause(ctx context.Context, p Pause) (Pause, error) {
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		value, err := json.Marshal(p)
		if err != nil {
			return err
		}
		var opts []clientv3.OpOption
		if p.Until != nil {
			g, err := cl.Grant(ctx, max(1, int64(time.Until(*p.Until).Seconds())))
			if err != nil {
				return err
			}
			opts = append(opts, clientv3.WithLease(g.ID))
		}
		_, err = cl.Put(ctx, pauseKey, string(value), opts...)
		return err
	})
	if IsNoSpace(err) {
		if err := c.flipPauseToken(ctx, true); err != nil {
			return Pause{}, fmt.Errorf("pause under NOSPACE: %w", err)
		}
		p.Until, p.Reason = nil, "paused by token under NOSPACE"
		return p, nil
	}
	if err != nil {
		return Pause{}, fmt.Errorf("pause: %w", err)
	}
	return p, nil
}

// Resume ends a pause. It tells whether there was one.
func (c *Client) Resume(ctx context.Context) (was bool, err error) {
	p, err := c.ReadPause(ctx)
	if err != nil || p == nil {
		return false, err
	}
	err = c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		_, err := cl.Delete(ctx, pauseKey)
		return err
	})
	if err != nil {
		return true, fmt.Errorf("resume: %w", err)
	}
	if err := c.flipPauseToken(ctx, false); err != nil {
		return true, fmt.Errorf("resume: %w", err)
	}
	return true, nil
}

// ReadPause is the pause in force, nil where there is none. It is read linearizably.
func (c *Client) ReadPause(ctx context.Context) (*Pause, error) {
	var p *Pause
	err := c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		p = nil
		resp, err := cl.Get(ctx, pauseKey)
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			p = &Pause{}
			if json.Unmarshal(resp.Kvs[0].Value, p) != nil {
				p.Reason = "unreadable pause key " + pauseKey
			}
			return nil
		}
		s, err := readTokens(ctx, cl, tokensPause)
		if err == nil && pausedByToken(s) {
			p = &Pause{Reason: "by token under NOSPACE", By: "an operator"}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the pause: %w", err)
	}
	return p, nil
}

// pausedByToken: each pause and each resume under NOSPACE takes one token, so an odd number of taken ones is a pause.
func pausedByToken(s tokenState) bool { return s.taken%2 == 1 }

var errPauseTokens = errors.New("all pause tokens are taken: free space and disarm the alarm first")

// flipPauseToken makes the tokens say what is wanted. Where etcd can be written, a resume puts them all back.
func (c *Client) flipPauseToken(ctx context.Context, pause bool) error {
	return c.Any(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		s, err := readTokens(ctx, cl, tokensPause)
		if err != nil || !pause && s.taken == 0 {
			return err
		}
		if !pause {
			_, err := cl.Txn(ctx).Then(tokenPuts(tokensPause)...).Commit()
			if !IsNoSpace(err) {
				return err
			}
		}
		if pausedByToken(s) == pause {
			return nil
		}
		if !s.made {
			return ErrNoTokens
		}
		i, rev, ok := s.next()
		if !ok {
			return errPauseTokens
		}
		resp, err := cl.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(tokenKey(tokensPause, i)), "=", rev)).
			Then(clientv3.OpDelete(tokenKey(tokensPause, i))).
			Commit()
		if err == nil && !resp.Succeeded {
			return errors.New("somebody else paused or resumed at the same time: ask again")
		}
		return err
	})
}
