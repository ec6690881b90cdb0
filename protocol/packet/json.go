package packet

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// The JSON form of a frame is
//
//	{"type": "...", "req_id": 7, "trace_id": "...", "resend": true, ..., "data": {...}}
//
// with the frame's type in lower case ("message" for DELIVER), the request id, trace id
// and flags where the frame has them, and the body's fields under the names of the tables
// in schemas.go. 64-bit numbers and ids are strings, times numbers of milliseconds, bytes
// base64. Fields that are zero are left out but for those marked always.

var deviceKinds = [...]string{
	wire.DeviceKind_DEVICE_KIND_UNKNOWN: "unknown",
	wire.DeviceKind_DEVICE_KIND_PHONE:   "phone",
	wire.DeviceKind_DEVICE_KIND_TABLET:  "tablet",
	wire.DeviceKind_DEVICE_KIND_DESKTOP: "desktop",
	wire.DeviceKind_DEVICE_KIND_WEB:     "web",
	wire.DeviceKind_DEVICE_KIND_BOT:     "bot",
}

// ToJSON returns the JSON form of f. A DELIVER of n messages becomes n objects of type
// "message", one on each line; any other frame is one object. Fields and flags that this
// version doesn't know are left out. The error is a *code.Error: unknown_frame, or what
// is wrong with the body.
func ToJSON(f frame.Frame) ([]byte, error) {
	if !f.Type.Known() {
		return nil, code.New(code.UnknownFrame)
	}
	s := bodies[f.Type]
	if s == nil {
		return append(appendEnvelope(nil, &f, f.Type.String()), '}'), nil
	}
	if err := s.validate(f.Body); err != nil {
		return nil, err
	}
	dst := make([]byte, 0, 2*len(f.Body)+128)
	switch f.Type {
	case frame.Deliver:
		return deliverJSON(dst, &f)
	case frame.Request, frame.Response:
		return callJSON(dst, &f)
	}
	dst = append(appendEnvelope(dst, &f, f.Type.String()), `,"data":`...)
	return append(s.appendJSON(dst, f.Body), '}'), nil
}

// appendEnvelope appends what stands before the data, without the closing brace.
func appendEnvelope(dst []byte, f *frame.Frame, name string) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(append(dst, name...), '"')
	if f.Flags&frame.FlagRequestID != 0 {
		dst = strconv.AppendUint(append(dst, `,"req_id":`...), uint64(f.ReqID), 10)
	}
	if f.Flags&frame.FlagTrace != 0 {
		dst = append(hex.AppendEncode(append(dst, `,"trace_id":"`...), f.Trace[:]), '"')
	}
	for _, fl := range flagNames {
		if fl.typ == f.Type && f.Flags&fl.flag != 0 {
			dst = append(append(append(dst, `,"`...), fl.name...), `":true`...)
		}
	}
	return dst
}

// flagNames are the flags that stand in JSON, in their order.
var flagNames = []struct {
	typ  frame.Type
	flag frame.Flags
	name string
}{
	{frame.Send, frame.FlagResend, "resend"},
	{frame.Send, frame.FlagInteractive, "interactive"},
	{frame.Response, frame.FlagMore, "more"},
	{frame.Synced, frame.FlagMore, "more"},
	{frame.Deliver, frame.FlagNeverPull, "never_pull"},
}

func deliverJSON(dst []byte, f *frame.Frame) ([]byte, error) {
	conv, _, messages, err := DecodeDeliver(f.Body)
	if err != nil {
		return nil, err
	}
	var users []string
	for b := f.Body; len(b) > 0; {
		g, n := next(b)
		if g.num == 2 {
			users = append(users, string(g.data))
		}
		b = b[n:]
	}
	leftOut := DeliverLeftOut(f.Body)
	for len(messages) > 0 {
		g, n := next(messages)
		messages = messages[n:]
		if len(dst) > 0 {
			dst = append(dst, '\n')
		}
		dst = appendEnvelope(dst, f, "message")
		if leftOut > 0 {
			dst = append(strconv.AppendUint(append(dst, `,"left_out":"`...), leftOut, 10), '"')
			leftOut = 0
		}
		dst = append(dst, `,"data":`...)
		dst = append(appendMessageJSON(dst, g.data, &conv, users), '}')
	}
	return dst, nil
}

func callJSON(dst []byte, f *frame.Frame) ([]byte, error) {
	decode, isRequest := DecodeResponse, f.Type == frame.Request
	if isRequest {
		decode = DecodeRequest
	}
	m, inner, err := decode(f.Body)
	if err != nil {
		return nil, err
	}
	dst = append(appendEnvelope(dst, f, f.Type.String()), `,"data":{"method":`...)
	if !m.Known() {
		dst = append(strconv.AppendUint(dst, uint64(m), 10), `,"body":`...)
		return append(appendBase64(dst, inner), "}}"...), nil
	}
	s := methods[m].answer
	if isRequest {
		s = methods[m].request
	}
	if err := s.validate(inner); err != nil {
		return nil, err
	}
	dst = append(append(append(dst, '"'), m.String()...), `","body":`...)
	return append(s.appendJSON(dst, inner), "}}"...), nil
}

// collect reads a validated body: the last value of each field by position (messages
// merged, as protobuf has it), and how often it came.
func (s *schema) collect(body []byte) (values [maxFields]field, counts [maxFields]int) {
	for len(body) > 0 {
		f, n := next(body)
		body = body[n:]
		i := s.index(f.num)
		if i < 0 {
			continue
		}
		if sp := &s.fields[i]; sp.kind == kindSub && sp.attr&repeated == 0 && counts[i] > 0 {
			f.data = append(append([]byte(nil), values[i].data...), f.data...)
		}
		values[i] = f
		counts[i]++
	}
	return values, counts
}

// appendJSON appends the object of a validated body.
func (s *schema) appendJSON(dst, body []byte) []byte {
	if s == &message {
		return appendMessageJSON(dst, body, nil, nil)
	}
	values, counts := s.collect(body)
	dst = append(dst, '{')
	for i := range s.fields {
		dst = s.appendMember(dst, i, &values[i], counts[i], body)
	}
	return append(dst, '}')
}

// appendMessageJSON appends the object of one message. conv, if given, and users are those
// of the DELIVER around it.
func appendMessageJSON(dst, body []byte, conv *id.ConversationID, users []string) []byte {
	s := &message
	values, counts := s.collect(body)
	dst = append(dst, '{')
	member := func(num uint32) {
		i := s.index(num)
		dst = s.appendMember(dst, i, &values[i], counts[i], body)
	}
	member(fieldMessageID)
	if conv != nil {
		dst = append(dst, `,"conversation_id":"`...)
		dst = append(hex.AppendEncode(dst, conv[:]), '"')
	}
	member(fieldSender)
	sender := string(values[s.index(fieldSender)].data)
	switch {
	case len(users) == 2 && users[0] == sender:
		dst = appendString(append(dst, `,"receiver_id":`...), users[1])
	case len(users) == 2 && users[1] == sender:
		dst = appendString(append(dst, `,"receiver_id":`...), users[0])
	case len(users) > 0:
		dst = append(dst, `,"users":[`...)
		for i, u := range users {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, u)
		}
		dst = append(dst, ']')
	}
	member(fieldType)
	member(fieldContent)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, id.MessageID(values[s.index(fieldMessageID)].val).UnixMilli(), 10)
	member(fieldSeq)
	for i := range s.fields {
		switch s.fields[i].num {
		case fieldMessageID, fieldSender, fieldType, fieldContent, fieldSeq:
		default:
			dst = s.appendMember(dst, i, &values[i], counts[i], body)
		}
	}
	return append(dst, '}')
}

// appendMember appends one member, with the comma before it, unless it is to be left out.
func (s *schema) appendMember(dst []byte, i int, f *field, count int, body []byte) []byte {
	sp := &s.fields[i]
	if sp.attr&always == 0 && f.val == 0 && len(f.data) == 0 && (sp.kind != kindSub || count == 0) && (sp.attr&repeated == 0 || count == 0) {
		return dst
	}
	if sp.kind == kindConv && len(f.data) == 0 || sp.kind == kindUUID && len(f.data) == 0 {
		return dst
	}
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), sp.name...), `":`...)
	if sp.attr&repeated != 0 {
		dst = append(dst, '[')
		for len(body) > 0 {
			g, n := next(body)
			body = body[n:]
			if g.num == sp.num {
				if dst[len(dst)-1] != '[' {
					dst = append(dst, ',')
				}
				dst = sp.appendValue(dst, &g)
			}
		}
		return append(dst, ']')
	}
	dst = sp.appendValue(dst, f)
	switch {
	case sp.kind == kindMessage && s != &message:
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, id.MessageID(f.val).UnixMilli(), 10)
	case sp.num == 1 && (s == &errorBody || s == &kick):
		dst = appendString(append(dst, `,"name":`...), code.Code(f.val).String())
	}
	return dst
}

func (sp *spec) appendValue(dst []byte, f *field) []byte {
	switch sp.kind {
	case kindNumber, kindTime:
		return strconv.AppendUint(dst, f.val, 10)
	case kindLong, kindMessage:
		dst = strconv.AppendUint(append(dst, '"'), f.val, 10)
		return append(dst, '"')
	case kindBool:
		return strconv.AppendBool(dst, f.val != 0)
	case kindDevice:
		if f.val < uint64(len(deviceKinds)) {
			return appendString(dst, deviceKinds[f.val])
		}
		return strconv.AppendUint(dst, f.val, 10)
	case kindText, kindName:
		return appendString(dst, aliased(f.data))
	case kindConv:
		return append(hex.AppendEncode(append(dst, '"'), f.data), '"')
	case kindUUID:
		return append(append(append(dst, '"'), id.ClientMsgID(f.data).String()...), '"')
	case kindSub:
		return sp.sub.appendJSON(dst, f.data)
	}
	return appendBase64(dst, f.data)
}

// AnswerJSON returns the JSON form of a known method's answer.
func AnswerJSON(m Method, body Body) ([]byte, error) {
	b, err := body.Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer to %s: %w", m, err)
	}
	s := methods[m].answer
	if err := s.validate(b); err != nil {
		return nil, err
	}
	return s.appendJSON(nil, b), nil
}

// AppendMessagesJSON appends the messages of a page as a JSON array of objects, each in the form that
// it has in a frame of type message.
func AppendMessagesJSON(dst []byte, p *Page) ([]byte, error) {
	var users []string
	for _, u := range p.Users {
		users = append(users, string(u))
	}
	dst = append(dst, '[')
	for rest := p.Messages; len(rest) > 0; {
		f, n := next(rest)
		if n == 0 || f.wt != wtBytes {
			return nil, malformed("page")
		}
		if err := message.validate(f.data); err != nil {
			return nil, err
		}
		if rest = rest[n:]; dst[len(dst)-1] != '[' {
			dst = append(dst, ',')
		}
		dst = appendMessageJSON(dst, f.data, &p.Conversation, users)
	}
	return append(dst, ']'), nil
}

func appendBase64(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"')
}

// appendString appends valid UTF-8 as a JSON string. U+2028 and U+2029 are escaped, since
// some readers of JSON take them for line ends.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&0xF])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '\u2028' || r == '\u2029' {
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, digits[r&0xF])
			start = i + n
		}
		i += n
	}
	return append(append(dst, s[start:]...), '"')
}
