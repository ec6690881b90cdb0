package timeline

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// In these tests nothing becomes too old by itself: the look at what waits is had by hand, at a time to come.

const waitAtMost = time.Hour

// gate lets nobody through who is named, until it is opened.
type gate struct {
	came chan struct{} // one for each who stands before it
	open chan struct{}
}

func newGate() *gate { return &gate{came: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g *gate) pass(ctx context.Context) error {
	g.came <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read: %w: %w", ctx.Err(), kv.ErrUnavailable)
	}
}

func waiting(t *testing.T, set func(c *Config)) *stage {
	return newStage(t, func(c *Config) {
		c.WaitAtMost, c.MaxAttempts = waitAtMost, 4
		if set != nil {
			set(c)
		}
	})
}

// later has what waits looked at when it has waited for too long.
func (st *stage) later() { st.seq.lookAtWaits(trace.Now() + int64(2*waitAtMost)) }

// The commit under way hangs: whoever isn't in it isn't kept waiting for it.
func TestNobodyOutwaitsTheCommitOfOthers(t *testing.T) {
	st := waiting(t, nil)
	other := id.Direct("carol", "dave")
	create(t, st.store, other, st.now.Load())
	g := newGate()
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		_ = g.pass(context.Background())
		next.Commit(ctx, txs...)
	})
	stored := st.a.text(st.id(0), "in the commit")
	st.send(stored)
	<-g.came
	b1, b2 := st.b.text(st.id(0), "1"), st.b.text(st.id(0), "2")
	st.send(b1, b2)
	c := newSender("carol", 3)
	c1 := c.text(st.id(0), "1")
	st.seq.Append(other, []packet.Pending{c1})
	st.later()
	st.b.expect(t, "1:unavailable", "2:lane_blocked")
	c.expect(t, "1:unavailable")
	if n := st.seq.pending.Load(); n != 1 {
		t.Errorf("%d messages wait", n)
	}
	close(g.open)
	st.a.expect(t, "1:seq=1") // its outcome matters, however late it comes
	b3 := st.b.text(st.id(0), "3")
	st.send(b3)
	st.b.expect(t, "3:lane_blocked")
	st.send(resend(b1), resend(b2), resend(b3))
	st.b.expect(t, "1:seq=2", "2:seq=3", "3:seq=4")
	st.seq.Append(other, []packet.Pending{resend(c1)})
	c.expect(t, "1:seq=1")
	if n := st.seq.pendingBytes.Load(); n != 0 {
		t.Errorf("%d bytes wait", n)
	}
}

// The store doesn't answer a read. Younger messages go on waiting, behind those of the same lane that were refused.
func TestNobodyOutwaitsALoad(t *testing.T) {
	st := waiting(t, nil)
	g := newGate()
	st.store.onGet(func(ctx context.Context, _ []byte) error { return g.pass(ctx) })
	a1, a2, b1 := st.a.text(st.id(0), "1"), st.a.text(st.id(0), "2"), st.b.text(st.id(0), "1")
	a2.At = trace.Now() + int64(2*waitAtMost)
	b1.At = a2.At
	st.send(a1, a2)
	st.send(b1)
	<-g.came
	st.later()
	st.a.expect(t, "1:unavailable")
	close(g.open)
	st.a.expect(t, "2:lane_blocked")
	st.b.expect(t, "1:seq=1")
	a2.At = 0
	st.send(resend(a1), resend(a2))
	st.a.expect(t, "1:seq=2", "2:seq=3")
}

// After slots have moved every conversation is cold: those for which the loaders have no time are refused, and
// not read any more once they have.
func TestNobodyOutwaitsTheLoadersQueue(t *testing.T) {
	st := waiting(t, func(c *Config) { c.Loaders = 1 })
	g := newGate()
	var mu sync.Mutex
	reads := 0
	st.store.onGet(func(ctx context.Context, _ []byte) error {
		mu.Lock()
		reads++
		mu.Unlock()
		return g.pass(ctx)
	})
	senders := make([]*sender, 50)
	first := make([]packet.Pending, len(senders))
	convs := make([]id.ConversationID, len(senders))
	for i := range senders {
		user := fmt.Sprintf("user-%d", i)
		convs[i] = id.Direct("alice", id.UserID(user))
		create(t, st.store.Store, convs[i], st.now.Load())
		senders[i] = newSender(user, uint64(10+i))
		first[i] = senders[i].text(st.id(0), "1")
		st.seq.Append(convs[i], []packet.Pending{first[i]})
	}
	<-g.came
	st.later()
	for _, s := range senders {
		s.expect(t, "1:unavailable")
	}
	close(g.open)
	last := len(senders) - 1
	st.seq.Append(convs[last], []packet.Pending{resend(first[last])})
	senders[last].expect(t, "1:seq=1")
	mu.Lock()
	defer mu.Unlock()
	if reads > 10 {
		t.Errorf("%d reads for one conversation that somebody waits for, and one that was under way", reads)
	}
}

// What was in a transaction of which nothing is known is not called unavailable while it waits for the next try.
func TestNobodyOutwaitsTheNextTry(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{kv.ErrConflict, "1:unavailable"},
		{kv.ErrUndetermined, "1:undetermined"},
	} {
		st := waiting(t, nil)
		warm := st.b.text(st.id(0), "warm")
		st.send(warm)
		st.b.expect(t, "1:seq=1")
		g := newGate()
		st.store.onGet(func(ctx context.Context, _ []byte) error { return g.pass(ctx) })
		st.store.failNext(1, tc.err, nil)
		x := st.a.text(st.id(0), "x")
		st.send(x)
		<-g.came
		st.later()
		st.a.expect(t, tc.want)
		close(g.open)
		st.send(resend(x))
		st.a.expect(t, "1:seq=2")
		messages(t, st.store, dm)
	}
}

// Whatever the store does, whoever isn't in the commit under way is answered by the next look, and in the end
// everything is stored, once and in order.
func TestNobodyOutwaitsAnything(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	st := waiting(t, func(c *Config) { c.Loaders, c.RoundMessages, c.MaxConversations = 2, 8, 8 })
	const convs, rounds = 20, 12
	type talk struct {
		conv id.ConversationID
		s    *sender
		sent []packet.Pending // without a good answer
	}
	talks := make([]*talk, convs)
	for i := range talks {
		user := fmt.Sprintf("user-%d", i)
		talks[i] = &talk{conv: id.Direct("alice", id.UserID(user)), s: newSender(user, uint64(10+i))}
		create(t, st.store.Store, talks[i].conv, st.now.Load())
	}
	hear := func(k *talk) {
		for len(k.s.answers) > 0 {
			a := <-k.s.answers
			for i := range k.sent {
				if k.sent[i].ReqID == a.req && a.err == nil {
					k.sent = append(k.sent[:i], k.sent[i+1:]...)
					break
				}
			}
		}
	}
	for round := range rounds {
		g := newGate()
		var mu sync.Mutex
		committing := map[id.ConversationID]bool{}
		shut := rng.IntN(3)
		st.store.onGet(func(ctx context.Context, _ []byte) error {
			if shut == 0 {
				return nil
			}
			return g.pass(ctx)
		})
		faults := rand.New(rand.NewPCG(seed, uint64(2+round))) // the sequencer's
		st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
			fail := faults.IntN(4)
			if shut == 1 {
				next.Commit(ctx, txs...)
				return
			}
			mu.Lock()
			for _, k := range talks {
				head := string(keys.Head(nil, k.conv))
				for _, tx := range txs {
					for _, op := range tx.Ops() {
						committing[k.conv] = committing[k.conv] || string(op.Key) == head
					}
				}
			}
			mu.Unlock()
			_ = g.pass(context.Background())
			if fail == 0 {
				for _, tx := range txs {
					tx.Err = kv.ErrConflict
				}
				return
			}
			next.Commit(ctx, txs...)
			if fail == 1 {
				for _, tx := range txs {
					tx.Err = kv.ErrUndetermined
				}
			}
		})
		for _, k := range talks {
			hear(k)
			var batch []packet.Pending
			for _, p := range k.sent {
				batch = append(batch, resend(p))
			}
			for range rng.IntN(3) {
				p := k.s.text(st.id(0), fmt.Sprint(round))
				k.sent, batch = append(k.sent, p), append(batch, p)
			}
			st.seq.Append(k.conv, batch)
		}
		await(t, "answers of all that isn't being committed", func() bool {
			st.later()
			mu.Lock()
			defer mu.Unlock()
			for _, k := range talks {
				c := st.seq.lock(k.conv)
				n := c.count
				c.mu.Unlock()
				if n > 0 && !committing[k.conv] {
					return false
				}
			}
			return true
		})
		close(g.open)
		await(t, "answers of the rest", func() bool { st.later(); return st.seq.pending.Load() == 0 })
	}
	st.store.onGet(nil)
	st.store.onCommit(nil)
	for _, k := range talks {
		hear(k)
		for i := range k.sent {
			st.seq.Append(k.conv, []packet.Pending{resend(k.sent[i])})
			if a := k.s.hear(t, 1)[0]; a.err != nil {
				t.Fatalf("in the end: %s", a)
			}
		}
		messages(t, st.store, k.conv)
	}
}
