package bulkclean

import (
	"context"
	"errors"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// dependents counts the pods that the garbage collector will remove after the selected objects: those with an owner
// among them. Nil where that cannot be told. Objects and owners are sorted together by uid, so that neither has to be
// held.
func (p *planner) dependents(ctx context.Context) (*int64, error) {
	var n int64
	p.pods = 0
	if p.kind.dependents == "" {
		return nil, nil
	}
	if p.count == 0 {
		return &n, nil
	}
	const object, pod = 0, 1
	join := newSorter(p.dir)
	defer join.close()
	i := 0
	for c, err := range p.selected.all() {
		if err != nil {
			return nil, err
		}
		if !p.dropped.has(i) {
			join.add(record{p.hash.of(c.UID), object})
		}
		i++
	}
	readable := true
	if err := keyspace.Guarded(p.scanner, func() (err error) {
		readable, err = p.scanPods(ctx, func(owner string) { join.add(record{p.hash.of(owner), pod}) })
		return err
	}); err != nil || !readable {
		return nil, err
	}
	var uid uint64
	found := false
	for r, err := range join.sorted() {
		switch {
		case err != nil:
			return nil, err
		case r[1] == object:
			uid, found = r[0], true
		case found && r[0] == uid:
			n++
		}
	}
	return &n, nil
}

// scanPods tells the owners of all pods; false where pods cannot be read.
func (p *planner) scanPods(ctx context.Context, owner func(uid string)) (readable bool, err error) {
	for _, prefix := range p.prefixes(podKind) {
		for e, err := range p.scanner.Scan(ctx, keyspace.Prefix(prefix)) {
			if err != nil {
				return false, err
			}
			p.pods++
			m, err := keyspace.ReadMeta(e.Value)
			if errors.Is(err, keyspace.ErrOpaque) {
				return false, nil
			}
			if err != nil {
				continue
			}
			for o := range m.Owners() {
				owner(string(o.UID))
			}
		}
	}
	return true, nil
}
