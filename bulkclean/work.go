package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// item is one object on its way to a worker.
type item struct {
	n        int
	object   *Object
	intended bool // by an earlier run that did not write down what came of it
}

// produce reads the plan, and hands out what is exported and intended.
func (x *execution) produce(ctx context.Context, out chan<- item) error {
	before := x.journal.last
	var batch []item
	var objects []*Object
	flush := func() error {
		ready, err := x.ready(ctx, batch, objects)
		if err != nil {
			return err
		}
		for _, it := range ready {
			select {
			case out <- it:
			case <-ctx.Done():
				return nil
			}
		}
		batch, objects = nil, nil
		return nil
	}
	n := -1
	for o, err := range x.plan.Objects() {
		if err != nil {
			return err
		}
		n++
		if ctx.Err() != nil {
			return nil
		}
		x.mu.Lock()
		done := x.journal.done.has(n)
		x.mu.Unlock()
		if done {
			continue
		}
		batch = append(batch, item{n: n, object: o, intended: n <= before})
		objects = append(objects, o)
		if len(objects) == maxOps || batchOf(objects) < len(objects) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return flush()
}

// ready looks at a batch, exports what is as planned and writes the intent down.
func (x *execution) ready(ctx context.Context, batch []item, objects []*Object) ([]item, error) {
	now, err := x.readWaiting(ctx, objects)
	if err != nil || ctx.Err() != nil {
		return nil, err
	}
	owned, err := x.ownersNow(ctx, objects)
	if err != nil || ctx.Err() != nil {
		return nil, err
	}
	var ready []item
	for i, it := range batch {
		o, is := it.object, now[i]
		switch {
		case is == nil || is.ModRevision != o.ModRevision:
			outcome, reason := x.again(it, is, it.intended)
			if err := x.note(it, outcome, reason); err != nil {
				return nil, err
			}
			continue
		case x.Via == ViaEtcd && len(o.Finalizers) > 0:
			if err := x.note(it, Stayed, "has finalizers, which only the API server honours"); err != nil {
				return nil, err
			}
			continue
		case owned[i] != o.Owner:
			if err := x.note(it, Stayed, fmt.Sprintf("its owner was %s and is %s now", o.Owner, owned[i])); err != nil {
				return nil, err
			}
			continue
		}
		if err := x.export.add(is); err != nil {
			return nil, err
		}
		ready = append(ready, it)
	}
	if len(ready) == 0 {
		return nil, nil
	}
	if err := x.export.sync(); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return ready, x.journal.intend(batch[0].n, batch[len(batch)-1].n)
}

// readWaiting reads the objects and waits out an outage.
func (x *execution) readWaiting(ctx context.Context, objects []*Object) ([]*Item, error) {
	for try := 0; ; try++ {
		items, err := x.source.read(ctx, x.kind, objects)
		if err == nil {
			x.heard()
			return items, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if kube.IsDenied(err) || lasting(err) {
			return nil, err
		}
		if err := x.outage(err); err != nil {
			return nil, err
		}
		if sleep(ctx, backOff(try, 0)) != nil {
			return nil, nil
		}
	}
}

// ownersNow is what became of the objects' owners since the plan: a CronJob that was made again takes its Jobs back.
func (x *execution) ownersNow(ctx context.Context, objects []*Object) ([]OwnerState, error) {
	states := make([]OwnerState, len(objects))
	var some []*candidate
	var at []int
	for i, o := range objects {
		if states[i] = o.Owner; len(o.OwnerRefs) > 0 {
			some = append(some, &candidate{Object: *o, Owners: o.OwnerRefs})
			at = append(at, i)
		}
	}
	if len(some) == 0 {
		return states, nil
	}
	who := &owners{registry: x.matcher.Registry, uids: make(map[string]ownerUID)}
	if x.Etcd != nil {
		who.reader = x.Etcd
	}
	if x.API != nil {
		who.objects = apiSource{x.API, x.Workers}
	}
	for try := 0; ; try++ {
		err := who.load(ctx, some)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if err := x.outage(err); err != nil {
			return nil, err
		}
		if sleep(ctx, backOff(try, 0)) != nil {
			return nil, nil
		}
	}
	for i, c := range some {
		states[at[i]] = who.fate(c)
	}
	return states, nil
}

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
