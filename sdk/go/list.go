package gochat

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// UnreadCap is where unread messages are no longer counted.
const UnreadCap = 100

// List is the user's conversations as they stand now: what an application shows at its
// left. It is put together from a client's events: give it each of them, in order, from the
// Handler. An application whose Store outlives the process begins with Client.Inbox and
// Load, since a client hears only of what moved while it was away.
//
// The zero List is empty and ready. It is safe for concurrent use.
type List struct {
	mu    sync.Mutex
	me    id.UserID
	convs map[id.ConversationID]*listed
}

// listed is one conversation of a List. Its Unread and Mentions are the server's, as of
// the message asOf; what came since is counted here.
type listed struct {
	Conversation
	asOf  uint64
	above []arrival // unread messages above asOf that count, ascending, the newest UnreadCap

	// The messages that told of these: what the server said before doesn't take it back.
	nameAt, avatarAt, nickAt, roleAt uint64
	previewAt                        uint64 // the preview is no older than this
}

type arrival struct {
	seq   uint64
	calls bool // mentions the user
}

// Apply takes an event in. Those that say nothing of conversations are ignored.
func (l *List) Apply(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := e.(type) {
	case Connected:
		l.me = e.User
	case Resynced:
		clear(l.convs)
	case ConversationChanged:
		l.changed(e.Conversation)
	case MessageReceived:
		if e.Message.Conversation.Kind() != id.KindRoom { // rooms are in no list
			l.received(&e.Message)
		}
	case CursorsMoved:
		l.moved(&e)
	}
}

// Load takes in conversations as Client.Inbox returned them.
func (l *List) Load(convs []Conversation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range convs {
		l.changed(c)
	}
}

// Get returns one conversation, hidden ones and those that were left too.
func (l *List) Get(conv id.ConversationID) (Conversation, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.convs[conv]
	if v == nil {
		return Conversation{}, false
	}
	return v.now(), true
}

// All returns the conversations to be shown, pinned ones first, then by the latest activity.
// Left out are those that are hidden, were left, or have no message yet, and the user's own timeline.
func (l *List) All() []Conversation {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Conversation, 0, len(l.convs))
	for _, v := range l.convs {
		if !v.Hidden && v.LeftSeq == 0 && v.LastSeq > 0 && v.ID.Kind() != id.KindSelf {
			out = append(out, v.now())
		}
	}
	slices.SortFunc(out, func(a, b Conversation) int {
		if a.Pinned != b.Pinned {
			if a.Pinned {
				return -1
			}
			return 1
		}
		return cmp.Or(b.LastTime.Compare(a.LastTime), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

func (v *listed) now() Conversation {
	c := v.Conversation
	c.Unread += len(v.above)
	for _, m := range v.above {
		if m.calls {
			c.Mentions++
		}
	}
	c.Unread, c.Mentions = min(c.Unread, UnreadCap), min(c.Mentions, UnreadCap)
	return c
}

func (l *List) conv(conv id.ConversationID) *listed {
	v := l.convs[conv]
	if v == nil {
		if l.convs == nil {
			l.convs = map[id.ConversationID]*listed{}
		}
		v = &listed{Conversation: Conversation{ID: conv}}
		l.convs[conv] = v
	}
	return v
}

// count sets what the server counted up to asOf, unless that is older than what is known.
func (v *listed) count(read, asOf uint64, unread, mentions int) {
	if read < v.ReadSeq || read == v.ReadSeq && asOf < v.asOf {
		return
	}
	v.ReadSeq, v.asOf, v.Unread, v.Mentions = read, asOf, unread, mentions
	v.above = slices.DeleteFunc(v.above, func(m arrival) bool { return m.seq <= asOf || m.seq <= read })
}

// changed merges how the server says that a conversation stands into what came since it looked.
func (l *List) changed(c Conversation) {
	v := l.conv(c.ID)
	old := v.Conversation
	v.count(c.ReadSeq, c.LastSeq, c.Unread, c.Mentions)
	next := c
	next.ReadSeq, next.Unread, next.Mentions = v.ReadSeq, v.Unread, v.Mentions
	if c.LastSeq < old.LastSeq {
		next.LastSeq, next.LastTime, next.LeftSeq = old.LastSeq, old.LastTime, old.LeftSeq
		next.Hidden = false // there was a message since
	}
	if c.LastSeq < v.previewAt {
		next.Preview, next.PreviewFrom, next.PreviewType = old.Preview, old.PreviewFrom, old.PreviewType
	} else {
		v.previewAt = c.LastSeq
	}
	if c.LastSeq < v.nameAt {
		next.Name = old.Name
	}
	if c.LastSeq < v.avatarAt {
		next.Avatar = old.Avatar
	}
	if c.LastSeq < v.nickAt {
		next.Nickname = old.Nickname
	}
	if c.LastSeq < v.roleAt {
		next.Role = old.Role
	}
	if c.SettingsVersion < old.SettingsVersion {
		next.Pinned, next.Muted, next.SettingsVersion = old.Pinned, old.Muted, old.SettingsVersion
		next.Hidden = old.Hidden && next.LastSeq == old.LastSeq
	}
	next.RecvSeq = max(next.RecvSeq, old.RecvSeq, next.ReadSeq)
	next.PeerReadSeq, next.PeerRecvSeq = max(next.PeerReadSeq, old.PeerReadSeq), max(next.PeerRecvSeq, old.PeerRecvSeq)
	v.Conversation = next
}

func (l *List) received(m *Message) {
	v := l.conv(m.Conversation)
	if v.LeftSeq != 0 && m.Seq > v.LeftSeq { // back again: what is unread begins here
		v.LeftSeq, v.above = 0, nil
		v.Role, v.roleAt = Member, m.Seq
		v.Unread, v.Mentions, v.asOf = 0, 0, m.Seq-1
	}
	if m.Peer != "" && v.Peer == "" {
		v.Peer = m.Peer
		v.Users = []id.UserID{min(l.me, m.Peer), max(l.me, m.Peer)}
	}
	newest := m.Seq > v.LastSeq
	if newest {
		v.LastSeq, v.LastTime, v.Hidden = m.Seq, m.Time, false
	}
	if newest && (m.Type < packet.TypeSystem || m.Type > packet.TypeSystemEnd) { // changes of a group leave the preview as it is
		v.PreviewFrom, v.PreviewType, v.Preview, v.previewAt = m.Sender, m.Type, m.Text, m.Seq
		if m.Type >= packet.TypeImage && m.Type <= packet.TypeVideo {
			v.Preview = ""
		}
	}
	if w, ok := m.Membership(); ok && newest { // else what the server told counts
		mine := slices.Contains(w.Users, l.me)
		switch {
		case mine && (w.Do == "leave" || w.Do == "remove"):
			v.LeftSeq = m.Seq
			v.Role, v.roleAt = NotIn, m.Seq
		case mine && (w.Do == "add" || w.Do == "join"):
			v.Role, v.roleAt = Member, m.Seq
		case mine && w.Do == "role":
			v.Role, v.roleAt = roleOf(w.Role), m.Seq
		case m.Own && w.Do == "role" && w.Role == "owner": // who hands the group over
			v.Role, v.roleAt = Admin, m.Seq
		}
	}
	if w, ok := m.GroupChange(); ok && m.Seq >= v.LastSeq {
		if w.Name != nil {
			v.Name, v.nameAt = *w.Name, m.Seq
		}
		if w.Avatar != nil {
			v.Avatar, v.avatarAt = *w.Avatar, m.Seq
		}
	}
	if nick, ok := m.Nickname(); ok && m.Own && newest {
		v.Nickname, v.nickAt = nick, m.Seq
	}
	if m.Seq <= v.asOf || m.Seq <= v.ReadSeq || m.Own || !packet.Counts(m.Type, m.NoCount) {
		return
	}
	if n := len(v.above); n > 0 && m.Seq <= v.above[n-1].seq {
		return
	}
	if len(v.above) == UnreadCap {
		v.above = slices.Delete(v.above, 0, 1)
	}
	v.above = append(v.above, arrival{m.Seq, m.MentionAll || slices.Contains(m.Mentions, string(l.me))})
}

func (l *List) moved(e *CursorsMoved) {
	v := l.conv(e.Conversation)
	if !e.Own {
		v.PeerReadSeq, v.PeerRecvSeq = max(v.PeerReadSeq, e.ReadSeq), max(v.PeerRecvSeq, e.RecvSeq)
		return
	}
	v.count(e.ReadSeq, e.LastSeq, e.Unread, e.Mentions)
	v.RecvSeq = max(v.RecvSeq, e.RecvSeq)
}

// inbox takes in a page of the conversations that moved since the sync mark, and goes on
// to the next one, or stores the new mark. The caller holds mu.
func (c *Client) inbox(l *link, states []*wire.ConversationState, cursor string, mark uint64) {
	for _, s := range states {
		c.heard(s)
	}
	if l.pages.mark == 0 {
		l.pages.mark = mark // the first page's: it was taken before anything was read
	}
	if cursor != "" {
		c.askPage(l, cursor)
		return
	}
	if l.pages.mark != 0 {
		c.session.SyncMark = l.pages.mark
		c.saveSession()
	}
	l.pages.busy, l.pages.mark = false, 0
}

// askPage asks for a page of the inbox.
func (c *Client) askPage(l *link, cursor string) {
	l.pages.busy = true
	req := &wire.ConversationsRequest{Cursor: cursor, SyncMark: c.session.SyncMark}
	c.ask(l, &call{method: packet.MethodConversations, request: req, done: func(inner []byte, err error) {
		if err == nil {
			ans := new(wire.ConversationsResponse)
			if e := packet.DecodeAnswer(packet.MethodConversations, inner, ans); e == nil {
				c.inbox(l, ans.Conversations, ans.Cursor, ans.SyncMark)
				return
			} else {
				err = e
			}
		}
		// The mark stays where it is, so nothing is missed; once more from the start.
		c.log.Warn("reading the inbox", "error", err)
		l.pages.busy, l.pages.mark, l.pages.due = false, 0, true
		l.pages.wait = time.Now().Add(time.Second)
		if e, ok := err.(*code.Error); ok {
			l.pages.wait = l.pages.wait.Add(e.RetryAfter)
		}
	}})
}

// pageDue starts reading the inbox anew if that is due.
func (c *Client) pageDue(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	switch {
	case !l.pages.due || l.pages.busy:
	case now.Before(l.pages.wait):
		next = l.pages.wait
	default:
		l.pages.due = false
		c.askPage(l, "")
	}
	return next
}

// heard takes in how a conversation stands. Its head is stored before the sync mark is.
func (c *Client) heard(s *wire.ConversationState) {
	v := c.conversation(id.ConversationID(s.ConversationId))
	info := conversationOf(c.me, s)
	if info.Peer != "" {
		v.peer = info.Peer
	}
	if v.id.Kind() == id.KindGroup && c.me != "" {
		v.nicknamed(c.me, info.Nickname)
	}
	if s.LastSeq >= v.told {
		v.told, v.left = s.LastSeq, s.LeftSeq
	}
	head := s.LastSeq
	if s.LeftSeq != 0 {
		head = min(head, s.LeftSeq)
	}
	fresh := !v.known
	if fresh {
		c.meet(v, head+1)
		if c.cfg.Backlog > 0 && v.applied > 0 {
			v.applied-- // meet counts from a message that has come
		}
		if first := max(s.FirstSeq, s.JoinedSeq); first > v.applied+1 {
			v.applied = first - 1
		}
		v.applied = min(v.applied, head)
		v.done, v.acked = v.applied, v.applied
	}
	if fresh || head > v.head {
		v.head = max(v.head, head)
		c.look(v)
		c.settle(v)
	}
	if v.id.Kind() != id.KindSelf { // told by its events
		c.push(ConversationChanged{Conversation: info})
	}
}

// hinted acts on a HINT.
func (c *Client) hinted(l *link, m *wire.Hint) {
	if m.All {
		l.pages.due = true
	}
	for _, h := range m.Heads {
		v := c.conversation(id.ConversationID(h.ConversationId))
		if !v.known {
			c.encounter(v, h.Seq)
		}
		v.head = max(v.head, h.Seq)
		c.look(v)
	}
}
