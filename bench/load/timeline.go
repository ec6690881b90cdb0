package load

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// walksAtOnce bounds how many recipients read their timeline at the same time.
const walksAtOnce = 64

// walk lets every recipient read its conversation from the beginning to the head.
// What is then still unread, because the server stopped answering, is in the verifier's result.
func (r *pairsRun) walk(ctx context.Context) error {
	r.phase = walking
	begun := 0
	seen, at := r.progress, r.loop.Now()
	for r.walked < len(r.pairs) {
		for ; begun < len(r.pairs) && begun-r.walked < walksAtOnce; begun++ {
			p := &r.pairs[begun]
			p.asking = walk
			p.head = max(p.highest, 1) // until the server tells
			p.ask()
		}
		if err := r.poll(ctx, stillness/10); err != nil {
			return err
		}
		now := r.loop.Now()
		if r.progress != seen {
			seen, at = r.progress, now
		}
		if now-at > int64(stillness) {
			return nil
		}
	}
	return nil
}

// pull asks for what a gap or a hint says is missing, one SYNC at a time.
func (p *pair) pull() {
	if p.asking == pull {
		p.again = true // the answer under way may have been read before
		return
	}
	if p.asking == nothing {
		p.asking, p.again = pull, false
		p.run.pulls++
		p.ask()
	}
}

// ask sends the SYNC that p.asking calls for.
func (p *pair) ask() {
	switch p.asking {
	case nothing:
		return
	case pull:
		p.from = p.book.Mark() + 1
	case walk:
		p.from = p.book.Walked() + 1
	}
	req := wire.SyncRange{ConversationId: p.conv[:], FromSeq: p.from}
	p.syncID++
	p.early = p.highest == 0
	c := p.recipient()
	out, err := packet.AppendBody(c.Out, frame.Sync, frame.FlagRequestID, p.syncID, &wire.Sync{Ranges: []*wire.SyncRange{&req}})
	if err != nil {
		p.run.fail(fmt.Errorf("encode a SYNC: %w", err))
		return
	}
	c.Out = out
	c.Flush()
}

// synced takes one part of the answer.
func (p *pair) synced(f *frame.Frame) {
	r := p.run
	page, refused, err := packet.DecodeSynced(f.Body)
	if err != nil {
		r.fail(fmt.Errorf("SYNCED of pair %d: %w", p.index, err))
		return
	}
	if f.ReqID < p.syncID {
		return // of a pull that the walk has overtaken
	}
	if refused != nil {
		if refused.Code != code.NoSuchConversation || !p.early {
			r.fail(fmt.Errorf("SYNC of pair %d: %w", p.index, refused))
			return
		}
		// A HINT of everything came before the first message was stored.
		page = packet.Page{Conversation: p.conv, FromSeq: p.from}
	}
	if f.ReqID > p.syncID || page.Conversation != p.conv || page.FromSeq < p.from {
		r.fail(fmt.Errorf("SYNCED of pair %d answers request %d about %s from %d, which it didn't ask", p.index, f.ReqID, page.Conversation, page.FromSeq))
		return
	}
	for messages := page.Messages; len(messages) > 0; {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("SYNCED of pair %d: %w", p.index, err))
			return
		}
		messages = rest
		r.progress++
		if p.asking == walk {
			p.book.Stored(&v)
		} else {
			p.book.Pulled(&v)
		}
	}
	if f.Flags&frame.FlagMore != 0 {
		return
	}
	if p.asking == pull {
		p.asking = nothing
		// A page may end below the head, with no further hint to come for the rest.
		unfinished := page.ToSeq >= page.FromSeq && page.ToSeq < page.LastSeq
		if from, _ := p.book.Missing(); from != 0 || p.again || unfinished {
			p.pull()
		}
		return
	}
	if page.ToSeq >= page.FromSeq {
		p.book.Answered(page.ToSeq)
	}
	p.head = page.LastSeq
	if p.book.Walked() < p.head && p.book.Walked() >= p.from {
		p.ask()
		return
	}
	p.asking = nothing
	r.walked++
}
