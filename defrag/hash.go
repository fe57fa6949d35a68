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

// heard is a member's hash.
type heard struct {
	member cluster.Member
	hash   cluster.Hash
}

// hashes are what keepers have told from under their drains, all at one revision.
type hashes struct {
	revision int64 // fixed by the first member that is drained; 0: none was
	of       map[cluster.ID]heard
	longest  float64 // seconds
}

// fix sets the revision of the hashes that are taken under the drains of this run: one that every voter has.
func (h *hashes) fix(v cluster.View) {
	if h.revision == 0 {
		h.revision = oldest(v)
	}
}

// oldest is the revision that every voter has.
func oldest(v cluster.View) int64 {
	rev := int64(0)
	for _, m := range v.Voters() {
		if rev == 0 || m.Revision < rev {
			rev = m.Revision
		}
	}
	return rev
}

// hear takes what the keeper beside a member tells, and holds it against what others told, so that a run ends at the
// first member whose data differ.
func (s *run) hear(m cluster.Member, did *turnResult) error {
	if did == nil || did.Hash == nil || did.Hash.Revision != s.hashes.revision {
		return nil
	}
	s.hashes.longest = max(s.hashes.longest, did.HashSeconds)
	now := heard{m, *did.Hash}
	if s.hashes.of == nil {
		s.hashes.of = map[cluster.ID]heard{}
	}
	s.hashes.of[m.ID] = now
	for _, before := range s.hashes.of {
		if _, _, err := compare(before, now); err != nil {
			s.plan.Hash = &HashReport{Result: HashDifferent, Reason: err.Error(), Revision: s.hashes.revision, LongestSeconds: s.hashes.longest}
			return fmt.Errorf("%w: %w", err, errDiverged)
		}
	}
	return nil
}

// compare holds two members' hashes of one revision against each other: an error where their data differ, and why where
// that cannot be told; again: it may be told by hashes that are asked for anew.
func compare(a, b heard) (unknown string, again bool, err error) {
	switch {
	case a.hash.CompactRevision != b.hash.CompactRevision:
		return fmt.Sprintf("members %s and %s are compacted to different revisions", a.member, b.member), true, nil
	case a.hash.Hash == b.hash.Hash:
		return "", false, nil
	case a.member.Version != b.member.Version:
		return fmt.Sprintf("members %s and %s have different versions, which may count differently", a.member, b.member), false, nil
	}
	return "", false, fmt.Errorf("members %s and %s differ at revision %d", a.member, b.member, b.hash.Revision)
}

// hash compares the keyspaces of the voters at the end of the run, one member after another: first by what keepers told
// from under their drains, where they did.
func (s *run) hash(ctx context.Context) error {
	if len(s.done) == 0 {
		return nil
	}
	s.plan.Hash = &HashReport{Result: HashOff, LongestSeconds: s.hashes.longest}
	if !s.cfg.HashCheck {
		return nil
	}
	work := context.WithoutCancel(ctx)
	told := s.hashes
	for try := range hashTries {
		if ctx.Err() != nil {
			s.plan.Hash.Result, s.plan.Hash.Reason = HashUnknown, "interrupted"
			return nil
		}
		if try > 0 && sleep(work, s.t.stableStep) != nil {
			break
		}
		again, err := s.hashOnce(work, told)
		if err != nil || !again {
			return err
		}
		told = hashes{}
	}
	return nil
}

// hashOnce asks every voter that has not told its hash. Again: the answers could not be compared.
func (s *run) hashOnce(ctx context.Context, told hashes) (again bool, err error) {
	h := s.plan.Hash
	unknown := func(format string, args ...any) (bool, error) {
		h.Result, h.Reason = HashUnknown, fmt.Sprintf(format, args...)
		return true, nil
	}
	v, err := s.c.View(ctx)
	if err != nil {
		return unknown("%s", err)
	}
	for _, m := range v.Voters() {
		if !m.Reachable {
			return unknown("member %s does not answer", m)
		}
	}
	h.Revision = oldest(v)
	if len(told.of) > 0 {
		h.Revision = told.revision
	}
	var first *heard
	for _, m := range v.Voters() {
		now, ok := told.of[m.ID]
		if !ok {
			got, seconds, err := s.hashKV(ctx, v, m, h.Revision)
			h.LongestSeconds = max(h.LongestSeconds, seconds)
			switch {
			case errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev):
				return unknown("member %s: %s", m, err)
			case err != nil:
				h.Result, h.Reason = HashUnknown, err.Error()
				return false, nil // a right that is missing does not come back by asking again
			}
			now = heard{m, got}
		}
		if first == nil {
			first = &now
			continue
		}
		why, again, err := compare(*first, now)
		switch {
		case err != nil:
			h.Result, h.Reason = HashDifferent, err.Error()
			return false, fmt.Errorf("%w: %w", err, errDiverged)
		case why != "":
			h.Result, h.Reason = HashUnknown, why
			return again, nil
		}
	}
	h.Result, h.Reason = HashEqual, fmt.Sprintf("%d members agree at revision %d", len(v.Voters()), h.Revision)
	return false, nil
}
