package mobile

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Roles in a group.
const (
	RoleNone   = int(gochat.NotIn)
	RoleMember = int(gochat.Member)
	RoleAdmin  = int(gochat.Admin)
	RoleOwner  = int(gochat.Owner)
)

// Message is a stored message.
type Message struct {
	Conversation string
	Seq          int64
	ID           string // of the sending device
	Sender       string
	SenderName   string // how to show the sender, as far as it is known now
	Own          bool
	TimeMillis   int64
	Type         int    // 1: text
	Text         string // or the JSON that the type calls for
	Data         []byte
	Ext          []byte
	ReplyTo      int64 // a seq of the conversation, 0: none
	CallsMe      bool  // it mentions the user, or everyone
}

func (m *Client) message(in *gochat.Message) *Message {
	me := string(m.c.User())
	return &Message{
		Conversation: in.Conversation.String(), Seq: int64(in.Seq), ID: in.ClientMsgID.String(), Sender: string(in.Sender), SenderName: m.c.Name(in.Conversation, in.Sender),
		Own: in.Own, TimeMillis: in.Time.UnixMilli(), Type: int(in.Type), Text: in.Text, Data: in.Data, Ext: in.Ext, ReplyTo: int64(in.ReplyToSeq),
		CallsMe: !in.Own && (in.MentionAll || slices.Contains(in.Mentions, me)),
	}
}

// Draft is what is to be sent.
type Draft struct {
	Type       int // 0 is text
	Text       string
	Data       []byte
	Ext        []byte
	ReplyTo    int64
	SeenSeq    int64 // a person wrote it who has read up to here: reading is marked with it; 0: no
	MentionAll bool

	mentions []string
}

// NewDraft returns a Draft of text.
func NewDraft(text string) *Draft { return &Draft{Text: text} }

// Mention calls a user.
func (d *Draft) Mention(user string) { d.mentions = append(d.mentions, user) }

func (d *Draft) content() gochat.Content {
	return gochat.Content{
		Type: uint32(d.Type), Text: d.Text, Data: d.Data, Ext: d.Ext, ReplyToSeq: uint64(max(d.ReplyTo, 0)), MentionAll: d.MentionAll, Mentions: slices.Clone(d.mentions),
	}
}

// Conversation is how a conversation stands.
type Conversation struct {
	ID          string
	Title       string // the group's name, or how the other one of two is shown
	Peer        string // of a direct conversation: the other one; "": notes to oneself
	Avatar      string // a URL: the group's
	Group       bool
	Members     int
	Role        int // one's own, in a group
	LastSeq     int64
	FirstSeq    int64 // what is below is gone
	ReadSeq     int64
	Unread      int // exact up to 100, and stays there
	Mentions    int // of the unread ones, those that call the user
	TimeMillis  int64
	Preview     string
	PreviewFrom string
	PreviewType int
	PeerReadSeq int64 // how far the other one of two has read and received
	PeerRecvSeq int64
	Left        bool
	Pinned      bool
	Muted       bool
	Hidden      bool
}

func (m *Client) conversation(in *gochat.Conversation) *Conversation {
	c := &Conversation{
		ID: in.ID.String(), Title: in.Name, Peer: string(in.Peer), Avatar: in.Avatar, Group: in.ID.Kind() == id.KindGroup, Members: in.Members, Role: int(in.Role),
		LastSeq: int64(in.LastSeq), FirstSeq: int64(in.FirstSeq), ReadSeq: int64(in.ReadSeq), Unread: in.Unread, Mentions: in.Mentions, TimeMillis: millis(in.LastTime),
		Preview: in.Preview, PreviewFrom: string(in.PreviewFrom), PreviewType: int(in.PreviewType), PeerReadSeq: int64(in.PeerReadSeq), PeerRecvSeq: int64(in.PeerRecvSeq),
		Left: in.LeftSeq != 0, Pinned: in.Pinned, Muted: in.Muted, Hidden: in.Hidden,
	}
	if in.Peer != "" {
		c.Title = m.c.Name(in.ID, in.Peer)
	}
	return c
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Profile is what a user shows of themselves; Version 0: nothing that is known.
type Profile struct {
	User    string
	Name    string
	Avatar  string // a URL
	Ext     []byte
	Version int64
}

func profileOf(p *gochat.Profile) *Profile {
	return &Profile{User: string(p.User), Name: p.Name, Avatar: p.Avatar, Ext: p.Ext, Version: int64(p.Version)}
}

// Member is a member of a group.
type Member struct {
	User     string
	Name     string // how to show the member
	Nickname string
	Role     int
}

// MessageList is messages, ascending.
type MessageList struct {
	More bool // older ones exist
	all  []*Message
}

// Len is how many there are.
func (l *MessageList) Len() int { return len(l.all) }

// Get returns the one at i, from 0.
func (l *MessageList) Get(i int) *Message { return at(l.all, i) }

// ConversationList is conversations in the order in which to show them.
type ConversationList struct{ all []*Conversation }

// Len is how many there are.
func (l *ConversationList) Len() int { return len(l.all) }

// Get returns the one at i, from 0.
func (l *ConversationList) Get(i int) *Conversation { return at(l.all, i) }

// MemberList is a page of members.
type MemberList struct {
	Next  string // where the next page begins; "": this was the last
	Count int    // of all members
	all   []*Member
}

// Len is how many there are on this page.
func (l *MemberList) Len() int { return len(l.all) }

// Get returns the one at i, from 0.
func (l *MemberList) Get(i int) *Member { return at(l.all, i) }

// StringList is strings.
type StringList struct{ all []string }

// NewStringList returns an empty list.
func NewStringList() *StringList { return new(StringList) }

// Add puts s behind the others.
func (l *StringList) Add(s string) { l.all = append(l.all, s) }

// Len is how many there are.
func (l *StringList) Len() int { return len(l.all) }

// Get returns the one at i, from 0.
func (l *StringList) Get(i int) string {
	if i < 0 || i >= len(l.all) {
		return ""
	}
	return l.all[i]
}

func (l *StringList) users() []id.UserID {
	if l == nil {
		return nil
	}
	out := make([]id.UserID, len(l.all))
	for i, s := range l.all {
		out[i] = id.UserID(s)
	}
	return out
}

func at[T any](all []*T, i int) *T {
	if i < 0 || i >= len(all) {
		return nil
	}
	return all[i]
}
