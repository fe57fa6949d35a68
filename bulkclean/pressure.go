package bulkclean

import (
	"context"
	"errors"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Names of the metrics that tell a member's load.
const (
	fsyncMetric   = "etcd_disk_wal_fsync_duration_seconds"
	pendingMetric = "etcd_server_proposals_pending"
)

// viewEvery is how often the list of members is read again.
const viewEvery = 30 * time.Second

// membersLoad reads the members' load from their metrics.
type membersLoad struct {
	c     *cluster.Client
	view  cluster.View
	taken time.Time
	last  map[cluster.ID]*dto.Histogram
}

// MembersLoad is a function for Executor.Pressure: the worst member's fsync since the last call and its pending
// proposals. It is for one caller at a time.
func MembersLoad(c *cluster.Client) func(context.Context) (Pressure, error) {
	return (&membersLoad{c: c, last: map[cluster.ID]*dto.Histogram{}}).read
}

func (l *membersLoad) read(ctx context.Context) (Pressure, error) {
	if time.Since(l.taken) > viewEvery {
		v, err := l.c.View(ctx)
		if err != nil {
			return Pressure{}, err
		}
		l.view, l.taken = v, time.Now()
	}
	var p Pressure
	var errs []error
	for _, m := range l.view.Members {
		if !m.Reachable {
			continue
		}
		families, err := l.c.Metrics(ctx, m, fsyncMetric, pendingMetric)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if v, ok := cluster.MetricValue(families, pendingMetric); ok {
			p.PendingProposals = max(p.PendingProposals, int64(v))
		}
		if f := families[fsyncMetric]; f != nil && len(f.GetMetric()) > 0 {
			h := f.GetMetric()[0].GetHistogram()
			if q, ok := quantileSince(l.last[m.ID], h, 0.99); ok {
				p.FsyncSeconds = max(p.FsyncSeconds, q)
			}
			l.last[m.ID] = h
		}
	}
	if len(errs) == len(l.view.Members) {
		return p, errors.Join(errs...)
	}
	return p, nil
}

// quantileSince is the quantile of what a classic histogram counted between two readings, as its bucket's upper bound:
// false where that is nothing, or too little to speak of a quantile.
func quantileSince(before, now *dto.Histogram, q float64) (float64, bool) {
	const enough = 20
	if before == nil || now == nil || len(before.GetBucket()) != len(now.GetBucket()) {
		return 0, false
	}
	total := float64(now.GetSampleCount()) - float64(before.GetSampleCount())
	if total < enough {
		return 0, false
	}
	for i, b := range now.GetBucket() {
		n := float64(b.GetCumulativeCount()) - float64(before.GetBucket()[i].GetCumulativeCount())
		if n >= q*total {
			return b.GetUpperBound(), true
		}
	}
	if n := len(now.GetBucket()); n > 0 {
		return now.GetBucket()[n-1].GetUpperBound() * 2, true // beyond the last bucket
	}
	return 0, false
}
