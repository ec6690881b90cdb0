package mobile

import (
	"context"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Conversations returns the list as it stands: pinned ones first, then by the latest activity. It answers at once; whole it
// is when OnConversations was called.
func (m *Client) Conversations() *ConversationList {
	l := new(ConversationList)
	for _, v := range m.list.All() {
		l.all = append(l.all, m.conversation(&v))
	}
	return l
}

// Conversation returns one conversation of the list, hidden ones and those that were left too; nil: it isn't there.
// It answers at once.
func (m *Client) Conversation(conversation string) *Conversation {
	conv, err := conversationID(conversation)
	if err != nil {
		return nil
	}
	v, ok := m.list.Get(conv)
	if !ok {
		return nil
	}
	return m.conversation(&v)
}

// OpenDirect returns the id of the direct conversation with a user, made if need be.
func (m *Client) OpenDirect(user string) (string, error) {
	ctx, cancel := m.limit()
	defer cancel()
	v, err := m.c.OpenDirect(ctx, id.UserID(user))
	if err != nil {
		return "", err
	}
	return v.ID.String(), nil
}

// History returns the newest messages below seq before (0: the newest of all), ascending, at most limit.
func (m *Client) History(conversation string, before int64, limit int) (*MessageList, error) {
	conv, err := conversationID(conversation)
	if err != nil {
		return nil, err
	}
	ctx, cancel := m.limit()
	defer cancel()
	page, more, err := m.c.History(ctx, conv, uint64(max(before, 0)), limit)
	if err != nil {
		return nil, err
	}
	l := &MessageList{More: more}
	for i := range page {
		l.all = append(l.all, m.message(&page[i]))
	}
	return l, nil
}

// Send stores what is to be sent to a conversation in the outbox and returns its id. It works without a connection, and answers as soon
// as the message is on the disk; OnSent or OnSendFailed tell of the rest.
func (m *Client) Send(conversation string, d *Draft) (string, error) {
	conv, err := conversationID(conversation)
	if err != nil {
		return "", err
	}
	return m.send(gochat.ToConversation(conv), d)
}

// SendToUser is Send to the direct conversation with a user, which need not exist yet.
func (m *Client) SendToUser(user string, d *Draft) (string, error) {
	return m.send(gochat.ToUser(id.UserID(user)), d)
}

// SendText sends text to a conversation.
func (m *Client) SendText(conversation, text string) (string, error) {
	return m.Send(conversation, NewDraft(text))
}

func (m *Client) send(to gochat.Target, d *Draft) (string, error) {
	if d == nil {
		d = new(Draft)
	}
	var r *gochat.Receipt
	var err error
	if content := d.content(); d.SeenSeq > 0 {
		r, err = m.c.SendInteractive(m.ctx, to, content, uint64(d.SeenSeq))
	} else {
		r, err = m.c.Send(m.ctx, to, content)
	}
	if err != nil {
		return "", err
	}
	return r.ID.String(), nil
}

// MarkRead moves the user's read position up to seq, and returns how many messages are unread then.
func (m *Client) MarkRead(conversation string, seq int64) (int, error) {
	conv, err := conversationID(conversation)
	if err != nil {
		return 0, err
	}
	ctx, cancel := m.limit()
	defer cancel()
	_, unread, err := m.c.MarkRead(ctx, conv, uint64(max(seq, 0)))
	return unread, err
}

// SetTyping tells those who are there that the user is writing, or has stopped. It answers at once.
func (m *Client) SetTyping(conversation string, typing bool) error {
	conv, err := conversationID(conversation)
	if err != nil {
		return err
	}
	return m.c.SetTyping(gochat.ToConversation(conv), typing)
}

// Pin keeps a conversation at the top of the list, or no longer.
func (m *Client) Pin(conversation string, on bool) error {
	return m.set(conversation, gochat.Settings{Pinned: &on})
}

// Mute keeps a conversation from calling for attention, or no longer.
func (m *Client) Mute(conversation string, on bool) error {
	return m.set(conversation, gochat.Settings{Muted: &on})
}

// Hide takes a conversation out of the list until its next message, or puts it back.
func (m *Client) Hide(conversation string, on bool) error {
	return m.set(conversation, gochat.Settings{Hidden: &on})
}

func (m *Client) set(conversation string, s gochat.Settings) error {
	return m.on(conversation, func(ctx context.Context, conv id.ConversationID) error {
		_, err := m.c.SetSettings(ctx, conv, s)
		return err
	})
}

// on calls f with the parsed id.
func (m *Client) on(conversation string, f func(ctx context.Context, conv id.ConversationID) error) error {
	conv, err := conversationID(conversation)
	if err != nil {
		return err
	}
	ctx, cancel := m.limit()
	defer cancel()
	return f(ctx, conv)
}

// Name is how to show a user in a conversation: the nickname there, else the profile's name, else the id. It answers at
// once with what is known; OnProfile tells when more is.
func (m *Client) Name(conversation, user string) string {
	conv, _ := id.ParseConversation(conversation) // of none there is no nickname
	return m.c.Name(conv, id.UserID(user))
}

// Profile returns a user's profile as far as it is known. It answers at once; OnProfile tells when more is.
func (m *Client) Profile(user string) *Profile {
	p, _ := m.c.Profile(id.UserID(user))
	return profileOf(&p)
}

// SetProfile sets the user's own name and avatar (a URL).
func (m *Client) SetProfile(name, avatar string) error {
	ctx, cancel := m.limit()
	defer cancel()
	_, err := m.c.SetProfile(ctx, gochat.ProfileChange{Name: &name, Avatar: &avatar})
	return err
}

// Block keeps a user from writing to this one in their direct conversation, or with false no longer.
func (m *Client) Block(user string, blocked bool) error {
	ctx, cancel := m.limit()
	defer cancel()
	if blocked {
		return m.c.Block(ctx, id.UserID(user))
	}
	return m.c.Unblock(ctx, id.UserID(user))
}

// CreateGroup makes a group whose owner the user is, and returns its id. Who of the users could not be brought in isn't in Members.
func (m *Client) CreateGroup(name string, users *StringList) (string, error) {
	ctx, cancel := m.limit()
	defer cancel()
	g, err := m.c.CreateGroup(ctx, gochat.NewGroup{Name: name, Users: users.users()})
	if err != nil {
		return "", err
	}
	return g.Conversation.String(), nil
}

// AddMembers brings users into a group, and returns how many it brought in.
func (m *Client) AddMembers(conversation string, users *StringList) (int, error) {
	return m.change(conversation, func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.c.AddMembers(ctx, conv, users.users()...)
	})
}

// RemoveMembers takes users out of a group, and returns how many it took out.
func (m *Client) RemoveMembers(conversation string, users *StringList) (int, error) {
	return m.change(conversation, func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.c.RemoveMembers(ctx, conv, users.users()...)
	})
}

func (m *Client) change(conversation string, f func(context.Context, id.ConversationID) (gochat.GroupChange, error)) (n int, err error) {
	err = m.on(conversation, func(ctx context.Context, conv id.ConversationID) error {
		g, err := f(ctx, conv)
		n = g.Changed
		return err
	})
	return n, err
}

// JoinGroup joins a group that anyone may join.
func (m *Client) JoinGroup(conversation string) error {
	_, err := m.change(conversation, m.c.JoinGroup)
	return err
}

// LeaveGroup leaves a group. An owner makes somebody else the owner first.
func (m *Client) LeaveGroup(conversation string) error {
	_, err := m.change(conversation, m.c.LeaveGroup)
	return err
}

// RenameGroup gives a group another name.
func (m *Client) RenameGroup(conversation, name string) error {
	_, err := m.change(conversation, func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.c.UpdateGroup(ctx, conv, gochat.GroupUpdate{Name: &name})
	})
	return err
}

// SetRole gives a member another role: RoleMember, RoleAdmin or RoleOwner.
func (m *Client) SetRole(conversation, user string, role int) error {
	_, err := m.change(conversation, func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.c.SetRole(ctx, conv, id.UserID(user), gochat.Role(role))
	})
	return err
}

// SetNickname sets the user's own name in a group; "": none.
func (m *Client) SetNickname(conversation, name string) error {
	_, err := m.change(conversation, func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.c.SetNickname(ctx, conv, name)
	})
	return err
}

// Members returns a page of a group's members. cursor is "" for the first one, then the last page's Next.
func (m *Client) Members(conversation, cursor string) (*MemberList, error) {
	l := new(MemberList)
	err := m.on(conversation, func(ctx context.Context, conv id.ConversationID) error {
		page, next, count, err := m.c.Members(ctx, conv, cursor, 0)
		l.Next, l.Count = next, count
		for _, g := range page {
			l.all = append(l.all, &Member{User: string(g.User), Name: m.c.Name(conv, g.User), Nickname: g.Nickname, Role: int(g.Role)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}
