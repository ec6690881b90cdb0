package mobile

import (
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Listener hears of everything, one call after another, on a thread of the library's: in order within a conversation.
// While a call takes long, messages wait at the server; a message counts as received when OnMessage has returned.
// A call may use the Client, but for Close.
type Listener interface {
	// OnState tells of the connection. code is the protocol's, 0 for none, and reason is for people.
	OnState(state, code int, reason string)

	// OnMessage tells of the next message of its conversation, once. Own messages come too, from this device as well.
	OnMessage(m *Message)

	// OnSent tells that the server has stored a message of this device, id as Send returned it.
	OnSent(id, conversation string, seq int64)

	// OnSendFailed tells that a message of this device was refused for good.
	OnSendFailed(id string, code int, reason string)

	// OnConversation tells that a conversation, its unread number or somebody's mark of reading changed.
	OnConversation(c *Conversation)

	// OnConversations tells that the whole list is to be read anew, by Conversations.
	OnConversations()

	// OnTyping tells that somebody is writing, or has stopped. Let it lapse after 6 s.
	OnTyping(conversation, user string, typing bool)

	// OnProfile tells of a profile that is newer than what was known.
	OnProfile(p *Profile)

	// OnGone tells that the server holds no messages below seq any more, of which this device never got some.
	OnGone(conversation string, seq int64)

	// OnReset tells that the server was restored from a backup: the app forgets its messages, they come again.
	OnReset()

	// OnAccount tells what happened to the account: "signed_in", "signed_out", "revoked", "password_changed" and of which device.
	OnAccount(event, device string, timeMillis int64)
}

// handle tells the Listener of an event. It runs on the library's one goroutine for that.
func (m *Client) handle(e gochat.Event) {
	m.tell.Lock()
	defer m.tell.Unlock()
	m.list.Apply(e)
	switch e := e.(type) {
	case gochat.Connected:
		m.setState(StateConnected)
		m.load()
		m.listener.OnState(StateConnected, 0, "")
	case gochat.Disconnected:
		m.setState(StateConnecting)
		m.listener.OnState(StateConnecting, CodeOf(e.Err), e.Err.Error())
	case gochat.Stopped:
		m.setState(StateStopped)
		m.listener.OnState(StateStopped, CodeOf(e.Err), e.Err.Error())
	case gochat.MessageReceived:
		m.listener.OnMessage(m.message(&e.Message))
		if v, ok := m.list.Get(e.Message.Conversation); ok {
			m.listener.OnConversation(m.conversation(&v))
		}
	case gochat.MessageSent:
		m.listener.OnSent(e.ID.String(), e.Ack.Conversation.String(), int64(e.Ack.Seq))
	case gochat.SendFailed:
		m.listener.OnSendFailed(e.ID.String(), CodeOf(e.Err), e.Err.Error())
	case gochat.ConversationChanged:
		if v, ok := m.list.Get(e.Conversation.ID); ok {
			m.listener.OnConversation(m.conversation(&v))
		}
	case gochat.CursorsMoved:
		if v, ok := m.list.Get(e.Conversation); ok {
			m.listener.OnConversation(m.conversation(&v))
		}
	case gochat.SignalReceived:
		if e.Kind == gochat.SignalTyping || e.Kind == gochat.SignalStopped {
			m.listener.OnTyping(e.Conversation.String(), string(e.Sender), e.Kind == gochat.SignalTyping)
		}
	case gochat.ProfileChanged:
		m.listener.OnProfile(profileOf(&e.Profile))
	case gochat.MessagesGone:
		m.listener.OnGone(e.Conversation.String(), int64(e.FirstSeq))
	case gochat.Resynced:
		m.listener.OnReset()
	case gochat.AccountChanged:
		m.listener.OnAccount(e.What, string(e.Device), e.Time.UnixMilli())
	}
}

func (m *Client) setState(to int) {
	m.mu.Lock()
	m.state = to
	m.mu.Unlock()
}

// load reads the whole list once: what moved while the process was away comes by itself, the rest doesn't.
func (m *Client) load() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loading {
		return
	}
	m.loading = true
	m.wg.Go(func() {
		all, err := m.c.Inbox(m.ctx)
		if err != nil {
			m.mu.Lock()
			m.loading = false // with the next connection
			m.mu.Unlock()
			return
		}
		m.tell.Lock()
		defer m.tell.Unlock()
		m.list.Load(all)
		m.listener.OnConversations()
	})
}
