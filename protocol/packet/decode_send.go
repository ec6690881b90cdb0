package packet

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Fields of wire.Send before those that it shares with wire.Message.
const (
	fieldConversation = 1
	fieldToUser       = 2
	fieldSeenSeq      = 3
)

// maxTime is the last Unix millisecond of the year 9999, well within a JSON number.
const maxTime = 253402300799999

// DecodeSend reads the body of a SEND into s, whose former content is dropped, and
// checks all that can be told from the bytes and lim. s aliases body (see Send).
// It doesn't allocate unless users are mentioned, or the body's fields come out of
// order or twice, which no usual encoder does: then Tail is rebuilt in order.
func DecodeSend(s *Send, body []byte, lim *Limits) *code.Error {
	ordered, err := s.fill(body, lim)
	if !ordered && err == nil {
		if body, err = reorder(body); err == nil {
			_, err = s.fill(body, lim)
		}
	}
	return err
}

// fill is DecodeSend for a body whose fields stand in ascending order, each singular one
// once; of another it reports false and leaves s half filled.
func (s *Send) fill(body []byte, lim *Limits) (ordered bool, err *code.Error) {
	*s = Send{}
	var f field
	var last uint32
	var size, ext, mentions int
	var conv, toUser, clientID, filled bool
	tail := len(body)
	for i := 0; i < len(body); {
		at := i
		if i = f.read(body, i); i == 0 {
			return true, malformed("send")
		}
		if f.num <= last && (f.num < last || f.num <= fieldEncryption && f.num != fieldMentions) {
			return false, nil
		}
		last = f.num
		if f.num >= fieldClientID && tail == len(body) {
			tail = at
		}
		want := uint8(wtBytes)
		switch f.num {
		case fieldConversation:
			if len(f.data) != 16 {
				return true, badField("conversation_id is not 16 bytes")
			}
			s.Conversation = id.ConversationID(f.data)
			if !s.Conversation.Valid() {
				return true, badField("conversation_id is of no known kind")
			}
			conv = true
		case fieldToUser:
			s.ToUser = id.UserID(aliased(f.data))
			if !s.ToUser.Valid() {
				return true, badName("to_user_id", f.data)
			}
			toUser = true
		case fieldSeenSeq:
			s.SeenSeq, want = f.val, wtVarint
		case fieldClientID:
			if len(f.data) != 16 {
				return true, badField("client_msg_id is not 16 bytes")
			}
			s.ClientMsgID = id.ClientMsgID(f.data)
			if !s.ClientMsgID.Valid() {
				return true, badField("client_msg_id is no UUIDv7")
			}
			clientID = true
		case fieldType:
			want = wtVarint
			if f.val > 1<<32-1 {
				return true, badField("msg_type is above 32 bits")
			}
			s.Type = uint32(f.val)
		case fieldContent:
			if !utf8.Valid(f.data) {
				return true, invalidUTF8("content")
			}
			s.Content = f.data
			size += len(f.data)
			filled = filled || len(f.data) > 0
		case fieldData:
			size += len(f.data)
			filled = filled || len(f.data) > 0
		case fieldMentions:
			if mentions++; mentions > lim.MaxMentions {
				return true, tooMany("mentions", lim.MaxMentions)
			}
			u := aliased(f.data)
			if !id.UserID(u).Valid() {
				return true, badName("mentions", f.data)
			}
			s.Mentions = append(s.Mentions, u)
		case fieldMentionAll, fieldNoCount, fieldNoPush:
			want = wtVarint
			if f.val > 1 {
				return true, badField("a bool is neither 0 nor 1")
			}
			switch f.num {
			case fieldMentionAll:
				s.MentionAll = f.val != 0
			case fieldNoCount:
				s.NoCount = f.val != 0
			}
		case fieldReplyTo, fieldThread:
			want = wtVarint
		case fieldExpires:
			want = wtVarint
			if f.val > maxTime {
				return true, badField("expires_at is beyond the year 9999")
			}
		case fieldDevice:
			if !id.DeviceID(aliased(f.data)).Valid() {
				return true, badName("origin_device", f.data)
			}
			s.OriginDevice = f.data
		case fieldExt:
			ext += len(f.data)
		case fieldEncryption:
			if !validEncryption(f.data) {
				return true, badField("encryption is malformed")
			}
			size += len(f.data)
		default:
			if f.num >= fieldServer && f.num <= fieldServerEnd {
				return true, badField("a field of the server's in a SEND")
			}
			want = f.wt
			size += i - at
		}
		if f.wt != want {
			return true, malformed("send")
		}
	}
	switch {
	case conv == toUser:
		return true, badField("a SEND names either conversation_id or to_user_id")
	case !clientID:
		return true, badField("client_msg_id is missing")
	case s.Type == 0 || s.Type >= TypeSystem && s.Type < TypeOwn:
		return true, badField("msg_type is not a client's to send")
	case !filled && s.Type < TypeSystem:
		return true, badField("the message is empty")
	case size > lim.MaxContent:
		return true, code.New(code.ContentTooLarge)
	case ext > lim.MaxExt:
		return true, code.Newf(code.ContentTooLarge, "ext is larger than CONNACK allows")
	}
	s.Tail = body[tail:len(body):len(body)]
	s.BodyHash = xxhash.Sum64(s.Tail)
	return true, nil
}

// maxDisorder bounds the work on a SEND whose fields are out of order.
const maxDisorder = 1024

// reorder returns a copy of body with its fields in ascending order and each singular
// one once, as protobuf reads them: the last one wins, and encryption, a message, is merged.
func reorder(body []byte) (out []byte, err *code.Error) {
	type span struct {
		num        uint32
		wt         uint8
		start, end int
	}
	var spans []span
	for i := 0; i < len(body); {
		f, n := next(body[i:])
		if n == 0 {
			return nil, malformed("send")
		}
		if len(spans) == maxDisorder {
			return nil, badField("too many fields out of order")
		}
		spans = append(spans, span{f.num, f.wt, i, i + n})
		i += n
	}
	slices.SortStableFunc(spans, func(a, b span) int { return int(a.num) - int(b.num) })
	out = make([]byte, 0, len(body))
	for len(spans) > 0 {
		sp := spans[0]
		if sp.num > fieldEncryption || sp.num == fieldMentions {
			out = append(out, body[sp.start:sp.end]...)
			spans = spans[1:]
			continue
		}
		same := 1
		for same < len(spans) && spans[same].num == sp.num {
			if spans[same].wt != sp.wt {
				return nil, malformed("send")
			}
			same++
		}
		if sp.num == fieldEncryption && same > 1 {
			var merged []byte
			for _, p := range spans[:same] {
				f, _ := next(body[p.start:p.end])
				merged = append(merged, f.data...)
			}
			out = binary.AppendUvarint(out, fieldEncryption<<3|wtBytes)
			out = binary.AppendUvarint(out, uint64(len(merged)))
			out = append(out, merged...)
		} else {
			last := spans[same-1]
			out = append(out, body[last.start:last.end]...)
		}
		spans = spans[same:]
	}
	return out, nil
}

func validEncryption(b []byte) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n == 0 {
			return false
		}
		switch f.num {
		case 1:
			if f.wt != wtVarint || f.val > 1<<32-1 {
				return false
			}
		case 2:
			if f.wt != wtVarint {
				return false
			}
		case 3:
			if f.wt != wtBytes {
				return false
			}
		}
		b = b[n:]
	}
	return true
}

func malformed(what string) *code.Error {
	return code.Newf(code.BadRequest, "the body of %s can't be read", what)
}

func badField(reason string) *code.Error { return code.Newf(code.BadRequest, "%s", reason) }

func invalidUTF8(name string) *code.Error {
	return code.Newf(code.InvalidUTF8, "%s is not valid UTF-8", name)
}

func tooMany(name string, limit int) *code.Error {
	return code.Newf(code.BadRequest, "more than %d %s", limit, name)
}

// badName tells why a user, device or other short name is refused.
func badName(name string, b []byte) *code.Error {
	if !utf8.Valid(b) {
		return invalidUTF8(name)
	}
	return code.Newf(code.BadRequest, "%s is empty, too long, or has control characters", name)
}
