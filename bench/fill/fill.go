// Package fill makes a store as traffic would have left it, straight through the storage
// layer: what takes a server hours to be sent takes a minute.
package fill

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Direct is a store of direct conversations in which the two users wrote in turn. Message
// n of conversation k has seq n, and a body and a client id that follow from k and n.
type Direct struct {
	Conversations int
	Messages      int // of each
	Body          int // bytes of each message
	Salt          uint16
	Users         func(conversation int) (a, b string) // a writes the odd messages
	Merge         bool                                 // merge small segments afterwards, as a server does in time
}

// Filled tells about a filled store.
type Filled struct {
	Messages int64   `json:"messages"`
	Rows     int64   `json:"segments"` // that the messages lie in
	Bytes    int64   `json:"bytes"`    // of the store's files
	Seconds  float64 `json:"seconds"`
}

// age is how long ago the last message was sent, and step the time between two of them.
const (
	age  = msgstore.IDWindow + 24*time.Hour
	step = time.Minute
)

// atOnce is how many appends are committed together.
const atOnce = 1000

// Write fills the data directory of a server, which must not exist yet. Each message is an
// append of its own, as traffic of single messages leaves it: a segment row and the head, rewritten.
// Message by message, all conversations take their turn. What only the first days have is left
// out: ids, which are swept, and the references of the bus.
func (d *Direct) Write(ctx context.Context, data string) (Filled, error) {
	began := time.Now()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	store, err := pebblekv.Open(pebblekv.Config{
		Dir: filepath.Join(data, "store"), Logger: quiet, MemTableBytes: 128 << 20, CacheBytes: 512 << 20, RecentKeys: min(max(2*d.Conversations, 1<<12), 1<<20),
	})
	if err != nil {
		return Filled{}, fmt.Errorf("fill a store: %w", err)
	}
	f := Filled{Messages: int64(d.Conversations) * int64(d.Messages)}
	err = d.fill(ctx, store)
	if err == nil && d.Merge {
		err = d.merge(ctx, store)
	}
	if err == nil { // as a server does when it is quiet
		err = store.Settle(ctx)
	}
	if err == nil {
		f.Rows, err = d.rows(ctx, store)
	}
	f.Bytes = int64(store.Metrics().DiskBytes)
	if cerr := store.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return f, fmt.Errorf("fill a store: %w", err)
	}
	f.Seconds = time.Since(began).Seconds()
	return f, nil
}

// filling is one conversation.
type filling struct {
	conv  id.ConversationID
	users [2]id.UserID
	head  msgstore.Head
	raw   []byte
}

func (d *Direct) fill(ctx context.Context, store kv.Store) error {
	keys := msgstore.Keys{}
	start := time.Now().Add(-age - time.Duration(d.Messages)*step).UnixMilli()
	if _, err := msgstore.OpenMeta(ctx, store, keys, start); err != nil {
		return err
	}
	tail, idAt, content, err := template(d.Body)
	if err != nil {
		return err
	}
	tl, members, inbox := msgstore.NewTimeline(store, keys), msgstore.NewMembers(store, keys), msgstore.NewInbox(store, keys)
	list := make([]filling, d.Conversations)
	txs := make([]*kv.Tx, atOnce)
	for i := range txs {
		txs[i] = new(kv.Tx)
	}
	message := make([]byte, 0, d.Body+256)
	for n := uint64(0); n <= uint64(d.Messages); n++ {
		now := start + int64(n)*step.Milliseconds()
		for from := 0; from < len(list); from += atOnce {
			if err := ctx.Err(); err != nil {
				return err
			}
			batch := txs[:min(atOnce, len(list)-from)]
			for i, tx := range batch {
				k := from + i
				c := &list[k]
				tx.Reset()
				if n == 0 {
					a, b := d.Users(k)
					c.users, c.conv = [2]id.UserID{id.UserID(a), id.UserID(b)}, id.Direct(id.UserID(a), id.UserID(b))
					c.head = msgstore.Head{FirstSeq: 1, LastTime: now}
					for _, u := range c.users {
						inbox.Replace(tx, u, c.conv, nil, &msgstore.UserSide{Changed: now})
						members.Put(tx, c.conv, u, &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}})
					}
					tl.Append(tx, c.conv, nil, &c.head, nil, nil)
					c.raw = c.head.Append(c.raw)
					continue
				}
				sender := c.users[(n+1)%2]
				verify.PutID((*[16]byte)(tail[idAt:]), now, d.Salt, k, n)
				verify.FillBody(tail[content:], k, n)
				message = packet.AppendMessage(message[:0], n, id.MakeMessageID(now, 0, uint32(k)), sender, tail)
				h := &c.head
				h.LastSeq, h.Countable, h.LastTime, h.HandedSeq, h.IDMax = n, n, now, n, now
				h.IDFloor = (msgstore.IDSecondOf(now) + 1) * 1000 // the ids are swept
				h.PreviewSeq, h.PreviewType, h.PreviewSender, h.PreviewText = n, 1, sender, tail[content:]
				tl.Append(tx, c.conv, c.raw, h, []msgstore.Segment{{FirstSeq: n, Count: 1, BaseCountable: n - 1, Countable: []byte{1}, Messages: message}}, nil)
				c.raw = h.Append(c.raw[:0])
			}
			store.Commit(ctx, batch...)
			for _, tx := range batch {
				if tx.Err != nil {
					return tx.Err
				}
			}
		}
	}
	return nil
}

// template returns the sender's part of a message, in which only the id and the content
// change, and where they stand.
func template(body int) (tail []byte, idAt, content int, err error) {
	m := wire.Send{ClientMsgId: make([]byte, 16)}
	before, err := m.Marshal(nil)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("encode a message: %w", err)
	}
	text := make([]byte, body)
	verify.FillBody(text, 0, 0)
	m.MsgType, m.Content = 1, string(text)
	if tail, err = m.Marshal(nil); err != nil {
		return nil, 0, 0, fmt.Errorf("encode a message: %w", err)
	}
	return tail, len(before) - 16, len(tail) - body, nil
}

// merge does what the server's sweep does in the hours after.
func (d *Direct) merge(ctx context.Context, store kv.Store) error {
	sweeper := msgstore.NewSweeper(msgstore.SweeperConfig{Store: store})
	for {
		_, done, err := sweeper.SweepSmall(ctx, 0, time.Now().Add(-age/2).UnixMilli(), atOnce)
		if err != nil || done {
			return err
		}
	}
}

// rows counts the segments in which a few conversations lie, and tells how many that makes in all.
func (d *Direct) rows(ctx context.Context, store kv.Store) (int64, error) {
	keys := msgstore.Keys{}
	n, looked := int64(0), min(d.Conversations, 100)
	for k := range looked {
		a, b := d.Users(k)
		c := id.Direct(id.UserID(a), id.UserID(b))
		end := keys.Head(nil, c)
		err := store.Scan(ctx, kv.Span{Start: keys.Segments(nil, c), End: end}, func(_, _ []byte) (bool, error) {
			n++
			return true, nil
		})
		if err != nil {
			return 0, err
		}
	}
	return n * int64(d.Conversations) / int64(max(looked, 1)), nil
}
