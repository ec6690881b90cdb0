package fanout

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// owe is what groups have left of their budgets of deliveries, and which of them have
// messages that members weren't sent and are to be told of. Everything in it is guarded by
// Handler.mu.
type owe struct {
	budget float64 // deliveries a second and conversation; 0: any number
	byConv map[id.ConversationID]*account

	planned float64 // deliveries of groups at most, in what is planned and not counted yet
}

// account is one conversation's. Deliveries are taken off it when they are counted, after the
// fact, so it may be below zero.
type account struct {
	left   float64
	at     time.Time // of left
	told   time.Time // when members were last told
	behind uint64    // seq up to which messages are to be told of; 0: none
}

// tellEvery is the least time between two HINTs of one conversation.
const tellEvery = time.Second

func (o *owe) init(budget int) {
	o.budget = float64(budget)
	o.byConv = make(map[id.ConversationID]*account)
}

// of returns conv's account as of now, nil: there is no budget.
func (o *owe) of(conv id.ConversationID, now time.Time) *account {
	if o.budget == 0 || conv.Kind() != id.KindGroup {
		return nil
	}
	a := o.byConv[conv]
	if a == nil {
		a = &account{left: o.budget, at: now}
		o.byConv[conv] = a
		return a
	}
	if passed := now.Sub(a.at); passed > 0 {
		a.left = min(o.budget, a.left+passed.Seconds()*o.budget)
		a.at = now
	}
	return a
}

// spent takes n deliveries off.
func (o *owe) spent(conv id.ConversationID, n uint64) {
	if a := o.byConv[conv]; a != nil {
		a.left -= float64(n)
	}
}

// debit has the deliveries of what was planned last, each of n messages, taken off conv's budget when they are counted.
func (h *Handler) debit(conv id.ConversationID, n uint64) {
	if h.owe.budget == 0 || conv.Kind() != id.KindGroup {
		return
	}
	p := &h.plan
	p.debits = append(p.debits, debit{conv, n})
	c := &p.parcels[len(p.parcels)-1]
	c.debit = int32(len(p.debits))
	h.owe.planned += float64(uint64(c.last-c.first) * n)
}

// doubtful reports whether what is planned could use up conv's budget.
func (o *owe) doubtful(conv id.ConversationID) bool {
	if o.planned == 0 {
		return false
	}
	a := o.byConv[conv]
	return a != nil && a.left <= o.planned
}

// over reports whether messages of conv up to last are to be told of rather than sent, and
// tells of them if that may be now.
func (h *Handler) over(conv id.ConversationID, to aim, last uint64) bool {
	now := h.cfg.Now()
	a := h.owe.of(conv, now)
	if a == nil || a.left > 0 {
		return false
	}
	a.behind = max(a.behind, last)
	if now.Sub(a.told) >= tellEvery {
		h.tell(conv, a, to)
	}
	return true
}

// tell sends a HINT of what conv's members weren't sent.
func (h *Handler) tell(conv id.ConversationID, a *account, to aim) {
	n := len(h.slab)
	h.slab = appendHint(h.slab, conv, a.behind)
	if l := to.large; l != nil {
		f := h.slab[n:len(h.slab):len(h.slab)]
		h.deliver(l, true)
		h.cfg.Audiences.Deliver(conv, a.behind, f, []int{len(f)}, []uint64{0}, true)
	} else {
		h.each(to.users, n, 0)
	}
	h.hinted.Add(1)
	a.told, a.behind = h.cfg.Now(), 0
}

// leave tells those who leave with mv what they weren't sent: nobody tells them later.
func (o *owe) leave(h *Handler, conv id.ConversationID, mv *move) {
	a := o.byConv[conv]
	if a == nil || a.behind == 0 || len(mv.left) == 0 {
		return
	}
	n := len(h.slab)
	h.slab = appendHint(h.slab, conv, min(a.behind, mv.seq))
	h.each(mv.left, n, 0)
}

// tellAll sends the HINTs that are due, and forgets accounts that are as good as new.
func (h *Handler) tellAll(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	for conv, a := range h.owe.byConv {
		h.owe.of(conv, now)
		switch {
		case a.behind == 0 && (h.owe.budget == 0 || a.left >= h.owe.budget):
			delete(h.owe.byConv, conv)
		case a.behind == 0 || now.Sub(a.told) < tellEvery:
		default:
			to := aim{large: h.large.get(conv)}
			if to.large == nil {
				var err error
				if to.users, _, err = h.cfg.Groups.Recipients(ctx, conv, a.behind, a.behind); err != nil {
					h.log.Warn("fan-out: nobody could be told of messages, trying again", "conversation", conv.String(), "err", err)
					continue
				}
			}
			h.tell(conv, a, to)
		}
	}
	h.flush(ctx)
}

// appendHint appends a HINT: conv goes up to seq.
func appendHint(dst []byte, conv id.ConversationID, seq uint64) []byte {
	m := wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: seq}}}
	body, err := m.Marshal(nil)
	if err != nil { // plain data always marshals
		return dst
	}
	return frame.Append(dst, frame.Hint, 0, 0, body)
}
