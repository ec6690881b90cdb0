package timeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestStoreErrors(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		times int
		want  []string
		later string // of the resend afterwards
	}{
		{"conflict", kv.ErrConflict, 1, []string{"1:seq=1", "2:seq=2"}, "1:dup=1"},
		{"conflicts without end", kv.ErrConflict, 100, []string{"1:unavailable", "2:lane_blocked"}, "1:seq=1"},
		{"undetermined", kv.ErrUndetermined, 2, []string{"1:seq=1", "2:seq=2"}, "1:dup=1"},
		{"undetermined without end", kv.ErrUndetermined, 100, []string{"1:undetermined", "2:lane_blocked"}, "1:seq=1"},
		{"unavailable", kv.ErrUnavailable, 2, []string{"1:seq=1", "2:seq=2"}, "1:dup=1"},
		{"closed", kv.ErrClosed, 100, []string{"1:unavailable", "2:lane_blocked"}, "1:seq=1"},
		{"unknown", errors.New("unknown"), 2, []string{"1:seq=1", "2:seq=2"}, "1:dup=1"},
		{"full", kv.ErrFull, 1, []string{"1:storage_full", "2:lane_blocked"}, "1:seq=1"},
		{"too large", kv.ErrTooLarge, 1, []string{"1:seq=1", "2:seq=2"}, "1:dup=1"},
		{"too large even alone", kv.ErrTooLarge, 2, []string{"1:content_too_large", "2:seq=1"}, "1:seq=2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var conflicts, undetermined atomic.Int32
			st := newStage(t, func(c *Config) {
				c.MaxAttempts = 4
				c.Events.Conflict = func(id.ConversationID) { conflicts.Add(1) }
				c.Events.Undetermined = func(id.ConversationID) { undetermined.Add(1) }
			})
			st.store.failNext(tc.times, tc.err, nil)
			x := st.a.text(st.id(0), "x")
			st.send(x, st.a.text(st.id(0), "y"))
			st.a.expect(t, tc.want...)
			st.store.onCommit(nil)
			st.send(resend(x))
			st.a.expect(t, tc.later)
			if errors.Is(tc.err, kv.ErrConflict) != (conflicts.Load() > 0) {
				t.Errorf("%d conflicts seen", conflicts.Load())
			}
			if (errors.Is(tc.err, kv.ErrUndetermined) || tc.name == "unknown") != (undetermined.Load() > 0) {
				t.Errorf("%d undetermined seen", undetermined.Load())
			}
			messages(t, st.store, dm)
		})
	}
}

// What was in a transaction of which nothing is known is not called unavailable either when the store is away from then on, or when it
// became too old meanwhile.
func TestInDoubtIsNotUnavailable(t *testing.T) {
	st := newStage(t, func(c *Config) { c.MaxAttempts = 3 })
	warm := st.b.text(st.id(0), "warm")
	st.send(warm)
	st.b.expect(t, "1:seq=1")
	st.store.onGet(func(context.Context, []byte) error { return kv.ErrUnavailable })
	var kept []*kv.Tx
	st.store.failNext(1, kv.ErrUndetermined, &kept)
	x := st.a.text(st.id(0), "x")
	st.send(x)
	st.a.expect(t, "1:undetermined")
	st.store.onGet(nil)
	st.store.Store.Commit(t.Context(), kept...) // it arrives late
	if err := kept[0].Err; err != nil {
		t.Fatal(err)
	}
	st.send(resend(x))
	st.a.expect(t, "1:dup=2")

	s := &Sequencer{cfg: Config{WaitAtMost: 1}, round: round{began: 10}}
	for _, doubt := range []bool{false, true} {
		want := code.Unavailable
		if doubt {
			want = code.Undetermined
		}
		if err := s.admit(&conversation{doubt: doubt}, &packet.Pending{At: 1}, 0, 0); err == nil || err.Code != want {
			t.Errorf("too old, in doubt %v: %v", doubt, err)
		}
	}
}

// A commit given up as undetermined is stored all the same, at once or late.
func TestUndeterminedButStored(t *testing.T) {
	for _, late := range []bool{false, true} {
		st := newStage(t, nil)
		var kept []*kv.Tx
		st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
			if kept == nil {
				for _, tx := range txs {
					kept = append(kept, copyTx(tx))
					tx.Err = kv.ErrUndetermined
				}
				if late {
					return
				}
			}
			next.Commit(ctx, kept...) // before the one that follows
			if kept[0].Err == nil {
				for _, tx := range txs {
					if tx.Err != nil {
						return // this is the first call
					}
				}
			}
			next.Commit(ctx, txs...)
		})
		st.send(st.a.text(st.id(0), "x"), st.a.text(st.id(0), "y"))
		got := st.a.hear(t, 2)
		ms := messages(t, st.store, dm)
		if len(ms) != 2 {
			t.Fatalf("late %v: %d stored", late, len(ms))
		}
		for i, g := range got {
			if g.ack.Seq != ms[i].Seq || g.ack.MessageID != ms[i].ID || !g.ack.Duplicate {
				t.Errorf("late %v: acked %v, stored %d %d", late, g, ms[i].Seq, ms[i].ID)
			}
		}
	}
}

func TestLoadErrors(t *testing.T) {
	st := newStage(t, func(c *Config) { c.MaxAttempts = 3 })
	fails := 2
	st.store.onGet(func(context.Context, []byte) error {
		if fails > 0 {
			fails--
			return kv.ErrUnavailable
		}
		return nil
	})
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "1:seq=1")
	fails = 1000
	st.restart()
	y := st.a.text(st.id(0), "y")
	st.send(y)
	st.a.expect(t, "2:unavailable")
	st.store.onGet(nil)
	st.send(resend(y))
	st.a.expect(t, "2:seq=2")
}

func TestOverload(t *testing.T) {
	st := newStage(t, func(c *Config) { c.ConvPending = 3 })
	release := make(chan struct{})
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		<-release
		next.Commit(ctx, txs...)
	})
	m := func() packet.Pending { return st.a.text(st.id(0), "x") }
	st.send(m(), m())
	fourth := m()
	st.send(fourth, m())
	st.a.expect(t, "3:overloaded", "4:lane_blocked")
	st.send(m()) // there is room, but it comes after one that was refused
	st.send(st.b.text(st.id(0), "z"))
	st.b.expect(t, "1:overloaded")
	close(release)
	st.a.expect(t, "1:seq=1", "2:seq=2", "5:lane_blocked")
	st.send(resend(fourth))
	st.a.expect(t, "3:seq=3")
	st.send(m())
	st.a.expect(t, "6:seq=4")
	st.send(m(), m(), m(), m())
	st.a.expect(t, "7:overloaded", "8:lane_blocked", "9:lane_blocked", "10:lane_blocked")
}

func TestShutdown(t *testing.T) {
	st := newStage(t, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		close(entered)
		<-release
		next.Commit(ctx, txs...)
	})
	st.send(st.a.text(st.id(0), "under way"))
	<-entered
	st.send(st.a.text(st.id(0), "waits"))
	stopped := make(chan struct{})
	go func() {
		st.stop()
		close(stopped)
	}()
	time.Sleep(10 * time.Millisecond) // lets the context end first; either order is right
	close(release)
	<-stopped
	got := st.a.hear(t, 2)
	if got[0].String() != "1:seq=1" || got[1].String() != "2:unavailable" && got[1].String() != "2:seq=2" {
		t.Errorf("answers %v", got)
	}
	st.send(st.a.text(st.id(0), "too late"))
	if got := st.a.hear(t, 1)[0]; got.err == nil || !got.err.Retryable() {
		t.Errorf("after the end: %v", got)
	}
}
