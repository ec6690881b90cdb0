package conversation

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
)

// Groups knows who is in groups.
type Groups interface {
	// Rules returns what messages to the group must keep to, as of now, or a *code.Error.
	Rules(ctx context.Context, conv id.ConversationID) (Rules, error)

	// Members returns the current members, none if there is no such group. The slice is shared: read only.
	Members(ctx context.Context, conv id.ConversationID) ([]id.UserID, error)
}

// membership returns the user's own membership of a group, current or past, read from the
// store each time: a group may have more members than should be in memory for it.
func (s *Service) membership(ctx context.Context, user id.UserID, conv id.ConversationID) (*msgstore.MemberOf, error) {
	m, ok, err := s.members.Get(ctx, conv, user)
	switch {
	case err != nil:
		return nil, msgstore.Refusal(err)
	case !ok || len(m.Intervals) == 0:
		return nil, errStranger
	}
	return &msgstore.MemberOf{User: user, Member: m}, nil
}

// describe fills in what the lines of groups show.
func (s *Service) describe(ctx context.Context, user id.UserID, lines []line) error {
	var convs []id.ConversationID
	for i := range lines {
		if lines[i].conv.Kind() == id.KindGroup {
			convs = append(convs, lines[i].conv)
		}
	}
	if len(convs) == 0 {
		return nil
	}
	groups, err := s.groups.OfUser(ctx, user, convs)
	if err != nil {
		return err
	}
	for i := range lines {
		if l := &lines[i]; l.conv.Kind() == id.KindGroup {
			l.group, groups = &groups[0], groups[1:]
			l.who = &msgstore.MemberOf{User: user, Member: l.group.Member}
		}
	}
	return nil
}

// showGroup adds to st what a group has beyond other conversations. Who has left still
// sees what it is called.
func showGroup(st *wire.ConversationState, g *msgstore.GroupOf) {
	st.Name, st.Avatar = g.Name, g.Avatar
	if g.Member.Active() {
		st.Members, st.Role, st.Nickname = uint32(g.Members), uint32(g.Member.Role), g.Nickname
	}
}
