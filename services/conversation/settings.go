package conversation

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// What SettingsRequest.fields names, added up.
const (
	setPinned = 1 << iota
	setMuted
	setHidden
	setAll = setPinned | setMuted | setHidden
)

// Settings changes what is the user's own about a conversation, and returns how it
// stands then. The user's other devices are told. It is durable when Settings returns.
func (s *Service) Settings(ctx context.Context, o *packet.Origin, r *wire.SettingsRequest) (*wire.ConversationState, error) {
	conv := id.ConversationID(r.ConversationId)
	if r.Fields == 0 || r.Fields&^setAll != 0 {
		return nil, code.Newf(code.BadRequest, "fields must name some of 1, 2 and 4, added up")
	}
	if _, who, err := s.mine(ctx, o.User, conv); err != nil {
		return nil, err
	} else if !who.Active() {
		return nil, code.Newf(code.Forbidden, "you have left this conversation")
	}
	changed := false
	for turn := 0; ; turn++ {
		wrote, err := s.set(ctx, o.User, conv, r)
		// What is undetermined may be found written the next time.
		if changed = changed || wrote || errors.Is(err, kv.ErrUndetermined); err == nil {
			break
		}
		if turn == maxTurns || !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrUndetermined) {
			return nil, msgstore.Refusal(err)
		}
	}
	st, err := s.State(ctx, o, conv)
	if err == nil && changed {
		s.pushState(o.User, o.Conn, st)
	}
	return st, err
}

// set tries once to write the user's side. AsOfSeq stays as it is: it tells a leaving that
// comes late from one that this side knew of, and a setting knows of none.
func (s *Service) set(ctx context.Context, user id.UserID, conv id.ConversationID, r *wire.SettingsRequest) (changed bool, err error) {
	side, raw, err := s.inbox.Get(ctx, user, conv)
	if err != nil {
		return false, err
	}
	next := side
	if r.Fields&setPinned != 0 {
		next.Pinned = r.Pinned
	}
	if r.Fields&setMuted != 0 {
		next.Muted = r.Muted
	}
	switch {
	case r.Fields&setHidden == 0:
	case r.Hidden:
		head, _, err := s.timeline.Head(ctx, conv)
		if err != nil {
			return false, err
		}
		next.HiddenSeq = max(head.LastSeq, next.HiddenSeq)
	default:
		next.HiddenSeq = 0
	}
	if next == side && raw != nil {
		return false, nil
	}
	next.Changed = max(s.now(), side.Changed+1) // it is the settings' version, too
	tx := new(kv.Tx)
	s.inbox.Replace(tx, user, conv, raw, &next)
	s.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return false, fmt.Errorf("write the user's side of %s: %w", conv, tx.Err)
	}
	return true, nil
}

// hidden reports whether the conversation is out of its user's list.
func hidden(side *msgstore.UserSide, head *msgstore.Head) bool {
	return side.HiddenSeq > 0 && head.LastSeq <= side.HiddenSeq
}

// AnswerSettings answers the method SETTINGS.
func (s *Service) AnswerSettings(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.SettingsRequest
	if err := packet.DecodeMethod(packet.MethodSettings, inner, &r); err != nil {
		return nil, err
	}
	return s.Settings(ctx, o, &r)
}
