package group

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Group returns what the group conv is. Members may ask, and where anyone may join
// everybody.
func (s *Service) Group(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.Group, error) {
	g, err := s.groups.Get(ctx, conv, o.User)
	switch {
	case err != nil:
		return nil, msgstore.Outcome(err)
	case conv.Kind() != id.KindGroup || !g.Exists || !g.Member.Active() && g.Join != 1:
		return nil, errStranger
	}
	ans := &wire.Group{
		ConversationId: conv[:], Name: g.Name, Avatar: g.Avatar, Ext: g.Ext, Join: uint32(g.Join), Key: g.Key,
		Members: uint32(g.Members), CreatedBy: string(g.CreatedBy), CreatedTime: uint64(g.Created),
	}
	if g.Member.Active() {
		ans.Role, ans.Nickname = uint32(g.Member.Role), g.Nickname
	}
	return ans, nil
}

// scanAhead bounds how many rows of people who left are passed over for one page, in pages.
const scanAhead = 8

// MembersPage returns members of conv in the order of their ids' bytes, at most limit (0:
// DefaultPage, at most MaxPage); cursor is empty for the first page and then what the page
// before returned. A page may hold fewer though others follow.
func (s *Service) MembersPage(ctx context.Context, o *packet.Origin, conv id.ConversationID, cursor string, limit int) (*wire.MembersResponse, error) {
	g, err := s.groups.Get(ctx, conv, o.User)
	switch {
	case err != nil:
		return nil, msgstore.Outcome(err)
	case conv.Kind() != id.KindGroup || !g.Member.Active():
		return nil, errStranger
	case cursor != "" && !id.UserID(cursor).Valid():
		return nil, code.Newf(code.BadRequest, "cursor is none that was given out")
	}
	if limit <= 0 {
		limit = DefaultPage
	}
	limit = min(limit, MaxPage)
	ans := &wire.MembersResponse{Count: uint32(g.Members)}
	var users []id.UserID
	after := id.UserID(cursor)
	for range scanAhead {
		rows, err := s.members.Scan(ctx, conv, after, limit)
		if err != nil {
			return nil, msgstore.Outcome(err)
		}
		for i := range rows {
			m := &rows[i]
			after = m.User
			if m.Active() {
				users = append(users, m.User)
				ans.Members = append(ans.Members, &wire.GroupMember{
					UserId: string(m.User), Role: uint32(m.Role), JoinedSeq: m.Intervals[len(m.Intervals)-1].Joined,
				})
			}
			if len(users) == limit {
				break
			}
		}
		end := len(rows) < limit && (len(rows) == 0 || after == rows[len(rows)-1].User)
		ans.Cursor = string(after)
		if end {
			ans.Cursor = ""
		}
		if end || len(users) == limit {
			break
		}
	}
	names, err := s.groups.Nicknames(ctx, conv, users)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	for i, name := range names {
		ans.Members[i].Nickname = name
	}
	return ans, nil
}

// method answers a REQUEST.
type method = func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error)

// answered makes a packet.Body of what a method returned, without a typed nil in it.
func answered[B packet.Body](b B, err error) (packet.Body, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// serve decodes the request of m into R.
func serve[R any, P interface {
	*R
	packet.Body
}](m packet.Method, fn func(ctx context.Context, o *packet.Origin, r *R) (packet.Body, error)) method {
	return func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
		r := new(R)
		if err := packet.DecodeMethod(m, inner, P(r)); err != nil {
			return nil, err
		}
		return fn(ctx, o, r)
	}
}

// Methods are the methods of REQUEST that groups answer.
func (s *Service) Methods() map[packet.Method]func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	conv := func(b []byte) id.ConversationID { return id.ConversationID(b) }
	return map[packet.Method]method{
		packet.MethodGroupCreate: serve(packet.MethodGroupCreate, func(ctx context.Context, o *packet.Origin, r *wire.GroupCreateRequest) (packet.Body, error) {
			return answered(s.Create(ctx, o, r))
		}),
		packet.MethodGroupAdd: serve(packet.MethodGroupAdd, func(ctx context.Context, o *packet.Origin, r *wire.GroupUsersRequest) (packet.Body, error) {
			return answered(s.Add(ctx, o, conv(r.ConversationId), r.UserIds))
		}),
		packet.MethodGroupJoin: serve(packet.MethodGroupJoin, func(ctx context.Context, o *packet.Origin, r *wire.ConversationRequest) (packet.Body, error) {
			return answered(s.Join(ctx, o, conv(r.ConversationId)))
		}),
		packet.MethodGroupLeave: serve(packet.MethodGroupLeave, func(ctx context.Context, o *packet.Origin, r *wire.ConversationRequest) (packet.Body, error) {
			return answered(s.Leave(ctx, o, conv(r.ConversationId)))
		}),
		packet.MethodGroupRemove: serve(packet.MethodGroupRemove, func(ctx context.Context, o *packet.Origin, r *wire.GroupUsersRequest) (packet.Body, error) {
			return answered(s.Remove(ctx, o, conv(r.ConversationId), r.UserIds))
		}),
		packet.MethodGroupRole: serve(packet.MethodGroupRole, func(ctx context.Context, o *packet.Origin, r *wire.GroupRoleRequest) (packet.Body, error) {
			return answered(s.Role(ctx, o, conv(r.ConversationId), id.UserID(r.UserId), r.Role))
		}),
		packet.MethodGroupUpdate: serve(packet.MethodGroupUpdate, func(ctx context.Context, o *packet.Origin, r *wire.GroupUpdateRequest) (packet.Body, error) {
			return answered(s.Update(ctx, o, r))
		}),
		packet.MethodGroup: serve(packet.MethodGroup, func(ctx context.Context, o *packet.Origin, r *wire.ConversationRequest) (packet.Body, error) {
			return answered(s.Group(ctx, o, conv(r.ConversationId)))
		}),
		packet.MethodMembers: serve(packet.MethodMembers, func(ctx context.Context, o *packet.Origin, r *wire.MembersRequest) (packet.Body, error) {
			return answered(s.MembersPage(ctx, o, conv(r.ConversationId), r.Cursor, int(r.Limit)))
		}),
		packet.MethodNickname: serve(packet.MethodNickname, func(ctx context.Context, o *packet.Origin, r *wire.NicknameRequest) (packet.Body, error) {
			return answered(s.Nickname(ctx, o, conv(r.ConversationId), r.Nickname))
		}),
	}
}
