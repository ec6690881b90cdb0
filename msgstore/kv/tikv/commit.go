package tikv

import (
	"context"
	"fmt"
	"sync"

	clienttikv "github.com/tikv/client-go/v2/tikv"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// lanes gather transactions by region. A lane with something in it has one goroutine, which commits
// what gathered, group after group, and ends when nothing is left.
type lanes struct {
	mu    sync.Mutex
	lanes map[laneID]*lane
	wide  uint64        // the last number given to a lane for one transaction
	shut  bool          // nothing is taken: the store's breaker isn't closed
	slots chan struct{} // one for each group that is being committed
}

// laneID is a region, or (regions begin at 1) one transaction that spans several.
type laneID struct{ region, wide uint64 }

type lane struct {
	id    laneID
	queue []*pending
}

// pending is a transaction that waits to be decided.
type pending struct {
	tx   *kv.Tx
	call *call
	lane *lane // while it is queued
}

// call is one call of Commit.
type call struct {
	left sync.WaitGroup // of its transactions
}

func (l *lanes) init(parallel int) {
	l.lanes = make(map[laneID]*lane)
	l.slots = make(chan struct{}, parallel)
}

// Commit decides each transaction, together with others of its region. Those of one call that
// share keys are decided in their order; others may be decided in any. When ctx ends, what
// has not been begun is refused; the outcome of the rest is waited for, at most CommitTimeout.
func (s *Store) Commit(ctx context.Context, txs ...*kv.Tx) {
	if len(txs) == 0 {
		return
	}
	if err := ctx.Err(); err != nil {
		refuse(txs, fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err))
		return
	}
	if !s.inside.enter() {
		refuse(txs, fmt.Errorf("commit: %w", kv.ErrClosed))
		return
	}
	defer s.inside.leave()

	c := new(call)
	tried := false
	waiting := make([]*pending, 0, len(txs))
	var order overlaps
	for _, tx := range txs {
		tx.Err, tx.Stamp = nil, 0
		if tx.Err = tx.Check(false); tx.Err != nil || len(tx.Ops()) == 0 {
			continue
		}
		if s.breaker.shut() {
			if tried || len(waiting) > 0 {
				s.refuse(tx)
			} else {
				tried = true
				s.try(ctx, tx)
			}
			continue
		}
		id, err := s.locate(ctx, tx)
		if err != nil {
			tx.Err = fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err)
			continue
		}
		if len(txs) > 1 && order.elsewhere(tx, id) {
			s.wait(ctx, c, waiting)
			waiting = waiting[:0]
			order.reset()
			order.elsewhere(tx, id)
		}
		if p := s.enqueue(c, id, tx); p != nil {
			waiting = append(waiting, p)
		} else {
			s.refuse(tx)
		}
	}
	s.wait(ctx, c, waiting)
}

// try commits a transaction by itself, if the breaker lets it find out whether the store is back: lanes, and places to
// commit in, may be taken for another while by those who found out that it is away.
func (s *Store) try(ctx context.Context, tx *kv.Tx) {
	if err := ctx.Err(); err != nil {
		tx.Err = fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.CommitTimeout)
	defer cancel()
	s.attempt(ctx, []*kv.Tx{tx})
}

// refuse refuses a transaction because of the breaker.
func (s *Store) refuse(tx *kv.Tx) {
	s.totals.unavailable.Add(1)
	tx.Err = fmt.Errorf("commit: %w", s.breaker.refusal(1))
}

// shut is called when the breaker opens, and when it has closed again. What waits for its turn then would wait as long as what
// is being committed, and isn't going to fare better.
func (s *Store) shut(shut bool) {
	l := &s.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut = shut; !shut {
		return
	}
	for _, ln := range l.lanes {
		for i, p := range ln.queue {
			ln.queue[i], p.lane = nil, nil
			s.refuse(p.tx)
			p.call.left.Done()
		}
		ln.queue = ln.queue[:0]
	}
}

func refuse(txs []*kv.Tx, err error) {
	for _, tx := range txs {
		tx.Err = err
	}
}

// overlaps knows in which lane each key of a call's transactions was put: there is no order between lanes.
type overlaps struct{ keys map[string]laneID }

// elsewhere notes the keys of a transaction and tells whether one of them was put in another lane before.
func (o *overlaps) elsewhere(tx *kv.Tx, id laneID) bool {
	if o.keys == nil {
		o.keys = make(map[string]laneID)
	}
	found := false
	for i, ops := 0, tx.Ops(); i < len(ops); i++ {
		switch before, ok := o.keys[string(ops[i].Key)]; {
		case !ok:
			o.keys[string(ops[i].Key)] = id
		case before != id:
			found = true
		}
	}
	return found
}

func (o *overlaps) reset() { clear(o.keys) }

// locate tells which lane the transaction belongs in, by what the client knows of the regions. That may
// be out of date: such a commit takes longer, and is as good.
func (s *Store) locate(ctx context.Context, tx *kv.Tx) (laneID, error) {
	ops := tx.Ops()
	cache := s.client.GetRegionCache()
	where := cache.TryLocateKey(ops[0].Key)
	if where == nil {
		p, err := s.breaker.enter(1)
		if err != nil {
			return laneID{}, err
		}
		if where, err = cache.LocateKey(clienttikv.NewBackofferWithVars(ctx, locateBackoff, nil), ops[0].Key); err != nil {
			p.end(readJudgement(ctx, err))
			return laneID{}, fmt.Errorf("find region of key %x: %w", ops[0].Key, err)
		}
		p.end(nothing) // it is PD that knows
	}
	for i := 1; i < len(ops); i++ {
		if !where.Contains(ops[i].Key) {
			s.lanes.mu.Lock()
			defer s.lanes.mu.Unlock()
			s.lanes.wide++
			return laneID{wide: s.lanes.wide}, nil
		}
	}
	return laneID{region: where.Region.GetID()}, nil
}

// locateBackoff bounds the asking of PD for a region, in ms of pauses.
const locateBackoff = 10_000

// enqueue puts a transaction into its lane and sees to it that somebody works there; nil: lanes are shut.
func (s *Store) enqueue(c *call, id laneID, tx *kv.Tx) *pending {
	l := &s.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return nil
	}
	c.left.Add(1)
	ln := l.lanes[id]
	if ln == nil {
		ln = &lane{id: id}
		l.lanes[id] = ln
		go s.run(ln)
	}
	p := &pending{tx: tx, call: c, lane: ln}
	ln.queue = append(ln.queue, p)
	return p
}

// wait returns when the transactions are decided; those still queued when ctx ends are refused.
func (s *Store) wait(ctx context.Context, c *call, waiting []*pending) {
	if len(waiting) == 0 {
		return
	}
	stop := context.AfterFunc(ctx, func() { s.lanes.withdraw(ctx, waiting) })
	c.left.Wait()
	stop()
}

// withdraw refuses those of the transactions that nobody has begun.
func (l *lanes) withdraw(ctx context.Context, waiting []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range waiting {
		if p.lane == nil {
			continue
		}
		keep := p.lane.queue[:0]
		for _, q := range p.lane.queue {
			if q != p {
				keep = append(keep, q)
			}
		}
		clear(p.lane.queue[len(keep):])
		p.lane.queue, p.lane = keep, nil
		p.tx.Err = fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, ctx.Err())
		p.call.left.Done()
	}
}

// run commits what gathers in a lane until nothing is left there.
func (s *Store) run(ln *lane) {
	l := &s.lanes
	for {
		l.slots <- struct{}{} // first the place: while it is waited for more gathers
		group := l.take(ln, s.cfg.GroupTxs, s.cfg.GroupBytes)
		if len(group) > 0 {
			s.commitGroup(group)
		}
		<-l.slots
		if len(group) == 0 {
			return
		}
		for _, p := range group {
			p.call.left.Done()
		}
	}
}

// take removes what is committed next; nothing: the lane is gone.
func (l *lanes) take(ln *lane, txs, bytes int) []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for size := 0; n < len(ln.queue) && n < txs; n++ {
		tx := ln.queue[n].tx
		if size += tx.Size(); n > 0 && (size > bytes || tx.Frees != ln.queue[0].tx.Frees) {
			break
		}
	}
	if n == 0 {
		delete(l.lanes, ln.id)
		return nil
	}
	group := make([]*pending, n)
	copy(group, ln.queue)
	for _, p := range group {
		p.lane = nil
	}
	rest := copy(ln.queue, ln.queue[n:])
	clear(ln.queue[rest:])
	ln.queue = ln.queue[:rest]
	return group
}
