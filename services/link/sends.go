package link

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// SENDs cross in an encoding of their own, since they are what a cluster is busy with. A request is
//
//	number of lanes, number of messages, then each lane:
//	flags, conn (8 bytes), user, device (each a length of one byte before it), number of messages, then each message:
//	flags, request id, age in µs, [trace id (16 bytes)], length of the body, body
//
// where the body is that of a SEND frame. A reply is, for each lane of which the outcome is known,
//
//	its number in the request, then either 1, id and address of the right node (each a length of one byte before it),
//	or 0 and the outcome of each message:
//	0 or 1 (duplicate), seq, message id (8 bytes)
//	2 or 3 (Unlaned), code, retry-after in ms, length of the text, text
//
// Numbers are varints, fixed ones little-endian.

// laneInsists is the flag of a lane that its owner is to take although it sees another one.
const laneInsists = 1

// Flags of a message.
const (
	flagResend = 1 << iota
	flagInteractive
	flagTrace
)

// Kinds of outcomes.
const (
	outAcked = iota
	outDuplicate
	outRefused
	outUnlaned
)

// errSends is told of bytes that no node of this version writes.
var errSends = errors.New("the SENDs of a call can't be read")

// AppendSends begins a request.
func AppendSends(dst []byte, lanes, messages int) []byte {
	dst = binary.AppendUvarint(dst, uint64(lanes))
	return binary.AppendUvarint(dst, uint64(messages))
}

// AppendLane begins a lane of n messages, at least one. insist: see node.Call.
func AppendLane(dst []byte, o *packet.Origin, n int, insist bool) []byte {
	flags := byte(0)
	if insist {
		flags = laneInsists
	}
	dst = append(dst, flags)
	dst = binary.LittleEndian.AppendUint64(dst, o.Conn)
	dst = appendName(dst, string(o.User))
	dst = appendName(dst, string(o.Device))
	return binary.AppendUvarint(dst, uint64(n))
}

func appendName(dst []byte, s string) []byte { return append(append(dst, byte(len(s))), s...) }

// AppendSend appends one message of a lane. now is trace.Now.
func AppendSend(dst []byte, p *packet.Pending, now int64) []byte {
	var flags byte
	if p.Resend {
		flags |= flagResend
	}
	if p.Interactive {
		flags |= flagInteractive
	}
	if p.Trace != nil {
		flags |= flagTrace
	}
	dst = binary.AppendUvarint(append(dst, flags), uint64(p.ReqID))
	age := int64(0)
	if p.At > 0 {
		age = max(now-p.At, 0) / int64(time.Microsecond)
	}
	dst = binary.AppendUvarint(dst, uint64(age))
	if p.Trace != nil {
		dst = append(dst, p.Trace[:]...)
	}
	size := len(p.Tail) + 18
	if p.Conversation.IsZero() {
		size = len(p.Tail) + 2 + len(p.ToUser)
	}
	if p.SeenSeq != 0 {
		size += 1 + uvarintLen(p.SeenSeq)
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	if p.Conversation.IsZero() { // a user's name is shorter than 128 bytes
		dst = append(append(dst, 2<<3|2, byte(len(p.ToUser))), p.ToUser...)
	} else {
		dst = append(append(dst, 1<<3|2, 16), p.Conversation[:]...)
	}
	if p.SeenSeq != 0 {
		dst = binary.AppendUvarint(append(dst, 3<<3), p.SeenSeq)
	}
	return append(dst, p.Tail...)
}

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// reader reads what the functions above wrote; bad is set once something is missing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) name() []byte { return r.take(uint64(r.byte())) }

func (r *reader) fixed64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Lane is what a request brings of one connection to one target, in order.
type Lane struct {
	Messages []packet.Pending // without Reply
	Insist   bool
	Invalid  *code.Error // why none of them can be acted on; nil: they can
}

// limits are the highest that may be configured: the edge has checked the cluster's own.
var limits = packet.Limits{MaxContent: packet.HardMaxContent + 1<<16, MaxExt: 1 << 16, MaxMentions: 1 << 16}

// minSend and minLane are the least bytes that a message and a lane take.
const (
	minSend = 24
	minLane = 13 + minSend
)

// ParseSends reads a request. What it returns aliases b, which must not be written to from then on; lanes lie in one slab and
// so do their messages. now is trace.Now.
func ParseSends(b []byte, now int64) ([]Lane, error) {
	r := reader{b: b}
	lanes, count := r.uvarint(), r.uvarint()
	if r.bad || lanes > uint64(len(b)/minLane) || count > uint64(len(b)/minSend) {
		return nil, errSends
	}
	out := make([]Lane, lanes)
	msgs := make([]packet.Pending, count)
	origins := make([]packet.Origin, lanes)
	for i := range out {
		o := &origins[i]
		out[i].Insist = r.byte()&laneInsists != 0
		o.Conn = r.fixed64()
		user, device := r.name(), r.name()
		names := string(append(append(make([]byte, 0, 128), user...), device...)) // one string for both
		o.User, o.Device = id.UserID(names[:len(user)]), id.DeviceID(names[len(user):])
		n := r.uvarint()
		if r.bad || n == 0 || n > uint64(len(msgs)) || !o.User.Valid() || o.Device != "" && !o.Device.Valid() {
			return nil, errSends
		}
		out[i].Messages, msgs = msgs[:n:n], msgs[n:]
		for j := range out[i].Messages {
			p := &out[i].Messages[j]
			flags := r.byte()
			reqID, age := r.uvarint(), r.uvarint()
			var tr *trace.ID
			if flags&flagTrace != 0 {
				if t := r.take(trace.Size); t != nil {
					tr = (*trace.ID)(t)
				}
			}
			body := r.take(r.uvarint())
			if r.bad {
				return nil, errSends
			}
			if err := packet.DecodeSend(&p.Send, body, &limits); err != nil && out[i].Invalid == nil {
				out[i].Invalid = err
			}
			p.From, p.ReqID, p.Trace = o, uint32(reqID), tr
			p.Resend, p.Interactive = flags&flagResend != 0, flags&flagInteractive != 0
			p.At = max(now-int64(min(age, 1<<40))*int64(time.Microsecond), 1)
			if q := &out[i].Messages[0]; q.Conversation != p.Conversation || q.ToUser != p.ToUser {
				return nil, errSends
			}
		}
	}
	if len(r.b) > 0 || len(msgs) > 0 {
		return nil, errSends
	}
	return out, nil
}

// Conversation is the lane's conversation, computed if its messages name a user.
func (l *Lane) Conversation() id.ConversationID {
	p := &l.Messages[0]
	if p.Conversation.IsZero() {
		return id.Direct(p.From.User, p.ToUser)
	}
	return p.Conversation
}

// Outcome is what became of one message: Err, or Ack if that is nil. Of Ack the conversation doesn't cross.
type Outcome struct {
	Ack     packet.Ack
	Err     *code.Error
	Unlaned bool
}

// AppendWrong answers for lane i that another node is responsible.
func AppendWrong(dst []byte, i int, right Node) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(i)), 1)
	return appendName(appendName(dst, right.ID), right.Addr)
}

// AppendOutcomes answers for lane i.
func AppendOutcomes(dst []byte, i int, outs []Outcome) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(i)), 0)
	for j := range outs {
		o := &outs[j]
		if o.Err == nil {
			kind := byte(outAcked)
			if o.Ack.Duplicate {
				kind = outDuplicate
			}
			dst = binary.AppendUvarint(append(dst, kind), o.Ack.Seq)
			dst = binary.LittleEndian.AppendUint64(dst, uint64(o.Ack.MessageID))
			continue
		}
		kind := byte(outRefused)
		if o.Unlaned {
			kind = outUnlaned
		}
		text := o.Err.Reason
		if len(text) > maxText {
			text = text[:maxText]
		}
		dst = binary.AppendUvarint(append(dst, kind), uint64(o.Err.Code))
		dst = binary.AppendUvarint(dst, uint64((o.Err.RetryAfter+time.Millisecond-1)/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	return dst
}

// Outcomes reads a reply, lane by lane.
type Outcomes struct{ r reader }

// ReadOutcomes returns what reads b.
func ReadOutcomes(b []byte) Outcomes { return Outcomes{reader{b: b}} }

// Next returns the number of the next lane, and the right node if it was sent to a wrong one; ok is false at
// the end, and where the reply can't be read. Otherwise Outcome is to be called for each of the lane's messages.
func (o *Outcomes) Next() (lane int, wrong bool, right Node, ok bool) {
	if len(o.r.b) == 0 {
		return 0, false, right, false
	}
	n := o.r.uvarint()
	if kind := o.r.byte(); kind == 1 {
		wrong = true
		right.ID = string(o.r.name())
		right.Addr = string(o.r.name())
	} else if kind != 0 {
		o.r.bad = true
	}
	if o.r.bad || n > 1<<30 {
		return 0, false, right, false
	}
	return int(n), wrong, right, true
}

// Outcome returns the outcome of the lane's next message; false: the reply can't be read.
func (o *Outcomes) Outcome() (out Outcome, ok bool) {
	switch kind := o.r.byte(); kind {
	case outAcked, outDuplicate:
		out.Ack = packet.Ack{Seq: o.r.uvarint(), MessageID: id.MessageID(o.r.fixed64()), Duplicate: kind == outDuplicate}
	case outRefused, outUnlaned:
		e := &code.Error{Code: code.Code(o.r.uvarint())}
		e.RetryAfter = time.Duration(min(o.r.uvarint(), 1<<32)) * time.Millisecond
		e.Reason = string(o.r.take(o.r.uvarint()))
		out.Err, out.Unlaned = e, kind == outUnlaned
	default:
		o.r.bad = true
	}
	return out, !o.r.bad
}
