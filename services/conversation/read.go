package conversation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Read moves the user's ReadSeq of conv up to seq, never back and never beyond the
// newest message, and returns where it is then and how many messages are unread (exact
// up to UnreadCap). The move is durable when Read returns.
func (s *Service) Read(ctx context.Context, o *packet.Origin, conv id.ConversationID, seq uint64) (read uint64, unread uint32, err error) {
	_, who, err := s.mine(ctx, o.User, conv)
	if err != nil {
		return 0, 0, err
	}
	k := cursorKey{conv, o.User}
	key := s.cfg.Keys.Cursor(nil, conv, o.User)
	for turn := 0; ; turn++ {
		// What only waits to be written goes along, else the answer could lie behind an earlier one.
		m := move{key: k, who: who, want: s.cursors.pending(k).max(want{read: seq})}
		rows, err := s.cfg.Store.MultiGet(ctx, [][]byte{key, s.cfg.Keys.Head(nil, conv)})
		if err != nil {
			return 0, 0, msgstore.Refusal(fmt.Errorf("read cursor: %w", err))
		}
		if rows[1] == nil {
			return 0, 0, errStranger
		}
		head, err := msgstore.ParseHead(rows[1])
		if err != nil {
			return 0, 0, msgstore.Refusal(err)
		}
		m.row = rows[0]
		tx, err := s.advance(ctx, &m, &head)
		if err != nil {
			return 0, 0, msgstore.Refusal(err)
		}
		if tx != nil {
			s.cfg.Store.Commit(ctx, tx)
			switch {
			case tx.Err == nil:
			case turn < maxTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
				continue
			default:
				return 0, 0, msgstore.Refusal(fmt.Errorf("write cursor: %w", tx.Err))
			}
		}
		if tx != nil {
			s.moved(&m)
		}
		n, err := s.unread(ctx, k, &m.cur, &head, who)
		if err != nil {
			return 0, 0, msgstore.Refusal(err)
		}
		return m.cur.ReadSeq, n, nil
	}
}

// A tally remembers stretches of a conversation that hold nothing unread for one user,
// ascending. That stays true whatever happens, since a message never begins to count, so
// it makes counting cheap for those who send a lot and read nothing.
type tally []stretch

// stretch is (after, to].
type stretch struct{ after, to uint64 }

const (
	countStep    = 2048 // messages that are counted at a time
	maxStretches = 8    // of a tally; the longest
	minStretch   = 256  // messages; a shorter one isn't worth remembering
)

// jump returns where the count may go on that stands at seq, and how far it can go then
// before it may jump again.
func (t tally) jump(seq, to uint64) (at, end uint64) {
	for _, s := range t {
		switch {
		case s.after > seq:
			return seq, min(to, s.after)
		case s.to > seq:
			seq = s.to
		}
	}
	return seq, to
}

// unreadRange is what of a conversation may be unread, (after, to]: what the user may
// see above ReadSeq. Who came back after leaving begins there.
func unreadRange(c *msgstore.Cursor, head *msgstore.Head, who *msgstore.MemberOf) (after, to uint64) {
	iv := who.Intervals[len(who.Intervals)-1]
	return max(c.ReadSeq, head.FirstSeq-1, iv.Joined-1), min(head.LastSeq, lastOf(iv.Left))
}

// unread counts what is unread above c.ReadSeq, up to UnreadCap.
func (s *Service) unread(ctx context.Context, k cursorKey, c *msgstore.Cursor, head *msgstore.Head, who *msgstore.MemberOf) (uint32, error) {
	at, to := unreadRange(c, head, who)
	if at >= to || c.ReadCountable >= head.Countable {
		return 0, nil
	}
	old, _ := s.tallies.get(k.hash(), k)
	var quiet tally
	n, counted := 0, uint64(0)
	for since := at; at < to; {
		next, end := old.jump(at, to)
		end = min(end, next+countStep)
		m := 0
		if next < end {
			counted += end - next
			var err error
			if m, err = s.timeline.Unread(ctx, k.conv, next, end, k.user, UnreadCap-n); err != nil {
				return 0, err
			}
		}
		switch {
		case m == 0:
			at = max(next, end)
		default:
			n += m
			quiet = quiet.add(stretch{since, next})
			at, since = end, end
		}
		if n >= UnreadCap {
			for _, x := range old { // what lies beyond is as true as before
				if x.after >= at {
					quiet = quiet.add(x)
				}
			}
			break
		}
		if at >= to {
			quiet = quiet.add(stretch{since, min(at, to)})
		}
	}
	if counted > countStep {
		s.tallies.put(k.hash(), k, quiet)
	}
	return uint32(n), nil
}

// add appends x, in the place of the shortest if there are too many.
func (t tally) add(x stretch) tally {
	if x.to < x.after+minStretch {
		return t
	}
	t = append(t, x)
	if len(t) > maxStretches {
		shortest := 0
		for i := range t {
			if t[i].to-t[i].after < t[shortest].to-t[shortest].after {
				shortest = i
			}
		}
		t = slices.Delete(t, shortest, shortest+1)
	}
	return t
}
