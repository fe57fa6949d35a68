package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// again looks at an object that is not as planned. Whatever it is now, it is not deleted. unsure tells that a deletion
// of ours may have been carried out without our knowing.
func (x *execution) again(it item, is *Item, unsure bool) (Outcome, string) {
	if is == nil {
		if unsure {
			return Deleted, ""
		}
		return Changed, goneAlready
	}
	f, err := x.kind.decode(is.Value)
	if errors.Is(err, errEncrypted) {
		return Changed, "changed since the plan, and encrypted"
	}
	if err != nil {
		return Changed, "changed since the plan, and cannot be read"
	}
	if f.UID != it.object.UID {
		if unsure {
			return Deleted, ""
		}
		return Changed, "made again since the plan"
	}
	if class, _ := x.matcher.decide(f, x.Now(), true); class != "" {
		return Changed, fmt.Sprintf("changed since the plan, and %s now", class)
	}
	return Changed, "changed since the plan, and would be selected again"
}

// goneAlready is no sign of a stale plan: somebody else wanted the same.
const goneAlready = "gone already"

// maxDisagreements is how often the API server may see another revision than etcd before the object is given up.
const maxDisagreements = 8

// note writes a result down.
func (x *execution) note(it item, o Outcome, reason string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o == Deleted {
		x.deleted++
	}
	if err := x.journal.result(it.n, o, it.object.Bytes, reason); err != nil {
		return err
	}
	x.seen++
	if o == Changed && reason != goneAlready {
		x.stale++
	}
	switch {
	case x.journal.totals.Failed > maxFailures:
		return fmt.Errorf("%d objects could not be deleted, lately: %s", x.journal.totals.Failed, reason)
	case x.seen >= sampleSize && 2*x.stale > x.seen:
		return fmt.Errorf("%w: %d of %d", ErrMostlyChanged, x.stale, x.seen)
	}
	return nil
}

// one deletes one object, waiting out what passes. An error ends the run.
func (x *execution) one(ctx context.Context, it item) error {
	unsure := it.intended
	for try := 0; ; try++ {
		if x.pace.wait(ctx) != nil {
			if unsure {
				x.lost()
			}
			return nil
		}
		if outcome, reason, err := x.ownersAgain(ctx, &it, unsure); err != nil {
			return err
		} else if outcome != "" {
			return x.note(it, outcome, reason)
		}
		if ctx.Err() != nil {
			continue // the wait tells what to do
		}
		// What is in flight is finished whatever happens to ctx.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		start := time.Now()
		a := x.target.remove(rctx, x.kind, it.object)
		if a.answer == differs || a.answer == absent {
			unsure = unsure || a.unsure
		}
		if a.answer != later {
			x.pace.observe(time.Since(start))
			x.heard()
		}
		var is *Item
		var err error
		if a.answer == differs {
			is, err = x.lookAgain(rctx, it)
		}
		cancel()
		if err != nil {
			a = attempt{answer: later, err: err}
		}
		switch a.answer {
		case removed:
			return x.note(it, Deleted, "")
		case absent, differs:
			if is != nil && is.ModRevision == it.object.ModRevision {
				// The API server's view was behind etcd's.
				a = attempt{answer: later, err: errors.New("the API server sees another revision than etcd has")}
				if try >= maxDisagreements {
					return x.note(it, Broken, a.err.Error())
				}
				break
			}
			outcome, reason := x.again(it, is, unsure)
			return x.note(it, outcome, reason)
		case refused:
			return x.note(it, Broken, a.err.Error())
		case denied:
			return fmt.Errorf("delete %s %s/%s: %w", x.kind.Name, it.object.Namespace, it.object.Name, a.err)
		}
		unsure = unsure || a.unsure
		if a.overloaded {
			x.pace.overload(max(a.wait, time.Second))
			x.heard()
		} else if err := x.outage(a.err); err != nil {
			x.lost()
			return err
		}
		if sleep(ctx, backOff(try, a.wait)) != nil {
			if unsure {
				x.lost()
			}
			return nil
		}
	}
}

// ownersAgain reads the owners of an object once more where the pace or a gate held it for long. The outcome is empty
// where nothing speaks against its deletion, or where that may have happened already.
func (x *execution) ownersAgain(ctx context.Context, it *item, unsure bool) (Outcome, string, error) {
	if unsure || len(it.object.OwnerRefs) == 0 || time.Since(it.looked) < ownersStale {
		return "", "", nil
	}
	looked := time.Now()
	states, err := x.ownersNow(ctx, []*Object{it.object})
	if err != nil || ctx.Err() != nil {
		return "", "", err
	}
	it.looked = looked
	if states[0] != it.object.Owner {
		return Stayed, ownerChanged(it.object.Owner, states[0]), nil
	}
	return "", "", nil
}

func (x *execution) lookAgain(ctx context.Context, it item) (*Item, error) {
	items, err := x.source.read(ctx, x.kind, []*Object{it.object})
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// lost notes that an object was attempted and its fate is not known.
func (x *execution) lost() {
	x.mu.Lock()
	x.unsure = true
	x.mu.Unlock()
}

func (x *execution) heard() {
	x.mu.Lock()
	x.failing = time.Time{}
	x.mu.Unlock()
}

// outage is an error when there was no answer for too long.
func (x *execution) outage(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.Now()
	if x.failing.IsZero() {
		x.failing = now
	}
	if now.Sub(x.failing) > x.Patience {
		return fmt.Errorf("%w: %w", ErrOutage, err)
	}
	return nil
}

// backOff is how long the try after this one waits, a random part of it so that workers do not come back together.
func backOff(try int, asked time.Duration) time.Duration {
	d := min(5*time.Second, 50*time.Millisecond<<min(try, 10))
	return asked + d/2 + rand.N(d/2)
}
