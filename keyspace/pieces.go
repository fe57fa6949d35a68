package keyspace

import (
	"bytes"
	"context"
	"slices"
)

// How many pages are asked for at once. A server without streams answers a page on one core, and both it and the reader
// are idle while the other works: a second page on its way fills that.
const (
	maxFlying = 2
	maxPieces = 4 // on their way, or waiting for an earlier one
)

// piece is a part of the range that is read: a page on its way or already here, or, without a batch, keys that nobody
// has asked for yet.
type piece struct {
	start, end []byte // an empty end is the end of all
	limit      int64
	batch      *batch // nil for a gap
	done       bool
	err        error

	// Of a gap.
	rest  int64 // how many keys there are; -1 where that is not known
	tail  bool  // it begins right behind a key that was read
	whole bool  // it was asked for with too large a limit: its end stays
}

// pages is a scan by unary requests under way. Its pieces are in key order; the last gap ends where the scan does.
type pages struct {
	*scan
	r       Range
	pager   *pager
	pieces  []*piece
	flying  int
	most    int // pages on their way at once
	answers chan *piece
}

// readPages reads r by unary requests. Further pages are on their way while one is consumed: what comes behind a page
// begins at its end where the guess of the pager was a good one, and where it was not, the keys that are missing are
// asked for before later ones are handed over.
func (s *scan) readPages(ctx context.Context, r Range) error {
	ctx, cancel := context.WithCancel(ctx)
	s.more(batches)
	p := &pages{scan: s, r: r, pager: newPager(s.opts.PageBytes, s.opts.PinKey), most: maxFlying, answers: make(chan *piece, maxFlying),
		pieces: []*piece{{start: r.Start, end: r.End, rest: -1}}}
	if s.opts.Rate > 0 {
		p.most = 1 // who limits the rate wants to be no burden
	}
	err := p.run(ctx)
	cancel()
	for ; p.flying > 0; p.flying-- {
		<-p.answers
	}
	for _, piece := range p.pieces {
		if piece.batch != nil {
			s.free <- piece.batch
		}
	}
	return err
}

func (p *pages) run(ctx context.Context) error {
	for len(p.pieces) > 0 {
		if err := p.ask(ctx); err != nil {
			return err
		}
		if p.flying > 0 {
			piece := <-p.answers
			p.flying--
			if err := p.answered(piece); err != nil {
				return err
			}
		}
		for len(p.pieces) > 0 && p.pieces[0].done {
			b := p.pieces[0].batch
			p.pieces = p.pieces[1:]
			p.pager.learn(b.entries, b.size)
			if err := p.ask(ctx); err != nil { // before the wait for the consumer
				p.free <- b
				return err
			}
			if err := p.send(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// ask sends requests for as many gaps as may be on their way.
func (p *pages) ask(ctx context.Context) error {
	for i := 0; i < len(p.pieces) && p.flying < p.most && p.held() < maxPieces; i++ {
		gap := p.pieces[i]
		if gap.batch != nil {
			continue
		}
		end, ok := p.end(gap, i == 0)
		if !ok {
			continue
		}
		b, err := p.batch(ctx)
		if err != nil {
			return err
		}
		page := &piece{start: gap.start, end: end, limit: p.pager.most(), batch: b}
		p.pieces = slices.Insert(p.pieces, i, page)
		if bytes.Equal(end, gap.end) {
			p.pieces = slices.Delete(p.pieces, i+1, i+2)
		} else {
			gap.start, gap.rest, gap.tail = end, -1, false
		}
		p.flying++
		p.requests.Add(1)
		request := p.request(Range{Start: page.start, End: page.end, KeysOnly: p.r.KeysOnly})
		request.Limit = page.limit
		go func() {
			page.err = p.source.page(ctx, request, b)
			p.answers <- page
		}()
	}
	return nil
}

// held is how many pages are on their way or wait.
func (p *pages) held() (n int) {
	for _, piece := range p.pieces {
		if piece.batch != nil {
			n++
		}
	}
	return n
}

// end chooses the end of a page at the start of a gap. first tells that all keys before the gap were seen.
func (p *pages) end(gap *piece, first bool) ([]byte, bool) {
	switch {
	case gap.whole:
		return gap.end, true
	case first && p.pager.seen == 0:
		return p.pager.begin(gap.start, gap.end), true
	case first && gap.tail:
		return p.pager.rest(gap.rest, gap.end), true
	case first:
		return p.pager.after(gap.start, gap.end), true
	case gap.rest >= 0:
		return gap.end, gap.rest <= p.pager.most()
	}
	return p.pager.ahead(gap.start, gap.end)
}

// answered makes a page that came ready to be handed over, or a gap again.
func (p *pages) answered(page *piece) error {
	i := slices.Index(p.pieces, page)
	switch {
	case tooLarge(page.err) && page.limit > 1:
		p.free <- page.batch
		page.batch, page.err, page.rest, page.whole = nil, nil, -1, true
		p.pager.halve()
		return nil
	case page.err != nil:
		return page.err
	}
	p.indexed.Add(page.batch.count)
	page.done = true
	if rest := page.batch.count - int64(len(page.batch.entries)); rest > 0 && len(page.batch.entries) > 0 {
		start := append(bytes.Clone(page.batch.last()), 0)
		p.pieces = slices.Insert(p.pieces, i+1, &piece{start: start, end: page.end, rest: rest, tail: true})
	}
	return nil
}
