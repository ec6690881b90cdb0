package room

import (
	"context"
	"errors"
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

// Pages of who is in a room.
const (
	DefaultPage = 100
	MaxPage     = 500
)

// Actions of ROOM_MODERATE.
const (
	actMute        = 1
	actUnmute      = 2
	actBan         = 3
	actUnban       = 4
	actModerator   = 5
	actNoModerator = 6
)

// Methods are the methods that this Service answers.
func (s *Service) Methods() map[packet.Method]func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	return map[packet.Method]func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error){
		packet.MethodRoomCreate:   s.answerCreate,
		packet.MethodRoomJoin:     s.answerJoin,
		packet.MethodRoomLeave:    s.answerLeave,
		packet.MethodRoom:         s.answerRoom,
		packet.MethodRoomMembers:  s.answerMembers,
		packet.MethodRoomUpdate:   s.answerUpdate,
		packet.MethodRoomModerate: s.answerModerate,
	}
}

// validName reports whether a room may be called so.
func validName(name string) bool {
	if name == "" || len(name) > packet.MaxRoomName || strings.TrimSpace(name) != name {
		return false
	}
	return !strings.ContainsFunc(name, unicode.IsControl)
}

func (s *Service) answerCreate(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.RoomCreateRequest
	if err := packet.DecodeMethod(packet.MethodRoomCreate, inner, &r); err != nil {
		return nil, err
	}
	conv := id.Named(id.KindRoom, r.Name)
	switch {
	case s.cfg.Off:
		return nil, errOff
	case !validName(r.Name):
		return nil, code.Newf(code.BadRequest, "name: want 1 to %d bytes without control characters and spaces around them", packet.MaxRoomName)
	case r.SlowSeconds > maxSlow:
		return nil, code.Newf(code.BadRequest, "slow_seconds: want at most %d", maxSlow)
	}
	if row, h, err := s.get(ctx, conv); err == nil {
		return s.show(o, conv, &row, &h), nil
	} else if !errors.Is(err, errNone) {
		return nil, err
	}
	if s.cfg.Create != ByAnyone && o.User != id.System {
		return nil, code.Newf(code.Forbidden, "rooms are created by this installation's operator")
	}
	row := msgstore.Room{Created: s.now(), CreatedBy: o.User, Name: r.Name, Title: r.Title, Slow: uint64(r.SlowSeconds)}
	if o.User != id.System {
		row.Moderators = []id.UserID{o.User}
	}
	var keep *msgstore.Keep
	if s.cfg.Keep.Age > 0 || s.cfg.Keep.Messages > 0 {
		k := s.cfg.Keep
		k.Set = row.Created
		keep = &k
	}
	err := s.seq.Change(ctx, conv, func(_ context.Context, h msgstore.Head) (*Change, error) {
		if h.Exists() {
			return nil, nil // somebody else's, made just now
		}
		return &Change{Create: true, Rows: func(tx *kv.Tx, _ uint64) { s.rooms.Put(tx, conv, &row, keep) }}, nil
	})
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	return s.read(ctx, o, conv)
}

// conversation reads a request that names a room.
func conversation(m packet.Method, inner []byte) (id.ConversationID, error) {
	var r wire.ConversationRequest
	if err := packet.DecodeMethod(m, inner, &r); err != nil {
		return id.ConversationID{}, err
	}
	return id.ConversationID(r.ConversationId), nil
}

func (s *Service) answerJoin(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	conv, err := conversation(packet.MethodRoomJoin, inner)
	if err != nil {
		return nil, err
	}
	if o.Conn == 0 {
		return nil, errNotHere
	}
	row, h, err := s.get(ctx, conv)
	if err != nil {
		return nil, err
	}
	if c := curbOf(&row, o.User, s.now()); c != nil && c.Banned && !moderates(&row, o.User) {
		return nil, errBanned
	}
	if !s.enter(conv, o.Conn, o.User) {
		return nil, code.Newf(code.TooMany, "the room is full")
	}
	return s.show(o, conv, &row, &h), nil
}

func (s *Service) answerLeave(_ context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	conv, err := conversation(packet.MethodRoomLeave, inner)
	if err != nil {
		return nil, err
	}
	s.leave(conv, o.Conn)
	return &wire.RoomLeaveResponse{}, nil
}

func (s *Service) answerRoom(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	conv, err := conversation(packet.MethodRoom, inner)
	if err != nil {
		return nil, err
	}
	return s.read(ctx, o, conv)
}

// read is the room as it is stored now.
func (s *Service) read(ctx context.Context, o *packet.Origin, conv id.ConversationID) (packet.Body, error) {
	row, h, err := s.get(ctx, conv)
	if err != nil {
		return nil, err
	}
	return s.show(o, conv, &row, &h), nil
}

// show is a room as o's user sees it.
func (s *Service) show(o *packet.Origin, conv id.ConversationID, row *msgstore.Room, h *msgstore.Head) *wire.Room {
	r := &wire.Room{
		ConversationId: append([]byte(nil), conv[:]...), Name: row.Name, Title: row.Title, Count: uint32(s.Count(conv)), SlowSeconds: uint32(row.Slow),
		FirstSeq: h.FirstSeq, LastSeq: h.LastSeq, Role: 1, CreatedTime: uint64(row.Created), CreatedBy: string(row.CreatedBy),
	}
	for _, m := range row.Moderators {
		r.Moderators = append(r.Moderators, string(m))
	}
	if moderates(row, o.User) {
		r.Role = 2
	} else if c := curbOf(row, o.User, s.now()); c != nil {
		if r.MutedUntil = uint64(c.Until); c.Until == 0 {
			r.MutedUntil = 1<<53 - 1 // until it is taken back
		}
	}
	return r
}

func (s *Service) answerMembers(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.MembersRequest
	if err := packet.DecodeMethod(packet.MethodRoomMembers, inner, &r); err != nil {
		return nil, err
	}
	conv := id.ConversationID(r.ConversationId)
	if err := s.MayRead(ctx, conv, o.User); err != nil {
		return nil, err
	}
	limit := DefaultPage
	if r.Limit > 0 {
		limit = int(min(r.Limit, MaxPage))
	}
	users, more, count := s.page(conv, id.UserID(r.Cursor), limit)
	a := &wire.RoomMembersResponse{Count: uint32(count)}
	for _, u := range users {
		a.UserIds = append(a.UserIds, string(u))
	}
	if more {
		a.Cursor = string(users[len(users)-1])
	}
	return a, nil
}

// change has fn change the row of conv, if o's user moderates it. fn may be called several times.
func (s *Service) change(ctx context.Context, o *packet.Origin, conv id.ConversationID, fn func(row *msgstore.Room) error) (packet.Body, error) {
	if s.cfg.Off {
		return nil, errOff
	}
	if conv.Kind() != id.KindRoom {
		return nil, errNone
	}
	err := s.seq.Change(ctx, conv, func(ctx context.Context, _ msgstore.Head) (*Change, error) {
		row, _, err := s.get(ctx, conv)
		if err != nil {
			return nil, err
		}
		if !moderates(&row, o.User) {
			return nil, errNotMod
		}
		now := s.now()
		row.Curbs = slices.DeleteFunc(row.Curbs, func(c msgstore.Curb) bool { return c.Until > 0 && c.Until <= now })
		if err := fn(&row); err != nil {
			return nil, err
		}
		return &Change{Rows: func(tx *kv.Tx, _ uint64) { s.rooms.Put(tx, conv, &row, nil) }}, nil
	})
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	return s.read(ctx, o, conv)
}

func (s *Service) answerUpdate(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.RoomUpdateRequest
	if err := packet.DecodeMethod(packet.MethodRoomUpdate, inner, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Fields&^3 != 0:
		return nil, code.Newf(code.BadRequest, "fields: unknown bits")
	case r.SlowSeconds > maxSlow:
		return nil, code.Newf(code.BadRequest, "slow_seconds: want at most %d", maxSlow)
	}
	return s.change(ctx, o, id.ConversationID(r.ConversationId), func(row *msgstore.Room) error {
		if r.Fields&1 != 0 {
			row.Title = r.Title
		}
		if r.Fields&2 != 0 {
			row.Slow = uint64(r.SlowSeconds)
		}
		return nil
	})
}

func (s *Service) answerModerate(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.RoomModerateRequest
	if err := packet.DecodeMethod(packet.MethodRoomModerate, inner, &r); err != nil {
		return nil, err
	}
	conv, user := id.ConversationID(r.ConversationId), id.UserID(r.UserId)
	if r.Action < actMute || r.Action > actNoModerator {
		return nil, code.Newf(code.BadRequest, "action: want 1 to %d", actNoModerator)
	}
	if r.Action == actModerator || r.Action == actMute || r.Action == actBan {
		switch exists, err := s.cfg.Users.Exists(ctx, user); {
		case err != nil:
			return nil, msgstore.Refusal(err)
		case !exists:
			return nil, code.New(code.NoSuchUser)
		}
	}
	until := int64(0)
	if r.Seconds > 0 {
		until = s.now() + int64(r.Seconds)*1000
	}
	answer, err := s.change(ctx, o, conv, func(row *msgstore.Room) error { return moderate(row, o.User, user, r.Action, until) })
	if err != nil {
		return nil, err
	}
	switch r.Action {
	case actBan:
		s.eject(conv, user, code.BannedHere)
	case actUnban:
		s.mu.Lock()
		if l := s.live[conv]; l != nil {
			delete(l.banned, user)
		}
		s.mu.Unlock()
	}
	return answer, nil
}

// moderate changes row as by wants it. Moderators are made, and curbed, by who made the room and the service alone.
func moderate(row *msgstore.Room, by, user id.UserID, action uint32, until int64) error {
	above := by == id.System || by == row.CreatedBy
	mod := slices.Contains(row.Moderators, user)
	switch {
	case user == id.System, mod && user == row.CreatedBy && by != id.System && by != user:
		return code.Newf(code.Forbidden, "nobody curbs who made the room")
	case (mod || action == actModerator) && !above && by != user:
		return code.Newf(code.Forbidden, "moderators are who made the room's business")
	}
	uncurb := func(ban bool) {
		row.Curbs = slices.DeleteFunc(row.Curbs, func(c msgstore.Curb) bool { return c.User == user && c.Banned == ban })
	}
	switch action {
	case actUnmute:
		uncurb(false)
	case actUnban:
		uncurb(true)
	case actMute, actBan:
		if mod {
			return code.Newf(code.Forbidden, "a moderator can't be curbed")
		}
		uncurb(false)
		uncurb(true)
		if len(row.Curbs) >= maxCurbs {
			return code.Newf(code.TooMany, "at most %d users of a room are muted or banned", maxCurbs)
		}
		row.Curbs = append(row.Curbs, msgstore.Curb{User: user, Banned: action == actBan, Until: until})
	case actModerator:
		if mod {
			return nil
		}
		if len(row.Moderators) >= maxModerators {
			return code.Newf(code.TooMany, "a room has at most %d moderators", maxModerators)
		}
		row.Moderators = append(row.Moderators, user)
		uncurb(false)
		uncurb(true)
	case actNoModerator:
		row.Moderators = slices.DeleteFunc(row.Moderators, func(u id.UserID) bool { return u == user })
	}
	return nil
}
