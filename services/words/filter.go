package words

import (
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Sequencer is where messages go from a Filter.
type Sequencer interface {
	// Append takes over batch, whose messages are for conv and belong to it in this order.
	// It doesn't block; the outcome of each goes to its Reply.
	Append(conv id.ConversationID, batch []packet.Pending)
}

// Filter lets messages through to a Sequencer, in their order. Those of type text that have a word of the lists in
// them it marks as refused, or changes. Like a hook it answers nobody itself: what is stored already is acked when it is sent
// again, whatever the lists say by then. It is safe for concurrent use, and has neither goroutines nor locks.
type Filter struct {
	next    Sequencer
	rule    atomic.Pointer[rule]
	refused atomic.Uint64
	masked  atomic.Uint64
}

type rule struct {
	matcher *Matcher
	mask    bool
}

// NewFilter returns a Filter without words.
func NewFilter(next Sequencer) *Filter { return &Filter{next: next} }

// Use puts a matcher in force for messages from now on; nil: nothing is looked for. With mask words are replaced by asterisks, otherwise
// messages are refused.
func (f *Filter) Use(m *Matcher, mask bool) {
	if m == nil {
		f.rule.Store(nil)
		return
	}
	f.rule.Store(&rule{m, mask})
}

// Stats are the Filter's counts.
type Stats struct {
	Words           int // in force
	Refused, Masked uint64
}

// Stats returns the counts.
func (f *Filter) Stats() Stats {
	s := Stats{Refused: f.refused.Load(), Masked: f.masked.Load()}
	if r := f.rule.Load(); r != nil {
		s.Words = r.matcher.Words()
	}
	return s
}

// Append takes over batch, whose messages are for conv and belong to it in this order. It doesn't block.
func (f *Filter) Append(conv id.ConversationID, batch []packet.Pending) {
	if r := f.rule.Load(); r != nil {
		for i := range batch {
			if p := &batch[i]; p.Type == packet.TypeText && p.Refusal == nil && r.matcher.Find(p.Content) {
				f.judge(r, p)
			}
		}
	}
	f.next.Append(conv, batch)
}

func (f *Filter) judge(r *rule, p *packet.Pending) {
	if r.mask && p.ReplaceContent(r.matcher.Mask(string(p.Content))) == nil {
		f.masked.Add(1)
		return
	}
	f.refused.Add(1)
	p.Refusal = code.Newf(code.Forbidden, "this message has words that may not be used here")
}
