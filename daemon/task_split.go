package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster/forecast"
	"github.com/etcdkeeper/etcdkeeper/report"
	"github.com/etcdkeeper/etcdkeeper/schedule"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// splitTimeout bounds one sample: a scan of the largest keyspace that etcd allows takes minutes.
const splitTimeout = 15 * time.Minute

// splitObserving makes the part whose task samples the write load, over observe where the write-ahead log is not at hand,
// and judges a split on what was gathered over time.
func splitObserving(observe time.Duration) func(*Host) (func(Env) ([]Task, error), error) {
	return func(h *Host) (func(Env) ([]Task, error), error) { return setUpSplit(h, observe) }
}

func setUpSplit(h *Host, observe time.Duration) (func(Env) ([]Task, error), error) {
	metrics := splitter.NewMetrics(h.Registry)
	var latest atomic.Pointer[splitter.Proposal]
	h.Status("split", func() any {
		p := latest.Load()
		if p == nil {
			return nil
		}
		return struct {
			Verdict   splitter.Verdict `json:"verdict"`
			Resources []string         `json:"resources"`
			Reason    string           `json:"reason"`
			Taken     time.Time        `json:"taken"`
			Window    *splitter.Figure `json:"windowSeconds"`
		}{p.Verdict, p.Resources, p.Reason, p.Evidence.Taken, p.Evidence.WindowSeconds}
	})
	h.Page("/split", "Should events leave?", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p := latest.Load()
		if p == nil {
			http.Error(w, "no sample was taken yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := report.Write(w, report.SplitPage(*p)); err != nil {
			h.Log.Warn("write the page of the split", "err", err)
		}
	}))
	var mu sync.Mutex
	var history splitter.History
	loaded := false
	return func(e Env) ([]Task, error) {
		c := e.Config.Split
		if !c.Enabled {
			return nil, nil
		}
		run := func(ctx context.Context) error {
			sample, err := splitter.Gather(ctx, e.Cluster, splitter.GatherOptions{
				Prefix: c.Prefix, EventTTL: c.Policy.EventTTL, Observe: observe, Rate: splitter.DaemonRate,
				DataDir: e.Config.Etcd.MemberDataDir,
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			dir := e.Config.StateDir
			var broken error
			if dir != "" && !loaded {
				history, broken = splitter.LoadHistory(dir)
			}
			loaded = true
			history.Add(sample, c.Keep)
			whole, _ := history.Evidence()
			if f := h.Watch.Forecast(); whole.Stress.QuotaHorizonSeconds == nil {
				whole.Stress.QuotaHorizonSeconds = horizon(f)
			}
			p := splitter.Propose(whole, c.Policy)
			latest.Store(&p)
			metrics.Set(p)
			h.Log.Info("split judged", "verdict", p.Verdict, "resources", p.Resources, "reason", p.Reason)
			if dir != "" {
				if err := history.Save(dir); err != nil {
					return errors.Join(broken, fmt.Errorf("keep the evidence: %w", err))
				}
			}
			return broken
		}
		return []Task{{Name: "split", When: schedule.Every(c.Interval), AtStart: true, Timeout: splitTimeout, Jitter: 10 * time.Second, Run: run}}, nil
	}, nil
}

func horizon(f forecast.Forecast) *splitter.Figure {
	if f.QuotaExhaustionSeconds == nil {
		return nil
	}
	return &splitter.Figure{Value: *f.QuotaExhaustionSeconds, Source: splitter.FromModel, Confidence: splitter.Estimated}
}
