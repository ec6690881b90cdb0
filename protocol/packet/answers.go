package packet

import (
	"encoding/binary"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// AppendSendAck appends a whole SENDACK frame. withConversation is for SENDs that named a user.
func AppendSendAck(dst []byte, reqID uint32, a Ack, withConversation bool) []byte {
	size := varintLen(a.Seq) + 9
	if withConversation {
		size += 18
	}
	if a.Duplicate {
		size += 2
	}
	dst = frame.AppendHeader(dst, frame.SendAck, frame.FlagRequestID, reqID, size)
	dst = appendVarint(dst, 1, a.Seq)
	dst = append(dst, 2<<3|wtFixed64)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(a.MessageID))
	if withConversation {
		dst = append(dst, 3<<3|wtBytes, 16)
		dst = append(dst, a.Conversation[:]...)
	}
	if a.Duplicate {
		dst = append(dst, 4<<3|wtVarint, 1)
	}
	return dst
}

// DecodeSendAck reads the body of a SENDACK; Conversation is zero unless it is in it. No allocation.
func DecodeSendAck(body []byte) (a Ack, err *code.Error) {
	for len(body) > 0 {
		f, n := next(body)
		if n == 0 {
			return a, malformed("sendack")
		}
		body = body[n:]
		ok := true
		switch f.num {
		case 1:
			a.Seq, ok = f.val, f.wt == wtVarint
		case 2:
			a.MessageID, ok = id.MessageID(f.val), f.wt == wtFixed64
		case 3:
			if ok = f.wt == wtBytes && len(f.data) == 16; ok {
				a.Conversation = id.ConversationID(f.data)
			}
		case 4:
			a.Duplicate, ok = f.val != 0, f.wt == wtVarint
		}
		if !ok {
			return a, malformed("sendack")
		}
	}
	return a, nil
}

// maxReason bounds the reason of an ERROR in bytes.
const maxReason = 256

// errorLen is the length of the body that appendErrorBody writes.
func errorLen(e *code.Error, conv id.ConversationID) int {
	n := varintLen(uint64(e.Code)) + varintLen(retryMillis(e))
	if r := cut(e.Reason, maxReason); r != "" {
		n += bytesLen(len(r))
	}
	if !conv.IsZero() {
		n += 18
	}
	return n
}

func appendErrorBody(dst []byte, e *code.Error, conv id.ConversationID) []byte {
	dst = appendVarint(dst, 1, uint64(e.Code))
	if r := cut(e.Reason, maxReason); r != "" {
		dst = appendBytes(dst, 2, r)
	}
	dst = appendVarint(dst, 3, retryMillis(e))
	if !conv.IsZero() {
		dst = append(dst, 4<<3|wtBytes, 16)
		dst = append(dst, conv[:]...)
	}
	return dst
}

func retryMillis(e *code.Error) uint64 {
	d := e.RetryAfter
	if d == 0 {
		d = e.Code.RetryAfter()
	}
	if d < 0 {
		return 0
	}
	return min(uint64(d/time.Millisecond), 1<<32-1)
}

// AppendError appends a whole ERROR frame: the answer to the request reqID if hasReq, else
// the reason why the connection is about to be closed. conv is zero unless the error is of a lane.
func AppendError(dst []byte, reqID uint32, hasReq bool, e *code.Error, conv id.ConversationID) []byte {
	var flags frame.Flags
	if hasReq {
		flags = frame.FlagRequestID
	}
	dst = frame.AppendHeader(dst, frame.Error, flags, reqID, errorLen(e, conv))
	return appendErrorBody(dst, e, conv)
}

// AppendDeliver appends a whole DELIVER frame around messages, elements of the repeated
// field one after the other (AppendMessage, or a stored segment). users are both users
// of a direct conversation, sorted; nil for others.
func AppendDeliver(dst []byte, conv id.ConversationID, users []id.UserID, messages []byte) []byte {
	size := 18 + len(messages)
	for _, u := range users {
		size += bytesLen(len(u))
	}
	dst = frame.AppendHeader(dst, frame.Deliver, 0, 0, size)
	dst = appendConversation(dst, conv, users)
	return append(dst, messages...)
}

// AppendRoomDeliver is AppendDeliver for a room: the frame says that what is missing isn't to be pulled, and
// how many messages before these were left out.
func AppendRoomDeliver(dst []byte, conv id.ConversationID, leftOut uint64, messages []byte) []byte {
	dst = frame.AppendHeader(dst, frame.Deliver, frame.FlagNeverPull, 0, 18+varintLen(leftOut)+len(messages))
	dst = appendVarint(appendConversation(dst, conv, nil), 3, leftOut)
	return append(dst, messages...)
}

// DeliverLeftOut returns what the body of a DELIVER, which DecodeDeliver could read, says was left out before its messages.
func DeliverLeftOut(body []byte) (n uint64) {
	for i := 0; i < len(body); {
		f, size := next(body[i:])
		if size == 0 || f.num == 8 {
			break
		}
		if f.num == 3 && f.wt == wtVarint {
			n = f.val
		}
		i += size
	}
	return n
}

// appendConversation appends fields 1 and 2 of DELIVER and SYNCED.
func appendConversation(dst []byte, conv id.ConversationID, users []id.UserID) []byte {
	dst = append(dst, 1<<3|wtBytes, 16)
	dst = append(dst, conv[:]...)
	for _, u := range users {
		dst = appendBytes(dst, 2, string(u))
	}
	return dst
}

// DecodeDeliver reads the body of a DELIVER. users are the two of a direct conversation,
// nil for others; messages is for NextMessage. Everything aliases body, and nothing is
// allocated unless the elements of messages don't stand together.
func DecodeDeliver(body []byte) (conv id.ConversationID, users [2][]byte, messages []byte, err error) {
	var nusers int
	var named bool
	var elements run
	for i := 0; i < len(body); {
		f, n := next(body[i:])
		if n == 0 {
			return conv, users, nil, malformed("deliver")
		}
		if (f.num == 1 || f.num == 2 || f.num == 8) && f.wt != wtBytes {
			return conv, users, nil, malformed("deliver")
		}
		switch f.num {
		case 1:
			if len(f.data) != 16 {
				return conv, users, nil, badField("conversation_id is not 16 bytes")
			}
			conv, named = id.ConversationID(f.data), true
		case 2:
			if nusers < 2 {
				users[nusers] = f.data
			}
			nusers++
		case 8:
			elements.add(body, i, n)
		}
		i += n
	}
	if !named {
		return conv, users, nil, badField("conversation_id is missing")
	}
	return conv, users, elements.bytes(body), nil
}

// Page is what a SYNC or HISTORY found: the messages of a range of one conversation, in order.
type Page struct {
	Conversation id.ConversationID
	Users        []id.UserID // of a direct conversation: both, sorted
	FromSeq      uint64      // the range answered for, both inclusive;
	ToSeq        uint64      // ToSeq below FromSeq: it was empty
	FirstSeq     uint64      // of the conversation
	LastSeq      uint64      // of the conversation, when the page was read
	Messages     []byte      // elements of the repeated field
	More         bool        // HISTORY: older messages exist
}

// AppendSynced appends a whole SYNCED frame; more tells that further parts of the same
// SYNC follow. With an error e the page's conversation could not be read.
func AppendSynced(dst []byte, reqID uint32, more bool, p *Page, e *code.Error) []byte {
	flags := frame.FlagRequestID
	if more {
		flags |= frame.FlagMore
	}
	size := 18 + varintLen(p.FromSeq) + varintLen(p.ToSeq) + varintLen(p.FirstSeq) + varintLen(p.LastSeq) + len(p.Messages)
	for _, u := range p.Users {
		size += bytesLen(len(u))
	}
	elen := 0
	if e != nil {
		elen = errorLen(e, id.ConversationID{})
		size += bytesLen(elen)
	}
	dst = frame.AppendHeader(dst, frame.Synced, flags, reqID, size)
	dst = appendConversation(dst, p.Conversation, p.Users)
	dst = appendVarint(dst, 3, p.FromSeq)
	dst = appendVarint(dst, 4, p.ToSeq)
	dst = appendVarint(dst, 5, p.FirstSeq)
	dst = appendVarint(dst, 6, p.LastSeq)
	dst = append(dst, p.Messages...)
	if e != nil {
		dst = append(dst, 9<<3|wtBytes)
		dst = binary.AppendUvarint(dst, uint64(elen))
		dst = appendErrorBody(dst, e, id.ConversationID{})
	}
	return dst
}

// AppendHistory appends a whole RESPONSE frame with the page as the answer to HISTORY.
func AppendHistory(dst []byte, reqID uint32, p *Page) []byte {
	size := 18 + varintLen(p.FirstSeq) + varintLen(p.LastSeq) + len(p.Messages)
	if p.More {
		size += 2
	}
	dst = frame.AppendHeader(dst, frame.Response, frame.FlagRequestID, reqID, bytesLen(size)+2)
	dst = append(dst, 1<<3|wtBytes)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = appendConversation(dst, p.Conversation, nil)
	dst = appendVarint(dst, 5, p.FirstSeq)
	dst = appendVarint(dst, 6, p.LastSeq)
	dst = append(dst, p.Messages...)
	if p.More {
		dst = append(dst, 10<<3|wtVarint, 1)
	}
	return append(dst, 2<<3|wtVarint, byte(MethodHistory))
}

// DecodeRecvAck calls fn with every entry of a RECVACK, MaxRecvAcks at most, after all of
// them were found valid. It doesn't allocate.
func DecodeRecvAck(body []byte, fn func(conv id.ConversationID, seq uint64)) *code.Error {
	var f field
	for pass := range 2 {
		n := 0
		for i := 0; i < len(body); {
			if i = f.read(body, i); i == 0 {
				return malformed("recvack")
			}
			if f.num != 1 {
				continue
			}
			if f.wt != wtBytes {
				return malformed("recvack")
			}
			if n++; n > MaxRecvAcks {
				return tooMany("acks", MaxRecvAcks)
			}
			conv, seq, ok := conversationSeq(f.data)
			if !ok {
				return malformed("recvack")
			}
			if pass == 1 {
				fn(conv, seq)
			}
		}
	}
	return nil
}

// conversationSeq reads a wire.ConversationSeq.
func conversationSeq(b []byte) (conv id.ConversationID, seq uint64, ok bool) {
	var f field
	for i := 0; i < len(b); {
		if i = f.read(b, i); i == 0 {
			return conv, seq, false
		}
		switch f.num {
		case 1:
			if f.wt != wtBytes || len(f.data) != 16 {
				return conv, seq, false
			}
			conv, ok = id.ConversationID(f.data), true
		case 2:
			if f.wt != wtVarint {
				return conv, seq, false
			}
			seq = f.val
		}
	}
	return conv, seq, ok
}

// AppendConversationSeq appends one entry of RECVACK or HINT (both number it 1).
func AppendConversationSeq(dst []byte, conv id.ConversationID, seq uint64) []byte {
	dst = append(dst, 1<<3|wtBytes, byte(18+varintLen(seq)), 1<<3|wtBytes, 16)
	dst = append(dst, conv[:]...)
	return appendVarint(dst, 2, seq)
}

// cut shortens s to at most n bytes, at a rune's border.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
