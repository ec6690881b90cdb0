package load

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// bringing is where bringing the members in has got to.
type bringing struct {
	request uint32
	change  uint64 // seq of the last message that tells of it
	next    int    // the first member that hasn't been brought in
	upTo    int    // that the request under way brings in
}

// requestRoom is what a request that names users holds besides, at most.
const requestRoom = 8 << 10

// make lets the first member make the group and bring in all others, who are online.
func (r *groupRun) make(ctx context.Context, res *GroupResult) error {
	r.phase = making
	began := r.loop.Now()
	r.ask()
	for seen, at := r.bring, began; r.bring.next < r.Members; {
		if err := r.poll(ctx, r.pace()); err != nil {
			return err
		}
		if r.bring != seen {
			seen, at = r.bring, r.loop.Now()
		}
		if r.loop.Now()-at > int64(openPatience) {
			return failure("the group has %d of %d members, and no answer comes", r.bring.next, r.Members)
		}
	}
	res.Making = float64(r.loop.Now()-began) / 1e9
	for i := range r.lanes {
		l := &r.lanes[i]
		t, err := newTemplate(r.Body, r.salt, i, func(m *wire.Send) { m.ConversationId = r.conv[:] })
		if err != nil {
			return err
		}
		l.template = t
	}
	return nil
}

// ask sends the next request, as many users as fit.
func (r *groupRun) ask() {
	m := &r.members[0]
	r.bring.request++
	r.bring.upTo = max(r.bring.next, 1)
	var users []string
	for bytes := 0; r.bring.upTo < r.Members && len(users) < packet.MaxGroupUsers; r.bring.upTo++ {
		u := r.members[r.bring.upTo].user
		if bytes += len(u) + 3; bytes > packet.MaxUsersBody-requestRoom {
			break
		}
		users = append(users, u)
	}
	var out []byte
	var err error
	if r.conv.IsZero() {
		// Under a key: asking again, after an answer that never came, finds the same group.
		out, err = packet.AppendRequest(m.Out, r.bring.request, packet.MethodGroupCreate,
			&wire.GroupCreateRequest{Name: "bench", Key: fmt.Sprintf("%s-%04x", m.user, r.salt), UserIds: users})
	} else {
		out, err = packet.AppendRequest(m.Out, r.bring.request, packet.MethodGroupAdd, &wire.GroupUsersRequest{ConversationId: r.conv[:], UserIds: users})
	}
	if err != nil {
		r.fail(fmt.Errorf("encode a request: %w", err))
		return
	}
	m.Out = out
	m.Flush()
}

// made takes the answer.
func (r *groupRun) made(f *frame.Frame) {
	method, inner, err := packet.DecodeResponse(f.Body)
	ans := new(wire.GroupChangeResponse)
	if err == nil {
		err = packet.DecodeAnswer(method, inner, ans)
	}
	conv, named := conversationOf(ans.ConversationId)
	if err != nil || f.ReqID != r.bring.request || !named || r.phase != making {
		r.fail(fmt.Errorf("an answer to request %d, of %d: %w", f.ReqID, r.bring.request, asError(err)))
		return
	}
	if n := len(ans.Refused); n > 0 {
		r.fail(fmt.Errorf("%d users were not brought into the group, the first, %s, with code %d", n, ans.Refused[0].UserId, ans.Refused[0].Code))
		return
	}
	r.conv = conv
	r.bring.next = r.bring.upTo
	if r.bring.next < r.Members {
		r.bring.change = max(r.bring.change, ans.Seq)
		r.ask()
		return
	}
	r.base = max(r.bring.change, ans.Seq, 1)
}
