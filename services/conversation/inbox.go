package conversation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// line is one conversation of a user's list while it is put together.
type line struct {
	conv  id.ConversationID
	side  msgstore.UserSide
	head  msgstore.Head
	who   *member
	peer  id.UserID
	users []id.UserID
}

// Inbox returns o's conversations, those with the latest activity first, at most limit
// (0: DefaultInbox, at most MaxInbox). With a mark from an earlier answer only those whose
// head, cursors (the peer's too) or own row changed since, and maybe some that did not.
// cursor is empty for the first page and then what the page before returned as next, which
// is empty on the last one. newMark is to be named next time; it is the same on every page
// and holds once all were read: what changes while paging is told again under it.
//
// Conversations without a message aren't listed: they are hidden until there is one.
func (s *Service) Inbox(ctx context.Context, o *packet.Origin, mark uint64, cursor string, limit int) (states []*wire.ConversationState, next string, newMark uint64, err error) {
	newMark = uint64(max(s.now()-markMargin, 1)) // before anything is read
	var last position
	if cursor != "" {
		var ok bool
		if last, ok = parsePosition(cursor); !ok {
			return nil, "", 0, code.Newf(code.BadRequest, "cursor is none that was given out")
		}
		newMark = last.mark
	}
	lines, err := s.lines(ctx, o.User, mark > 0)
	if err != nil {
		return nil, "", 0, unavailable(err)
	}
	if mark > 0 {
		if lines, err = s.changed(ctx, o.User, lines, int64(min(mark, 1<<62))); err != nil {
			return nil, "", 0, unavailable(err)
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return comparePlaces(a.head.LastTime, a.conv, b.head.LastTime, b.conv)
	})
	if cursor != "" {
		i, found := slices.BinarySearchFunc(lines, last, func(l line, p position) int {
			return comparePlaces(l.head.LastTime, l.conv, p.time, p.conv)
		})
		if found {
			i++
		}
		lines = lines[i:]
	}
	limit = pageLimit(limit, DefaultInbox, MaxInbox)
	if len(lines) > limit {
		lines = lines[:limit]
		l := &lines[limit-1]
		next = position{newMark, l.head.LastTime, l.conv}.String()
	}
	if states, err = s.states(ctx, o.User, lines); err != nil {
		return nil, "", 0, unavailable(err)
	}
	return states, next, newMark, nil
}

// comparePlaces orders by activity, the latest first.
func comparePlaces(at int64, a id.ConversationID, bt int64, b id.ConversationID) int {
	if c := cmp.Compare(bt, at); c != 0 {
		return c
	}
	return bytes.Compare(a[:], b[:])
}

// position is the place in the list after which the next page goes on.
type position struct {
	mark uint64
	time int64
	conv id.ConversationID
}

func (p position) String() string {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], p.mark)
	binary.BigEndian.PutUint64(b[8:], uint64(p.time))
	copy(b[16:], p.conv[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func parsePosition(text string) (p position, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 32 {
		return p, false
	}
	p.mark = binary.BigEndian.Uint64(b)
	p.time = int64(binary.BigEndian.Uint64(b[8:]))
	p.conv = id.ConversationID(b[16:])
	return p, p.mark > 0 && p.conv.Valid()
}

// lines reads the user's sides and the heads that belong to them. left: with
// conversations that the user has left.
func (s *Service) lines(ctx context.Context, user id.UserID, left bool) ([]line, error) {
	var all []line
	var convs []id.ConversationID
	prefix := s.cfg.Keys.UserSides(nil, user)
	err := s.cfg.Store.Scan(ctx, kv.Span{Start: prefix, End: after(prefix)}, func(key, value []byte) (bool, error) {
		conv, err := id.ConversationFromBytes(key[len(prefix):])
		if err != nil {
			return false, fmt.Errorf("%v: %w", err, msgstore.ErrCorrupt)
		}
		side, err := msgstore.ParseUserSide(value)
		if err != nil {
			return false, err
		}
		if !side.Tombstone || left {
			all, convs = append(all, line{conv: conv, side: side}), append(convs, conv)
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the user's conversations: %w", err)
	}
	heads, err := s.timeline.Heads(ctx, convs)
	if err != nil {
		return nil, err
	}
	out := all[:0]
	for i := range all {
		// A side without a head is left over from a conversation that was not made.
		if all[i].head = heads[i]; heads[i].Exists() && heads[i].LastSeq > all[i].side.HiddenSeq {
			out = append(out, all[i])
		}
	}
	return out, nil
}

// changed keeps the lines that may have changed since mark.
func (s *Service) changed(ctx context.Context, user id.UserID, lines []line, mark int64) ([]line, error) {
	out := make([]line, 0, len(lines))
	var quiet []line
	for _, l := range lines {
		if l.head.LastTime >= mark || l.side.Changed >= mark {
			out = append(out, l)
		} else {
			quiet = append(quiet, l)
		}
	}
	mine, theirs, err := s.cursorRows(ctx, user, quiet)
	if err != nil {
		return nil, err
	}
	for i := range quiet {
		moved := false
		for _, row := range [][]byte{mine[i], theirs[i]} {
			if row == nil {
				continue
			}
			c, err := msgstore.ParseCursor(row)
			if err != nil {
				return nil, fmt.Errorf("cursor in %s: %w", quiet[i].conv, err)
			}
			moved = moved || c.Changed >= mark
		}
		if moved {
			out = append(out, quiet[i])
		}
	}
	return out, nil
}

// cursorRows reads the cursors of the user, and of the peers in direct conversations;
// it fills in who is in the conversations.
func (s *Service) cursorRows(ctx context.Context, user id.UserID, lines []line) (mine, theirs [][]byte, err error) {
	keys := make([][]byte, 0, 2*len(lines))
	for i := range lines {
		l := &lines[i]
		r, err := s.roster(ctx, l.conv)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, s.cfg.Keys.Cursor(nil, l.conv, user))
		if r != nil {
			l.who, l.peer, l.users = r.member(user), r.peer(user), r.both
		}
	}
	for i := range lines {
		if lines[i].peer != "" {
			keys = append(keys, s.cfg.Keys.Cursor(nil, lines[i].conv, lines[i].peer))
		}
	}
	if len(keys) == 0 {
		return nil, nil, nil
	}
	rows, err := s.cfg.Store.MultiGet(ctx, keys)
	if err != nil {
		return nil, nil, fmt.Errorf("read cursors: %w", err)
	}
	mine, rows = rows[:len(lines)], rows[len(lines):]
	theirs = make([][]byte, len(lines))
	for i := range lines {
		if lines[i].peer != "" {
			theirs[i], rows = rows[0], rows[1:]
		}
	}
	return mine, theirs, nil
}

// states finishes lines.
func (s *Service) states(ctx context.Context, user id.UserID, lines []line) ([]*wire.ConversationState, error) {
	mine, theirs, err := s.cursorRows(ctx, user, lines)
	if err != nil {
		return nil, err
	}
	out := make([]*wire.ConversationState, 0, len(lines))
	for i := range lines {
		l := &lines[i]
		if l.who == nil || len(l.who.Intervals) == 0 {
			continue // both sides disagree: a membership that was never finished
		}
		st, err := s.state(ctx, user, l, mine[i], theirs[i])
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// state is one conversation as its user sees it.
func (s *Service) state(ctx context.Context, user id.UserID, l *line, mine, theirs []byte) (*wire.ConversationState, error) {
	k := cursorKey{l.conv, user}
	c, err := s.cursorOf(k, mine, &l.head)
	if err != nil {
		return nil, err
	}
	unread, err := s.unread(ctx, k, &c, &l.head, l.who)
	if err != nil {
		return nil, err
	}
	iv := l.who.Intervals[len(l.who.Intervals)-1]
	st := &wire.ConversationState{
		ConversationId: l.conv[:], LastSeq: l.head.LastSeq, FirstSeq: l.head.FirstSeq,
		ReadSeq: c.ReadSeq, RecvSeq: c.RecvSeq, Unread: unread, StateVersion: l.head.StateVersion,
		JoinedSeq: l.who.Intervals[0].Joined, LeftSeq: iv.Left, Pinned: l.side.Pinned, Muted: l.side.Muted,
	}
	for _, u := range l.users {
		st.Users = append(st.Users, string(u))
	}
	if l.head.LastSeq > 0 {
		st.LastTime = uint64(l.head.LastTime)
	}
	if seq := l.head.PreviewSeq; seq > 0 && l.who.Sees(seq) {
		st.Preview = &wire.Preview{Seq: seq, SenderId: string(l.head.PreviewSender), MsgType: l.head.PreviewType, Text: string(l.head.PreviewText)}
	}
	if l.peer != "" {
		p, err := s.cursorOf(cursorKey{l.conv, l.peer}, theirs, &l.head)
		if err != nil {
			return nil, err
		}
		st.PeerReadSeq, st.PeerRecvSeq = p.ReadSeq, p.RecvSeq
	}
	return st, nil
}

// State returns one conversation of o's.
func (s *Service) State(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.ConversationState, error) {
	if _, _, err := s.mine(ctx, o.User, conv); err != nil {
		return nil, err
	}
	rows, err := s.cfg.Store.MultiGet(ctx, [][]byte{s.cfg.Keys.Head(nil, conv), s.cfg.Keys.UserSide(nil, o.User, conv)})
	if err != nil {
		return nil, unavailable(fmt.Errorf("read conversation: %w", err))
	}
	l := line{conv: conv}
	if rows[0] == nil {
		return nil, errStranger
	}
	if l.head, err = msgstore.ParseHead(rows[0]); err != nil {
		return nil, unavailable(err)
	}
	if rows[1] != nil {
		if l.side, err = msgstore.ParseUserSide(rows[1]); err != nil {
			return nil, unavailable(err)
		}
	}
	states, err := s.states(ctx, o.User, []line{l})
	if err != nil {
		return nil, unavailable(err)
	}
	if len(states) == 0 {
		return nil, errStranger
	}
	return states[0], nil
}

// OpenDirect returns o's direct conversation with peer, who may be o's user; it makes it
// if there is none. The peer sees nothing of it before the first message.
func (s *Service) OpenDirect(ctx context.Context, o *packet.Origin, peer id.UserID) (*wire.ConversationState, error) {
	if !peer.Valid() {
		return nil, code.Newf(code.BadRequest, "user_id is no user id")
	}
	r, err := s.ensure(ctx, o.User, peer)
	if err != nil {
		return nil, unavailable(err)
	}
	return s.State(ctx, o, r.conv)
}
