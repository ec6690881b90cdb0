package gochat

import (
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Event is what a Handler gets: one of the types of this package that say so by their names: Connected, MessageReceived, …
// They come one at a time, messages of one conversation in the order of their seqs; what is of different conversations, or of
// different kinds, has no order. What an event holds is the Handler's to keep; slices in a Profile are shared and not to be changed.
type Event interface{ event() }

// Connected: the session stands. Resumed tells that the resume token did it. It comes without a
// Disconnected before it when the client has moved to another server because this one is leaving.
type Connected struct {
	User    id.UserID
	Server  string
	Resumed bool
}

// Disconnected: the connection ended because of Err; the client connects again after Retry.
type Disconnected struct {
	Err   error
	Retry time.Duration
}

// Stopped: the client won't connect again by itself. Err is why: usually a *code.Error
// (signed out, the same device connected elsewhere, a token that is no good). What waits
// in the outbox stays there, and so does the resume token unless the device was signed out.
type Stopped struct{ Err error }

// MessageReceived: the next message of its conversation. Own messages come too, those of
// this device included, in their place.
type MessageReceived struct{ Message Message }

// MessageSent: the server has stored a message of this device.
type MessageSent struct {
	ID  id.ClientMsgID // as Send returned it
	Ack Ack
}

// SendFailed: a message of this device was refused for good, and has left the outbox.
type SendFailed struct {
	ID  id.ClientMsgID
	Err error // a *code.Error
}

// ConversationChanged: this is how a conversation stands now.
type ConversationChanged struct{ Conversation Conversation }

// CursorsMoved: a user has read and received up to here: the user's own position, moved on
// any device, or in a direct conversation the other side's. Lower numbers than before are late.
type CursorsMoved struct {
	Conversation id.ConversationID
	User         id.UserID
	Own          bool
	ReadSeq      uint64
	RecvSeq      uint64
	LastSeq      uint64 // own: up to where Unread and Mentions are counted
	Unread       int
	Mentions     int
}

// MessagesGone: this device was away for so long that the server holds no messages below
// FirstSeq any more, some of which it never got.
type MessagesGone struct {
	Conversation id.ConversationID
	FirstSeq     uint64
}

// Kinds of signals that SignalReceived tells of; those from 1000 on are an integrator's own.
const (
	SignalTyping  = 1 // to be hidden after 6 s without another one
	SignalStopped = 2
)

// SignalReceived: somebody types, and the like. It was said a moment ago, may be lost or overtaken, and is never told twice.
type SignalReceived struct {
	Conversation id.ConversationID
	Sender       id.UserID
	Device       id.DeviceID
	Kind         uint32
	Data         []byte
}

// Resynced: the server's store was restored from a backup. Seqs that the application knows
// mean nothing any more; all messages come again.
type Resynced struct{ StoreEpoch uint64 }

func (Connected) event()           {}
func (Disconnected) event()        {}
func (Stopped) event()             {}
func (MessageReceived) event()     {}
func (MessageSent) event()         {}
func (SendFailed) event()          {}
func (ConversationChanged) event() {}
func (CursorsMoved) event()        {}
func (MessagesGone) event()        {}
func (SignalReceived) event()      {}
func (Resynced) event()            {}

// Ack is where a message was stored.
type Ack struct {
	Conversation id.ConversationID
	Seq          uint64
	MessageID    id.MessageID
	Duplicate    bool // it was stored by an earlier try
}

// Message is a stored message.
type Message struct {
	Conversation id.ConversationID
	Peer         id.UserID // direct conversations: the other user, if known
	Seq          uint64
	ID           id.MessageID
	Sender       id.UserID
	ClientMsgID  id.ClientMsgID
	Own          bool // the user's own, from whichever device
	Time         time.Time
	Content
}

// Content is what a sender says; a zero Type is text.
type Content struct {
	Type         uint32
	Text         string // the text, or the JSON that the type calls for
	Data         []byte
	Mentions     []string
	MentionAll   bool
	ReplyToSeq   uint64
	ThreadSeq    uint64
	ExpiresAt    time.Time // zero: never
	NoCount      bool
	NoPush       bool
	OriginDevice id.DeviceID
	Ext          []byte
	Encryption   *wire.Encryption
}

// Text returns the Content of a text message.
func Text(s string) Content { return Content{Type: packet.TypeText, Text: s} }

// Conversation is one of the user's conversations.
type Conversation struct {
	ID          id.ConversationID
	Users       []id.UserID // direct: both, sorted
	Peer        id.UserID   // direct: the other one
	Name        string      // of a group, with the next four
	Avatar      string
	Members     int
	Role        Role
	Nickname    string // one's own in it
	LastSeq     uint64
	FirstSeq    uint64
	ReadSeq     uint64
	RecvSeq     uint64
	Unread      int
	Mentions    int       // of the unread ones, those that mention the user, or everyone
	LastTime    time.Time // zero: no message yet
	Preview     string    // the beginning of the last message's content; empty for types 2 to 5
	PreviewFrom id.UserID
	PreviewType uint32 // 0: no message yet
	PeerReadSeq uint64
	PeerRecvSeq uint64
	JoinedSeq   uint64
	LeftSeq     uint64
	Pinned      bool
	Muted       bool
	Hidden      bool // out of the list until the next message

	SettingsVersion uint64 // grows with each change of the three above
}

func conversationOf(me id.UserID, s *wire.ConversationState) Conversation {
	c := Conversation{
		ID: id.ConversationID(s.ConversationId), Name: s.Name, Avatar: s.Avatar, Members: int(s.Members), Role: Role(s.Role), Nickname: s.Nickname,
		LastSeq: s.LastSeq, FirstSeq: s.FirstSeq, ReadSeq: s.ReadSeq, RecvSeq: s.RecvSeq,
		Unread: int(s.Unread), PeerReadSeq: s.PeerReadSeq, PeerRecvSeq: s.PeerRecvSeq, JoinedSeq: s.JoinedSeq, LeftSeq: s.LeftSeq, Pinned: s.Pinned, Muted: s.Muted,
		Hidden: s.Hidden, SettingsVersion: s.SettingsVersion, Mentions: int(s.Mentions),
		Preview: s.Preview.GetText(), PreviewFrom: id.UserID(s.Preview.GetSenderId()), PreviewType: s.Preview.GetMsgType(),
	}
	for _, u := range s.Users {
		c.Users = append(c.Users, id.UserID(u))
	}
	c.Peer = peerOf(me, c.Users)
	if s.LastTime != 0 {
		c.LastTime = time.UnixMilli(int64(s.LastTime))
	}
	return c
}

// peerOf returns the other of two users, "" if users isn't me and another.
func peerOf(me id.UserID, users []id.UserID) id.UserID {
	switch {
	case len(users) == 2 && users[0] == me:
		return users[1]
	case len(users) == 2 && users[1] == me:
		return users[0]
	}
	return ""
}

// messageOf reads one stored message; it keeps nothing of raw.
func messageOf(raw []byte, conv id.ConversationID, me, peer id.UserID) (Message, error) {
	var w wire.Message
	if err := w.Unmarshal(raw); err != nil {
		return Message{}, err
	}
	m := Message{
		Conversation: conv, Peer: peer, Seq: w.Seq, ID: id.MessageID(w.MessageId), Sender: id.UserID(w.SenderId), Own: w.SenderId == string(me),
		Time: time.UnixMilli(id.MessageID(w.MessageId).UnixMilli()),
		Content: Content{
			Type: w.MsgType, Text: w.Content, Data: w.Data, Mentions: w.Mentions, MentionAll: w.MentionAll, ReplyToSeq: w.ReplyToSeq, ThreadSeq: w.ThreadSeq,
			NoCount: w.NoCount, NoPush: w.NoPush, OriginDevice: id.DeviceID(w.OriginDevice), Ext: w.Ext, Encryption: w.Encryption,
		},
	}
	copy(m.ClientMsgID[:], w.ClientMsgId)
	if w.ExpiresAt != 0 {
		m.ExpiresAt = time.UnixMilli(int64(w.ExpiresAt))
	}
	return m, nil
}

// Target is where a message goes.
type Target struct {
	User         id.UserID         // the direct conversation with this user, or
	Conversation id.ConversationID // this conversation
}

// ToUser names the direct conversation with u, which need not exist yet.
func ToUser(u id.UserID) Target { return Target{User: u} }

// ToConversation names a conversation.
func ToConversation(c id.ConversationID) Target { return Target{Conversation: c} }
