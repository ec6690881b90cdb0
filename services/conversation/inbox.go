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
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// line is one conversation of a user's list while it is put together.
type line struct {
	conv  id.ConversationID
	side  msgstore.UserSide
	head  msgstore.Head
	who   *msgstore.MemberOf
	peer  id.UserID
	users []id.UserID
	group *msgstore.GroupOf // of a group, once it is described

	mine, theirs         []byte // rows of the cursors, nil: none
	mineWant, theirsWant want   // what waits to be stored of them
}

// Inbox returns o's conversations, those with the latest activity first, at most limit
// (0: DefaultInbox, at most MaxInbox). With a mark from an earlier answer only those whose
// head, cursors (the peer's too) or own row changed since, and maybe some that did not.
// cursor is empty for the first page and then what the page before returned as next, which
// is empty on the last one. newMark is to be named next time; it is the same on every page
// and holds once all were read: what changes while paging is told again under it.
//
// A conversation that moves up while pages are read would be missed by those after it, so
// the last pages list what moved since the first one, oldest first: moving again keeps it
// ahead of the reader. It may be listed twice then, and never not at all.
//
// Conversations without a message aren't listed until there is one, hidden ones only with
// a mark, so that devices that show them hear of it.
func (s *Service) Inbox(ctx context.Context, o *packet.Origin, mark uint64, cursor string, limit int) (states []*wire.ConversationState, next string, newMark uint64, err error) {
	last := position{begun: max(s.now(), 1)} // before anything is read
	if cursor != "" {
		var ok bool
		if last, ok = parsePosition(cursor); !ok {
			return nil, "", 0, code.Newf(code.BadRequest, "cursor is none that was given out")
		}
	}
	newMark = uint64(max(last.begun-markMargin, 1))
	lines, err := s.lines(ctx, o.User, mark > 0, cursor == "")
	if err != nil {
		return nil, "", 0, msgstore.Refusal(err)
	}
	if mark > 0 {
		if lines, err = s.changed(ctx, o.User, lines, int64(min(mark, 1<<62))); err != nil {
			return nil, "", 0, msgstore.Refusal(err)
		}
	}
	lines, next = last.page(lines, pageLimit(limit, DefaultInbox, MaxInbox))
	if states, err = s.states(ctx, o.User, lines); err != nil {
		return nil, "", 0, msgstore.Refusal(err)
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

// position is the place after which the next page goes on: first down the list, by
// activity, then up again through what moved since the first page.
type position struct {
	begun int64 // Unix ms of the first page
	up    bool
	time  int64 // of the last one told; zero with conv: none yet
	conv  id.ConversationID
}

const positionLen = 33

func (p position) String() string {
	var b [positionLen]byte
	binary.BigEndian.PutUint64(b[:], uint64(p.begun))
	if p.up {
		b[8] = 1
	}
	binary.BigEndian.PutUint64(b[9:], uint64(p.time))
	copy(b[17:], p.conv[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func parsePosition(text string) (p position, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != positionLen || b[8] > 1 {
		return p, false
	}
	p.begun = int64(binary.BigEndian.Uint64(b))
	p.up = b[8] == 1
	p.time = int64(binary.BigEndian.Uint64(b[9:]))
	p.conv = id.ConversationID(b[17:])
	return p, p.begun > 0 && p.time >= 0 && (p.conv.Valid() || p.conv.IsZero())
}

// page returns the lines after p, at most limit of them, and the cursor of the next page.
func (p position) page(lines []line, limit int) (page []line, next string) {
	first := !p.up && p.conv.IsZero()
	if !p.up {
		slices.SortFunc(lines, func(a, b line) int {
			return comparePlaces(a.head.LastTime, a.conv, b.head.LastTime, b.conv)
		})
		down := lines
		if !first {
			i, found := slices.BinarySearchFunc(lines, p, func(l line, p position) int {
				return comparePlaces(l.head.LastTime, l.conv, p.time, p.conv)
			})
			if found {
				i++
			}
			down = lines[i:]
		}
		if len(down) > limit {
			l := &down[limit-1]
			return down[:limit], position{begun: p.begun, time: l.head.LastTime, conv: l.conv}.String()
		}
		page, limit = slices.Clone(down), limit-len(down)
		if first {
			return page, "" // all of it is of one moment
		}
		p = position{begun: p.begun, up: true}
	}
	up := slices.DeleteFunc(lines, func(l line) bool {
		return l.head.LastTime < p.begun || !p.conv.IsZero() && comparePlaces(l.head.LastTime, l.conv, p.time, p.conv) >= 0
	})
	slices.SortFunc(up, func(a, b line) int {
		return comparePlaces(b.head.LastTime, b.conv, a.head.LastTime, a.conv)
	})
	if len(up) <= limit {
		return append(page, up...), ""
	}
	if page = append(page, up[:limit]...); limit > 0 {
		p.time, p.conv = up[limit-1].head.LastTime, up[limit-1].conv
	}
	return page, p.String()
}

// lines reads the user's sides and the heads that belong to them. left: with
// conversations that the user has left, or hidden. begin: it is the first page, which every
// new connection reads before it is served.
func (s *Service) lines(ctx context.Context, user id.UserID, left, begin bool) ([]line, error) {
	rows, err := s.inbox.Scan(ctx, user, id.ConversationID{}, 0)
	if err != nil {
		return nil, err
	}
	if !left {
		rows = slices.DeleteFunc(rows, func(r msgstore.InboxRow) bool { return r.Tombstone })
	}
	convs := make([]id.ConversationID, len(rows))
	for i := range rows {
		convs[i] = rows[i].Conversation
	}
	if begin && s.audiences != nil {
		// Before the heads: what is stored later than these is delivered.
		if err := s.audiences.Connected(ctx, user, convs); err != nil {
			return nil, err
		}
	}
	heads, err := s.timeline.Heads(ctx, convs)
	if err != nil {
		return nil, err
	}
	lines := make([]line, 0, len(rows))
	for i := range rows {
		// A side without a head is left over from a conversation that was not made.
		if heads[i].Exists() && heads[i].LastSeq > 0 && (left || !hidden(&rows[i].UserSide, &heads[i])) {
			l := line{conv: convs[i], side: rows[i].UserSide, head: heads[i]}
			if l.side.Tombstone { // what happens there since is no business of the user's
				l.head.LastTime = l.side.Changed
			}
			lines = append(lines, l)
		}
	}
	return lines, nil
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
	if err := s.readCursors(ctx, user, quiet); err != nil {
		return nil, err
	}
	for i := range quiet {
		for _, row := range [][]byte{quiet[i].mine, quiet[i].theirs} {
			if row == nil {
				continue
			}
			c, err := msgstore.ParseCursor(row)
			if err != nil {
				return nil, fmt.Errorf("cursor in %s: %w", quiet[i].conv, err)
			}
			if c.Changed >= mark {
				out = append(out, quiet[i])
				break
			}
		}
	}
	return out, nil
}

// readCursors fills in who is in the conversations, and the cursors of the user and of
// the peers in direct ones.
func (s *Service) readCursors(ctx context.Context, user id.UserID, lines []line) error {
	keys := make([][]byte, 0, 2*len(lines))
	for i := range lines {
		l := &lines[i]
		var r *roster
		if l.conv.Kind() != id.KindGroup {
			var err error
			if r, err = s.roster(ctx, l.conv); err != nil {
				return err
			}
		}
		l.mineWant = s.cursors.pending(cursorKey{l.conv, user})
		keys = append(keys, s.cfg.Keys.Cursor(nil, l.conv, user))
		if r == nil {
			continue
		}
		l.who, l.peer, l.users = r.member(user), r.peer(user), r.both
		if l.peer != "" {
			l.theirsWant = s.cursors.pending(cursorKey{l.conv, l.peer})
			keys = append(keys, s.cfg.Keys.Cursor(nil, l.conv, l.peer))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	rows, err := s.cfg.Store.MultiGet(ctx, keys)
	if err != nil {
		return fmt.Errorf("read cursors: %w", err)
	}
	for i := range lines {
		l := &lines[i]
		l.mine, rows = rows[0], rows[1:]
		if l.peer != "" {
			l.theirs, rows = rows[0], rows[1:]
		}
	}
	return nil
}

// states finishes lines.
func (s *Service) states(ctx context.Context, user id.UserID, lines []line) ([]*wire.ConversationState, error) {
	if err := s.readCursors(ctx, user, lines); err != nil {
		return nil, err
	}
	if err := s.describe(ctx, user, lines); err != nil {
		return nil, err
	}
	out := make([]*wire.ConversationState, 0, len(lines))
	for i := range lines {
		if w := lines[i].who; w == nil || len(w.Intervals) == 0 {
			continue // the sides disagree: a membership that was never finished
		}
		st, err := s.state(ctx, user, &lines[i])
		if err != nil {
			return nil, fmt.Errorf("conversation %s: %w", lines[i].conv, err)
		}
		out = append(out, st)
	}
	return out, nil
}

// state is one conversation as its user sees it.
func (s *Service) state(ctx context.Context, user id.UserID, l *line) (*wire.ConversationState, error) {
	c, err := cursorOf(l.mine, l.mineWant, &l.head)
	if err != nil {
		return nil, err
	}
	unread, err := s.unread(ctx, cursorKey{l.conv, user}, &c, &l.head, l.who)
	if err != nil {
		return nil, err
	}
	mentions, err := s.mentions(ctx, cursorKey{l.conv, user}, &c, &l.head, l.who, unread)
	if err != nil {
		return nil, err
	}
	iv := l.who.Intervals[len(l.who.Intervals)-1]
	st := &wire.ConversationState{
		ConversationId: l.conv[:], LastSeq: l.head.LastSeq, FirstSeq: l.head.FirstSeq,
		ReadSeq: c.ReadSeq, RecvSeq: c.RecvSeq, Unread: unread, StateVersion: l.head.StateVersion,
		JoinedSeq: l.who.Intervals[0].Joined, LeftSeq: iv.Left, Pinned: l.side.Pinned, Muted: l.side.Muted,
		Hidden: hidden(&l.side, &l.head), Mentions: mentions, SettingsVersion: uint64(l.side.Changed),
	}
	if iv.Left != 0 {
		st.LastSeq = min(st.LastSeq, iv.Left)
	}
	if l.group != nil {
		showGroup(st, l.group)
	}
	for _, u := range l.users {
		st.Users = append(st.Users, string(u))
	}
	if l.head.LastSeq > 0 {
		st.LastTime = uint64(l.head.LastTime)
	}
	if seq := l.head.PreviewSeq; seq > 0 && l.who.Sees(seq) {
		st.Preview = &wire.Preview{Seq: seq, SenderId: string(l.head.PreviewSender), MsgType: l.head.PreviewType}
		if t := l.head.PreviewType; t < packet.TypeImage || t > packet.TypeVideo { // the beginning of a JSON object is of no use
			st.Preview.Text = string(l.head.PreviewText)
		}
	}
	if l.peer != "" {
		p, err := cursorOf(l.theirs, l.theirsWant, &l.head)
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
		return nil, msgstore.Refusal(fmt.Errorf("read conversation: %w", err))
	}
	l := line{conv: conv}
	if rows[0] == nil {
		return nil, errStranger
	}
	if l.head, err = msgstore.ParseHead(rows[0]); err != nil {
		return nil, msgstore.Refusal(err)
	}
	if rows[1] != nil {
		if l.side, err = msgstore.ParseUserSide(rows[1]); err != nil {
			return nil, msgstore.Refusal(err)
		}
	}
	states, err := s.states(ctx, o.User, []line{l})
	if err != nil {
		return nil, msgstore.Refusal(err)
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
		return nil, msgstore.Refusal(err)
	}
	return s.State(ctx, o, r.conv)
}
