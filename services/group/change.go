package group

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"unicode"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// membership is the content of a message of type 64.
type membership struct {
	Do    string      `json:"do"`
	Users []id.UserID `json:"users,omitempty"` // at most namedUsers of them
	Count int         `json:"count"`
	Role  string      `json:"role,omitempty"`
}

// settings is the content of a message of type 65: only what changed.
type settings struct {
	Name   *string `json:"name,omitempty"`
	Avatar *string `json:"avatar,omitempty"`
	Ext    *[]byte `json:"ext,omitempty"`
	Join   *uint32 `json:"join,omitempty"`
}

// nickname is the content of a message of type 66.
type nickname struct {
	Nickname string `json:"nickname"`
}

func content(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // of plain structs: can't be
		return "{}"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

var roleNames = map[uint8]string{roleMember: "member", roleAdmin: "admin", roleOwner: "owner"}

// asker is who asks for a change, as of the head that it is planned on.
func (s *Service) asker(ctx context.Context, conv id.ConversationID, h *msgstore.Head, user id.UserID) (msgstore.GroupOf, error) {
	if conv.Kind() != id.KindGroup || !h.Exists() {
		return msgstore.GroupOf{}, errStranger
	}
	return s.groups.Get(ctx, conv, user)
}

// insider is asker for those who must be in.
func (s *Service) insider(ctx context.Context, conv id.ConversationID, h *msgstore.Head, user id.UserID) (msgstore.GroupOf, error) {
	g, err := s.asker(ctx, conv, h, user)
	if err == nil && !g.Member.Active() {
		err = errStranger
	}
	return g, err
}

// join returns the membership m of somebody who joins at seq.
func join(m msgstore.Member, seq uint64) msgstore.Member {
	m.Role = roleMember
	m.Intervals = append(slices.Clone(m.Intervals), msgstore.Interval{Joined: seq})
	return m
}

// leave returns the membership m of somebody whose last message is seq.
func leave(m msgstore.Member, seq uint64) msgstore.Member {
	m.Role = roleMember
	m.Intervals = slices.Clone(m.Intervals)
	m.Intervals[len(m.Intervals)-1].Left = seq
	return m
}

// change asks the sequencer and answers for one change of one thing.
func (s *Service) change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) (*wire.GroupChangeResponse, error) {
	seq, err := s.seq.Change(ctx, conv, plan)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	ans := &wire.GroupChangeResponse{ConversationId: conv[:], Seq: seq}
	if seq > 0 {
		ans.Changed = 1
	}
	return ans, nil
}

// done returns a Change.Done that moves the roster on by st.
func (s *Service) done(conv id.ConversationID, joined, left []id.UserID) func(version, seq uint64) {
	return func(version, seq uint64) { s.committed(conv, version, step{seq, joined, left}) }
}

// Join brings o's user into the group conv, where anyone may join.
func (s *Service) Join(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.GroupChangeResponse, error) {
	user := cloned(o.User)
	g, err := s.groups.Get(ctx, conv, user)
	switch {
	case err != nil:
		return nil, msgstore.Outcome(err)
	case conv.Kind() != id.KindGroup || !g.Exists:
		return nil, errStranger
	case g.Member.Active():
		return &wire.GroupChangeResponse{ConversationId: conv[:]}, nil
	}
	if err := s.mayJoin(&g); err != nil { // whoever can't come in gets no row in their list, either
		return nil, err
	}
	refused, asOf, err := s.prepare(ctx, conv, []id.UserID{user})
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	if c, ok := refused[user]; ok {
		return nil, code.New(c)
	}
	ans, err := s.change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		g, err := s.asker(ctx, conv, &h, user)
		switch {
		case err != nil:
			return nil, err
		case g.Member.Active():
			return nil, nil
		}
		if err := s.mayJoin(&g); err != nil {
			return nil, err
		}
		if outdated(&g.Member, asOf) { // by another device: which of the two was later is open
			return nil, code.Wrap(code.Unavailable, errOutdated)
		}
		users := []id.UserID{user}
		return &Change{
			Sender: user, Type: typeMembership, Content: content(membership{Do: "join", Users: users, Count: 1}),
			Rows: func(tx *kv.Tx, seq uint64) {
				m := join(g.Member, seq)
				s.members.Put(tx, conv, user, &m)
				s.groups.PutCount(tx, conv, g.Members+1)
			},
			Done: s.done(conv, users, nil),
		}, nil
	})
	if err != nil {
		s.withdraw(ctx, conv, []id.UserID{user})
	}
	return ans, err
}

// mayJoin returns why g's user, who isn't in, may not join by themselves, or nil.
func (s *Service) mayJoin(g *msgstore.GroupOf) error {
	switch {
	case g.Join != 1:
		return errStranger
	case g.Members >= uint64(s.cfg.Members):
		return tooManyMembers(s.cfg.Members)
	case len(g.Member.Intervals) >= maxIntervals:
		return errRestless
	}
	return nil
}

// Leave takes o's user out of the group conv. An owner must hand the group over first,
// unless nobody else is in: then nobody may join any more, as nobody could be given a role.
func (s *Service) Leave(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.GroupChangeResponse, error) {
	user := cloned(o.User)
	ans, err := s.change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		g, err := s.asker(ctx, conv, &h, user)
		switch {
		case err != nil:
			return nil, err
		case len(g.Member.Intervals) == 0:
			return nil, errStranger
		case !g.Member.Active():
			return nil, nil
		case g.Member.Role == roleOwner && g.Members > 1:
			return nil, code.Newf(code.Forbidden, "an owner hands the group over before leaving it")
		}
		users := []id.UserID{user}
		return &Change{
			Sender: user, Type: typeMembership, Content: content(membership{Do: "leave", Users: users, Count: 1}),
			Rows: func(tx *kv.Tx, seq uint64) {
				m := leave(g.Member, seq)
				s.members.Put(tx, conv, user, &m)
				s.groups.PutCount(tx, conv, g.Members-min(g.Members, 1))
				if g.Members == 1 && g.Join != 0 {
					closed := g.Group
					closed.Join = 0
					s.groups.Put(tx, conv, &closed)
				}
			},
			Done: s.done(conv, nil, users),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	s.withdraw(ctx, conv, []id.UserID{user})
	return ans, nil
}

// Role gives a member of conv another role, which is the owner's to do. Making somebody
// the owner makes the one before an admin.
func (s *Service) Role(ctx context.Context, o *packet.Origin, conv id.ConversationID, user id.UserID, role uint32) (*wire.GroupChangeResponse, error) {
	if role < roleMember || role > roleOwner {
		return nil, code.Newf(code.BadRequest, "role is 1, 2 or 3")
	}
	by, user := cloned(o.User), cloned(user)
	return s.change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		g, err := s.insider(ctx, conv, &h, by)
		if err != nil {
			return nil, err
		}
		m, ok, err := s.members.Get(ctx, conv, user)
		switch {
		case err != nil:
			return nil, err
		case by == user && uint32(g.Member.Role) == role:
			return nil, nil
		case g.Member.Role != roleOwner && ok && m.Active() && m.Role == roleOwner && role == roleOwner && g.Member.Role == roleAdmin:
			return nil, nil // handed over already
		case g.Member.Role != roleOwner:
			return nil, code.Newf(code.Forbidden, "only the owner gives roles")
		case by == user:
			return nil, code.Newf(code.Forbidden, "an owner hands the group over to somebody else")
		case !ok || !m.Active():
			return nil, code.New(code.NoSuchUser)
		case uint32(m.Role) == role:
			return nil, nil
		}
		m.Role = uint8(role)
		return &Change{
			Sender: by, Type: typeMembership,
			Content: content(membership{Do: "role", Users: []id.UserID{user}, Count: 1, Role: roleNames[m.Role]}),
			Rows: func(tx *kv.Tx, _ uint64) {
				s.members.Put(tx, conv, user, &m)
				if m.Role == roleOwner {
					mine := g.Member
					mine.Role = roleAdmin
					s.members.Put(tx, conv, by, &mine)
				}
			},
			Done: s.done(conv, nil, nil),
		}, nil
	})
}

// Fields of an update.
const (
	fieldName = 1 << iota
	fieldAvatar
	fieldExt
	fieldJoin
	fieldsEnd
)

// Update sets what the group conv is, which is the owner's and the admins' to do.
func (s *Service) Update(ctx context.Context, o *packet.Origin, r *wire.GroupUpdateRequest) (*wire.GroupChangeResponse, error) {
	// The plan may outlive the request that it came in.
	conv, by, fields, join := id.ConversationID(r.ConversationId), cloned(o.User), r.Fields, r.Join
	name, avatar, ext := strings.Clone(r.Name), strings.Clone(r.Avatar), slices.Clone(r.Ext)
	switch {
	case r.Fields == 0 || r.Fields >= fieldsEnd:
		return nil, code.Newf(code.BadRequest, "fields says what is set: 1 to %d", fieldsEnd-1)
	case r.Fields&fieldJoin != 0 && r.Join > 1:
		return nil, code.Newf(code.BadRequest, "join is 0 or 1")
	}
	if err := printable(name, avatar); err != nil {
		return nil, err
	}
	return s.change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		g, err := s.insider(ctx, conv, &h, by)
		switch {
		case err != nil:
			return nil, err
		case g.Member.Role < roleAdmin:
			return nil, code.Newf(code.Forbidden, "only the owner and admins change the group")
		}
		var changed settings
		next := g.Group
		if fields&fieldName != 0 && name != next.Name {
			next.Name, changed.Name = name, &name
		}
		if fields&fieldAvatar != 0 && avatar != next.Avatar {
			next.Avatar, changed.Avatar = avatar, &avatar
		}
		if fields&fieldExt != 0 && string(ext) != string(next.Ext) {
			next.Ext, changed.Ext = ext, &ext
		}
		if fields&fieldJoin != 0 && uint8(join) != next.Join {
			next.Join, changed.Join = uint8(join), &join
		}
		if changed == (settings{}) {
			return nil, nil
		}
		return &Change{
			Sender: by, Type: typeSettings, Content: content(changed),
			Rows: func(tx *kv.Tx, _ uint64) { s.groups.Put(tx, conv, &next) },
			Done: s.done(conv, nil, nil),
		}, nil
	})
}

// Nickname sets the name that o's user has in the group conv; empty: none.
func (s *Service) Nickname(ctx context.Context, o *packet.Origin, conv id.ConversationID, name string) (*wire.GroupChangeResponse, error) {
	by, name := cloned(o.User), strings.Clone(name)
	if err := printable(name); err != nil {
		return nil, err
	}
	return s.change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		g, err := s.insider(ctx, conv, &h, by)
		if err != nil || g.Nickname == name {
			return nil, err
		}
		return &Change{
			Sender: by, Type: typeNickname, Content: content(nickname{name}),
			Rows: func(tx *kv.Tx, _ uint64) { s.groups.PutNickname(tx, conv, by, name) },
			Done: s.done(conv, nil, nil),
		}, nil
	})
}

// printable refuses names and avatars as profiles do: they are shown in one line.
func printable(texts ...string) error {
	for _, t := range texts {
		if strings.ContainsFunc(t, unicode.IsControl) {
			return code.Newf(code.BadRequest, "a name, nickname or avatar has control characters")
		}
	}
	return nil
}

func cloned(u id.UserID) id.UserID { return id.UserID(strings.Clone(string(u))) }

func tooManyMembers(limit int) *code.Error {
	return code.Newf(code.TooMany, "a group has at most %d members", limit)
}

var errRestless = code.Newf(code.TooMany, "somebody joined this group too often")
