package defrag

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// hashTries is how often hashes are asked for until they can be compared: a compaction between two members' answers
// makes them differ for no bad reason.
const hashTries = 3

// Results of the comparison.
const (
	HashEqual     = "equal"
	HashDifferent = "different"
	HashUnknown   = "unknown"
	HashOff       = "off"
)

// errDiverged: the members do not hold the same data.
var errDiverged = errors.New("the members' hashes differ: their data diverge; run nothing more, compare 'etcdctl endpoint hashkv --cluster', and restore the odd one out from the others")

// hash compares the keyspaces of the voters once, at the end of the run, one member after another.
func (s *run) hash(ctx context.Context) error {
	if len(s.done) == 0 {
		return nil
	}
	s.plan.Hash = &HashReport{Result: HashOff}
	if !s.cfg.HashCheck {
		return nil
	}
	work := context.WithoutCancel(ctx)
	for try := range hashTries {
		if ctx.Err() != nil {
			*s.plan.Hash = HashReport{Result: HashUnknown, Reason: "interrupted"}
			return nil
		}
		if try > 0 && sleep(work, s.t.stableStep) != nil {
			break
		}
		again, err := s.hashOnce(work)
		if err != nil || !again {
			return err
		}
	}
	return nil
}

// hashOnce asks every voter. Again: the answers could not be compared.
func (s *run) hashOnce(ctx context.Context) (again bool, err error) {
	h := s.plan.Hash
	unknown := func(format string, args ...any) (bool, error) {
		h.Result, h.Reason = HashUnknown, fmt.Sprintf(format, args...)
		return true, nil
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return unknown("%s", err)
	}
	versions := map[string]bool{}
	h.Revision = 0
	for _, m := range v.Voters() {
		if !m.Reachable {
			return unknown("member %s does not answer", m)
		}
		versions[m.Version] = true
		if h.Revision == 0 || m.Revision < h.Revision {
			h.Revision = m.Revision
		}
	}
	var first *cluster.Hash
	var firstMember cluster.Member
	for _, m := range v.Voters() {
		got, seconds, err := s.hashKV(ctx, v, m, h.Revision)
		h.LongestSeconds = max(h.LongestSeconds, seconds)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev):
			return unknown("member %s: %s", m, err)
		case err != nil:
			h.Result, h.Reason = HashUnknown, err.Error()
			return false, nil // a right that is missing does not come back by asking again
		case first == nil:
			first, firstMember = &got, m
		case got.CompactRevision != first.CompactRevision:
			return unknown("members %s and %s are compacted to different revisions", firstMember, m)
		case got.Hash != first.Hash && len(versions) > 1:
			return unknown("members of different versions may count differently")
		case got.Hash != first.Hash:
			h.Result = HashDifferent
			h.Reason = fmt.Sprintf("members %s and %s differ at revision %d", firstMember, m, h.Revision)
			return false, fmt.Errorf("%s: %w", h.Reason, errDiverged)
		}
	}
	h.Result, h.Reason = HashEqual, fmt.Sprintf("%d members agree at revision %d", len(v.Voters()), h.Revision)
	return false, nil
}
