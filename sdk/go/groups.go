package gochat

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Role is what a member may do in a group.
type Role uint32

// The roles.
const (
	NotIn  Role = 0
	Member Role = 1
	Admin  Role = 2 // brings people in, takes members out, changes the group
	Owner  Role = 3 // one in each group; gives roles too
)

// String returns "member", "admin" or "owner".
func (r Role) String() string {
	switch r {
	case Member:
		return "member"
	case Admin:
		return "admin"
	case Owner:
		return "owner"
	}
	return "not in it"
}

// roleOf is the role of a name that String returns.
func roleOf(name string) Role {
	for _, r := range []Role{Member, Admin, Owner} {
		if r.String() == name {
			return r
		}
	}
	return NotIn
}

// Types of the messages that tell of changes of a group.
const (
	TypeMembership = 64 // Message.Membership reads it
	TypeGroup      = 65 // the group's name, avatar, ext or who may join: Message.GroupChange reads it
	TypeNickname   = 66 // the sender's name in the group: Message.Nickname reads it
)

// NewGroup is a group to be made.
type NewGroup struct {
	Name   string
	Avatar string // a URL
	Ext    []byte // an integrator's own, at most packet.MaxProfileExt bytes
	Users  []id.UserID
	Open   bool // anyone may join

	// Key is an integrator's own name of the group, from which its id follows: creating it
	// again finds the one that is there. Empty: a random one, so that a request which is
	// repeated after a lost connection doesn't make a second group.
	Key string
}

// GroupChange is what a change came to.
type GroupChange struct {
	Conversation id.ConversationID
	Seq          uint64 // of the last message that tells of it; 0: nothing had to change
	Changed      int    // users, or 1
	Refused      []Refusal
}

// Refusal is a user whom a change left out, and why.
type Refusal struct {
	User id.UserID
	Code code.Code
}

// Group is what a group is.
type Group struct {
	Conversation id.ConversationID
	Name         string
	Avatar       string
	Ext          []byte
	Open         bool // anyone may join
	Key          string
	Members      int
	Role         Role // one's own
	Nickname     string
	CreatedBy    id.UserID
	Created      time.Time
}

// GroupUpdate says what is to be set. A nil member is left as it is.
type GroupUpdate struct {
	Name   *string
	Avatar *string
	Ext    *[]byte
	Open   *bool
}

// GroupMember is one member.
type GroupMember struct {
	User      id.UserID
	Role      Role
	JoinedSeq uint64
	Nickname  string
}

// Membership is what a message of TypeMembership says. Its sender is who did it.
type Membership struct {
	Do    string      `json:"do"`    // create, add, join, leave, remove or role
	Users []id.UserID `json:"users"` // at most 16 of them
	Count int         `json:"count"` // of all
	Role  string      `json:"role"`  // with role: the new one
}

// GroupChanged is what a message of TypeGroup says: what changed, nil what didn't.
type GroupChanged struct {
	Name   *string `json:"name"`
	Avatar *string `json:"avatar"`
	Ext    *[]byte `json:"ext"`
	Join   *uint32 `json:"join"` // 0 nobody, 1 anyone
}

// Membership reads a message of TypeMembership; ok is false for other messages.
func (m *Message) Membership() (w Membership, ok bool) {
	return w, m.Type == TypeMembership && json.Unmarshal([]byte(m.Text), &w) == nil
}

// Nickname reads a message of TypeNickname: the sender's own name in the group from here on, "" for none;
// ok is false for other messages.
func (m *Message) Nickname() (name string, ok bool) {
	if m.Type != TypeNickname {
		return "", false
	}
	var w struct {
		Nickname string `json:"nickname"`
	}
	err := json.Unmarshal([]byte(m.Text), &w)
	return w.Nickname, err == nil
}

// GroupChange reads a message of TypeGroup; ok is false for other messages.
func (m *Message) GroupChange() (w GroupChanged, ok bool) {
	return w, m.Type == TypeGroup && json.Unmarshal([]byte(m.Text), &w) == nil
}

// CreateGroup makes a group whose owner the user is.
func (c *Client) CreateGroup(ctx context.Context, g NewGroup) (GroupChange, error) {
	if g.Key == "" {
		random := id.NewGroup()
		g.Key = hex.EncodeToString(random[1:])
	}
	first := fitting(g.Users)
	req := &wire.GroupCreateRequest{Name: g.Name, Key: g.Key, Avatar: g.Avatar, Ext: g.Ext, UserIds: names(first)}
	if g.Open {
		req.Join = 1
	}
	all, err := c.changeGroup(ctx, packet.MethodGroupCreate, req)
	if err != nil || len(first) == len(g.Users) {
		return all, err
	}
	more, err := c.AddMembers(ctx, all.Conversation, g.Users[len(first):]...)
	return all.and(more), err
}

// AddMembers brings users into a group, however many. It can be called again after an
// error, and does what is left then.
func (c *Client) AddMembers(ctx context.Context, conv id.ConversationID, users ...id.UserID) (GroupChange, error) {
	return c.changeMembers(ctx, packet.MethodGroupAdd, conv, users)
}

// RemoveMembers takes users out of a group. It can be called again after an error.
func (c *Client) RemoveMembers(ctx context.Context, conv id.ConversationID, users ...id.UserID) (GroupChange, error) {
	return c.changeMembers(ctx, packet.MethodGroupRemove, conv, users)
}

// JoinGroup joins a group that anyone may join.
func (c *Client) JoinGroup(ctx context.Context, conv id.ConversationID) (GroupChange, error) {
	return c.changeGroup(ctx, packet.MethodGroupJoin, &wire.ConversationRequest{ConversationId: conv[:]})
}

// LeaveGroup leaves a group. An owner makes somebody else the owner first.
func (c *Client) LeaveGroup(ctx context.Context, conv id.ConversationID) (GroupChange, error) {
	return c.changeGroup(ctx, packet.MethodGroupLeave, &wire.ConversationRequest{ConversationId: conv[:]})
}

// SetRole gives a member another role. Making somebody the owner makes the user an admin.
func (c *Client) SetRole(ctx context.Context, conv id.ConversationID, user id.UserID, role Role) (GroupChange, error) {
	return c.changeGroup(ctx, packet.MethodGroupRole, &wire.GroupRoleRequest{ConversationId: conv[:], UserId: string(user), Role: uint32(role)})
}

// UpdateGroup sets what a group is.
func (c *Client) UpdateGroup(ctx context.Context, conv id.ConversationID, u GroupUpdate) (GroupChange, error) {
	const name, avatar, ext, join = 1, 2, 4, 8 // of GroupUpdateRequest.fields
	req := &wire.GroupUpdateRequest{ConversationId: conv[:]}
	if u.Name != nil {
		req.Fields, req.Name = req.Fields|name, *u.Name
	}
	if u.Avatar != nil {
		req.Fields, req.Avatar = req.Fields|avatar, *u.Avatar
	}
	if u.Ext != nil {
		req.Fields, req.Ext = req.Fields|ext, *u.Ext
	}
	if u.Open != nil {
		if req.Fields |= join; *u.Open {
			req.Join = 1
		}
	}
	return c.changeGroup(ctx, packet.MethodGroupUpdate, req)
}

// SetNickname sets the user's own name in a group; empty: none.
func (c *Client) SetNickname(ctx context.Context, conv id.ConversationID, name string) (GroupChange, error) {
	return c.changeGroup(ctx, packet.MethodNickname, &wire.NicknameRequest{ConversationId: conv[:], Nickname: name})
}

// Group returns what a group is.
func (c *Client) Group(ctx context.Context, conv id.ConversationID) (Group, error) {
	ans := new(wire.Group)
	err := c.do(ctx, packet.MethodGroup, &wire.ConversationRequest{ConversationId: conv[:]}, func(inner []byte) error {
		return answerInto(packet.MethodGroup, inner, ans)
	})
	if err != nil {
		return Group{}, err
	}
	return Group{
		Conversation: conv, Name: ans.Name, Avatar: ans.Avatar, Ext: ans.Ext, Open: ans.Join == 1, Key: ans.Key,
		Members: int(ans.Members), Role: Role(ans.Role), Nickname: ans.Nickname,
		CreatedBy: id.UserID(ans.CreatedBy), Created: time.UnixMilli(int64(ans.CreatedTime)),
	}, nil
}

// Members returns a page of a group's members, in the order of their ids' bytes, at most
// limit (0: as many as the server likes). cursor is empty for the first page, then what
// the page before returned as next, which is empty on the last one. count is of all
// members. A page may be short though others follow.
func (c *Client) Members(ctx context.Context, conv id.ConversationID, cursor string, limit int) (page []GroupMember, next string, count int, err error) {
	ans := new(wire.MembersResponse)
	req := &wire.MembersRequest{ConversationId: conv[:], Cursor: cursor, Limit: uint32(max(limit, 0))}
	err = c.do(ctx, packet.MethodMembers, req, func(inner []byte) error { return answerInto(packet.MethodMembers, inner, ans) })
	if err != nil {
		return nil, "", 0, err
	}
	c.mu.Lock()
	v := c.conversation(conv)
	for _, m := range ans.Members {
		v.nicknamed(id.UserID(m.UserId), m.Nickname)
	}
	c.mu.Unlock()
	for _, m := range ans.Members {
		page = append(page, GroupMember{User: id.UserID(m.UserId), Role: Role(m.Role), JoinedSeq: m.JoinedSeq, Nickname: m.Nickname})
	}
	return page, ans.Cursor, int(ans.Count), nil
}

// changeMembers asks for users in as many requests as they take.
func (c *Client) changeMembers(ctx context.Context, m packet.Method, conv id.ConversationID, users []id.UserID) (GroupChange, error) {
	all := GroupChange{Conversation: conv}
	for len(users) > 0 {
		part := fitting(users)
		one, err := c.changeGroup(ctx, m, &wire.GroupUsersRequest{ConversationId: conv[:], UserIds: names(part)})
		if err != nil {
			return all, err
		}
		all, users = all.and(one), users[len(part):]
	}
	return all, nil
}

// fitting returns as many of the first users as one request may name.
func fitting(users []id.UserID) []id.UserID {
	const beside = 8 << 10 // for what else the request holds
	n, bytes := 0, 0
	for n < len(users) && n < packet.MaxGroupUsers {
		if bytes += len(users[n]) + 2; bytes > packet.MaxUsersBody-beside {
			break
		}
		n++
	}
	return users[:max(n, min(len(users), 1))]
}

func (g GroupChange) and(more GroupChange) GroupChange {
	if more.Seq != 0 {
		g.Seq = more.Seq
	}
	g.Changed += more.Changed
	g.Refused = append(g.Refused, more.Refused...)
	return g
}

func (c *Client) changeGroup(ctx context.Context, m packet.Method, req packet.Body) (GroupChange, error) {
	ans := new(wire.GroupChangeResponse)
	if err := c.do(ctx, m, req, func(inner []byte) error { return answerInto(m, inner, ans) }); err != nil {
		return GroupChange{}, err
	}
	g := GroupChange{Seq: ans.Seq, Changed: int(ans.Changed)}
	if copy(g.Conversation[:], ans.ConversationId) != len(g.Conversation) {
		return g, fmt.Errorf("the answer to %v names no conversation", m)
	}
	for _, r := range ans.Refused {
		g.Refused = append(g.Refused, Refusal{User: id.UserID(r.UserId), Code: code.Code(r.Code)})
	}
	return g, nil
}

func names(users []id.UserID) []string {
	out := make([]string, len(users))
	for i, u := range users {
		out[i] = string(u)
	}
	return out
}
