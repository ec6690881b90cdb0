package timeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// apartBus is a bus that takes events by commits of its own, apart from those of the
// appends: a real log behind a door that can be shut.
type apartBus struct {
	store kv.Store
	log   *log.Log

	mu    sync.Mutex
	fail  error         // of Publish
	took  bool          // although it fails, the events are taken
	block chan struct{} // Publish waits for it, whatever its context says
	calls int
}

// logRows places the log; one that lies apart has a keyspace of its own.
type logRows struct{ keys msgstore.Keys }

func (r logRows) Refs(dst []byte) []byte { return r.keys.BusRefs(dst, 0) }
func (logRows) AppendRef(dst []byte, r *log.Ref) []byte {
	ref := msgstore.BusRef{Conversation: r.Conversation, Epoch: r.Epoch, FirstSeq: r.FirstSeq, Count: r.Count}
	return ref.Append(dst)
}
func (logRows) ParseRef(v []byte) (log.Ref, error) {
	r, err := msgstore.ParseBusRef(v)
	return log.Ref{Conversation: r.Conversation, Epoch: r.Epoch, FirstSeq: r.FirstSeq, Count: r.Count}, err
}
func (r logRows) Position(dst []byte, group string) []byte      { return r.keys.BusPosition(dst, group, 0) }
func (logRows) AppendPosition(dst []byte, o uint64) []byte      { return msgstore.AppendBusPosition(dst, o) }
func (logRows) ParsePosition(v []byte) (offset uint64, _ error) { return msgstore.ParseBusPosition(v) }

func newApartBus(t testing.TB, store kv.Store) *apartBus {
	return newBus(t, store, msgstore.Keys{Keyspace: keys.Keyspace + 1})
}

func newBus(t testing.TB, store kv.Store, busKeys msgstore.Keys) *apartBus {
	t.Helper()
	tl := msgstore.NewTimeline(store, keys)
	l, err := log.New(log.Config{
		Store: store, Rows: logRows{busKeys}, PollEvery: 5 * time.Millisecond,
		Read: func(ctx context.Context, c id.ConversationID, from, to uint64) ([]byte, uint64, error) {
			messages, _, last, err := tl.Range(ctx, c, from, to, 0, eventBytes)
			return messages, last, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &apartBus{store: store, log: l}
}

func (b *apartBus) set(fail error, took bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail, b.took = fail, took
}

func (b *apartBus) Enlist(*kv.Tx, *bus.Event) bool { return false }

func (b *apartBus) Publish(ctx context.Context, evs []bus.Event) error {
	b.mu.Lock()
	fail, took, block := b.fail, b.took, b.block
	b.calls++
	b.mu.Unlock()
	if block != nil {
		<-block
	}
	if fail != nil && !took {
		return fail
	}
	evs = slices.Clone(evs)
	for i := range evs {
		tx := new(kv.Tx)
		b.log.Enlist(tx, &evs[i])
		if b.store.Commit(context.WithoutCancel(ctx), tx); tx.Err != nil {
			return tx.Err
		}
		evs[i].Offset = tx.Stamp
	}
	if err := b.log.Publish(ctx, evs); err != nil {
		return err
	}
	return fail
}

// consumer takes from the bus as fan-out does: each message once, by its seq.
type consumer struct {
	t   testing.TB
	mu  sync.Mutex
	got map[string]int // conversation and seq: how often it came
}

func consume(t testing.TB, l *log.Log) *consumer {
	c := &consumer{t: t, got: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Subscribe(ctx, "fanout", func(_ context.Context, evs []bus.Event) error {
			c.take(evs)
			return nil
		}); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for {
		if _, ok, err := l.Position(context.Background(), "fanout"); err != nil {
			t.Fatal(err)
		} else if ok {
			return c
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *consumer) take(evs []bus.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range evs {
		ev := &evs[i]
		seq := ev.FirstSeq
		for m := ev.Messages; len(m) > 0; seq++ {
			v, rest, err := packet.NextMessage(m)
			if err != nil || v.Seq != seq {
				c.t.Errorf("message %d (%v) in the place of %d", v.Seq, err, seq)
			}
			c.got[fmt.Sprint(ev.Conversation, " ", v.Seq)]++
			m = rest
		}
	}
}

// has reports whether message seq of conv has come.
func (c *consumer) has(conv id.ConversationID, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[fmt.Sprint(conv, " ", seq)] > 0
}

// wait returns when messages 1 to last of conv have come.
func (c *consumer) wait(conv id.ConversationID, last uint64) {
	c.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c.mu.Lock()
		missing := uint64(0)
		for seq := uint64(1); seq <= last; seq++ {
			if c.got[fmt.Sprint(conv, " ", seq)] == 0 {
				missing = seq
			}
		}
		c.mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("message %d of %s has not come", missing, conv)
		}
		time.Sleep(time.Millisecond)
	}
}

// marks returns the outbox marks there are.
func marks(t testing.TB, store kv.Store, convs ...id.ConversationID) (n int) {
	t.Helper()
	for _, c := range convs {
		v, err := store.Get(context.Background(), keys.OutboxMark(nil, c))
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			if _, err := msgstore.ParseOutboxMark(v); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

// apartStage is a stage whose bus lies apart.
func apartStage(t *testing.T, set func(c *Config)) (*stage, *apartBus) {
	var b *apartBus
	st := newStage(t, func(c *Config) {
		b = newApartBus(t, c.Store.(*hookStore).Store)
		c.Bus, c.PublishTimeout = b, 200*time.Millisecond
		if set != nil {
			set(c)
		}
	})
	return st, b
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
