package timeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var keys = msgstore.Keys{Keyspace: 1}

// rulesFunc is a Guard and its Rules.
type rulesFunc func(p *packet.Pending) *code.Error

func (f rulesFunc) Rules(context.Context, id.ConversationID) (Rules, error) { return f, nil }
func (f rulesFunc) Check(p *packet.Pending) *code.Error                     { return f(p) }

var allowAll = rulesFunc(func(*packet.Pending) *code.Error { return nil })

// storeBus enlists a row of its own and remembers what was published.
type storeBus struct {
	mu  sync.Mutex
	evs []bus.Event
}

func (b *storeBus) Enlist(tx *kv.Tx, ev *bus.Event) bool {
	ref := msgstore.BusRef{Conversation: ev.Conversation, Epoch: ev.Epoch, FirstSeq: ev.FirstSeq, Count: uint32(ev.LastSeq - ev.FirstSeq + 1)}
	tx.SetStamped(keys.BusRefs(nil, 0), ref.Append(nil))
	return true
}

func (b *storeBus) Publish(_ context.Context, evs []bus.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evs = append(b.evs, evs...)
	return nil
}

func (b *storeBus) events() []bus.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]bus.Event(nil), b.evs...)
}

// answer is what a sender heard.
type answer struct {
	req uint32
	ack packet.Ack
	err *code.Error
}

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%d:%s", a.req, a.err.Code)
	}
	if a.ack.Duplicate {
		return fmt.Sprintf("%d:dup=%d", a.req, a.ack.Seq)
	}
	return fmt.Sprintf("%d:seq=%d", a.req, a.ack.Seq)
}

// sender is one connection of a user.
type sender struct {
	o       *packet.Origin
	answers chan answer
	req     uint32
}

func newSender(user string, conn uint64) *sender {
	return &sender{
		o:       &packet.Origin{User: id.UserID(user), Device: "d", Conn: conn},
		answers: make(chan answer, 100_000),
	}
}

func (s *sender) Acked(p *packet.Pending, ack packet.Ack) { s.answers <- answer{p.ReqID, ack, nil} }
func (s *sender) Refused(p *packet.Pending, e *code.Error) {
	s.answers <- answer{p.ReqID, packet.Ack{}, e}
}

// text makes a message of the sender.
func (s *sender) text(cmid id.ClientMsgID, text string) packet.Pending {
	s.req++
	tail := append([]byte{4<<3 | 2, 16}, cmid[:]...)
	tail = append(tail, 5<<3, packet.TypeText, 6<<3|2, byte(len(text)))
	if len(text) > 127 {
		panic("text too long for this test")
	}
	tail = append(tail, text...)
	return packet.Pending{
		Send: packet.Send{
			ClientMsgID: cmid, Type: packet.TypeText, Content: tail[len(tail)-len(text):],
			Tail: tail, BodyHash: xxhash.Sum64(tail),
		},
		From: s.o, ReqID: s.req, Reply: s,
	}
}

func resend(p packet.Pending) packet.Pending {
	p.Resend = true
	return p
}

// hear waits for n answers.
func (s *sender) hear(t testing.TB, n int) []answer {
	t.Helper()
	out := make([]answer, 0, n)
	limit := time.After(2 * time.Minute)
	for len(out) < n {
		select {
		case a := <-s.answers:
			out = append(out, a)
		case <-limit:
			t.Fatalf("heard %d of %d answers: %v", len(out), n, out)
		}
	}
	return out
}

func (s *sender) expect(t testing.TB, want ...string) []answer {
	t.Helper()
	got := s.hear(t, len(want))
	for i := range got {
		if got[i].String() != want[i] {
			t.Fatalf("answer %d: %s, want %s (all: %v)", i, got[i], want[i], got)
		}
	}
	return got
}

func newMemory(t testing.TB) kv.Store {
	s := memory.New(memory.Config{Seed: 1})
	t.Cleanup(func() { s.Close() })
	return s
}

func config(store kv.Store) Config {
	return Config{Store: store, Keys: keys, Bus: &storeBus{}, Guard: allowAll, Epoch: 7, Worker: 3}
}

// start runs a sequencer until the test ends or stop is called.
func start(t testing.TB, cfg Config) (s *Sequencer, stop func()) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return s, stop
}

func create(t testing.TB, store kv.Store, conv id.ConversationID, now int64) {
	t.Helper()
	tx := new(kv.Tx)
	msgstore.NewTimeline(store, keys).Create(tx, conv, now)
	if store.Commit(context.Background(), tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
}

func nowMs() int64 { return time.Now().UnixMilli() }

// messages reads the whole timeline and checks that it is one: gapless, ids unique, times
// that never decrease.
func messages(t testing.TB, store kv.Store, conv id.ConversationID) []packet.MessageView {
	t.Helper()
	raw, _, _, err := msgstore.NewTimeline(store, keys).Range(context.Background(), conv, 1, 1<<62, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []packet.MessageView
	seen := make(map[string]uint64)
	for len(raw) > 0 {
		v, rest, err := packet.NextMessage(raw)
		if err != nil {
			t.Fatal(err)
		}
		if v.Seq != uint64(len(out)+1) {
			t.Fatalf("seq %d at place %d of %s", v.Seq, len(out)+1, conv)
		}
		key := string(v.Sender) + v.ClientMsgID.String()
		if other, ok := seen[key]; ok && v.ClientMsgID != (id.ClientMsgID{}) {
			t.Fatalf("%s is stored at %d and %d", key, other, v.Seq)
		}
		seen[key] = v.Seq
		if n := len(out); n > 0 && v.ID <= out[n-1].ID {
			t.Fatalf("message id of %d is %d, after %d", v.Seq, v.ID, out[n-1].ID)
		}
		out = append(out, v)
		raw = rest
	}
	return out
}

// hookStore lets a test stand between a sequencer and its store.
type hookStore struct {
	kv.Store
	mu     sync.Mutex
	commit func(ctx context.Context, next kv.Store, txs []*kv.Tx) // nil: straight through
	get    func(ctx context.Context, key []byte) error            // not nil: may fail reads
}

func (h *hookStore) onCommit(f func(ctx context.Context, next kv.Store, txs []*kv.Tx)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commit = f
}

func (h *hookStore) onGet(f func(ctx context.Context, key []byte) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.get = f
}

func (h *hookStore) Commit(ctx context.Context, txs ...*kv.Tx) {
	h.mu.Lock()
	f := h.commit
	h.mu.Unlock()
	if f == nil {
		h.Store.Commit(ctx, txs...)
		return
	}
	f(ctx, h.Store, txs)
}

func (h *hookStore) Get(ctx context.Context, key []byte) ([]byte, error) {
	h.mu.Lock()
	f := h.get
	h.mu.Unlock()
	if f != nil {
		if err := f(ctx, key); err != nil {
			return nil, err
		}
	}
	return h.Store.Get(ctx, key)
}

// failNext makes the next n commits come to err; before that they are kept in *kept, if
// given, as a store that stores them later would.
func (h *hookStore) failNext(n int, err error, kept *[]*kv.Tx) {
	h.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		if n == 0 {
			next.Commit(ctx, txs...)
			return
		}
		n--
		for _, tx := range txs {
			if kept != nil {
				*kept = append(*kept, copyTx(tx))
			}
			tx.Err = fmt.Errorf("by the test: %w", err)
		}
	})
}

func copyTx(tx *kv.Tx) *kv.Tx {
	c := new(kv.Tx)
	for _, op := range tx.Ops() {
		switch op.Kind {
		case kv.OpRequire:
			if op.Absent {
				c.Require(op.Key, nil)
			} else {
				c.Require(op.Key, op.Value)
			}
		case kv.OpSet:
			c.Set(op.Key, op.Value)
		case kv.OpDelete:
			c.Delete(op.Key)
		case kv.OpStamped:
			c.SetStamped(op.Key, op.Value)
		}
	}
	return c
}

// audit runs the store's own check and reports what it finds in the conversations.
func audit(t testing.TB, store kv.Store, convs ...id.ConversationID) {
	t.Helper()
	err := msgstore.Check(context.Background(), store, keys, func(f msgstore.Finding) {
		if slices.Contains(convs, f.Conversation) && f.Severity >= msgstore.Error {
			t.Errorf("audit: %s", f)
		}
	})
	if err != nil {
		t.Errorf("audit: %v", err)
	}
}
