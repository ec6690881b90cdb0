package node

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// metered counts what a connection brings.
type metered struct {
	net.Conn
	in *atomic.Int64
}

func (m metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.in.Add(int64(n))
	return n, err
}

// A user with 1,000 conversations: a new device shows a first page after one round trip
// and has the whole list in bounded bytes; one that returns after 10 have moved gets
// these, their messages with them, in less than 4 KB.
func TestBytesOfAnInbox(t *testing.T) {
	const conversations, moved = 1000, 10
	data := t.TempDir()
	n := start(t, data, func(c *Config) { c.Limits.SendsPerSecond, c.Limits.UserSendsPerSecond = 100_000, 100_000 })
	registerAll(t, n, "ann", "ben")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	keys, err := account.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	var in atomic.Int64
	open := func(user id.UserID, device id.DeviceID, store gochat.Store, backlog int, handle func(gochat.Event)) *gochat.Client {
		t.Helper()
		c, err := gochat.Open(gochat.Config{
			Address: n.TCPAddr().String(), Device: device, Handler: handle, Store: store, Backlog: backlog,
			Token: func(context.Context) (string, error) {
				return account.MintToken(keys, account.DefaultIssuer, user, "", time.Now(), time.Hour)
			},
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				return metered{c, &in}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ben := open("ben", "desk", nil, -1, func(gochat.Event) {})
	groups := make([]id.ConversationID, conversations)
	say := func(i int, text string) error {
		r, err := ben.Send(ctx, gochat.ToConversation(groups[i]), gochat.Text(text))
		if err == nil {
			_, err = r.Wait(ctx)
		}
		return err
	}
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := w; i < conversations; i += 20 {
				change, err := ben.CreateGroup(ctx, gochat.NewGroup{Name: fmt.Sprint("group number ", i), Users: []id.UserID{"ann"}})
				if groups[i] = change.Conversation; err == nil {
					err = say(i, "a message of about the usual length, as people write them")
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	if wg.Wait(); t.Failed() {
		return
	}
	var list gochat.List
	var news atomic.Int64 // messages
	heard := make(chan struct{}, 1)
	store := gochat.NewMemoryStore()
	handle := func(e gochat.Event) {
		list.Apply(e)
		if _, ok := e.(gochat.MessageReceived); ok {
			news.Add(1)
		}
		select {
		case heard <- struct{}{}:
		default:
		}
	}
	await := func(c *gochat.Client, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-heard:
			case <-ctx.Done():
				t.Fatalf("%d conversations are listed", len(list.All()))
			}
		}
	}
	in.Store(0)
	ann := open("ann", "phone", store, -1, handle)
	await(ann, func() bool { return len(list.All()) > 0 })
	first := len(list.All())
	await(ann, func() bool { return len(list.All()) == conversations })
	all := in.Load()
	t.Logf("a new device lists %d conversations at once, %d in %d bytes, %d each", first, conversations, all, all/conversations)
	if all > 300*conversations {
		t.Errorf("%d bytes, more than 300 each", all)
	}
	if err := ann.Close(); err != nil {
		t.Fatal(err)
	}
	// Marks lie back by a minute, so what was just made would be listed again: the mark of a later day.
	st, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	st.Session.SyncMark = uint64(time.Now().UnixMilli())
	if err := store.SetSession(st.Session); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond)
	for i := range moved {
		if err := say(i*97, "and another one, while nobody was looking"); err != nil {
			t.Fatal(err)
		}
	}
	if err := ben.Close(); err != nil {
		t.Fatal(err)
	}
	in.Store(0)
	ann = open("ann", "phone", store, -1, handle)
	await(ann, func() bool { return news.Load() == moved })
	if err := ann.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a return with %d that moved costs %d bytes", moved, in.Load())
	if in.Load() > 4096 {
		t.Errorf("%d bytes for %d conversations", in.Load(), moved)
	}
}
