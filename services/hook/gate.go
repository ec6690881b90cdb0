package hook

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// Gate lets messages through to a Sequencer once the hook has judged them. Messages of one
// conversation keep their order; conversations don't wait for each other as long as there
// are goroutines. These end when there is nothing to do. It is safe for concurrent use.
//
// A Gate answers nobody itself: what is refused goes through too, marked, because whether
// it is stored already, and what it means for the rest of its lane, the Sequencer knows.
type Gate struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	idle    sync.Cond // workers went down to 0
	byConv  map[id.ConversationID]*queue
	ready   []*queue // that nobody works on
	workers int
	waiting int // messages to be judged
}

// queue is what waits of one conversation. It is in ready or with one worker.
type queue struct {
	conv    id.ConversationID
	batches []batch
}

type batch struct {
	msgs  []packet.Pending
	judge bool // else they are marked as refused
}

// New returns a Gate.
func New(cfg Config) (*Gate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = 16 << 10
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	g := &Gate{cfg: cfg, log: cfg.Logger, byConv: make(map[id.ConversationID]*queue)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.idle.L = &g.mu
	return g, nil
}

// Close has the hook give up, and returns when everything that waited has gone on to the
// Sequencer. What comes later is refused retryably.
func (g *Gate) Close() {
	g.cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.workers > 0 {
		g.idle.Wait()
	}
}

// Append takes over batch, whose messages are for conv and belong to it in this order. It
// doesn't block.
func (g *Gate) Append(conv id.ConversationID, msgs []packet.Pending) {
	if len(msgs) == 0 {
		return
	}
	b := batch{msgs, true}
	g.mu.Lock()
	if g.waiting+len(msgs) > g.cfg.Waiting {
		b.judge = false
		refuse(msgs, code.New(code.Overloaded))
	}
	q := g.byConv[conv]
	if q == nil && !b.judge {
		g.mu.Unlock()
		g.cfg.Next.Append(conv, msgs)
		return
	}
	if b.judge {
		g.waiting += len(msgs)
	}
	if q != nil {
		q.batches = append(q.batches, b)
		g.mu.Unlock()
		return
	}
	q = &queue{conv: conv, batches: []batch{b}}
	g.byConv[conv] = q
	g.ready = append(g.ready, q)
	if g.workers < g.cfg.Workers {
		g.workers++
		go g.work()
	}
	g.mu.Unlock()
}

// refuse marks messages; a hook that is away, or has too much to do, stores nothing.
func refuse(msgs []packet.Pending, err *code.Error) {
	for i := range msgs {
		if msgs[i].Refusal == nil {
			msgs[i].Refusal = err
		}
	}
}

// work is one goroutine of the pool.
func (g *Gate) work() {
	g.mu.Lock()
	for len(g.ready) > 0 {
		q := g.ready[0]
		g.ready[0] = nil
		if g.ready = g.ready[1:]; len(g.ready) == 0 {
			g.ready = nil
		}
		taken := q.batches
		q.batches = nil
		g.mu.Unlock()
		judged, failed := 0, false
		for _, b := range taken {
			if b.judge {
				judged += len(b.msgs)
				failed = g.judge(q.conv, b.msgs, failed)
			}
			g.cfg.Next.Append(q.conv, b.msgs)
		}
		g.mu.Lock()
		g.waiting -= judged
		if len(q.batches) > 0 {
			g.ready = append(g.ready, q)
		} else {
			delete(g.byConv, q.conv)
		}
	}
	if g.workers--; g.workers == 0 {
		g.idle.Broadcast()
	}
	g.mu.Unlock()
}

// judge has the hook judge msgs and marks or changes them. After a failure it isn't asked
// about the rest, nor if it failed before: what waits would wait for each of its failures.
func (g *Gate) judge(conv id.ConversationID, msgs []packet.Pending, failed bool) bool {
	for i := range msgs {
		p := &msgs[i]
		if p.Refusal != nil {
			continue // decided before
		}
		if !failed {
			err := g.ask(conv, p)
			if err == nil {
				continue
			}
			failed = true
			if g.ctx.Err() == nil {
				g.log.ErrorContext(trace.With(g.ctx, p.Call()), "the hook before a send failed", "conversation", conv, "open", g.cfg.FailOpen, "err", err)
			}
		}
		if !g.cfg.FailOpen || g.ctx.Err() != nil {
			refuse(msgs[i:], code.New(code.Unavailable))
			return true
		}
	}
	return failed
}

// ask has the hook judge one message. Its error says that there is no judgement.
func (g *Gate) ask(conv id.ConversationID, p *packet.Pending) error {
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	v, err := g.cfg.Hook.BeforeSend(ctx, &Message{
		Conversation: conv, Sender: p.From.User, Device: p.From.Device, ClientMsgID: p.ClientMsgID,
		Type: p.Type, Content: string(p.Content), Fields: p.Tail, Resend: p.Resend,
	})
	switch {
	case err != nil:
		return err
	case v.Refuse && v.Reason == "":
		p.Refusal = code.New(code.Forbidden)
	case v.Refuse:
		p.Refusal = code.Newf(code.Forbidden, "%s", reason(v.Reason))
	case v.Content != nil:
		if err := p.ReplaceContent(*v.Content); err != nil {
			return fmt.Errorf("what the hook replaces the content with: %w", err)
		}
	}
	return nil
}

// maxReason is how many bytes of a reason reach the sender.
const maxReason = 256

func reason(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxReason)], "")
}
