package conversation

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// mentions counts what is unread above c.ReadSeq, as unread does, and mentions the user,
// or everyone. unread is that count: where it is 0 there is nothing to look for.
func (s *Service) mentions(ctx context.Context, k cursorKey, c *msgstore.Cursor, head *msgstore.Head, who *msgstore.MemberOf, unread uint32) (uint32, error) {
	if unread == 0 {
		return 0, nil
	}
	at, to := unreadRange(c, head, who)
	quiet, _ := s.tallies.get(k.hash(), k) // nothing unread lies there, whoever is mentioned
	n := 0
	for at < to && n < UnreadCap {
		next, end := quiet.jump(at, to)
		if next < end {
			seqs, err := s.timeline.Mentioning(ctx, k.conv, k.user, next+1, end, true, UnreadCap-n)
			if err != nil {
				return 0, err
			}
			n += len(seqs)
		}
		at = max(next, end)
	}
	return uint32(n), nil
}

// counted is the cursor of k, at least where m says it is, with what is unread above it.
func (s *Service) counted(ctx context.Context, k cursorKey, m pushed, who *msgstore.MemberOf) (*wire.Cursors, error) {
	head, _, err := s.timeline.Head(ctx, k.conv)
	if err != nil {
		return nil, err
	}
	// The countable number isn't known here: 0 only costs a count.
	c := msgstore.Cursor{ReadSeq: m.read, RecvSeq: m.recv}
	out := &wire.Cursors{ReadSeq: m.read, RecvSeq: m.recv, LastSeq: head.LastSeq}
	if out.Unread, err = s.unread(ctx, k, &c, &head, who); err != nil {
		return nil, err
	}
	out.Mentions, err = s.mentions(ctx, k, &c, &head, who, out.Unread)
	return out, err
}

// Mentions returns the seqs above after of messages in conv that o's user may see, that
// mention the user, or everyone, and that somebody else sent: ascending, at most limit
// (0: DefaultPage, at most MaxPage). more: there are others above the last one.
func (s *Service) Mentions(ctx context.Context, o *packet.Origin, conv id.ConversationID, after uint64, limit int) (seqs []uint64, more bool, err error) {
	_, who, err := s.mine(ctx, o.User, conv)
	if err != nil {
		return nil, false, err
	}
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return nil, false, msgstore.Refusal(err)
	}
	limit = pageLimit(limit, DefaultPage, MaxPage)
	for _, iv := range who.Intervals {
		from := max(iv.Joined, head.FirstSeq)
		if after >= from {
			from = after + 1 // not above MaxUint64: from is then above to
		}
		to := min(head.LastSeq, lastOf(iv.Left))
		if after >= to || from > to || len(seqs) > limit {
			continue
		}
		found, err := s.timeline.Mentioning(ctx, conv, o.User, from, to, false, limit+1-len(seqs))
		if err != nil {
			return nil, false, msgstore.Refusal(err)
		}
		seqs = append(seqs, found...)
	}
	if len(seqs) > limit {
		return seqs[:limit], true, nil
	}
	return seqs, false, nil
}

// AnswerMentions answers the method MENTIONS.
func (s *Service) AnswerMentions(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.MentionsRequest
	if err := packet.DecodeMethod(packet.MethodMentions, inner, &r); err != nil {
		return nil, err
	}
	seqs, more, err := s.Mentions(ctx, o, id.ConversationID(r.ConversationId), r.AfterSeq, int(min(r.Limit, MaxPage)))
	if err != nil {
		return nil, err
	}
	ans := &wire.MentionsResponse{More: more}
	for _, seq := range seqs {
		ans.Mentions = append(ans.Mentions, &wire.ConversationSeq{ConversationId: r.ConversationId, Seq: seq})
	}
	return ans, nil
}
