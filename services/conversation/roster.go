package conversation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Rules are what a sequencer checks each message of a conversation against. Check
// doesn't block and looks nothing up. It is an alias, so that a sequencer can ask for
// the same thing under a name of its own.
type Rules = interface {
	Check(p *packet.Pending) *code.Error
}

// roster is who is in a conversation. It never changes once made.
type roster struct {
	conv    id.ConversationID
	members []msgstore.MemberOf // by user, former ones too
	active  []id.UserID         // current members, by user; shared with callers
	both    []id.UserID         // of a direct conversation: both users, sorted, twice the same for notes to oneself
}

// maxMembers bounds what is read of one conversation.
const maxMembers = 1 << 10

// member returns the membership of u, current or past, nil for a stranger.
func (r *roster) member(u id.UserID) *msgstore.MemberOf {
	if len(r.members) <= 2 {
		for i := range r.members {
			if r.members[i].User == u {
				return &r.members[i]
			}
		}
		return nil
	}
	i, ok := slices.BinarySearchFunc(r.members, u, func(m msgstore.MemberOf, u id.UserID) int { return strings.Compare(string(m.User), string(u)) })
	if !ok {
		return nil
	}
	return &r.members[i]
}

// peer returns the other user of a direct conversation, empty for others and for notes to oneself.
func (r *roster) peer(u id.UserID) id.UserID {
	switch {
	case r.both == nil || r.both[0] == r.both[1]:
		return ""
	case r.both[0] == u:
		return r.both[1]
	}
	return r.both[0]
}

// What Check and others answer over and over. They are never changed.
var (
	errStranger    = code.New(code.NoSuchConversation)
	errUnavailable = code.New(code.Unavailable)
	errServers     = code.Newf(code.Forbidden, "only the server writes here")
	errDevice      = code.Newf(code.BadRequest, "origin_device is not the sending device")
)

// Check implements Rules.
func (r *roster) Check(p *packet.Pending) *code.Error {
	m := r.member(p.From.User)
	if (m == nil || !m.Active()) && (p.From.User != id.System || r.conv.Kind() == id.KindSelf) {
		return errStranger
	}
	if r.conv.Kind() == id.KindSelf {
		return errServers
	}
	if len(p.OriginDevice) > 0 && string(p.OriginDevice) != string(p.From.Device) {
		return errDevice
	}
	return nil
}

// Rules returns what messages to conv must keep to, as of now. A sequencer asks when it
// loads a conversation and when its StateVersion has changed. It may read from the store.
func (s *Service) Rules(ctx context.Context, conv id.ConversationID) (Rules, error) {
	if s.cfg.Groups != nil && conv.Kind() == id.KindGroup {
		return s.cfg.Groups.Rules(ctx, conv)
	}
	if s.cfg.Rooms != nil && conv.Kind() == id.KindRoom {
		return s.cfg.Rooms.Rules(ctx, conv)
	}
	r, err := s.roster(ctx, conv)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	if r == nil {
		return nil, errStranger
	}
	if r.both != nil {
		return s.permitted(ctx, r)
	}
	return r, nil
}

// Members returns the current members of conv, those of a direct conversation sorted,
// none if there is no such conversation. The slice is shared: read only.
func (s *Service) Members(ctx context.Context, conv id.ConversationID) ([]id.UserID, error) {
	if s.cfg.Groups != nil && conv.Kind() == id.KindGroup {
		return s.cfg.Groups.Members(ctx, conv)
	}
	r, err := s.roster(ctx, conv)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	if r == nil {
		return nil, nil
	}
	return r.active, nil
}

// Users returns both users of the direct conversation conv, sorted, nil for others. The
// slice is shared: read only.
func (s *Service) Users(ctx context.Context, conv id.ConversationID) ([]id.UserID, error) {
	r, err := s.roster(ctx, conv)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	if r == nil {
		return nil, nil
	}
	return r.both, nil
}

// roster returns who is in conv, nil if there is no such conversation. The members of a
// direct conversation never change, so they are remembered.
func (s *Service) roster(ctx context.Context, conv id.ConversationID) (*roster, error) {
	if r, ok := s.rosters.get(convHash(conv), conv); ok {
		return r, nil
	}
	return s.readRoster(ctx, conv)
}

func (s *Service) readRoster(ctx context.Context, conv id.ConversationID) (r *roster, err error) {
	err = s.timeline.Read(ctx, conv, func(l *msgstore.Log) error {
		r, err = s.rosterOf(l, conv)
		return err
	})
	return r, err
}

// rosterOf reads who is in conv, whose log is l, nil if there is no such conversation.
func (s *Service) rosterOf(l *msgstore.Log, conv id.ConversationID) (*roster, error) {
	r := &roster{conv: conv}
	var err error
	if r.members, err = l.Members(maxMembers); err != nil {
		return nil, err
	}
	if len(r.members) == 0 { // members come with a head: it is asked for only where there are none
		if head, err := l.Head(); err != nil || !head.Exists() {
			return nil, err
		}
	}
	for i := range r.members {
		if r.members[i].Active() {
			r.active = append(r.active, r.members[i].User)
		}
	}
	if conv.Kind() != id.KindDirect {
		return r, nil
	}
	if n := len(r.members); n < 1 || n > 2 || len(r.active) != n {
		return nil, fmt.Errorf("direct conversation %s has %d members: %w", conv, n, msgstore.ErrCorrupt)
	}
	r.both = []id.UserID{r.active[0], r.active[len(r.active)-1]}
	s.rosters.put(convHash(conv), conv, r)
	return r, nil
}

// mine returns the roster of conv (of a group an empty one) and the membership of user, past ones included, or
// refuses a stranger as if there were no such conversation.
func (s *Service) mine(ctx context.Context, user id.UserID, conv id.ConversationID) (*roster, *msgstore.MemberOf, error) {
	if conv.Kind() == id.KindGroup {
		who, err := s.membership(ctx, user, conv)
		return &roster{conv: conv}, who, err
	}
	r, err := s.roster(ctx, conv)
	if err != nil {
		return nil, nil, msgstore.Refusal(err)
	}
	m, err := r.mine(user)
	return r, m, err
}

// mine returns the membership of user, or refuses a stranger; r nil: there is no such conversation.
func (r *roster) mine(user id.UserID) (*msgstore.MemberOf, error) {
	if r == nil {
		return nil, errStranger
	}
	m := r.member(user)
	if m == nil || len(m.Intervals) == 0 {
		return nil, errStranger
	}
	return m, nil
}
