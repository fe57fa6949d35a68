package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// Task is work that the daemon does again and again. Run is the same function that the library call and the one-shot
// command use. It must end when its context does; the daemon never starts it twice at once, and neither an error, nor a
// panic, nor a run that hangs disturbs another task.
type Task struct {
	Name string
	When schedule.Schedule // the zero Schedule: only once at the start, where AtStart is set
	// AtStart also runs the task when the daemon starts.
	AtStart bool
	// Timeout ends a run's context. A run that goes on nevertheless is reported as hung, and no other of its task is
	// started before it ends. 0: none, for work that must not be bounded, such as a defragmentation.
	Timeout time.Duration
	// Jitter is the longest random delay before each run, so that keepers that start together do not work together.
	Jitter time.Duration
	// Retry is the wait after a run that failed, where the schedule would let more time pass. It doubles with each
	// failure in a row up to 32 times itself. 0: the schedule alone counts.
	Retry time.Duration
	// Wake makes the task run at once when something is received from it. Nil: never.
	Wake <-chan struct{}
	Run  func(ctx context.Context) error
	// Close is called once when no further run will be started: the daemon stops, or its configuration changed. The
	// cluster can still be reached. Nil: nothing to do.
	Close func()
}

// retryMax bounds how far the wait between failed runs grows: 32 times Retry.
const retryMax = 32

// ErrSkipped is returned, wrapped with the reason, by a run that found that it had nothing to do here and now: another
// keeper coordinates, a pause, a closed window. It is no failure.
var ErrSkipped = errors.New("skipped")

// Results of a run, as the metrics and the status call them.
const (
	resultSuccess = "success"
	resultSkipped = "skipped"
	resultError   = "error"
	resultTimeout = "timeout"
	resultPanic   = "panic"
)

var results = []string{resultSuccess, resultSkipped, resultError, resultTimeout, resultPanic}

// hangGrace is how long a run may take to notice that its time is over before it is called hung.
const hangGrace = 5 * time.Second

// maxSleep bounds a wait, so that a clock that is set, or a machine that slept, is noticed within it.
const maxSleep = 30 * time.Second

// run is the outcome of one run.
type run struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Result  string    `json:"result"`
	Reason  string    `json:"reason,omitempty"` // why it was skipped, or what went wrong
}

// slot holds what is known of the tasks of one name; it outlives a reload.
type slot struct {
	name    string
	metrics *taskMetrics
	log     *slog.Logger

	mu          sync.Mutex
	schedule    string
	running     bool
	hung        bool
	since       time.Time
	next        time.Time
	last        *run
	lastSuccess time.Time
	failures    int // in a row
}

// start takes the slot for a run; false where one is going on.
func (s *slot) start(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	s.running, s.since = true, now
	s.metrics.running.WithLabelValues(s.name).Set(1)
	return true
}

// finish frees the slot behind a run.
func (s *slot) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.hung = false, false
	s.metrics.running.WithLabelValues(s.name).Set(0)
}

// record keeps the outcome of a run and logs it where it is news.
func (s *slot) record(r run) {
	s.mu.Lock()
	before := s.last
	s.last = &r
	s.hung = r.Result == resultTimeout
	if r.Result == resultSuccess {
		s.lastSuccess = time.Now()
	}
	if r.Result == resultSuccess || r.Result == resultSkipped {
		s.failures = 0
	} else {
		s.failures++
	}
	s.mu.Unlock()

	s.metrics.runs.WithLabelValues(s.name, r.Result).Inc()
	s.metrics.seconds.WithLabelValues(s.name).Observe(r.Seconds)
	if r.Result == resultSuccess {
		s.metrics.lastSuccess.WithLabelValues(s.name).SetToCurrentTime()
	}
	news := before == nil || before.Result != r.Result || before.Reason != r.Reason
	failed := r.Result != resultSuccess && r.Result != resultSkipped
	switch {
	case failed && news:
		s.log.Warn("task did not succeed", "task", s.name, "result", r.Result, "seconds", r.Seconds, "err", r.Reason)
	case !failed && before != nil && before.Result != resultSuccess && before.Result != resultSkipped:
		s.log.Info("task works again", "task", s.name, "result", r.Result, "reason", r.Reason)
	default:
		s.log.Debug("task ended", "task", s.name, "result", r.Result, "seconds", r.Seconds, "reason", r.Reason)
	}
}

// wait is how long to wait from now for the next run, and when it is. last is the moment that the last run was due.
func (t Task) wait(now, last time.Time, failures int) time.Time {
	from := now
	// A clock that was set back must not repeat what was due already; one that was far ahead must not stop the task.
	if t.When.Interval() == 0 && last.After(now) && last.Sub(now) < 24*time.Hour {
		from = last
	}
	next := t.When.Next(from)
	if t.Retry > 0 && failures > 0 {
		again := now.Add(t.Retry * time.Duration(min(retryMax, 1<<min(failures-1, 10))))
		if next.IsZero() || again.Before(next) {
			next = again
		}
	}
	return next
}

// loop runs the task whenever it is due until ctx ends. Runs go on in wg: they get work as their context.
func (t Task) loop(ctx, work context.Context, s *slot, wg *sync.WaitGroup) {
	if t.Close != nil {
		defer t.Close()
	}
	now := time.Now()
	due := now
	if !t.AtStart {
		due = t.wait(now, time.Time{}, 0)
	}
	for !due.IsZero() {
		at := due
		if t.Jitter > 0 {
			at = due.Add(rand.N(t.Jitter))
		}
		s.plan(t.When.String(), at)
		if sleepUntil(ctx, at, t.Wake) != nil {
			return
		}
		done := t.start(work, s, wg)
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
		due = t.wait(time.Now(), due, s.failuresNow())
	}
	s.plan(t.When.String(), time.Time{})
}

func (s *slot) plan(schedule string, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedule, s.next = schedule, next
}

func (s *slot) failuresNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

// start begins one run, unless one of this task is going on, and returns a channel that is closed when the outcome is
// known: the run ended, or hangs.
func (t Task) start(work context.Context, s *slot, wg *sync.WaitGroup) <-chan struct{} {
	known := make(chan struct{})
	began := time.Now()
	if !s.start(began) {
		s.log.Debug("task is still running, this turn is left out", "task", t.Name)
		close(known)
		return known
	}
	wg.Go(func() {
		ctx, cancel := work, context.CancelFunc(func() {})
		if t.Timeout > 0 {
			ctx, cancel = context.WithTimeout(work, t.Timeout)
		}
		defer cancel()
		ended := make(chan run, 1)
		wg.Go(func() {
			r := t.once(ctx, began, s.log)
			s.finish() // before the outcome is known, so that the next turn finds the task free
			ended <- r
		})
		defer close(known)
		var hung <-chan time.Time
		if t.Timeout > 0 {
			timer := time.NewTimer(t.Timeout + hangGrace)
			defer timer.Stop()
			hung = timer.C
		}
		select {
		case r := <-ended:
			s.record(r)
		case <-hung:
			s.record(run{Started: began, Seconds: time.Since(began).Seconds(), Result: resultTimeout,
				Reason: fmt.Sprintf("hangs: does not end although its time-out of %s is over", t.Timeout)})
		}
	})
	return known
}

// once calls Run and tells what came of it.
func (t Task) once(ctx context.Context, began time.Time, log *slog.Logger) (r run) {
	r = run{Started: began}
	defer func() {
		r.Seconds = time.Since(began).Seconds()
		if p := recover(); p != nil {
			r.Result, r.Reason = resultPanic, fmt.Sprint("panic: ", p)
			log.Error("task panicked", "task", t.Name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	err := t.Run(ctx)
	switch {
	case err == nil:
		r.Result = resultSuccess
	case errors.Is(err, ErrSkipped):
		r.Result, r.Reason = resultSkipped, strings.TrimPrefix(err.Error(), ErrSkipped.Error()+": ")
	case errors.Is(err, context.Canceled) && errors.Is(ctx.Err(), context.Canceled):
		r.Result, r.Reason = resultSkipped, "ended because the daemon stops"
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		r.Result, r.Reason = resultTimeout, fmt.Sprintf("ended by its time-out of %s: %v", t.Timeout, err)
	default:
		r.Result, r.Reason = resultError, err.Error()
	}
	return r
}

// sleepUntil waits until the clock shows t, in short steps, so that a clock that is set counts, or until wake.
func sleepUntil(ctx context.Context, t time.Time, wake <-chan struct{}) error {
	for {
		d := time.Until(t)
		if d <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(min(d, maxSleep))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-wake:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
