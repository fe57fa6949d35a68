package bulkclean

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
)

// batchSize is how many objects are worked on at a time.
const batchSize = 256

// resolve reads encrypted objects by name and the owners of all, and applies the rules that need them.
func (p *planner) resolve(ctx context.Context) (err error) {
	if p.selected, err = newSpool(p.dir); err != nil {
		return err
	}
	p.order = newSorter(p.dir)
	who := &owners{reader: p.opts.Reader, objects: p.opts.Objects, registry: p.Registry, atLeast: p.scanner.Revision(),
		uids: make(map[string]ownerUID)}
	p.ownerRev = p.scanner.Revision()
	var batch []*candidate
	flush := func() error {
		live, err := p.reveal(ctx, batch)
		if err != nil {
			return err
		}
		batch = batch[:0]
		if err := who.load(ctx, live); err != nil {
			return err
		}
		p.ownerRev = max(p.ownerRev, who.revision)
		for _, c := range live {
			c.Owner = who.fate(c)
			if class := p.owned(c.Owner); class != "" {
				p.tally.keepOwned(class, c)
				continue
			}
			c.Reason += ", " + ownerWords(c.Owner, c.Owners)
			c.OwnerRefs = c.Owners
			p.order.add(record{p.group(c), math.MaxInt64 - uint64(c.FinishedAt.UnixNano()), uint64(p.count)})
			p.count++
			if err := p.selected.add(c); err != nil {
				return err
			}
		}
		return nil
	}
	for c, err := range p.scanned.all() {
		if err != nil {
			return err
		}
		if batch = append(batch, c); len(batch) == batchSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return p.selected.flush()
}

func ownerWords(s OwnerState, refs []OwnerRef) string {
	if len(refs) == 0 {
		return "owned by none"
	}
	return fmt.Sprintf("its owner %s %s is %s", refs[0].Kind, refs[0].Name, s)
}

// group is what keep counts within: the controller, else the first owner, else the name's stem.
func (p *planner) group(c *candidate) uint64 {
	if len(c.Owners) == 0 {
		return p.hash.of("stem", c.Namespace, Stem(c.Name))
	}
	owner := c.Owners[0]
	for _, r := range c.Owners {
		if r.Controller {
			owner = r
		}
	}
	return p.hash.of("owner", c.Namespace, owner.Kind, owner.Name, owner.UID)
}

// reveal reads the encrypted ones of a batch through the API server, eight at a time, and drops those that are kept.
func (p *planner) reveal(ctx context.Context, batch []*candidate) ([]*candidate, error) {
	values := make([][]byte, len(batch))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	var mu sync.Mutex
	failed := make(map[int]error)
	for i, c := range batch {
		if !c.Encrypted {
			continue
		}
		g.Go(func() error {
			var err error
			values[i], err = readObject(gctx, p.opts.Objects, p.kind.Resource, c.Namespace, c.Name)
			if err != nil && gctx.Err() == nil {
				mu.Lock()
				failed[i] = err
				mu.Unlock()
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	live := batch[:0:0]
	for i, c := range batch {
		if c.Encrypted {
			if err := failed[i]; err != nil {
				p.tally.keep(KeptUnreadable, c.Bytes, fmt.Sprintf("encrypted, and the API server did not show it: %v", err))
				continue
			}
			f, err := p.kind.decode(values[i])
			if err != nil {
				p.tally.keep(KeptUnreadable, c.Bytes, err.Error())
				continue
			}
			// What the API server shows may be newer than the scan: its revision goes with its facts.
			if c.ModRevision, err = revisionOf(f); err != nil {
				p.tally.keep(KeptUnreadable, c.Bytes, err.Error())
				continue
			}
			if !p.judge(c, f) {
				continue
			}
		}
		live = append(live, c)
	}
	return live, nil
}

// choose applies keep, limit and the share.
func (p *planner) choose() error {
	if p.Keep > 0 {
		var group uint64
		n := 0
		for r, err := range p.order.sorted() {
			if err != nil {
				return err
			}
			if n == 0 || r[0] != group {
				group, n = r[0], 0
			}
			if n++; n <= p.Keep {
				p.drop(KeptNewest, int(r[2]))
			}
		}
	}
	if p.Limit > 0 && p.count-p.tally.dropped > int64(p.Limit) {
		oldest := newSorter(p.dir)
		defer oldest.close()
		i := 0
		for c, err := range p.selected.all() {
			if err != nil {
				return err
			}
			if !p.dropped.has(i) {
				oldest.add(record{uint64(c.FinishedAt.UnixNano()), uint64(i)})
			}
			i++
		}
		n := 0
		for r, err := range oldest.sorted() {
			if err != nil {
				return err
			}
			if n++; n > p.Limit {
				p.drop(KeptLimit, int(r[1]))
			}
		}
	}
	p.count -= p.tally.dropped
	if share := float64(p.count) / float64(max(1, p.tally.scanned)); share > p.MaxShare {
		return fmt.Errorf("%w: %d of %d %s (%.1f %%) would be deleted, and the largest share allowed is %.1f %%: narrow the selection, "+
			"set a limit, or allow more", ErrShare, p.count, p.tally.scanned, p.Selector.Kind, 100*share, 100*p.MaxShare)
	}
	return nil
}

func (p *planner) drop(class Class, i int) {
	p.dropped.set(i)
	if class == KeptLimit {
		p.limited.set(i)
	}
	p.tally.dropped++
	p.tally.keep(class, 0, "")
}

// revisionOf is the mod revision of an object that the API server shows.
func revisionOf(f *Facts) (int64, error) {
	n, err := strconv.ParseInt(f.resourceVersion, 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("resource version %q: want a revision of etcd", f.resourceVersion)
	}
	return n, nil
}
