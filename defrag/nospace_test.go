package defrag

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestRunner_NoSpace(t *testing.T) {
	raise := func(f *fake, size, inUse int64) {
		for _, id := range []cluster.ID{1, 2, 3} {
			f.set(id, func(m *cluster.Member) {
				m.Quota, m.DBSize, m.DBSizeInUse = ptr(int64(100<<20)), size<<20, inUse<<20
				m.Alarms = []string{"NOSPACE"}
				m.Revision = 5000
			})
		}
	}
	t.Run("defragmenting is enough", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 50)
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || !rep.Disarmed || rep.Compacted != nil {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock", "defragment m2", "defragment m3", "defragment m1", "disarm 3")
		})
	})
	t.Run("history has to go first", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		f.compactRev = 1000
		f.compact = func(f *fake, _ int64) {
			for _, id := range []cluster.ID{1, 2, 3} {
				f.set(id, func(m *cluster.Member) { m.DBSizeInUse = 20 << 20 })
			}
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Done || !rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
			f.want(t, "lock", "compact 4600", "defragment m2", "defragment m3", "defragment m1", "disarm 3")
		})
	})
	t.Run("a known margin is kept", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		f.compact = func(f *fake, _ int64) {
			for _, id := range []cluster.ID{1, 2, 3} {
				f.set(id, func(m *cluster.Member) { m.DBSizeInUse = 20 << 20 })
			}
		}
		inRun(t, f, nil, Options{Revision: func(time.Time) (int64, bool) { return 4242, true }}, func(rep Report, err error) {
			if err != nil || rep.Compacted == nil || *rep.Compacted != 4242 {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	})
	t.Run("live data is too much", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 100)
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Partial || rep.Disarmed || !strings.Contains(rep.Reason, "etcdkeeper census") {
				t.Errorf("got %s %q, %v", rep.Outcome, rep.Reason, err)
			}
		})
	})
	t.Run("disarmed after a partial run too", func(t *testing.T) {
		f := newFake(t)
		raise(f, 95, 50)
		f.set(1, func(m *cluster.Member) { m.DBSize = 80 << 20 })
		f.set(3, func(m *cluster.Member) { m.DBSize = 80 << 20 })
		f.during = func(f *fake, m cluster.Member) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "stop"}}
		}
		inRun(t, f, func(c *Config) { c.Rule = "true" }, Options{}, func(rep Report, err error) {
			if err != nil || rep.Outcome != Partial || !rep.Disarmed {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	})
	t.Run("not while one member is full", func(t *testing.T) {
		f := newFake(t)
		raise(f, 101, 50)
		f.during = func(f *fake, m cluster.Member) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.pause = []cluster.Refusal{{Gate: cluster.GatePause, Reason: "stop"}}
		}
		inRun(t, f, nil, Options{}, func(rep Report, err error) {
			if rep.Outcome != Partial || rep.Disarmed || slices.Contains(f.calls, "disarm 3") {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	})
}
