package defrag

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// TestRunner_DisarmOnly proves that an alarm which a killed run has left is taken away by a run that has no member to
// defragment, behind every gate, and that it stays where a gate is closed.
func TestRunner_DisarmOnly(t *testing.T) {
	left := func(t *testing.T) *fake {
		f := newFake(t)
		f.view = view(member(1, 50, 45), member(2, 50, 45), member(3, 50, 45))
		f.set(2, func(m *cluster.Member) { m.Alarms = []string{"NOSPACE"} })
		return f
	}
	t.Run("every gate is open", func(t *testing.T) {
		f := left(t)
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || !rep.Disarmed || !strings.Contains(rep.Reason, "the NOSPACE alarm was disarmed") || rep.Hash != nil {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock", "disarm 1")
		})
	})
	t.Run("a dry run", func(t *testing.T) {
		f := left(t)
		inRun(t, f, nil, Options{DryRun: true}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Planned || rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t)
		})
	})
	t.Run("a gate closes under the lock", func(t *testing.T) {
		f := left(t)
		probes := 0
		f.probe = func() []cluster.Refusal {
			if probes++; probes > 2 {
				return []cluster.Refusal{{Gate: cluster.GateRead, Member: "m3", Reason: "no answer"}}
			}
			return nil
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Refused || rep.Disarmed || !strings.Contains(rep.Reason, "no answer") {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock")
		})
	})
	t.Run("the lock is lost before it", func(t *testing.T) {
		f := left(t)
		probes := 0
		f.probe = func() []cluster.Refusal {
			if probes++; probes > 2 {
				f.lock.lost = cluster.ErrLockLost
			}
			return nil
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock")
		})
	})
}

// TestRunner_LastFence proves that the lock and the gauges are read behind the other gates too: those take as long as
// the slowest member, and meanwhile another keeper may have begun.
func TestRunner_LastFence(t *testing.T) {
	t.Run("the lock", func(t *testing.T) {
		f := newFake(t)
		probes := 0
		f.probe = func() []cluster.Refusal {
			if probes++; probes > 2 { // the first two belong to the plan
				f.lock.lost = cluster.ErrLockLost
			}
			return nil
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, cluster.GateLock) {
				t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
			}
			f.want(t, "lock")
		})
	})
	for _, busy := range []cluster.ID{1, 2, 3} {
		t.Run("the gauge of member "+busy.String(), func(t *testing.T) {
			f := newFake(t)
			f.gauge = func(m cluster.Member, n int64) (int64, error) {
				if m.ID == busy {
					return 1, nil // another keeper has begun since the view was taken
				}
				return n, nil
			}
			inRun(t, f, nil, Options{}, func(rep Report, err error) {
				if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, cluster.GateInFlight) {
					t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
				}
				f.want(t, "lock")
			})
		})
	}
	t.Run("a gauge that cannot be read", func(t *testing.T) {
		f := newFake(t)
		f.gauge = func(m cluster.Member, n int64) (int64, error) {
			if m.ID == 3 {
				return 0, context.DeadlineExceeded
			}
			return n, nil
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, cluster.GateInFlight) {
				t.Errorf("got %s, %v: %s", rep.Outcome, err, rep.Reason)
			}
			f.want(t, "lock")
		})
	})
}

// TestKeeper_StopsCoordinating proves that a keeper which does not coordinate any more does not go on telling what its
// last evaluation would have given back: another keeper's figure counts now.
func TestKeeper_StopsCoordinating(t *testing.T) {
	cfg := cluster.DefaultConfig()
	cfg.Member = "m1"
	c, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	metrics := NewMetrics(prometheus.NewRegistry())
	k, err := NewKeeper(c, DefaultConfig(), KeeperOptions{Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	reclaimable := func() float64 {
		var m dto.Metric
		if err := metrics.reclaimable.Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.Gauge.GetValue()
	}
	v := healthy()
	v.Taken = time.Now()
	k.decide(v, nil, nil, nil)
	metrics.observe(Report{Outcome: Nothing, ReclaimableBytes: 123})
	k.decide(v, nil, nil, nil)
	if got := reclaimable(); !k.Coordination().Coordinating || got != 123 {
		t.Fatalf("while it coordinates: got %g, %s", got, k.Coordination().Reason)
	}
	for i := range v.Members {
		v.Members[i].LeaderID, v.Members[i].Leader = 2, i == 1
	}
	k.decide(v, []cluster.Keeper{{Member: 2}}, nil, nil)
	if got := reclaimable(); k.Coordination().Coordinating || got != 0 {
		t.Errorf("got %g, want 0: %s", got, k.Coordination().Reason)
	}
}
