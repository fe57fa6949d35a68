package defrag

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
)

// OfflineOptions of the defragmentation of a stopped member.
type OfflineOptions struct {
	Quota  int64 // bytes, for rules that ask for it; 0: not known
	DryRun bool
	// IfNeeded is for an init container, which must not keep an etcd from starting that could start: a data directory
	// without a database, and a volume without room, are nothing to do.
	IfNeeded bool
}

// Offline defragments the database of a stopped member where the rule matches. It refuses a member that runs, and a
// volume without room for the new file; a file that cannot be read fails.
func Offline(ctx context.Context, dataDir string, rule Rule, o OfflineOptions) (Report, error) {
	start := time.Now()
	rep := Report{DryRun: o.DryRun, Trigger: TriggerManual, Started: start.UTC(), By: "offline"}
	err := offline(ctx, dataDir, rule, o, DiskFree, &rep)
	rep.Seconds = time.Since(start).Seconds()
	if errors.Is(err, etcdfile.ErrRunning) {
		rep.Outcome, rep.Reason = Refused, err.Error()
		return rep, nil
	}
	if err != nil {
		rep.Outcome, rep.Reason, rep.Failure = Failed, err.Error(), true
	}
	return rep, err
}

func offline(ctx context.Context, dataDir string, rule Rule, o OfflineOptions, diskFree func(string) (int64, error), rep *Report) error {
	u, err := etcdfile.ReadUsage(ctx, dataDir)
	if errors.Is(err, fs.ErrNotExist) && o.IfNeeded {
		if _, derr := os.Stat(dataDir); derr == nil || errors.Is(derr, fs.ErrNotExist) {
			rep.Outcome, rep.Reason = Nothing, "there is no database in "+dataDir+" yet"
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w (want the member's --data-dir, which has member/snap/db in it)", err)
	}
	if err != nil {
		return err
	}
	size, inUse, free := u.SizeBytes, u.InUseBytes, u.SizeBytes-u.InUseBytes
	predicted, basis := History{}.Predict(0, inUse)
	rep.Members = []MemberReport{{Name: dataDir, Action: Skip, Leader: LeaderNo, BeforeBytes: &size, InUseBytes: &inUse,
		ReclaimableBytes: &free, PredictedSeconds: &predicted}}
	m := &rep.Members[0]
	rep.PredictedSeconds, rep.PredictionBasis = predicted, basis
	f := Facts{DBSize: float64(size), DBSizeInUse: float64(inUse), DBSizeFree: float64(free), DBQuota: unknown(), DBQuotaUsage: unknown(),
		Fragmentation: float64(free) / float64(max(size, 1)), PredictedStallSeconds: predicted, SecondsSinceDefrag: math.Inf(1), QuotaExhaustionSeconds: math.Inf(1)}
	if o.Quota > 0 {
		f.DBQuota = float64(o.Quota)
		f.DBQuotaUsage = f.DBSize / f.DBQuota
	}
	match, err := rule.Match(f)
	if err != nil {
		return err
	}
	m.Reason = fmt.Sprintf("%s of %s free (%.0f%%)", human(free), human(size), 100*f.Fragmentation)
	if !match {
		rep.Outcome, rep.Reason = Nothing, m.Reason+": the rule does not match"
		m.Reason = rep.Reason
		return nil
	}
	m.Action = Defragment
	m.Reason += ": the rule matches"
	rep.ReclaimableBytes = free
	room, err := diskFree(dataDir)
	if err != nil {
		return fmt.Errorf("free space of the volume: %w", err)
	}
	if need := inUse + inUse/5; room < need {
		rep.Outcome = Refused
		rep.Reason = fmt.Sprintf("%s are free on the volume of %s, %s are needed for the new file", human(room), dataDir, human(need))
		if o.IfNeeded {
			m.Action = Skip
			rep.Outcome, rep.Reason = Nothing, rep.Reason+": it is left as it is"
		}
		return nil
	}
	if o.DryRun {
		rep.Outcome, rep.Reason = Planned, m.Reason
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	start := time.Now()
	if err := etcdfile.Defragment(ctx, dataDir); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	info, err := os.Stat(u.Path)
	if err != nil {
		return err
	}
	after := info.Size()
	m.Done, m.Seconds, m.AfterBytes = true, &took, &after
	rep.ReclaimedBytes = size - after
	rep.Outcome, rep.Reason = Done, fmt.Sprintf("%s given back", human(rep.ReclaimedBytes))
	return nil
}
