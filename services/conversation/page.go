package conversation

import (
	"context"
	"math"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func pageLimit(limit, standard, most int) int {
	if limit <= 0 {
		return standard
	}
	return min(limit, most)
}

// Sync returns messages from..to of conv, ascending, at most limit (0: DefaultPage, at
// most MaxPage) and as many as fit. to 0 is the newest. The page answers for
// FromSeq..ToSeq: what of that range it doesn't hold is gone or was never o's to see.
// More: the range asked for goes on after ToSeq. ToSeq is FromSeq-1 if there is nothing
// yet to answer for. The page's messages lie in buf, from its beginning on, if it has room for them.
func (s *Service) Sync(ctx context.Context, o *packet.Origin, conv id.ConversationID, from, to uint64, limit int, buf []byte) (packet.Page, error) {
	p := packet.Page{Conversation: conv, FromSeq: max(from, 1), ToSeq: to}
	err := s.readMine(ctx, o.User, &p, func(l *msgstore.Log, intervals []msgstore.Interval) error {
		return s.syncPage(l, &p, intervals, pageLimit(limit, DefaultPage, MaxPage), buf)
	})
	if err != nil {
		return packet.Page{}, err
	}
	return p, nil
}

// readMine calls fn with the log of p's conversation and the intervals in which it is user's to read, and
// fills in p.Users. It refuses a stranger as if there were no such conversation.
func (s *Service) readMine(ctx context.Context, user id.UserID, p *packet.Page, fn func(l *msgstore.Log, intervals []msgstore.Interval) error) error {
	conv := p.Conversation
	var r *roster
	var m *msgstore.MemberOf
	if conv.Kind() == id.KindRoom && s.cfg.Rooms != nil {
		if err := s.cfg.Rooms.MayRead(ctx, conv, user); err != nil {
			return msgstore.Refusal(err)
		}
		r, m = &roster{conv: conv}, everything
	} else if conv.Kind() == id.KindGroup {
		var err error
		if r, m, err = s.mine(ctx, user, conv); err != nil {
			return err
		}
	} else {
		r, _ = s.rosters.get(convHash(conv), conv)
	}
	err := s.timeline.Read(ctx, conv, func(l *msgstore.Log) error {
		if m == nil {
			var err error
			if r == nil { // read here, who is in it costs little
				r, err = s.rosterOf(l, conv)
			}
			if err == nil {
				m, err = r.mine(user)
			}
			if err != nil {
				return err
			}
		}
		p.Users = r.both
		return fn(l, m.Intervals)
	})
	if err != nil {
		return msgstore.Refusal(err)
	}
	return nil
}

// everything is the membership of whoever may read all there is.
var everything = &msgstore.MemberOf{Member: msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}}}

// syncPage fills in p, which says what is asked for.
func (s *Service) syncPage(l *msgstore.Log, p *packet.Page, intervals []msgstore.Interval, limit int, buf []byte) error {
	head, err := l.Head()
	if err != nil {
		return err
	}
	p.FirstSeq, p.LastSeq = head.FirstSeq, head.LastSeq
	from, to := p.FromSeq, p.ToSeq
	if to == 0 || to > head.LastSeq {
		to = head.LastSeq
	}
	p.ToSeq = to
	if from > to {
		p.ToSeq = from - 1
		return nil
	}
	for i, iv := range intervals {
		lo, hi := max(from, iv.Joined), min(to, lastOf(iv.Left))
		if lo > hi {
			continue
		}
		messages, _, last, err := l.Range(buf, lo, hi, limit, s.cfg.PageBytes)
		if err != nil {
			return err
		}
		if last < lo {
			return code.Newf(code.Internal, "message %d of the conversation is missing", lo)
		}
		p.Messages = messages
		if last < hi {
			p.ToSeq = last
		} else if i+1 < len(intervals) && len(messages) > 0 {
			// One stretch a page, up to where the next begins: what lies between is not o's.
			p.ToSeq = min(to, intervals[i+1].Joined-1)
		}
		if len(messages) > 0 || last < hi {
			break
		}
	}
	p.More = p.ToSeq < to
	return nil
}

// lastOf turns Interval.Left into the last seq of the interval.
func lastOf(left uint64) uint64 {
	if left == 0 {
		return math.MaxUint64
	}
	return left
}

// History returns the newest messages of conv below before (0: all), in ascending
// order: at most limit (0: DefaultPage, at most MaxPage), as many as fit. More: there
// are older ones. The page's messages lie in buf, from its beginning on, if it has room for them.
func (s *Service) History(ctx context.Context, o *packet.Origin, conv id.ConversationID, before uint64, limit int, buf []byte) (packet.Page, error) {
	p := packet.Page{Conversation: conv}
	err := s.readMine(ctx, o.User, &p, func(l *msgstore.Log, intervals []msgstore.Interval) error {
		return s.historyPage(l, &p, intervals, before, pageLimit(limit, DefaultPage, MaxPage), buf)
	})
	if err != nil {
		return packet.Page{}, err
	}
	return p, nil
}

// historyPage fills in p.
func (s *Service) historyPage(l *msgstore.Log, p *packet.Page, intervals []msgstore.Interval, before uint64, limit int, buf []byte) error {
	// The messages first: the head lies behind them.
	var messages []byte
	var first uint64
	asked := before - 1
	known := false
	if before > 1 && len(intervals) == 1 && intervals[0].Left == 0 {
		messages, first, known = l.Page(buf, asked, limit, s.cfg.PageBytes)
	}
	head, err := l.Head()
	if err != nil {
		return err
	}
	if before == 0 || before > head.LastSeq {
		before = head.LastSeq + 1
	}
	p.FromSeq, p.ToSeq, p.FirstSeq, p.LastSeq = before, before-1, head.FirstSeq, head.LastSeq
	for i := len(intervals) - 1; i >= 0; i-- {
		iv := intervals[i]
		lo, hi := max(head.FirstSeq, iv.Joined), min(before-1, lastOf(iv.Left))
		if lo > hi {
			continue
		}
		if len(p.Messages) > 0 {
			p.More = true
			break
		}
		last := asked
		if !known || hi != asked || first < lo {
			n := int(min(uint64(limit), hi-lo+1))
			if messages, first, last, err = l.Before(buf, hi+1, n, s.cfg.PageBytes); err != nil {
				return err
			}
		}
		if len(messages) == 0 {
			continue // retention took them
		}
		p.Messages, p.FromSeq, p.ToSeq = messages, first, last
		if first > lo {
			p.More = true
			break
		}
	}
	return nil
}
