package conversation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Received notes that o's user has every message of conv up to seq. It is kept in
// memory, written within a second or so, and never blocks. What is not true (a seq above
// the newest, a conversation that isn't the user's) is found out when it is written. In large groups
// nothing is noted but what is read.
func (s *Service) Received(o *packet.Origin, conv id.ConversationID, seq uint64) {
	if seq > 0 && conv.Kind() != id.KindRoom && !s.large(conv) {
		s.cursors.note(cursorKey{conv, o.User}, 0, seq)
	}
}

// Seen notes that user, by sending, has read conv up to seq: what a sequencer calls when
// it has acked an interactive message. Like Received, it is written within a second or so.
func (s *Service) Seen(conv id.ConversationID, user id.UserID, seq uint64) {
	if seq > 0 && conv.Kind() != id.KindRoom {
		s.cursors.note(cursorKey{conv, user}, seq, 0)
	}
}

// want is where a cursor is to move. Reading implies receiving.
type want struct{ read, recv uint64 }

func (w want) max(x want) want { return want{max(w.read, x.read), max(w.recv, x.recv)} }

const cursorShards = 64

// cursors are the moves that wait to be written, the latest of each cursor.
type cursors struct {
	shards [cursorShards]cursorShard
	limit  int           // of a shard
	full   chan struct{} // a shard is half full: write now
	turn   chan struct{} // one Flush at a time
}

type cursorShard struct {
	mu      sync.Mutex
	waiting map[cursorKey]want
	writing map[cursorKey]want // being written: not stored yet, but not lost to readers either
	dropped uint64
	_       [64]byte
}

func (c *cursors) init(limit int) {
	c.limit = max(limit/cursorShards, 4)
	c.full = make(chan struct{}, 1)
	c.turn = make(chan struct{}, 1)
}

func (c *cursors) shard(k cursorKey) *cursorShard { return &c.shards[k.hash()%cursorShards] }

// note remembers a move. With too many waiting it is dropped: clients announce again what
// they have, and the next move of the same cursor covers it.
func (c *cursors) note(k cursorKey, read, recv uint64) {
	s := c.shard(k)
	s.mu.Lock()
	w, ok := s.waiting[k]
	switch {
	case ok:
	case len(s.waiting) >= c.limit:
		s.dropped++
		s.mu.Unlock()
		return
	case s.waiting == nil:
		s.waiting = make(map[cursorKey]want)
	}
	if !ok {
		k.user = id.UserID(strings.Clone(string(k.user)))
	}
	s.waiting[k] = w.max(want{read, recv})
	half := len(s.waiting) == c.limit/2+1 && !ok
	s.mu.Unlock()
	if half {
		select {
		case c.full <- struct{}{}:
		default:
		}
	}
}

// pending returns the moves of k that aren't stored yet.
func (c *cursors) pending(k cursorKey) want {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[k].max(s.writing[k])
}

// move is one cursor that Flush writes.
type move struct {
	key  cursorKey
	want want
	row  []byte // as it was read; nil: none
	cur  msgstore.Cursor
	who  *msgstore.MemberOf

	readMoved bool // cur.ReadSeq is above the row's
}

// flushBatch is how many cursors are read and committed together.
const flushBatch = 256

// Flush writes every cursor that waits. What could not be written waits on, unless it
// can't be written at all. A process that gives away conversations calls it when they are drained: what
// comes later is written within a second by whoever heard it, as each write takes the later of what it finds and what it brings.
func (s *Service) Flush(ctx context.Context) error {
	select {
	case s.cursors.turn <- struct{}{}:
		defer func() { <-s.cursors.turn }()
	case <-ctx.Done():
		return fmt.Errorf("write cursors: %w", ctx.Err())
	}
	var batch []move
	var failed error
	write := func() {
		if err := s.write(ctx, batch); err != nil {
			failed = err
		}
		batch = batch[:0]
	}
	for i := range s.cursors.shards {
		sh := &s.cursors.shards[i]
		sh.mu.Lock()
		if len(sh.waiting) == 0 {
			sh.mu.Unlock()
			continue
		}
		sh.writing, sh.waiting = sh.waiting, sh.writing
		moves := sh.writing
		sh.mu.Unlock()
		// Nobody writes to the map while it is in writing.
		for k, w := range moves {
			batch = append(batch, move{key: k, want: w})
			if len(batch) == flushBatch {
				write()
			}
		}
	}
	if len(batch) > 0 {
		write()
	}
	for i := range s.cursors.shards {
		sh := &s.cursors.shards[i]
		sh.mu.Lock()
		if len(sh.writing) > shrinkAbove {
			sh.writing = nil // maps don't shrink by themselves
		}
		clear(sh.writing)
		if sh.dropped > 0 {
			s.log.Warn("positions dropped: too many wait to be written", "dropped", sh.dropped)
			sh.dropped = 0
		}
		sh.mu.Unlock()
	}
	return failed
}

// shrinkAbove is the size from which a shard's map isn't used again.
const shrinkAbove = 512

// write stores moves, and puts those that could not be stored back to wait.
func (s *Service) write(ctx context.Context, moves []move) (failed error) {
	wait := func(m *move) { s.cursors.note(m.key, m.want.read, m.want.recv) }
	known := moves[:0]
	for i := range moves {
		m := &moves[i]
		_, who, err := s.mine(ctx, m.key.user, m.key.conv)
		switch {
		case err == nil:
			m.who = who
			known = append(known, *m)
		case errors.Is(err, errUnavailable):
			wait(m)
			failed = err
		case errors.Is(err, errStranger): // it was never true
		default:
			s.log.Error("cursor dropped", "conversation", m.key.conv.String(), "err", err)
		}
	}
	for turn := 0; len(known) > 0 && turn < maxTurns; turn++ {
		var err error
		if known, err = s.writeOnce(ctx, known); err != nil {
			failed = err
			break
		}
	}
	for i := range known {
		wait(&known[i])
	}
	return failed
}

// writeOnce tries each move once and returns those that are not stored, or not for
// certain; without an error because somebody else's write got in the way.
func (s *Service) writeOnce(ctx context.Context, moves []move) ([]move, error) {
	convs := make([]id.ConversationID, len(moves))
	keys := make([][]byte, len(moves))
	for i := range moves {
		convs[i] = moves[i].key.conv
		keys[i] = s.cfg.Keys.Cursor(nil, moves[i].key.conv, moves[i].key.user)
	}
	rows, err := s.cfg.Store.MultiGet(ctx, keys)
	if err != nil {
		return moves, fmt.Errorf("read cursors: %w", err)
	}
	heads, err := s.timeline.Heads(ctx, convs)
	if err != nil {
		return moves, fmt.Errorf("read heads of cursors: %w", err)
	}
	var txs []*kv.Tx
	sent, again := make([]move, 0, len(moves)), moves[:0]
	var failed error
	for i := range moves {
		m := moves[i]
		m.row = rows[i]
		tx, err := s.advance(ctx, &m, &heads[i])
		switch {
		case err == nil && tx != nil:
			txs, sent = append(txs, tx), append(sent, m)
		case err == nil:
		case msgstore.Refusal(err).Code == code.Internal: // it would never go through
			s.log.Error("cursor dropped", "conversation", m.key.conv.String(), "err", err)
		default:
			again, failed = append(again, m), err
		}
	}
	if len(txs) > 0 {
		s.cfg.Store.Commit(ctx, txs...)
	}
	for i, tx := range txs {
		switch {
		case tx.Err == nil:
			s.moved(&sent[i])
		case errors.Is(tx.Err, kv.ErrTooLarge):
			s.log.Error("cursor dropped", "conversation", sent[i].key.conv.String(), "err", tx.Err)
		default:
			again = append(again, sent[i])
			if !errors.Is(tx.Err, kv.ErrConflict) && !errors.Is(tx.Err, kv.ErrUndetermined) {
				failed = fmt.Errorf("write cursors: %w", tx.Err)
			}
		}
	}
	return again, failed
}

// advance reads the row of m and sets m.cur to where the cursor is then; tx stores
// that, nil if it doesn't move. A cursor never goes back and never beyond the
// conversation, or where the member left it.
func (s *Service) advance(ctx context.Context, m *move, head *msgstore.Head) (tx *kv.Tx, err error) {
	var old msgstore.Cursor
	if m.row != nil {
		if old, err = msgstore.ParseCursor(m.row); err != nil {
			return nil, err
		}
	}
	top := min(head.LastSeq, lastOf(m.who.Intervals[len(m.who.Intervals)-1].Left))
	next := old
	next.ReadSeq = max(old.ReadSeq, min(m.want.read, top))
	next.RecvSeq = max(old.RecvSeq, min(m.want.recv, top), next.ReadSeq)
	m.cur = next
	if next == old {
		return nil, nil
	}
	if m.readMoved = next.ReadSeq != old.ReadSeq; m.readMoved {
		if next.ReadSeq == head.LastSeq {
			next.ReadCountable = head.Countable
		} else if next.ReadCountable, err = s.timeline.CountableAt(ctx, m.key.conv, next.ReadSeq); err != nil {
			return nil, err
		}
	}
	next.Changed = s.now()
	m.cur = next
	tx = new(kv.Tx)
	var kb [msgstore.MaxKeyLen]byte
	key := s.cfg.Keys.Cursor(kb[:0], m.key.conv, m.key.user)
	tx.Require(key, m.row)
	tx.SetFunc(key, next.Append)
	return tx, nil
}

// cursorOf is a cursor as its user has it: the row, and what waits to be stored, which
// was looked up before the row was read, else a move just stored would be in neither.
// ReadCountable and Changed are the row's.
func cursorOf(row []byte, w want, head *msgstore.Head) (c msgstore.Cursor, err error) {
	if row != nil {
		if c, err = msgstore.ParseCursor(row); err != nil {
			return c, err
		}
	}
	// The head may be older than what was noted since.
	c.ReadSeq = min(max(c.ReadSeq, w.read), head.LastSeq)
	c.RecvSeq = min(max(c.RecvSeq, w.recv, c.ReadSeq), head.LastSeq)
	return c, nil
}
