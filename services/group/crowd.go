package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// crowd is a change that is about many users, done in steps: each is a message of its
// own, and what was done stays done. Asked for again, it does what is left.
type crowd struct {
	seq     uint64 // of the last message
	changed int
	refused []*wire.GroupRefusal
}

func (c *crowd) refuse(u id.UserID, why code.Code) {
	if len(c.refused) < maxRefused {
		c.refused = append(c.refused, &wire.GroupRefusal{UserId: string(u), Code: uint32(why)})
	}
}

func (c *crowd) answer(conv id.ConversationID) *wire.GroupChangeResponse {
	return &wire.GroupChangeResponse{ConversationId: conv[:], Seq: c.seq, Changed: uint32(c.changed), Refused: c.refused}
}

// distinct returns the users of a request, each once, in the order of their bytes, in
// memory of its own.
func distinct(users []string) []id.UserID {
	out := make([]id.UserID, len(users))
	for i, u := range users {
		out[i] = id.UserID(strings.Clone(u))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Create makes a group whose owner is o's user, and brings users in. With a key that has
// a group already it changes nothing about that one, and goes on bringing users in if the
// asker may.
func (s *Service) Create(ctx context.Context, o *packet.Origin, r *wire.GroupCreateRequest) (*wire.GroupChangeResponse, error) {
	by := cloned(o.User)
	if r.Join > 1 {
		return nil, code.Newf(code.BadRequest, "join is 0 or 1")
	}
	if err := printable(r.Name, r.Avatar); err != nil {
		return nil, err
	}
	users := slices.DeleteFunc(distinct(r.UserIds), func(u id.UserID) bool { return u == by })
	if len(users)+1 > s.cfg.Members {
		return nil, tooManyMembers(s.cfg.Members)
	}
	conv := id.NewGroup()
	if r.Key != "" {
		conv = id.Named(id.KindGroup, r.Key)
	}
	row := msgstore.Group{
		Join: uint8(r.Join), Created: s.now(), CreatedBy: by, Key: strings.Clone(r.Key),
		Name: strings.Clone(r.Name), Avatar: strings.Clone(r.Avatar), Ext: slices.Clone(r.Ext),
	}
	if s.at != 0 {
		row.Created = s.at
	}
	var all crowd
	made, err := s.make(ctx, conv, by, &row)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	if made > 0 {
		all.seq, all.changed = made, 1
	}
	if len(users) == 0 {
		return all.answer(conv), nil
	}
	if err := s.add(ctx, conv, by, users, &all); err != nil {
		if made == 0 && msgstore.Outcome(err).Code == code.Forbidden {
			return all.answer(conv), nil
		}
		return nil, msgstore.Outcome(err)
	}
	return all.answer(conv), nil
}

// make writes a new group with its owner in it, and returns the seq of its first message;
// 0: it is there, and owner is in it.
func (s *Service) make(ctx context.Context, conv id.ConversationID, owner id.UserID, row *msgstore.Group) (uint64, error) {
	g, err := s.groups.Get(ctx, conv, owner)
	switch {
	case err != nil:
		return 0, err
	case g.Exists && !g.Member.Active():
		return 0, errTaken
	case g.Exists:
		return 0, nil
	}
	refused, _, err := s.prepare(ctx, conv, []id.UserID{owner})
	if err != nil {
		return 0, err
	}
	if c, ok := refused[owner]; ok {
		return 0, code.New(c)
	}
	seq, err := s.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		if h.Exists() {
			m, ok, err := s.members.Get(ctx, conv, owner)
			if err == nil && (!ok || !m.Active()) {
				err = errTaken
			}
			return nil, err
		}
		users := []id.UserID{owner}
		return &Change{
			Create: true, Sender: owner, Type: typeMembership, Content: content(membership{Do: "create", Users: users, Count: 1}),
			Rows: func(tx *kv.Tx, seq uint64) {
				s.groups.Put(tx, conv, row)
				s.groups.PutCount(tx, conv, 1)
				s.members.Put(tx, conv, owner, &msgstore.Member{Role: roleOwner, Intervals: []msgstore.Interval{{Joined: seq}}})
			},
			Done: s.done(conv, users, nil),
		}, nil
	})
	if err != nil {
		s.withdraw(ctx, conv, []id.UserID{owner})
	}
	return seq, err
}

// errTaken: somebody else has a group under this key.
var errTaken = code.Newf(code.Forbidden, "this key is of a group that you aren't in")

// mayAdd returns why g's user may not bring others in, or nil.
func mayAdd(g *msgstore.GroupOf) error {
	switch {
	case !g.Member.Active():
		return errStranger
	case g.Member.Role < roleAdmin && g.Join != 1:
		return code.Newf(code.Forbidden, "only the owner and admins bring people in")
	}
	return nil
}

// Add brings users into the group conv: the owner and admins may, where anyone may join
// every member.
func (s *Service) Add(ctx context.Context, o *packet.Origin, conv id.ConversationID, users []string) (*wire.GroupChangeResponse, error) {
	var all crowd
	if err := s.add(ctx, conv, cloned(o.User), distinct(users), &all); err != nil {
		return nil, msgstore.Outcome(err)
	}
	return all.answer(conv), nil
}

func (s *Service) add(ctx context.Context, conv id.ConversationID, by id.UserID, users []id.UserID, all *crowd) error {
	// Nothing is written into anybody's list for somebody who may not do this.
	g, err := s.groups.Get(ctx, conv, by)
	if err == nil {
		err = mayAdd(&g)
	}
	if err != nil {
		return err
	}
	for step := range slices.Chunk(users, stepUsers) {
		err := s.addStep(ctx, conv, by, step, all)
		for turn := 0; errors.Is(err, errOutdated) && turn < maxTurns; turn++ {
			err = s.addStep(ctx, conv, by, step, all)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addStep brings in those of users who aren't, with one message. errOutdated: somebody
// left meanwhile, and it is to be done again.
func (s *Service) addStep(ctx context.Context, conv id.ConversationID, by id.UserID, users []id.UserID, all *crowd) error {
	g, err := s.groups.Get(ctx, conv, by)
	if err != nil {
		return err
	}
	members, err := s.groups.MembersOf(ctx, conv, users)
	if err != nil {
		return err
	}
	fresh := make([]id.UserID, 0, len(users))
	for i, u := range users {
		if !members[i].Active() {
			fresh = append(fresh, u)
		}
	}
	refused, err := s.denied(ctx, by, fresh)
	if err != nil {
		return err
	}
	may := without(fresh, refused)
	// No row in the list of somebody for whom there is no place.
	if room := s.cfg.Members - int(min(g.Members, uint64(s.cfg.Members))); len(may) > room {
		for _, u := range may[room:] {
			refused[u] = code.TooMany
		}
		may = may[:room]
	}
	barred, asOf, err := s.prepare(ctx, conv, may)
	if err != nil {
		return err
	}
	maps.Copy(refused, barred)
	may = without(may, refused)
	joined, tooMany, seq, err := s.bringIn(ctx, conv, by, may, asOf)
	if err != nil {
		if !errors.Is(err, errOutdated) {
			s.withdraw(ctx, conv, may)
		}
		return err
	}
	for _, u := range tooMany {
		refused[u] = code.TooMany
	}
	if len(tooMany) > 0 {
		s.withdraw(ctx, conv, tooMany)
	}
	for _, u := range fresh {
		if c, ok := refused[u]; ok {
			all.refuse(u, c)
		}
	}
	if seq > 0 {
		all.seq = seq
		all.changed += len(joined)
	}
	return nil
}

// denied returns those of users whom by may not bring into a group, and why.
func (s *Service) denied(ctx context.Context, by id.UserID, users []id.UserID) (map[id.UserID]code.Code, error) {
	refused := make(map[id.UserID]code.Code)
	if s.cfg.Contacts == nil || len(users) == 0 {
		return refused, nil
	}
	denied, err := s.cfg.Contacts.MayAdd(ctx, by, users)
	if err != nil {
		return nil, fmt.Errorf("ask who may be brought in: %w", err)
	}
	for i, u := range users {
		if denied[i] != nil {
			refused[u] = denied[i].Code
		}
	}
	return refused, nil
}

// without returns users but those who are refused.
func without(users []id.UserID, refused map[id.UserID]code.Code) []id.UserID {
	return slices.DeleteFunc(slices.Clone(users), func(u id.UserID) bool { _, no := refused[u]; return no })
}

// bringIn makes users, who were prepared as of asOf, members with one message. It returns
// who has become one, and for whom there was no place.
func (s *Service) bringIn(ctx context.Context, conv id.ConversationID, by id.UserID, fresh []id.UserID, asOf uint64) (joined, tooMany []id.UserID, seq uint64, err error) {
	if len(fresh) == 0 {
		return nil, nil, 0, nil
	}
	seq, err = s.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		joined, tooMany = nil, nil
		g, err := s.asker(ctx, conv, &h, by)
		if err == nil {
			err = mayAdd(&g)
		}
		if err != nil {
			return nil, err
		}
		old, err := s.groups.MembersOf(ctx, conv, fresh)
		if err != nil {
			return nil, err
		}
		var rows []msgstore.Member
		for i, u := range fresh {
			switch {
			case old[i].Active():
			case outdated(&old[i], asOf):
				return nil, errOutdated
			case g.Members+uint64(len(joined)) >= uint64(s.cfg.Members), len(old[i].Intervals) >= maxIntervals:
				tooMany = append(tooMany, u)
			default:
				joined, rows = append(joined, u), append(rows, old[i])
			}
		}
		if len(joined) == 0 {
			return nil, nil
		}
		users, count := joined, g.Members+uint64(len(joined))
		return &Change{
			Sender: by, Type: typeMembership, Content: content(aboutMany("add", users)),
			Rows: func(tx *kv.Tx, seq uint64) {
				for i, u := range users {
					m := join(rows[i], seq)
					s.members.Put(tx, conv, u, &m)
				}
				s.putMany(tx, conv, seq, users, count)
			},
			Done: s.done(conv, users, nil),
		}, nil
	})
	if err != nil {
		return nil, nil, 0, err // what the plan noted may still change
	}
	return joined, tooMany, seq, nil
}

// aboutMany is the content of a membership message: some names and the number of all.
func aboutMany(do string, users []id.UserID) membership {
	return membership{Do: do, Users: users[:min(len(users), namedUsers)], Count: len(users)}
}

// putMany adds to tx what goes along with a membership message about users.
func (s *Service) putMany(tx *kv.Tx, conv id.ConversationID, seq uint64, users []id.UserID, count uint64) {
	s.groups.PutCount(tx, conv, count)
	if len(users) > namedUsers {
		s.groups.PutList(tx, conv, seq, users)
	}
}

// Remove takes users out of the group conv: the owner everybody, admins those who have no
// role.
func (s *Service) Remove(ctx context.Context, o *packet.Origin, conv id.ConversationID, users []string) (*wire.GroupChangeResponse, error) {
	var all crowd
	by := cloned(o.User)
	for step := range slices.Chunk(distinct(users), stepUsers) {
		if err := s.removeStep(ctx, conv, by, step, &all); err != nil {
			return nil, msgstore.Outcome(err)
		}
	}
	return all.answer(conv), nil
}

func (s *Service) removeStep(ctx context.Context, conv id.ConversationID, by id.UserID, users []id.UserID, all *crowd) error {
	var left, forbidden []id.UserID
	seq, err := s.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		left, forbidden = nil, nil
		g, err := s.insider(ctx, conv, &h, by)
		switch {
		case err != nil:
			return nil, err
		case g.Member.Role < roleAdmin:
			return nil, code.Newf(code.Forbidden, "only the owner and admins take people out")
		}
		old, err := s.groups.MembersOf(ctx, conv, users)
		if err != nil {
			return nil, err
		}
		var rows []msgstore.Member
		for i, u := range users {
			switch {
			case !old[i].Active():
			case u == by || old[i].Role >= g.Member.Role:
				forbidden = append(forbidden, u)
			default:
				left, rows = append(left, u), append(rows, old[i])
			}
		}
		if len(left) == 0 {
			return nil, nil
		}
		users, count := left, g.Members-min(g.Members, uint64(len(left)))
		return &Change{
			Sender: by, Type: typeMembership, Content: content(aboutMany("remove", users)),
			Rows: func(tx *kv.Tx, seq uint64) {
				for i, u := range users {
					m := leave(rows[i], seq)
					s.members.Put(tx, conv, u, &m)
				}
				s.putMany(tx, conv, seq, users, count)
			},
			Done: s.done(conv, nil, users),
		}, nil
	})
	if err != nil {
		return err
	}
	for _, u := range forbidden {
		all.refuse(u, code.Forbidden)
	}
	if seq > 0 {
		all.seq = seq
		all.changed += len(left)
	}
	s.withdraw(ctx, conv, users) // those of an earlier request too, whose lists it didn't reach
	return nil
}
