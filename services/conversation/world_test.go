package conversation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var keys = msgstore.Keys{Keyspace: 7}

// adapters are the stores that tests run on.
var adapters = map[string]func(t testing.TB) kv.Store{
	"memory": func(testing.TB) kv.Store { return memory.New(memory.Config{}) },
	"pebble": func(t testing.TB) kv.Store {
		s, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(t.TempDir(), "kv")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	},
}

// world is a Service on a store, with a sequencer that is as plain as can be.
type world struct {
	t     testing.TB
	ctx   context.Context
	store kv.Store
	svc   *Service
	seq   *sequencer
	users *users
	clock *atomic.Int64 // Unix ms
	ids   *atomic.Int64
}

const start = 1_800_000_000_000

func newWorld(t testing.TB, store kv.Store, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), store: store, clock: new(atomic.Int64), ids: new(atomic.Int64), users: &users{gone: map[id.UserID]bool{}}}
	w.clock.Store(start)
	w.serve(change...)
	return w
}

// serve begins, or begins again after a crash: what was in memory is gone.
func (w *world) serve(change ...func(*Config)) {
	w.t.Helper()
	cfg := Config{Store: w.store, Keys: keys, Users: w.users, Now: w.clock.Load, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	svc, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.svc = svc
	w.seq = &sequencer{world: w, svc: svc, timeline: msgstore.NewTimeline(w.store, keys)}
	svc.Bind(w.seq)
}

func alive(u id.UserID) *packet.Origin {
	return &packet.Origin{User: u, Device: "phone", Conn: 1}
}

// users is an account service.
type users struct {
	mu    sync.Mutex
	gone  map[id.UserID]bool
	fail  error
	asked int
	gate  chan struct{} // not nil: Exists waits for it
}

func (u *users) Exists(ctx context.Context, user id.UserID) (bool, error) {
	u.mu.Lock()
	gate := u.gate
	u.asked++
	u.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.gone[user], u.fail
}

func (u *users) set(fn func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fn()
}

// sequencer appends each batch at once, in a transaction of its own.
type sequencer struct {
	*world
	mu       sync.Mutex
	svc      *Service
	timeline *msgstore.Timeline
}

func (s *sequencer) Append(conv id.ConversationID, batch []packet.Pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rules, err := s.svc.Rules(s.ctx, conv)
	if err != nil {
		var ce *code.Error
		if !errors.As(err, &ce) {
			s.t.Errorf("Rules gives %v, which is no *code.Error", err)
			ce = code.Wrap(code.Internal, err)
		}
		refuse(batch, ce)
		return
	}
	for turn := 0; ; turn++ {
		h, raw, err := s.timeline.Head(s.ctx, conv)
		if err != nil {
			s.t.Error(err)
			return
		}
		var b msgstore.SegmentBuilder
		b.Reset(h.LastSeq+1, h.Countable)
		var messages []byte
		var acks []packet.Ack
		refusals := make([]*code.Error, len(batch))
		for i := range batch {
			p := &batch[i]
			if refusals[i] = rules.Check(p); refusals[i] != nil {
				acks = append(acks, packet.Ack{})
				continue
			}
			mid := id.MakeMessageID(s.clock.Load(), 1, uint32(s.ids.Add(1)))
			n := len(messages)
			h.LastSeq++
			messages = packet.AppendMessage(messages, h.LastSeq, mid, p.From.User, p.Tail)
			acks = append(acks, packet.Ack{Conversation: conv, Seq: h.LastSeq, MessageID: mid})
			b.Add(len(messages)-n, packet.Counts(p.Type, p.NoCount))
			h.LastTime, h.PreviewSeq, h.PreviewSender, h.PreviewType, h.PreviewText = s.clock.Load(), h.LastSeq, p.From.User, p.Type, p.Content
		}
		if len(messages) > 0 {
			h.Countable = b.Countable()
			tx := new(kv.Tx)
			s.timeline.Append(tx, conv, raw, &h, b.Segments(messages), nil)
			s.store.Commit(s.ctx, tx)
			if errors.Is(tx.Err, kv.ErrConflict) && turn < 100 {
				continue
			}
			if tx.Err != nil {
				s.t.Error(tx.Err)
				return
			}
		}
		for i := range batch {
			p := &batch[i]
			if refusals[i] != nil {
				p.Reply.Refused(p, refusals[i])
				continue
			}
			p.Reply.Acked(p, acks[i])
			if p.Interactive {
				s.svc.Seen(conv, p.From.User, p.SeenSeq)
			}
		}
		return
	}
}

// answers collects outcomes in their order.
type answers struct {
	mu   sync.Mutex
	cond sync.Cond
	got  []answer
}

type answer struct {
	req uint32
	ack packet.Ack
	err *code.Error
}

func newAnswers() *answers {
	a := new(answers)
	a.cond.L = &a.mu
	return a
}

func (a *answers) add(x answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, x)
	a.cond.Broadcast()
}

func (a *answers) Acked(p *packet.Pending, ack packet.Ack) { a.add(answer{req: p.ReqID, ack: ack}) }
func (a *answers) Refused(p *packet.Pending, err *code.Error) {
	a.add(answer{req: p.ReqID, err: err})
}

// wait returns the first n answers.
func (a *answers) wait(n int) []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.got) < n {
		a.cond.Wait()
	}
	return a.got
}

// message is a SEND of text.
func message(text string) packet.Pending {
	body := append([]byte{6<<3 | 2, byte(len(text))}, text...)
	body = append([]byte{5 << 3, 1}, body...)
	return packet.Pending{Send: packet.Send{Type: 1, Content: body[4:], Tail: body}}
}

// to makes a batch of n messages from o to a user.
func batchTo(o *packet.Origin, to id.UserID, a *answers, first uint32, n int) []packet.Pending {
	b := make([]packet.Pending, n)
	for i := range b {
		b[i] = message(fmt.Sprint("m", first+uint32(i)))
		b[i].From, b[i].ToUser, b[i].Reply, b[i].ReqID = o, to, a, first+uint32(i)
	}
	return b
}

// say sends n messages to a user and returns the last one's ack.
func (w *world) say(from, to id.UserID, n int) packet.Ack {
	w.t.Helper()
	a := newAnswers()
	w.svc.Send(batchTo(alive(from), to, a, 1, n))
	got := a.wait(n)
	for _, x := range got {
		if x.err != nil {
			w.t.Fatalf("%s to %s: %v", from, to, x.err)
		}
	}
	return got[n-1].ack
}

func wantCode(t testing.TB, err error, c code.Code) {
	t.Helper()
	var ce *code.Error
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want %v", err, c)
	}
	if ce.Code != c {
		t.Fatalf("got %v, want %v", ce, c)
	}
}

// seqs reads the seqs of a page's messages.
func seqs(t testing.TB, messages []byte) []uint64 {
	t.Helper()
	var out []uint64
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			t.Fatal(err)
		}
		out, messages = append(out, v.Seq), rest
	}
	return out
}

// scratch writes a group with members by hand: groups have no service yet.
func (w *world) group(n int, members map[id.UserID][]msgstore.Interval) id.ConversationID {
	w.t.Helper()
	conv := id.NewGroup()
	tx := new(kv.Tx)
	w.seq.timeline.Create(tx, conv, w.clock.Load())
	for u, ivs := range members {
		w.svc.members.Put(tx, conv, u, &msgstore.Member{Intervals: ivs})
		w.svc.inbox.Put(tx, u, conv, &msgstore.UserSide{Changed: w.clock.Load()})
	}
	w.commit(tx)
	for i := range n {
		w.append(conv, "system", fmt.Sprint("g", i+1), true)
	}
	return conv
}

func (w *world) commit(tx *kv.Tx) {
	w.t.Helper()
	w.store.Commit(w.ctx, tx)
	if tx.Err != nil {
		w.t.Fatal(tx.Err)
	}
}

// append stores one message without asking anybody.
func (w *world) append(conv id.ConversationID, from id.UserID, text string, counts bool) {
	w.t.Helper()
	h, raw, err := w.seq.timeline.Head(w.ctx, conv)
	if err != nil {
		w.t.Fatal(err)
	}
	m := message(text)
	var b msgstore.SegmentBuilder
	b.Reset(h.LastSeq+1, h.Countable)
	messages := packet.AppendMessage(nil, h.LastSeq+1, id.MakeMessageID(w.clock.Load(), 1, 0), from, m.Tail)
	b.Add(len(messages), counts)
	h.LastSeq, h.Countable, h.LastTime = h.LastSeq+1, b.Countable(), w.clock.Load()
	h.PreviewSeq, h.PreviewSender, h.PreviewType, h.PreviewText = h.LastSeq, from, 1, []byte(text)
	tx := new(kv.Tx)
	w.seq.timeline.Append(tx, conv, raw, &h, b.Segments(messages), nil)
	w.commit(tx)
}
