package conversation

import (
	"context"
	"errors"
	"fmt"

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
			return 0, 0, unavailable(fmt.Errorf("read cursor: %w", err))
		}
		if rows[1] == nil {
			return 0, 0, errStranger
		}
		head, err := msgstore.ParseHead(rows[1])
		if err != nil {
			return 0, 0, unavailable(err)
		}
		m.row = rows[0]
		tx, err := s.advance(ctx, &m, &head)
		if err != nil {
			return 0, 0, unavailable(err)
		}
		if tx != nil {
			s.cfg.Store.Commit(ctx, tx)
			switch {
			case tx.Err == nil:
			case turn < maxTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
				continue
			default:
				return 0, 0, unavailable(fmt.Errorf("write cursor: %w", tx.Err))
			}
		}
		n, err := s.unread(ctx, k, &m.cur, &head, who)
		if err != nil {
			return 0, 0, unavailable(err)
		}
		return m.cur.ReadSeq, n, nil
	}
}

// A tally remembers two stretches of a conversation that hold nothing unread for one
// user: (skip, skipTo] and (tail, tailTo]. That stays true whatever happens, since a
// message never begins to count, so it makes counting cheap for those who send a lot
// and read nothing.
type tally struct{ skip, skipTo, tail, tailTo uint64 }

// countStep is how many messages are counted at a time, and from how many on a tally is worth keeping.
const countStep = 2048

// unread counts what is unread above c.ReadSeq, up to UnreadCap.
func (s *Service) unread(ctx context.Context, k cursorKey, c *msgstore.Cursor, head *msgstore.Head, who *msgstore.MemberOf) (uint32, error) {
	iv := who.Intervals[len(who.Intervals)-1]
	from, to := max(c.ReadSeq, head.FirstSeq-1, iv.Joined-1), min(head.LastSeq, lastOf(iv.Left))
	if from >= to || c.ReadCountable >= head.Countable {
		return 0, nil
	}
	t, _ := s.tallies.get(k.hash(), k)
	start := from
	if t.skip <= from && from < t.skipTo {
		from = t.skipTo
	}
	n, quiet := 0, from // nothing unread in (quiet, at]
	at := from
	for at < to && n < UnreadCap {
		if t.tail <= at && at < t.tailTo {
			at = t.tailTo
			continue
		}
		end := min(at+countStep, to)
		if at < t.tail {
			end = min(end, t.tail)
		}
		m, err := s.timeline.Unread(ctx, k.conv, at, end, k.user, UnreadCap-n)
		if err != nil {
			return 0, err
		}
		if at = end; m > 0 {
			if n == 0 {
				from = quiet
			}
			n += m
			quiet = end
		}
	}
	if n == 0 {
		from = at
	}
	if from-start > countStep || n < UnreadCap && at-quiet > countStep {
		next := tally{skip: start, skipTo: from}
		if n > 0 && n < UnreadCap {
			next.tail, next.tailTo = quiet, at
		} else if n > 0 {
			next.tail, next.tailTo = t.tail, t.tailTo
		}
		s.tallies.put(k.hash(), k, next)
	}
	return uint32(min(n, UnreadCap)), nil
}
