package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// rig runs one task's loop in a bubble.
type rig struct {
	slot *slot
	stop func() // ends the loop and its work, and waits
}

func newRig(t *testing.T, task Task) *rig {
	t.Helper()
	s := newSlot(task.Name)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { task.loop(ctx, ctx, s, &wg) })
	return &rig{slot: s, stop: func() { cancel(); wg.Wait() }}
}

func newSlot(name string) *slot {
	m := newTaskMetrics(prometheus.NewRegistry())
	m.declare(name)
	return &slot{name: name, metrics: m, log: slog.New(slog.DiscardHandler)}
}

func TestTask_RunsOnItsSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		r := newRig(t, Task{Name: "t", When: schedule.Every(10 * time.Minute), AtStart: true, Run: func(context.Context) error {
			at = append(at, time.Since(began))
			time.Sleep(time.Minute)
			return nil
		}})
		time.Sleep(25 * time.Minute)
		r.stop()
		want := "[0s 11m0s 22m0s]"
		if got := fmt.Sprint(at); got != want {
			t.Errorf("got runs at %s, want %s", got, want)
		}
	})
}

func TestTask_Jitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var first time.Duration
		r := newRig(t, Task{Name: "t", When: schedule.Every(time.Hour), Jitter: time.Minute, Run: func(context.Context) error {
			first = time.Since(began)
			return nil
		}})
		time.Sleep(90 * time.Minute)
		r.stop()
		if first < time.Hour || first >= time.Hour+time.Minute {
			t.Errorf("got the first run after %s, want it within a minute after an hour", first)
		}
	})
}

func TestTask_Results(t *testing.T) {
	for _, tt := range []struct {
		name, want, reason string
		timeout            time.Duration
		run                func(context.Context) error
	}{
		{"success", resultSuccess, "", 0, func(context.Context) error { return nil }},
		{"error", resultError, "broken", 0, func(context.Context) error { return errors.New("broken") }},
		{"skipped", resultSkipped, "paused", 0, func(context.Context) error { return fmt.Errorf("paused: %w", ErrSkipped) }},
		{"skipped, which is not said twice", resultSkipped, "paused", 0, func(context.Context) error { return fmt.Errorf("%w: paused", ErrSkipped) }},
		{"panic", resultPanic, "boom", 0, func(context.Context) error { panic("boom") }},
		{"time-out that is heeded", resultTimeout, "ended by its time-out of 1m0s", time.Minute, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Task{Name: "t", When: schedule.Every(time.Hour), AtStart: true, Timeout: tt.timeout, Run: tt.run})
				time.Sleep(2 * time.Minute)
				got := r.slot.status()
				r.stop()
				if got.Last == nil || got.Last.Result != tt.want || !strings.Contains(got.Last.Reason, tt.reason) || tt.want == resultSkipped && strings.HasPrefix(got.Last.Reason, tt.want) {
					t.Errorf("got %+v, want %s because of %q", got.Last, tt.want, tt.reason)
				}
				if (got.LastSuccess != nil) != (tt.want == resultSuccess) {
					t.Errorf("got last success %v after %s", got.LastSuccess, tt.want)
				}
			})
		})
	}
}

// A run that ignores its context is reported, and none of its task is started beside it.
func TestTask_HangsAndIsNeverStartedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var runs, together, most atomic.Int32
		r := newRig(t, Task{Name: "t", When: schedule.Every(10 * time.Minute), AtStart: true, Timeout: time.Minute, Run: func(context.Context) error {
			most.Store(max(most.Load(), together.Add(1)))
			defer together.Add(-1)
			if runs.Add(1) == 1 {
				<-release
			}
			return nil
		}})
		time.Sleep(45 * time.Minute)
		st := r.slot.status()
		if !st.Hung || !st.Running || st.Last == nil || st.Last.Result != resultTimeout || !strings.Contains(st.Last.Reason, "hangs") {
			t.Errorf("got %+v, last %+v, want a run that hangs", st, st.Last)
		}
		if runs.Load() != 1 {
			t.Errorf("got %d runs beside the one that hangs", runs.Load()-1)
		}
		close(release)
		time.Sleep(20 * time.Minute)
		st = r.slot.status()
		r.stop()
		if runs.Load() < 2 || st.Hung || st.Last.Result != resultSuccess {
			t.Errorf("got %d runs and %+v once it ended, want it to go on", runs.Load(), st.Last)
		}
		if most.Load() != 1 {
			t.Errorf("got %d runs at once, want 1", most.Load())
		}
	})
}

func TestTask_RetryDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		r := newRig(t, Task{Name: "t", When: schedule.Every(24 * time.Hour), AtStart: true, Retry: time.Minute, Run: func(context.Context) error {
			at = append(at, time.Since(began))
			if len(at) < 4 {
				return errors.New("not yet")
			}
			return nil
		}})
		time.Sleep(23 * time.Hour)
		r.stop()
		if got, want := fmt.Sprint(at), "[0s 1m0s 3m0s 7m0s]"; got != want {
			t.Errorf("got runs at %s, want %s", got, want)
		}
	})
}

// Without a schedule a task runs once.
func TestTask_OnlyAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		r := newRig(t, Task{Name: "t", AtStart: true, Run: func(context.Context) error { runs++; return nil }})
		time.Sleep(1000 * time.Hour)
		r.stop()
		if runs != 1 {
			t.Errorf("got %d runs, want 1", runs)
		}
	})
}

// A clock that is set back must not repeat what was done, nor stop the task for long.
func TestTask_WaitAcrossAClockThatIsSetBack(t *testing.T) {
	daily, err := schedule.Parse("CRON_TZ=UTC 0 3 * * *")
	if err != nil {
		t.Fatal(err)
	}
	task := Task{When: daily}
	due := time.Date(2026, 5, 2, 3, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name      string
		now, want time.Time
	}{
		{"on time", due.Add(time.Second), due.AddDate(0, 0, 1)},
		{"set back by an hour", due.Add(-time.Hour), due.AddDate(0, 0, 1)},
		{"set back by a month", due.AddDate(0, -1, 0).Add(-time.Hour), due.AddDate(0, -1, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := task.wait(tt.now, due, 0); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
