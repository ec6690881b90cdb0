package conversation

import (
	"fmt"
	"testing"

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
