package tui

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// entry is a message on the screen: a stored one, or one of ours on its way.
type entry struct {
	msg    gochat.Message
	stored bool
	err    error // refused for good
}

// keep is how many messages of a conversation that isn't shown stay in memory; older ones are read again.
const keep = 200

// conversation is one row of the list and what is known of its messages.
type conversation struct {
	id   id.ConversationID
	info gochat.Conversation // as the list of the client library has it; one that doesn't exist yet has a peer alone
	have bool                // the server told how it stands

	// entries are stored ones by seq, without a hole that can be filled, then those on their way in the order of sending.
	entries []*entry
	older   bool // the server may have more before the first one
	loading bool
	retryAt time.Time

	anchor *entry // the last one on the screen; nil: follow the newest
	hidden int    // lines of anchor that are below the screen

	newFrom  uint64 // the line "new" stands above the first message of others from here on; 0: nowhere
	readSent uint64 // told to the server
	draft    prompt
	replyTo  *entry
	typing   map[id.UserID]time.Time // until when
	typedAt  time.Time               // when we last told that we type
	members  []string                // of a group, for completion; nil: not asked yet

	peerName string // of the other one's profile, if it isn't the id
}

func newConversation(conv id.ConversationID, peer id.UserID) *conversation {
	return &conversation{id: conv, info: gochat.Conversation{ID: conv, Peer: peer}, older: true, typing: map[id.UserID]time.Time{}}
}

func (c *conversation) direct() bool { return c.id.Kind() == id.KindDirect }
func (c *conversation) group() bool  { return c.id.Kind() == id.KindGroup }

// title is what the list calls it.
func (c *conversation) title() string {
	switch {
	case c.id.Kind() == id.KindSelf:
		return "account"
	case c.direct() && c.peerName != "":
		return OneLine(c.peerName + " (" + string(c.info.Peer) + ")") // a name alone could be anybody's
	case c.direct() && c.info.Peer != "":
		return OneLine(string(c.info.Peer))
	case c.direct():
		return "notes to yourself"
	case c.info.Name != "":
		return OneLine(c.info.Name)
	default:
		return "group " + c.id.String()[2:8]
	}
}

// target is where what is written here goes.
func (c *conversation) target(me id.UserID) gochat.Target {
	if !c.direct() {
		return gochat.ToConversation(c.id)
	}
	if c.info.Peer == "" {
		return gochat.ToUser(me)
	}
	return gochat.ToUser(c.info.Peer)
}

// lastSeq is the newest stored message that is in memory, 0 if there is none.
func (c *conversation) lastSeq() uint64 {
	for i := len(c.entries) - 1; i >= 0; i-- {
		if c.entries[i].stored {
			return c.entries[i].msg.Seq
		}
	}
	return 0
}

func (c *conversation) firstSeq() uint64 {
	if len(c.entries) > 0 && c.entries[0].stored {
		return c.entries[0].msg.Seq
	}
	return 0
}

func (c *conversation) find(seq uint64) *entry {
	i, ok := c.search(seq)
	if !ok {
		return nil
	}
	return c.entries[i]
}

func (c *conversation) search(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(c.entries, seq, func(e *entry, seq uint64) int {
		if !e.stored {
			return 1
		}
		return cmp.Compare(e.msg.Seq, seq)
	})
}

// put takes in a stored message, by whichever way it came. Ours that waited becomes this one.
func (c *conversation) put(m gochat.Message) {
	if m.Own {
		if i := c.waiting(m.ClientMsgID); i >= 0 {
			e := c.entries[i]
			c.entries = slices.Delete(c.entries, i, i+1)
			e.msg, e.stored, e.err = m, true, nil
			c.insert(e)
			return
		}
	}
	c.insert(&entry{msg: m, stored: true})
}

func (c *conversation) insert(e *entry) {
	if i, ok := c.search(e.msg.Seq); !ok {
		c.entries = slices.Insert(c.entries, i, e)
	}
}

func (c *conversation) waiting(sent id.ClientMsgID) int {
	return slices.IndexFunc(c.entries, func(e *entry) bool { return !e.stored && e.msg.ClientMsgID == sent })
}

// sent takes in that our message sent was stored at seq.
func (c *conversation) sent(sent id.ClientMsgID, ack gochat.Ack) {
	i := c.waiting(sent)
	if i < 0 {
		return
	}
	e := c.entries[i]
	c.entries = slices.Delete(c.entries, i, i+1)
	e.msg.Seq, e.msg.ID, e.stored = ack.Seq, ack.MessageID, true
	if t := ack.MessageID.UnixMilli(); ack.MessageID != 0 {
		e.msg.Time = time.UnixMilli(t)
	}
	c.insert(e)
}

// trim gives back the memory of messages that aren't shown.
func (c *conversation) trim() {
	if len(c.entries) > keep {
		c.entries = slices.Clone(c.entries[len(c.entries)-keep:])
		c.older = true
	}
	c.anchor, c.hidden = nil, 0
}

// isTyping returns who types now, sorted.
func (c *conversation) isTyping(now time.Time) []string {
	var who []string
	for u, until := range c.typing {
		if now.Before(until) {
			who = append(who, OneLine(string(u)))
		}
	}
	slices.Sort(who)
	return who
}

// mentions reports whether m calls me.
func mentions(m gochat.Message, me id.UserID) bool {
	return !m.Own && (m.MentionAll || slices.Contains(m.Mentions, string(me)))
}

// called returns whom the text calls: words that are @ and the name of somebody in names, or @all.
func called(text string, names []string) (users []string, all bool) {
	for _, w := range strings.Fields(text) {
		w, ok := strings.CutPrefix(w, "@")
		if !ok {
			continue
		}
		for _, w := range []string{w, strings.TrimRight(w, ".,:;!?)，。：；！？）")} {
			if w == "all" {
				all = true
			} else if slices.Contains(names, w) && !slices.Contains(users, w) {
				users = append(users, w)
			}
		}
	}
	return users, all
}
