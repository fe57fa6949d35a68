package daemon

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/defrag"
	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// setUpDefrag makes the tasks of rolling defragmentation: one that sees who coordinates, one that takes the turns of the
// member beside, and one that evaluates the rule.
func setUpDefrag(h *Host) (func(Env) ([]Task, error), error) {
	metrics := defrag.NewMetrics(h.Registry)
	var current atomic.Pointer[defrag.Keeper]
	h.Status("defrag", func() any {
		k := current.Load()
		if k == nil {
			return nil
		}
		return struct {
			defrag.Coordination
			LastRun *defrag.Report `json:"lastRun"`
		}{k.Coordination(), k.Last()}
	})
	return func(e Env) ([]Task, error) {
		if !e.Config.Defrag.Enabled {
			return nil, nil
		}
		k, err := defrag.NewKeeper(e.Cluster, e.Config.Defrag, defrag.KeeperOptions{
			Log: h.Log, Metrics: metrics, Tell: e.presence.tell,
			Forecast: func(id cluster.ID) (float64, bool) {
				f, ok := h.Watch.MemberForecast(id)
				if !ok || f.QuotaExhaustionSeconds == nil {
					return 0, false
				}
				return *f.QuotaExhaustionSeconds, true
			},
		})
		if err != nil {
			return nil, fmt.Errorf("defrag: %w", err)
		}
		run := func(ctx context.Context) error {
			rep, err := k.Run(ctx)
			if err == nil && rep.Outcome == defrag.Refused {
				return fmt.Errorf("%w: %s", ErrSkipped, rep.Reason)
			}
			return err
		}
		emergency := make(chan struct{}, 1)
		coordinate := func(ctx context.Context) error {
			current.Store(k)
			due, err := k.Tick(ctx)
			if due {
				select {
				case emergency <- struct{}{}:
				default:
				}
			}
			return err
		}
		return []Task{
			{Name: "coordinate", When: schedule.Every(defrag.TickInterval), AtStart: true, Timeout: time.Minute, Run: coordinate},
			// It ends only to be watched over; what breaks off is begun again within a second.
			{Name: "turns", When: schedule.Every(time.Second), AtStart: true, Run: k.ServeTurns},
			{Name: "defrag", When: e.Config.Defrag.Schedule, Jitter: 5 * time.Second, Wake: emergency, Run: run},
		}, nil
	}, nil
}
