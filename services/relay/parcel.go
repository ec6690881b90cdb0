package relay

import (
	"encoding/binary"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// What comes to an edge is a stream of parcels, each begins with its kind. Numbers are never reused.
const (
	parcelFrame    = 1  // flags, frame, n as 4 bytes, connections
	parcelUsers    = 2  // but, frame, users
	parcelOpen     = 3  // conversation
	parcelEnd      = 4  // conversation
	parcelJoin     = 5  // conversation, users
	parcelLeave    = 6  // conversation, users
	parcelAudience = 7  // conversation, last, flags, n, for each the length of its frame and whom it isn't for, frames
	parcelHint     = 8  // n, connections; 0: all
	parcelClear    = 9  // nothing: all audiences end
	parcelRoom     = 10 // conversation, n, for each the length of its frame and whom it isn't for, frames
	parcelTell     = 11 // connections a second, frame
)

const (
	flagLazy  = 1
	flagFlush = 1
)

// Beside the stream stand the orders that an edge must get, each until it says that it has.
const (
	orderClose  = 1 // connection, code, text
	orderRevoke = 2 // user, device, second until which, text
	orderEject  = 3 // conversation, user
)

// letter is one call of an edge: who calls, what it must do, and a stretch of the caller's stream.
//
//	node id, its start, stream, number of the first parcel, parcels in it
//	n, orders
//	parcels
type letter struct {
	node   string
	start  uint64
	stream uint64
	first  uint64 // number of the first parcel; they count from 1
	count  uint64
	orders []byte
	nOrder uint64
	body   []byte
}

func (l *letter) append(dst []byte) []byte {
	dst = appendString(dst, l.node)
	for _, n := range [...]uint64{l.start, l.stream, l.first, l.count, l.nOrder} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = appendString(dst, l.orders)
	return append(dst, l.body...)
}

func readLetter(b []byte) (l letter, err error) {
	r := reader{b: b}
	l.node = r.string()
	for _, p := range [...]*uint64{&l.start, &l.stream, &l.first, &l.count, &l.nOrder} {
		*p = r.number()
	}
	l.orders = r.bytes()
	l.body = r.b
	if l.node == "" || l.stream == 0 || l.first == 0 {
		r.fail()
	}
	return l, r.err
}

// receipt is an edge's answer.
type receipt struct {
	lost  bool   // the stream doesn't follow what the edge has of it: it begins anew
	seats uint64 // connections in all audiences of the caller
	// heard are the audiences that something was delivered to, and how many connections that were.
	heard []heard
}

type heard struct {
	conv        id.ConversationID
	connections uint64
}

func (r *receipt) append(dst []byte) []byte {
	lost := byte(0)
	if r.lost {
		lost = 1
	}
	dst = binary.AppendUvarint(append(dst, lost), r.seats)
	dst = binary.AppendUvarint(dst, uint64(len(r.heard)))
	for _, h := range r.heard {
		dst = binary.AppendUvarint(append(dst, h.conv[:]...), h.connections)
	}
	return dst
}

func readReceipt(b []byte) (out receipt, err error) {
	r := reader{b: b}
	out.lost = r.byte() != 0
	out.seats = r.number()
	for range r.count(17) {
		out.heard = append(out.heard, heard{r.conversation(), r.number()})
	}
	return out, r.err
}

// post is what parcels are for: an edge. What is handed to it is good until it returns.
type post interface {
	frame(conns []uint64, frame []byte, lazily bool)
	users(users []id.UserID, frame []byte, but uint64)
	open(conv id.ConversationID)
	end(conv id.ConversationID)
	join(conv id.ConversationID, users []id.UserID)
	leave(conv id.ConversationID, users []id.UserID)
	audience(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool)
	hint(conns []uint64) // none: all
	room(conv id.ConversationID, frames []byte, ends []int, but []uint64)
	tell(perSecond int, frame []byte)
	clear()
}

// deal hands the parcels of body to p, but for the first skip of them.
func deal(body []byte, skip uint64, p post) error {
	r := reader{b: body}
	var conns, but []uint64
	var ends []int
	for len(r.b) > 0 {
		kind := r.byte()
		var do func()
		switch kind {
		case parcelFrame:
			lazily := r.byte()&flagLazy != 0
			f := r.bytes()
			conns = r.conns(conns[:0])
			do = func() { p.frame(conns, f, lazily) }
		case parcelUsers:
			b := r.conn()
			f := r.bytes()
			us := r.users()
			do = func() { p.users(us, f, b) }
		case parcelOpen:
			conv := r.conversation()
			do = func() { p.open(conv) }
		case parcelEnd:
			conv := r.conversation()
			do = func() { p.end(conv) }
		case parcelJoin:
			conv := r.conversation()
			us := r.users()
			do = func() { p.join(conv, us) }
		case parcelLeave:
			conv := r.conversation()
			us := r.users()
			do = func() { p.leave(conv, us) }
		case parcelAudience:
			conv := r.conversation()
			last, flush := r.number(), r.byte()&flagFlush != 0
			var frames []byte
			frames, ends, but = r.frames(ends[:0], but[:0])
			do = func() { p.audience(conv, last, frames, ends, but, flush) }
		case parcelHint:
			conns = r.conns(conns[:0])
			do = func() { p.hint(conns) }
		case parcelClear:
			do = p.clear
		case parcelRoom:
			conv := r.conversation()
			var frames []byte
			frames, ends, but = r.frames(ends[:0], but[:0])
			do = func() { p.room(conv, frames, ends, but) }
		case parcelTell:
			perSecond := r.number()
			f := r.bytes()
			do = func() { p.tell(int(min(perSecond, 1<<30)), f) }
		default:
			return errUnknown
		}
		if r.err != nil {
			return r.err
		}
		if skip > 0 {
			skip--
			continue
		}
		do()
	}
	return nil
}

// frames reads frames, where each ends, and whom it isn't for; the latter are appended.
func (r *reader) frames(ends []int, but []uint64) ([]byte, []int, []uint64) {
	at := uint64(0)
	for range r.count(9) {
		at += r.number()
		if at > uint64(len(r.b)) {
			r.fail()
			break
		}
		ends, but = append(ends, int(at)), append(but, r.conn())
	}
	all := r.bytes()
	if uint64(len(all)) != at {
		r.fail()
	}
	return all, ends, but
}

// conns reads a list of connections, the number of which has 4 bytes.
func (r *reader) conns(dst []uint64) []uint64 {
	if len(r.b) < 4 {
		r.fail()
		return dst
	}
	n := int(binary.BigEndian.Uint32(r.b))
	r.b = r.b[4:]
	if n > len(r.b)/8 {
		r.fail()
		return dst
	}
	for range n {
		dst = append(dst, r.conn())
	}
	return dst
}

func appendConns(dst []byte, conns []uint64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(conns)))
	for _, c := range conns {
		dst = appendConn(dst, c)
	}
	return dst
}

func appendAudience(dst []byte, conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) []byte {
	dst = append(append(dst, parcelAudience), conv[:]...)
	dst = binary.AppendUvarint(dst, last)
	flags := byte(0)
	if flush {
		flags = flagFlush
	}
	return appendFrames(append(dst, flags), frames, ends, but)
}

func appendFrames(dst, frames []byte, ends []int, but []uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ends)))
	from := 0
	for i, end := range ends {
		dst = appendConn(binary.AppendUvarint(dst, uint64(end-from)), but[i])
		from = end
	}
	return appendString(dst, frames[:from])
}

// Revocation says whose connections are to be closed: those of a device, or all if it is empty, that were
// opened in the second of Until or before.
type Revocation struct {
	User   id.UserID
	Device id.DeviceID
	Until  time.Time
	Why    string
}

func (v *Revocation) append(dst []byte) []byte {
	dst = appendString(appendString(append(dst, orderRevoke), v.User), v.Device)
	dst = binary.AppendUvarint(dst, uint64(max(v.Until.Unix(), 0)))
	return appendString(dst, v.Why)
}

func (r *reader) revocation() Revocation {
	return Revocation{id.UserID(r.string()), id.DeviceID(r.string()), time.Unix(int64(r.number()), 0), r.string()}
}

func appendClose(dst []byte, conn uint64, why *code.Error) []byte {
	dst = appendConn(append(dst, orderClose), conn)
	return appendString(binary.AppendUvarint(dst, uint64(why.Code)), why.Reason)
}

// obey reads orders and calls what they are for.
func obey(orders []byte, shut func(conn uint64, why *code.Error), revoke func(Revocation), eject func(id.ConversationID, id.UserID)) error {
	r := reader{b: orders}
	for len(r.b) > 0 {
		switch r.byte() {
		case orderClose:
			conn := r.conn()
			why := code.Newf(code.Code(r.number()), "%s", r.string())
			if r.err == nil {
				shut(conn, why)
			}
		case orderRevoke:
			if v := r.revocation(); r.err == nil {
				revoke(v)
			}
		case orderEject:
			conv, user := r.conversation(), id.UserID(r.string())
			if r.err == nil {
				eject(conv, user)
			}
		default:
			return errUnknown
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}
