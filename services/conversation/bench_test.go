package conversation

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// BenchmarkFlush is what a cursor costs that moved since the last flush: 1,000 pairs of
// users, each of whom announces what it has received.
func BenchmarkFlush(b *testing.B) {
	w := newWorld(b, adapters["pebble"](b))
	const pairs = 1000
	convs, users := make([]id.ConversationID, pairs), make([][2]*packet.Origin, pairs)
	for i := range pairs {
		x, y := id.UserID(fmt.Sprint("x", i)), id.UserID(fmt.Sprint("y", i))
		convs[i] = w.say(x, y, 100).Conversation
		users[i] = [2]*packet.Origin{alive(x), alive(y)}
	}
	b.ReportAllocs()
	n, seq := 0, uint64(0)
	for b.Loop() {
		if seq++; seq > 100 {
			b.StopTimer()
			for i := range pairs {
				w.say(users[i][0].User, users[i][1].User, 100)
			}
			b.StartTimer()
		}
		for i := range pairs {
			w.svc.Received(users[i][0], convs[i], seq)
			w.svc.Received(users[i][1], convs[i], seq)
		}
		if err := w.svc.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		n += 2 * pairs
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/cursor")
}

// BenchmarkInbox is the first page of somebody with 100 conversations, all of them unread.
func BenchmarkInbox(b *testing.B) {
	w := newWorld(b, adapters["pebble"](b))
	for i := range 100 {
		w.say(id.UserID(fmt.Sprint("u", i)), "me", 5)
	}
	o := alive("me")
	for _, mark := range []uint64{0, start + 1} {
		b.Run(fmt.Sprintf("changed since %d", mark), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := w.svc.Inbox(b.Context(), o, mark, "", 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPages is a page of 50 of the 60 messages of any of 4,000 conversations that were
// appended one by one, the conversations in turn, so that none lies together.
func BenchmarkPages(b *testing.B) {
	const convs, messages, page = 4000, 60, 50
	store, err := pebblekv.Open(pebblekv.Config{
		Dir: filepath.Join(b.TempDir(), "kv"), Logger: slog.New(slog.DiscardHandler), MemTableBytes: 4 << 20, CacheBytes: 512 << 20,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	w := newWorld(b, store)
	list, heads := make([]id.ConversationID, convs), make([]msgstore.Head, convs)
	tail := make([]byte, 120)
	tail[0], tail[1] = 6<<3|2, 118 // a content
	for n := uint64(0); n <= messages; n++ {
		txs := make([]*kv.Tx, convs)
		for k := range txs {
			tx, h := new(kv.Tx), &heads[k]
			txs[k] = tx
			if n == 0 {
				peer := id.UserID(fmt.Sprint("peer", k))
				list[k] = id.Direct("me", peer)
				w.svc.members.Put(tx, list[k], "me", &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}})
				w.svc.members.Put(tx, list[k], peer, &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}})
				*h = msgstore.Head{FirstSeq: 1, LastTime: start}
				w.svc.timeline.Append(tx, list[k], nil, h, nil, nil)
				continue
			}
			old := h.Append(nil)
			h.LastSeq, h.Countable, h.PreviewSeq, h.PreviewSender, h.PreviewText = n, n, n, "me", tail[:msgstore.MaxPreviewBytes]
			w.svc.timeline.Append(tx, list[k], old, h, []msgstore.Segment{{FirstSeq: n, Count: 1, BaseCountable: n - 1, Countable: []byte{1},
				Messages: packet.AppendMessage(nil, n, id.MakeMessageID(start, 0, uint32(k)), "me", tail)}}, nil)
		}
		store.Commit(b.Context(), txs...)
		for _, tx := range txs {
			if tx.Err != nil {
				b.Fatal(tx.Err)
			}
		}
	}
	if err := store.Settle(b.Context()); err != nil {
		b.Fatal(err)
	}
	o, buf := alive("me"), []byte(nil)
	for _, c := range []struct {
		name string
		read func(conv id.ConversationID, before uint64) (packet.Page, error)
	}{
		{"history", func(conv id.ConversationID, before uint64) (packet.Page, error) {
			return w.svc.History(b.Context(), o, conv, before, page, buf)
		}},
		{"newest", func(conv id.ConversationID, _ uint64) (packet.Page, error) {
			return w.svc.History(b.Context(), o, conv, 0, page, buf)
		}},
		{"sync", func(conv id.ConversationID, before uint64) (packet.Page, error) {
			return w.svc.Sync(b.Context(), o, conv, before-page, before-1, page, buf)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			for b.Loop() {
				p, err := c.read(list[rng.IntN(convs)], page+1+rng.Uint64N(messages-page+1))
				if err != nil || len(p.Messages) < page*len(tail) {
					b.Fatal(len(p.Messages), err)
				}
				buf = p.Messages
			}
		})
	}
}
