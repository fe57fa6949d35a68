package bulkclean

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// What is read and encoded together: the values of three batches are held at a time.
const (
	batchObjects = 256
	batchBytes   = 2 << 20
)

// commitBatches is how many batches are made durable together at most. Every sync holds up those of etcd where the two
// share a disk: with one for each batch a bare loop of deletions is a sixth faster.
const commitBatches = 4

// ownersStale is for how long what was read of an object's owners is good enough to delete it.
const ownersStale = 10 * time.Second

// item is one object on its way to a worker.
type item struct {
	n        int
	object   *Object
	intended bool      // by an earlier run that did not write down what came of it
	looked   time.Time // when its owners were read
}

// batch is what goes through the stages of the preparation together.
type batch struct {
	items []item
	now   []*Item      // as they are
	owned []OwnerState // what became of their owners
	ready []item       // those that may be deleted
	lines []byte       // of the export
}

func (b *batch) objects() []*Object {
	out := make([]*Object, len(b.items))
	for i, it := range b.items {
		out[i] = it.object
	}
	return out
}

// prepareBatches starts the stages of the preparation, so that the next batches are read, written as export lines and
// made durable while the workers delete. What comes out was exported and intended. The channel is closed at the end.
func (x *execution) prepareBatches(ctx context.Context, g *errgroup.Group, out chan<- item) {
	read, encoded, written := make(chan *batch), make(chan *batch), make(chan *batch, commitBatches)
	spare := make(chan []byte, 2) // lines that are written, to be used again
	g.Go(func() error {
		defer close(read)
		return x.readBatches(ctx, read)
	})
	g.Go(func() error {
		defer close(encoded)
		for b := range read {
			select {
			case b.lines = <-spare:
				b.lines = b.lines[:0]
			default:
			}
			if err := x.encode(b); err != nil {
				return err
			}
			if !send(ctx, encoded, b) {
				return nil
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(written)
		for b := range encoded {
			if err := x.export.write(b.lines); err != nil {
				return err
			}
			select {
			case spare <- b.lines:
			default:
			}
			b.lines = nil
			if len(b.ready) > 0 && !send(ctx, written, b) {
				return nil
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(out)
		for b := range written {
			if ctx.Err() != nil {
				return nil
			}
			ready, err := x.commit(b, written)
			if err != nil {
				return err
			}
			for _, it := range ready {
				if !send(ctx, out, it) {
					return nil
				}
			}
		}
		return nil
	})
}

func send[T any](ctx context.Context, to chan<- T, v T) bool {
	select {
	case to <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// readBatches reads the plan, and for each batch of it what etcd has now.
func (x *execution) readBatches(ctx context.Context, out chan<- *batch) error {
	before := x.journal.last
	b := &batch{}
	var size int64
	flush := func() (bool, error) {
		ready, err := x.readBatch(ctx, b)
		if err != nil || !ready || !send(ctx, out, b) {
			return false, err
		}
		b, size = &batch{}, 0
		return true, nil
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
		if len(b.items) > 0 && (len(b.items) == batchObjects || size+o.Bytes > batchBytes) {
			if more, err := flush(); err != nil || !more {
				return err
			}
		}
		b.items = append(b.items, item{n: n, object: o, intended: n <= before})
		size += o.Bytes
	}
	if len(b.items) == 0 {
		return nil
	}
	_, err := flush()
	return err
}

// readBatch is false where ctx ended.
func (x *execution) readBatch(ctx context.Context, b *batch) (bool, error) {
	objects := b.objects()
	var err error
	if b.now, err = x.readWaiting(ctx, objects); err != nil || ctx.Err() != nil {
		return false, err
	}
	looked := time.Now()
	if b.owned, err = x.ownersNow(ctx, objects); err != nil || ctx.Err() != nil {
		return false, err
	}
	for i := range b.items {
		b.items[i].looked = looked
	}
	return true, nil
}

// encode writes down what is not as planned, and makes the export lines of what is.
func (x *execution) encode(b *batch) error {
	for i, it := range b.items {
		o, is := it.object, b.now[i]
		switch {
		case is == nil || is.ModRevision != o.ModRevision:
			outcome, reason := x.again(it, is, it.intended)
			if err := x.note(it, outcome, reason); err != nil {
				return err
			}
			continue
		case x.Via == ViaEtcd && len(o.Finalizers) > 0:
			if err := x.note(it, Stayed, "has finalizers, which only the API server honours"); err != nil {
				return err
			}
			continue
		case b.owned[i] != o.Owner:
			if err := x.note(it, Stayed, ownerChanged(o.Owner, b.owned[i])); err != nil {
				return err
			}
			continue
		}
		var err error
		if b.lines, err = appendExported(b.lines, is); err != nil {
			return err
		}
		b.ready = append(b.ready, it)
	}
	b.now = nil
	return nil
}

func ownerChanged(was, is OwnerState) string {
	return fmt.Sprintf("its owner was %s and is %s now", was, is)
}

// commit makes the export of a batch, and of those that are written by now, and the intent to delete them durable. It
// returns what may be deleted.
func (x *execution) commit(first *batch, written <-chan *batch) ([]item, error) {
	ready, last := first.ready, first
more:
	for range commitBatches - 1 {
		select {
		case b, ok := <-written:
			if !ok {
				break more
			}
			ready, last = append(ready, b.ready...), b
		default:
			break more
		}
	}
	x.mu.Lock()
	err := x.journal.intend(first.items[0].n, last.items[len(last.items)-1].n)
	x.mu.Unlock()
	if err != nil {
		return nil, err
	}
	// Neither has to be durable before the other, and a file system makes both of one transaction.
	var g errgroup.Group
	g.Go(x.export.settle)
	g.Go(x.journal.settle)
	return ready, g.Wait()
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
