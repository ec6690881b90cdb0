package conversation

import (
	"context"
	"math"

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
// yet to answer for.
func (s *Service) Sync(ctx context.Context, o *packet.Origin, conv id.ConversationID, from, to uint64, limit int) (packet.Page, error) {
	r, m, err := s.mine(ctx, o.User, conv)
	if err != nil {
		return packet.Page{}, err
	}
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return packet.Page{}, unavailable(err)
	}
	from = max(from, 1)
	if to == 0 || to > head.LastSeq {
		to = head.LastSeq
	}
	p := packet.Page{Conversation: conv, Users: r.both, FromSeq: from, ToSeq: to, FirstSeq: head.FirstSeq, LastSeq: head.LastSeq}
	if from > to {
		p.ToSeq = from - 1
		return p, nil
	}
	limit = pageLimit(limit, DefaultPage, MaxPage)
	for i, iv := range m.Intervals {
		lo, hi := max(from, iv.Joined), min(to, lastOf(iv.Left))
		if lo > hi {
			continue
		}
		messages, _, last, err := s.timeline.Range(ctx, conv, lo, hi, limit, s.cfg.PageBytes)
		if err != nil {
			return packet.Page{}, unavailable(err)
		}
		if last < lo {
			return packet.Page{}, code.Newf(code.Internal, "message %d of the conversation is missing", lo)
		}
		p.Messages = messages
		if last < hi {
			p.ToSeq = last
		} else if i+1 < len(m.Intervals) && len(messages) > 0 {
			// One stretch a page, up to where the next begins: what lies between is not o's.
			p.ToSeq = min(to, m.Intervals[i+1].Joined-1)
		}
		if len(messages) > 0 || last < hi {
			break
		}
	}
	p.More = p.ToSeq < to
	return p, nil
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
// are older ones.
func (s *Service) History(ctx context.Context, o *packet.Origin, conv id.ConversationID, before uint64, limit int) (packet.Page, error) {
	r, m, err := s.mine(ctx, o.User, conv)
	if err != nil {
		return packet.Page{}, err
	}
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return packet.Page{}, unavailable(err)
	}
	if before == 0 || before > head.LastSeq {
		before = head.LastSeq + 1
	}
	p := packet.Page{Conversation: conv, Users: r.both, FromSeq: before, ToSeq: before - 1, FirstSeq: head.FirstSeq, LastSeq: head.LastSeq}
	limit = pageLimit(limit, DefaultPage, MaxPage)
	for i := len(m.Intervals) - 1; i >= 0; i-- {
		iv := m.Intervals[i]
		lo, hi := max(head.FirstSeq, iv.Joined), min(before-1, lastOf(iv.Left))
		if lo > hi {
			continue
		}
		if len(p.Messages) > 0 {
			p.More = true
			break
		}
		n := int(min(uint64(limit), hi-lo+1))
		messages, first, last, err := s.timeline.Before(ctx, conv, hi+1, n, s.cfg.PageBytes)
		if err != nil {
			return packet.Page{}, unavailable(err)
		}
		if len(messages) == 0 {
			continue // retention was faster
		}
		p.Messages, p.FromSeq, p.ToSeq = messages, first, last
		if first > lo {
			p.More = true
			break
		}
	}
	return p, nil
}
