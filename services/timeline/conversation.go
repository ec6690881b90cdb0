package timeline

import (
	"iter"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// batch is what one Append brought.
type batch struct {
	msgs  []packet.Pending
	at    uint64 // arrival number of the first
	burst uint64 // that they are part of, see lane
}

// conversation is what the process keeps of a conversation.
//
// Whoever set held works on it: it travels from Append to a loader or to the sequencer
// and between those, and is never with two of them. Fields under "of the holder" need no
// lock for that reason.
type conversation struct {
	id id.ConversationID

	mu       sync.Mutex
	waiting  []batch          // not taken by the sequencer yet
	count    int              // messages in waiting and in work
	bytes    int              // what they count in memory
	arrivals uint64           // messages that have arrived
	lanes    map[uint64]*lane // that are shut, by connection; nearly always nil
	raw      []byte           // the head as last committed; nil: not loaded
	changes  []*change        // not taken yet
	swept    chan struct{}    // not nil: hand on what the bus didn't take, then close it
	held     bool
	dead     bool // evicted: look it up again
	watched  bool // has an entry in Sequencer.waits
	unsure   bool // something in waiting was in a transaction that may still be stored

	lastUse atomic.Int64 // Unix ms

	// Of the holder; work and skip change only under mu.
	work     []batch // taken, in order; their outcome isn't known yet
	gated    gates   // what the lanes say as of take
	skip     int     // messages at the front of work that are done with
	current  *change // taken, see changing
	yield    bool    // messages come before the next change
	loaded   bool
	absent   bool          // loaded, and there is no such conversation
	head     msgstore.Head // as last committed; without the preview
	counted  int           // ids of it in Sequencer.ids.kept
	ids      idMemory      // as last committed, plus the transaction under way
	floor    int64         // Unix ms: the next message's time is not below it
	next     []byte        // the head's row in the transaction under way
	rules    Rules         // as of rulesAt
	rulesAt  uint64        // StateVersion
	hasRules bool
	refusal  *code.Error // of the guard
	failed   error       // of the last load
	doubt    bool        // a transaction of ours may still be stored
	attempts int         // runs of what stands first in work
	limit    int         // messages a run; 0: the usual
	inUse    []int64     // seconds that the next run looks ids up in
	seconds  []int64     // of these, those to load
	mids     []*idEntry  // entries whose MessageID is to be read
	marked   bool        // its outbox mark is stored (bus apart)
	handed   uint64      // the bus has taken all up to here (bus apart)

	newer, older *conversation // in the order of use; the sequencer's
}

// take moves what waits into work.
func (c *conversation) take() {
	c.mu.Lock()
	c.work = append(c.work, c.waiting...)
	clear(c.waiting)
	c.waiting = c.waiting[:0]
	if c.current == nil && len(c.changes) > 0 {
		c.current, c.changes = c.changes[0], c.changes[1:]
	}
	c.gated = c.gates()
	c.unsure = false
	c.mu.Unlock()
}

// giveBack has what was taken, and isn't in a transaction any more, wait again, before what came since.
func (c *conversation) giveBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.work) == 0 {
		return
	}
	since := c.waiting
	c.waiting = append(cut(c.work, c.skip), since...)
	clear(since)
	c.work, c.skip = since[:0], 0
	c.unsure = c.doubt
}

// cut removes the first n messages of queue, whose memory it uses again.
func cut(queue []batch, n int) []batch {
	i := 0
	for i < len(queue) && n >= len(queue[i].msgs) {
		n -= len(queue[i].msgs)
		i++
	}
	rest := copy(queue, queue[i:])
	clear(queue[rest:])
	if queue = queue[:rest]; n > 0 {
		b := &queue[0]
		b.msgs, b.at = b.msgs[n:], b.at+uint64(n)
	}
	return queue
}

// drop forgets what is cached of the stored state.
func (c *conversation) drop() {
	c.mu.Lock()
	c.raw = nil
	c.mu.Unlock()
	c.loaded, c.absent, c.refusal = false, false, nil
	if c.current != nil {
		c.current.planned = false
	}
	c.seconds, c.mids = c.seconds[:0], c.mids[:0]
	c.ids.reset(0)
}

// queued yields up to n messages of work, from the first that isn't done with.
func (c *conversation) queued(n int) iter.Seq2[*batch, int] {
	return func(yield func(*batch, int) bool) {
		skip := c.skip
		for bi := range c.work {
			b := &c.work[bi]
			for i := skip; i < len(b.msgs); i++ {
				if n--; n < 0 || !yield(b, i) {
					return
				}
			}
			skip = 0
		}
	}
}

// done removes the first n messages from work. c is locked.
func (c *conversation) done(n int) {
	n += c.skip
	i := 0
	for i < len(c.work) && n >= len(c.work[i].msgs) {
		n -= len(c.work[i].msgs)
		i++
	}
	rest := copy(c.work, c.work[i:])
	clear(c.work[rest:])
	c.work, c.skip = c.work[:rest], n
}

// weight is what a message counts in the bounds on memory and on transactions.
func weight(p *packet.Pending) int {
	n := len(p.Tail) + len(p.From.User) + 128
	for _, m := range p.Mentions {
		n += len(m) + 64
	}
	if p.MentionAll {
		n += 64
	}
	return n
}
