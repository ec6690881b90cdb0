package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// patience bounds every wait; nothing that works comes near it.
const patience = 2 * time.Minute

// actor is one device of a user, with an application that shows a list of conversations.
type actor struct {
	t      *testing.T
	n      *running
	data   string
	user   id.UserID
	device id.DeviceID
	store  *gochat.MemoryStore
	client *gochat.Client // nil: offline

	list gochat.List

	mu    sync.Mutex
	news  chan struct{} // closed and replaced at each event
	got   map[id.ConversationID][]uint64
	gone  map[id.ConversationID]uint64 // below this they are
	wrong error
	conn  net.Conn
}

func newActor(t *testing.T, n *running, data string, user id.UserID, device id.DeviceID) *actor {
	return &actor{t: t, n: n, data: data, user: user, device: device, store: gochat.NewMemoryStore(),
		news: make(chan struct{}), got: map[id.ConversationID][]uint64{}, gone: map[id.ConversationID]uint64{}}
}

func (a *actor) String() string { return fmt.Sprintf("%s's %s", a.user, a.device) }

// online opens the client, if it isn't, and waits until it is connected.
func (a *actor) online(ctx context.Context) {
	a.t.Helper()
	if a.client == nil {
		keys, err := account.LoadKeys(a.data)
		if err != nil {
			a.t.Fatal(err)
		}
		a.client, err = gochat.Open(gochat.Config{
			Address: a.n.TCPAddr().String(), Device: a.device, Store: a.store, Handler: a.handle,
			MinBackoff: 10 * time.Millisecond, AckInterval: 50 * time.Millisecond,
			Token: func(context.Context) (string, error) {
				return account.MintToken(keys, account.DefaultIssuer, a.user, "", time.Now(), time.Minute)
			},
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				a.mu.Lock()
				a.conn = c
				a.mu.Unlock()
				return c, err
			},
		})
		if err != nil {
			a.t.Fatal(err)
		}
	}
	if err := a.client.Connected(ctx); err != nil {
		a.t.Fatalf("%v doesn't connect: %v", a, err)
	}
}

func (a *actor) offline() {
	if a.client != nil {
		if err := a.client.Close(); err != nil {
			a.t.Error(err)
		}
		a.client = nil
	}
}

// cut breaks the connection; the client notices and comes back.
func (a *actor) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

func (a *actor) handle(e gochat.Event) {
	a.list.Apply(e)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch e := e.(type) {
	case gochat.MessageReceived:
		got := a.got[e.Message.Conversation]
		if len(got) > 0 && got[len(got)-1] >= e.Message.Seq {
			a.wrong = errors.Join(a.wrong, fmt.Errorf("%v got message %d after %d", a, e.Message.Seq, got[len(got)-1]))
		}
		a.got[e.Message.Conversation] = append(got, e.Message.Seq)
	case gochat.MessagesGone:
		a.gone[e.Conversation] = e.FirstSeq
	case gochat.Stopped:
		if !errors.Is(e.Err, context.Canceled) && a.client != nil {
			a.wrong = errors.Join(a.wrong, fmt.Errorf("%v stopped: %w", a, e.Err))
		}
	}
	close(a.news)
	a.news = make(chan struct{})
}

// until waits until what's wrong with the device, as look tells, is nothing.
func (a *actor) until(ctx context.Context, look func() string) {
	a.t.Helper()
	for {
		a.mu.Lock()
		news, wrong := a.news, a.wrong
		a.mu.Unlock()
		if wrong != nil {
			a.t.Fatal(wrong)
		}
		what := look()
		if what == "" {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			a.t.Fatalf("%v: %s", a, what)
		}
	}
}

func registerAll(t *testing.T, n *running, users ...id.UserID) {
	t.Helper()
	for _, u := range users {
		res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json",
			strings.NewReader(fmt.Sprintf(`{"name":%q,"password":"long enough"}`, u)))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("registering %s: %s", u, body)
		}
	}
}

// chat is the model of one conversation.
type chat struct {
	conv  id.ConversationID
	name  string
	said  []said
	first uint64
	side  map[id.UserID]*side
}

type said struct {
	by     id.UserID
	counts bool
	calls  bool // mentions everybody else
}

type side struct {
	read          uint64
	pinned, muted bool
	hidden        uint64
	in            []msgstore.Interval
}

// left returns the user's last message; 0: still in.
func (s *side) left() uint64 { return s.in[len(s.in)-1].Left }

func (s *side) isIn() bool { return len(s.in) > 0 && s.left() == 0 }

func (s *side) sees(seq uint64) bool { return (&msgstore.Member{Intervals: s.in}).Sees(seq) }

// other returns the peer of a direct conversation, "" in a group.
func (c *chat) other(u id.UserID) id.UserID {
	if c.conv.Kind() == id.KindDirect {
		for peer := range c.side {
			if peer != u {
				return peer
			}
		}
	}
	return ""
}

func (c *chat) last() uint64 { return uint64(len(c.said)) }

// top is the last message that u may see.
func (c *chat) top(u id.UserID) uint64 {
	if left := c.side[u].left(); left != 0 {
		return left
	}
	return c.last()
}

func (c *chat) unread(u id.UserID) (unread, mentions int) {
	me := c.side[u]
	for seq := max(me.read+1, c.first, me.in[len(me.in)-1].Joined); seq <= c.top(u); seq++ {
		if m := c.said[seq-1]; m.counts && m.by != u {
			unread++
			if m.calls {
				mentions++
			}
		}
	}
	return min(unread, gochat.UnreadCap), min(mentions, gochat.UnreadCap)
}

// differs tells how a device's conversation differs from the model.
func (c *chat) differs(a *actor) string {
	me := c.side[a.user]
	v, ok := a.list.Get(c.conv)
	if !ok {
		if c.last() == 0 || !me.isIn() || c.last() <= me.hidden { // not listed for a new device
			return ""
		}
		return fmt.Sprintf("knows nothing of %v", c.conv)
	}
	peer, peerRead := c.other(a.user), uint64(0)
	if peer != "" {
		peerRead = c.side[peer].read
	}
	unread, mentions := c.unread(a.user)
	top := c.top(a.user)
	got := fmt.Sprintf("last %d read %d unread %d mentions %d left %d peer %s read %d", v.LastSeq, v.ReadSeq, v.Unread, v.Mentions, v.LeftSeq, v.Peer, v.PeerReadSeq)
	want := fmt.Sprintf("last %d read %d unread %d mentions %d left %d peer %s read %d", top, me.read, unread, mentions, me.left(), peer, peerRead)
	if me.isIn() {
		got += fmt.Sprintf(" %q pinned %v muted %v hidden %v", v.Name, v.Pinned, v.Muted, v.Hidden)
		want += fmt.Sprintf(" %q pinned %v muted %v hidden %v", c.name, me.pinned, me.muted, me.hidden > 0 && c.last() <= me.hidden)
	}
	if got != want {
		return fmt.Sprintf("in %v: %s\nwant %s", c.conv, got, want)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	seqs, all := a.got[c.conv], 0
	for seq := uint64(1); seq <= top; seq++ {
		if me.sees(seq) {
			all++
		}
	}
	switch {
	case slices.ContainsFunc(seqs, func(seq uint64) bool { return !me.sees(seq) }):
		return fmt.Sprintf("got %v in %v, of which it may see %v", seqs, c.conv, me.in)
	case top >= c.first && (len(seqs) == 0 || seqs[len(seqs)-1] != top), c.first == 1 && len(seqs) != all:
		return fmt.Sprintf("got %v in %v, of %d up to %d", seqs, c.conv, all, top)
	}
	return ""
}

// inGroup does something to who is in a group, and notes it.
func (c *chat) inGroup(ctx context.Context, rng *rand.Rand, u id.UserID, by func(id.UserID) *actor) (string, error) {
	const owner = "ann"
	me := c.side[u]
	if me == nil {
		me = new(side)
		c.side[u] = me
	}
	doing, doer := "", id.UserID(owner)
	var err error
	var change gochat.GroupChange
	switch in := me.isIn(); {
	case u == owner:
		doing, c.name = "rename", fmt.Sprint("group ", rng.Uint32())
		change, err = by(owner).client.UpdateGroup(ctx, c.conv, gochat.GroupUpdate{Name: &c.name})
	case in && rng.IntN(2) == 0:
		doing, doer = "leave", u
		change, err = by(u).client.LeaveGroup(ctx, c.conv)
	case in:
		doing = "remove"
		change, err = by(owner).client.RemoveMembers(ctx, c.conv, u)
	case rng.IntN(2) == 0:
		doing, doer = "join", u
		change, err = by(u).client.JoinGroup(ctx, c.conv)
	default:
		doing = "add"
		change, err = by(owner).client.AddMembers(ctx, c.conv, u)
	}
	if err != nil {
		return doing, err
	}
	c.said = append(c.said, said{by: doer})
	if change.Seq != c.last() {
		return doing, fmt.Errorf("%+v, want seq %d", change, c.last())
	}
	if doing == "rename" {
		return doing, nil
	}
	if me.isIn() {
		me.in[len(me.in)-1].Left = c.last()
	} else {
		me.in = append(me.in, msgstore.Interval{Joined: c.last()})
	}
	return doing, nil
}

// TestInboxModel lets 5 users with 3 devices each do random things, some devices being
// offline and connections cut in between, with each other and in two groups that they join,
// leave and are taken out of. After each step every device that is online shows what a
// plain model says: messages, unread, mentions, positions, settings.
func TestInboxModel(t *testing.T) {
	steps := 150
	if testing.Short() {
		steps = 30
	}
	t.Run("any", func(t *testing.T) { inboxModel(t, rand.Uint64(), steps) })
	for _, once := range []struct {
		name  string
		seed  uint64
		steps int
	}{
		{"a new device sets what was hidden", 18339416105638183672, 50},
	} {
		t.Run(once.name, func(t *testing.T) { inboxModel(t, once.seed, once.steps) })
	}
}

func inboxModel(t *testing.T, seed uint64, steps int) {
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	data := t.TempDir()
	n := start(t, data)
	users := []id.UserID{"ann", "ben", "cat", "dan", "eve"}
	registerAll(t, n, users...)
	var actors []*actor
	byUser := map[id.UserID][]*actor{}
	for _, u := range users {
		for _, d := range []id.DeviceID{"phone", "tablet", "desk"} {
			a := newActor(t, n, data, u, d)
			t.Cleanup(a.offline)
			actors, byUser[u] = append(actors, a), append(byUser[u], a)
		}
	}
	begin, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, a := range actors {
		if i%3 < 2 {
			a.online(begin)
		}
	}
	chats := map[id.ConversationID]*chat{}
	conv := func(a, b id.UserID) *chat {
		c := id.Direct(a, b)
		if chats[c] == nil {
			always := []msgstore.Interval{{Joined: 1}}
			chats[c] = &chat{conv: c, first: 1, side: map[id.UserID]*side{a: {in: always}, b: {in: always}}}
		}
		return chats[c]
	}
	// somebody is a device that is online.
	somebody := func(ctx context.Context, u id.UserID) *actor {
		list := byUser[u]
		a := list[rng.IntN(len(list))]
		a.online(ctx)
		return a
	}
	var groups []*chat
	for i := range 2 {
		name := fmt.Sprint("group ", i)
		change, err := somebody(begin, "ann").client.CreateGroup(begin, gochat.NewGroup{Name: name, Open: true})
		if err != nil || change.Seq != 1 {
			t.Fatalf("%+v, %v", change, err)
		}
		g := &chat{conv: change.Conversation, name: name, said: []said{{by: "ann"}}, first: 1, side: map[id.UserID]*side{"ann": {in: []msgstore.Interval{{Joined: 1}}}}}
		groups, chats[g.conv] = append(groups, g), g
	}
	for step := range steps {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		u := users[rng.IntN(len(users))]
		peer := users[rng.IntN(len(users))]
		for peer == u {
			peer = users[rng.IntN(len(users))]
		}
		c, to := conv(u, peer), gochat.ToUser(peer)
		if rng.IntN(2) == 0 {
			c = groups[rng.IntN(len(groups))]
			to = gochat.ToConversation(c.conv)
		}
		me := c.side[u]
		doing := ""
		op := rng.IntN(16)
		switch {
		case c.other(u) == "" && (me == nil || !me.isIn() || op < 3):
			var err error
			if doing, err = c.inGroup(ctx, rng, u, func(u id.UserID) *actor { return somebody(ctx, u) }); err != nil {
				t.Fatalf("step %d: %s %s: %v", step, doing, u, err)
			}
		case op < 6 || c.last() == 0: // messages, from two devices at once
			doing = "send"
			for range 1 + rng.IntN(4) {
				a := somebody(ctx, u)
				m := gochat.Text(fmt.Sprint("m", step))
				s := said{by: u, counts: rng.IntN(5) > 0}
				m.NoCount = !s.counts
				switch rng.IntN(6) {
				case 0:
					for other := range c.side {
						m.Mentions = append(m.Mentions, string(other))
					}
					s.calls = true
				case 1:
					m.MentionAll, s.calls = true, true
				}
				seen := uint64(0)
				var r *gochat.Receipt
				var err error
				if rng.IntN(4) == 0 && c.last() > 0 {
					seen = 1 + rng.Uint64N(c.last())
					r, err = a.client.SendInteractive(ctx, to, m, seen)
				} else {
					r, err = a.client.Send(ctx, to, m)
				}
				if err != nil {
					t.Fatal(err)
				}
				if rng.IntN(8) == 0 {
					a.cut()
				}
				ack, err := r.Wait(ctx)
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				c.said = append(c.said, s)
				if ack.Seq != c.last() || ack.Conversation != c.conv {
					t.Fatalf("step %d: %+v, want seq %d", step, ack, c.last())
				}
				me.read = max(me.read, seen)
			}
		case op < 10:
			doing = "read"
			a := somebody(ctx, u)
			seq := 1 + rng.Uint64N(c.last()+1)
			me.read = max(me.read, min(seq, c.last()))
			read, unread, err := a.client.MarkRead(ctx, c.conv, seq)
			if want, _ := c.unread(u); err != nil || read != me.read || unread != want {
				t.Fatalf("step %d: %v read %d: %d, %d unread, want %d and %d, %v", step, a, seq, read, unread, me.read, want, err)
			}
		case op < 12:
			doing = "set"
			a := somebody(ctx, u)
			on := rng.IntN(2) == 0
			var err error
			switch rng.IntN(3) {
			case 0:
				me.pinned = on
				_, err = a.client.Pin(ctx, c.conv, on)
			case 1:
				me.muted = on
				_, err = a.client.Mute(ctx, c.conv, on)
			default:
				if me.hidden = 0; on {
					me.hidden = c.last()
				}
				_, err = a.client.Hide(ctx, c.conv, on)
			}
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		case op < 13: // retention, up to what all have read: nobody's number changes
			doing = "trim"
			all := me.read
			for _, s := range c.side {
				all = min(all, s.read)
			}
			c.first = trim(t, n, c.conv, 1+rng.Uint64N(all+1))
		case op < 15:
			doing = "cut"
			for range 5 {
				actors[rng.IntN(len(actors))].cut()
			}
		default:
			doing = "come and go"
			for range 3 {
				if a := actors[rng.IntN(len(actors))]; a.client == nil {
					a.online(ctx)
				} else if rng.IntN(2) == 0 {
					a.offline()
				}
			}
		}
		for _, a := range actors {
			if a.client == nil {
				continue
			}
			for _, c := range chats {
				if c.side[a.user] != nil {
					a.until(ctx, func() string {
						if what := c.differs(a); what != "" {
							return fmt.Sprintf("step %d, %s: %s", step, doing, what)
						}
						return ""
					})
				}
			}
		}
		cancel()
	}
	// Who comes last sees the same, and so does a new device, in the same order.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, u := range users {
		fresh := newActor(t, n, data, u, "fresh")
		t.Cleanup(fresh.offline)
		for _, a := range append([]*actor{fresh}, byUser[u]...) {
			a.online(ctx)
			for _, c := range chats {
				if c.side[u] != nil {
					a.until(ctx, func() string { return c.differs(a) })
				}
			}
			inbox, err := a.client.Inbox(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := peersOf(a.list.All(), true), peersOf(inbox, true); got != want {
				t.Errorf("%v shows %s, the server %s", a, got, want)
			}
		}
	}
	for _, a := range actors {
		a.mu.Lock()
		if a.wrong != nil {
			t.Error(a.wrong)
		}
		a.mu.Unlock()
	}
}

// peersOf names the peers of conversations, the pinned ones apart.
func peersOf(convs []gochat.Conversation, byPin bool) string {
	convs = slices.Clone(convs)
	if byPin {
		slices.SortStableFunc(convs, func(a, b gochat.Conversation) int {
			switch {
			case a.Pinned == b.Pinned:
				return 0
			case a.Pinned:
				return -1
			}
			return 1
		})
	}
	var out []string
	for _, c := range convs {
		out = append(out, cmp.Or(string(c.Peer), c.Name))
	}
	return strings.Join(out, " ")
}

// trim removes the oldest messages in whole segments, below keep, and returns the first that is left.
func trim(t *testing.T, n *running, conv id.ConversationID, keep uint64) uint64 {
	t.Helper()
	tl := msgstore.NewTimeline(n.storage.Store, msgstore.Keys{})
	for {
		h, raw, err := tl.Head(t.Context(), conv)
		if err != nil {
			t.Fatal(err)
		}
		tx := new(kv.Tx)
		if _, err := tl.Trim(t.Context(), tx, conv, raw, &h, keep, 100); err != nil {
			t.Fatal(err)
		}
		n.storage.Store.Commit(t.Context(), tx)
		if tx.Err == nil {
			return h.FirstSeq
		}
		if !errors.Is(tx.Err, kv.ErrConflict) {
			t.Fatal(tx.Err)
		}
	}
}
