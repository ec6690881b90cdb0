package timeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Plan decides, against the conversation's head as it is durable (without its preview;
// the zero Head: there is no such conversation), what a change writes; nil: nothing has
// to. It may read from the store, must not write, and must not wait for this Sequencer:
// the conversation's messages wait for it. It may be called several times. An error ends
// the change and is returned by Sequencer.Change as it is.
type Plan func(ctx context.Context, h msgstore.Head) (*Change, error)

// Change is what one transaction does to a conversation beside users' messages: one
// message of the server's, or none, and rows. It raises StateVersion in any case, so
// that what an append checks is read again before the next one.
type Change struct {
	Sender  id.UserID                   // who did it
	Type    uint32                      // of the message, 64 to 127; 0: no message
	Content string                      // of the message; at most MaxChangeContent
	Rows    func(tx *kv.Tx, seq uint64) // adds rows to the transaction; seq is the message's, 0 without one. May be nil; must not block
	Done    func(version, seq uint64)   // called when it is committed, with the StateVersion it made, before anything else happens to the conversation. May be nil; must not block
	Create  bool                        // make the conversation, which must not exist; without, it must

	// At and Imported are for what happened elsewhere before. At is the Unix ms that the message is of, 0:
	// now; Imported are messages in place of the server's, in their order. Times before those of messages
	// that are there, or before id.Epoch, are raised. Nobody is sent any of it. A conversation in which something was written as it
	// happened takes none: the error is forbidden then.
	At       int64
	Imported []Imported
}

// Limits of changes.
const (
	MaxChangeContent = 12 << 10 // bytes of a change's content
	maxChanges       = 256      // that wait for one conversation
)

// change is a Change under way. What isn't the caller's is the holder's.
type change struct {
	ctx  context.Context
	plan Plan

	planned bool
	what    *Change // nil: nothing to do
	seq     uint64
	err     error

	done chan struct{} // closed when seq and err are final
}

// Change runs plan against the conversation's durable head, while no message is appended,
// and commits what it returns in one transaction that the head fences. After a conflict
// or an undetermined commit plan runs again from the start. It blocks until the outcome is
// durable or ctx ends; what had begun then may still be stored. seq is the message's, 0
// without one and when there was nothing to do. Changes of one conversation happen in the
// order of their calls, with messages between them.
//
// The error is plan's own, ctx's, or a *code.Error: no_such_conversation, overloaded,
// unavailable, storage_full, undetermined, wrong_owner.
func (s *Sequencer) Change(ctx context.Context, conv id.ConversationID, plan Plan) (seq uint64, err error) {
	ch := &change{ctx: ctx, plan: plan, done: make(chan struct{})}
	if s.drained.has(conv) {
		return 0, code.New(code.WrongOwner)
	}
	c := s.lock(conv)
	if s.drained.has(conv) { // since just now, see Append
		s.pass(c)
		return 0, code.New(code.WrongOwner)
	}
	if len(c.changes) >= maxChanges {
		c.mu.Unlock()
		return 0, code.New(code.Overloaded)
	}
	c.changes = append(c.changes, ch)
	s.handOver(c)
	select {
	case <-ch.done:
		return ch.seq, ch.err
	case <-ctx.Done():
		return 0, fmt.Errorf("change conversation %s: %w", conv, ctx.Err())
	}
}

// end tells the outcome.
func (ch *change) end() {
	if ch.err != nil {
		ch.seq = 0
	}
	close(ch.done)
}

// changing reports whether the next run is of the change that is under way. Messages
// that wait come between two changes.
func (c *conversation) changing() bool {
	if c.current == nil || c.current.planned || !c.yield {
		return c.current != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.work)+len(c.waiting) == 0
}

// stale reports whether a change was committed since the rules were read.
func (c *conversation) stale() bool {
	return c.loaded && !c.absent && c.rulesAt != c.head.StateVersion
}

// planChange runs the plan of the change whose turn it is; by a loader.
func (s *Sequencer) planChange(ctx context.Context, c *conversation) {
	ch := c.current
	ch.planned = true
	if ch.what, ch.err = nil, ch.ctx.Err(); ch.err != nil {
		return // nobody waits any more
	}
	bounded, cancel := context.WithTimeout(ch.ctx, loadTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	head := c.head
	if c.absent {
		head = msgstore.Head{}
	}
	ch.what, ch.err = ch.plan(bounded, head)
	switch w := ch.what; {
	case ch.err != nil:
		ch.what = nil
	case w == nil:
	case w.Create && !c.absent:
		ch.what, ch.err = nil, fmt.Errorf("make conversation %s, which exists: %w", c.id, kv.ErrInvalid)
	case !w.Create && c.absent:
		ch.what, ch.err = nil, code.New(code.NoSuchConversation)
	case w.Type != 0 && (w.Type < packet.TypeSystem || w.Type > packet.TypeSystemEnd) || len(w.Content) > MaxChangeContent:
		ch.what, ch.err = nil, fmt.Errorf("a message of type %d and %d bytes from the server: %w", w.Type, len(w.Content), kv.ErrInvalid)
	case w.dated():
		if ch.err = s.mayDate(bounded, c, w); ch.err != nil {
			ch.what = nil
		}
	}
}

// buildChange makes the transaction of the run of a change, and returns its size.
func (s *Sequencer) buildChange(ru *run) int {
	c, r := ru.c, &s.round
	ru.change, ru.head = c.current, c.head
	ru.end = len(r.outs)
	w := ru.change.what
	if w == nil {
		var refusal *code.Error
		if ru.change.err == nil || errors.As(ru.change.err, &refusal) && !refusal.Retryable() {
			s.require(ru, c.doubt && !c.absent)
		}
		return 0
	}
	h, err := msgstore.Head{FirstSeq: 1, LastTime: r.now}, error(nil)
	if !c.absent {
		if h, err = msgstore.ParseHead(c.raw); err != nil { // with the preview, which stays
			h = c.head
		}
	}
	h.StateVersion++
	tx := r.newTx()
	r.segments.Reset(h.LastSeq+1, h.Countable)
	r.ids.Reset()
	before := h.LastSeq
	var messages []byte
	var seq uint64
	switch {
	case len(w.Imported) > 0:
		messages = s.buildImport(w, &h)
		seq = h.LastSeq
	case w.Type != 0:
		seq = h.LastSeq + 1
		var mid id.MessageID
		if w.dated() {
			d := after(&h)
			mid = d.next(w.At)
		} else {
			mid = s.clock.next(c.floor)
		}
		c.floor = mid.UnixMilli()
		slab := r.room(len(w.Content) + len(w.Sender) + 64)
		begin := len(slab)
		slab = packet.AppendMessage(slab, seq, mid, w.Sender, changeTail(w))
		r.slab = slab
		messages = slab[begin:len(slab):len(slab)]
		r.segments.Add(len(messages), false)
		h.LastSeq, h.LastTime = seq, c.floor
		if w.dated() {
			break
		}
		ru.stored = 1
		ru.event = bus.Event{Conversation: c.id, Epoch: s.cfg.Epoch, FirstSeq: seq, LastSeq: seq, Messages: messages}
	}
	s.handed(c, &h)
	if w.dated() && c.handed == before { // nothing waits for the bus, and this isn't for it
		h.HandedSeq = h.LastSeq
	}
	s.timeline.Append(tx, c.id, c.raw, &h, r.segments.Segments(messages), r.ids.Rows())
	c.next = h.Append(c.next[:0])
	if w.Rows != nil {
		w.Rows(tx, seq)
	}
	if ru.stored > 0 {
		s.publish(ru, tx)
	}
	ru.change.seq = seq
	ru.head, ru.tx = h, tx
	r.txs = append(r.txs, tx)
	return tx.Size()
}

// changeTail is the sender's part of the message of w: it has no client message id.
func changeTail(w *Change) []byte {
	tail := make([]byte, 0, len(w.Content)+8)
	tail = append(tail, 5<<3, byte(w.Type), 6<<3|2)
	tail = binary.AppendUvarint(tail, uint64(len(w.Content)))
	return append(tail, w.Content...)
}

// refuseChanges ends all changes of c, which the caller holds, with err.
func (c *conversation) refuseChanges(err error) {
	c.mu.Lock()
	waiting := c.changes
	c.changes = nil
	c.mu.Unlock()
	if c.current != nil {
		waiting = append(waiting, c.current)
		c.current = nil
	}
	for _, ch := range waiting {
		ch.err = err
		ch.end()
	}
}
