package packet

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// FromJSON returns the frame that one JSON object stands for. Members that it doesn't
// know are ignored, null stands for a member that isn't there, and a number may be given
// as a string of digits and the other way round. The body is checked like one that came
// in a frame; the error is a *code.Error.
func FromJSON(b []byte) ([]byte, error) {
	if !utf8.Valid(b) {
		return nil, invalidUTF8("the JSON text")
	}
	env, err := object(b, "the packet")
	if err != nil {
		return nil, err
	}
	var name string
	if err := text(env["type"], "type", &name); err != nil {
		return nil, err
	}
	f := frame.Frame{Type: typeNamed(name)}
	if f.Type == 0 {
		return nil, code.New(code.UnknownFrame)
	}
	if err := envelope(env, &f); err != nil {
		return nil, err
	}
	s := bodies[f.Type]
	if s != nil {
		data := env["data"]
		if f.Body, err = dataFromJSON(&f, s, data); err != nil {
			return nil, err
		}
		if f.Type == frame.Deliver && present(env["left_out"]) {
			if f.Body, err = withLeftOut(f.Body, env["left_out"]); err != nil {
				return nil, err
			}
		}
		if err := s.validate(f.Body); err != nil {
			return nil, err
		}
	}
	if f.Flags&frame.FlagTrace != 0 {
		return frame.AppendTraced(nil, f.Type, f.Flags, f.ReqID, f.Trace, f.Body), nil
	}
	return frame.Append(nil, f.Type, f.Flags, f.ReqID, f.Body), nil
}

// Envelope reads what stands around a packet's data, however wrong the rest is: the type (0 for
// one that isn't known) and the request id, for the answer to a text that FromJSON refused. It
// reports false if b is no JSON object.
func Envelope(b []byte) (f frame.Frame, ok bool) {
	env, err := object(b, "the packet")
	if err != nil || env == nil || !utf8.Valid(b) {
		return f, false
	}
	var name string
	if text(env["type"], "type", &name) == nil {
		f.Type = typeNamed(name)
	}
	if raw := env["req_id"]; present(raw) {
		if n, err := number(raw, "req_id"); err == nil && n <= 1<<32-1 {
			f.ReqID, f.Flags = uint32(n), frame.FlagRequestID
		}
	}
	return f, true
}

func typeNamed(name string) frame.Type {
	if name == "message" {
		return frame.Deliver
	}
	for t := frame.Connect; t.Known(); t++ {
		if t.String() == name && t != frame.Deliver {
			return t
		}
	}
	return 0
}

func envelope(env map[string]json.RawMessage, f *frame.Frame) error {
	if raw := env["req_id"]; present(raw) {
		n, err := number(raw, "req_id")
		if err != nil {
			return err
		}
		if n > 1<<32-1 {
			return badField("req_id is above 32 bits")
		}
		f.ReqID, f.Flags = uint32(n), f.Flags|frame.FlagRequestID
	}
	if raw := env["trace_id"]; present(raw) {
		var s string
		if err := text(raw, "trace_id", &s); err != nil {
			return err
		}
		if b, err := hex.DecodeString(s); err != nil || copy(f.Trace[:], b) != frame.TraceSize || len(b) != frame.TraceSize {
			return badField("trace_id is not 32 hexadecimal digits")
		}
		f.Flags |= frame.FlagTrace
	}
	for _, fl := range flagNames {
		if raw := env[fl.name]; fl.typ == f.Type && present(raw) {
			on, err := boolean(raw, fl.name)
			if err != nil {
				return err
			}
			if on {
				f.Flags |= fl.flag
			}
		}
	}
	return nil
}

func dataFromJSON(f *frame.Frame, s *schema, data json.RawMessage) ([]byte, error) {
	switch f.Type {
	case frame.Deliver:
		return deliverFromJSON(data)
	case frame.Request, frame.Response:
		return callFromJSON(f.Type, data)
	}
	return s.fromJSON(nil, data)
}

// withLeftOut puts left_out in its place in the body of a DELIVER: before the messages.
func withLeftOut(body []byte, raw json.RawMessage) ([]byte, error) {
	n, err := number(raw, "left_out")
	if err != nil {
		return nil, err
	}
	for at := 0; at < len(body); {
		f, size := next(body[at:])
		if size == 0 || f.num > 3 {
			return append(appendVarint(append([]byte(nil), body[:at]...), 3, n), body[at:]...), nil
		}
		at += size
	}
	return appendVarint(body, 3, n), nil
}

func deliverFromJSON(data json.RawMessage) ([]byte, error) {
	obj, err := object(data, "data")
	if err != nil {
		return nil, err
	}
	var s string
	if err := text(obj["conversation_id"], "conversation_id", &s); err != nil {
		return nil, err
	}
	conv, cerr := id.ParseConversation(s)
	if cerr != nil {
		return nil, badField("conversation_id is not 32 hexadecimal digits")
	}
	var users []string
	if raw := obj["users"]; present(raw) {
		if err := json.Unmarshal(raw, &users); err != nil {
			return nil, badField("users is not a list of strings")
		}
	} else if raw := obj["receiver_id"]; present(raw) {
		users = make([]string, 2)
		if err := text(raw, "receiver_id", &users[0]); err != nil {
			return nil, err
		}
		if err := text(obj["sender_id"], "sender_id", &users[1]); err != nil {
			return nil, err
		}
		slices.Sort(users)
	}
	dst := append([]byte{1<<3 | wtBytes, 16}, conv[:]...)
	for _, u := range users {
		dst = appendBytes(dst, 2, u)
	}
	inner, err := message.fromJSON(nil, data)
	if err != nil {
		return nil, err
	}
	return appendBytes(dst, 8, aliased(inner)), nil
}

func callFromJSON(t frame.Type, data json.RawMessage) ([]byte, error) {
	obj, err := object(data, "data")
	if err != nil {
		return nil, err
	}
	m, err := methodFromJSON(obj["method"])
	if err != nil {
		return nil, err
	}
	var inner []byte
	switch raw := obj["body"]; {
	case !m.Known():
		if inner, err = fromBase64(raw, "body"); err != nil {
			return nil, err
		}
	default:
		s := methods[m].answer
		if t == frame.Request {
			s = methods[m].request
		}
		if inner, err = s.fromJSON(nil, raw); err != nil {
			return nil, err
		}
		if err := s.validate(inner); err != nil {
			return nil, err
		}
	}
	if t == frame.Request {
		dst := appendVarint(nil, 1, uint64(m))
		if len(inner) > 0 {
			dst = appendBytes(dst, 2, aliased(inner))
		}
		return dst, nil
	}
	var dst []byte
	if len(inner) > 0 {
		dst = appendBytes(dst, 1, aliased(inner))
	}
	return appendVarint(dst, 2, uint64(m)), nil
}

func methodFromJSON(raw json.RawMessage) (Method, error) {
	if !present(raw) {
		return 0, nil
	}
	if raw[0] == '"' {
		var name string
		if err := text(raw, "method", &name); err != nil {
			return 0, err
		}
		for m := range methods {
			if m > 0 && methods[m].name == name {
				return Method(m), nil
			}
		}
		return 0, code.New(code.UnknownMethod)
	}
	n, err := number(raw, "method")
	if err == nil && n > 1<<32-1 {
		err = badField("method is above 32 bits")
	}
	return Method(n), err
}

// fromJSON appends the body that raw, an object or nothing, stands for. Of a message the
// server's fields come first, as they are stored.
func (s *schema) fromJSON(dst []byte, raw json.RawMessage) ([]byte, error) {
	if !present(raw) {
		return dst, nil
	}
	obj, err := object(raw, s.name)
	if err != nil {
		return nil, err
	}
	if s == &message {
		for i := range s.fields {
			if n := s.fields[i].num; n < fieldClientID || n >= fieldServer {
				if dst, err = s.fields[i].fromJSON(dst, obj[s.fields[i].name]); err != nil {
					return nil, err
				}
			}
		}
	}
	for i := range s.fields {
		if n := s.fields[i].num; s == &message && (n < fieldClientID || n >= fieldServer) {
			continue
		}
		if dst, err = s.fields[i].fromJSON(dst, obj[s.fields[i].name]); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func (sp *spec) fromJSON(dst []byte, raw json.RawMessage) ([]byte, error) {
	if !present(raw) {
		return dst, nil
	}
	if sp.attr&repeated == 0 {
		return sp.valueFromJSON(dst, raw)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, code.Newf(code.BadRequest, "%s is not a list", sp.name)
	}
	if sp.max > 0 && len(list) > sp.max {
		return nil, tooMany(sp.name, sp.max)
	}
	var err error
	for _, e := range list {
		if !present(e) {
			return nil, code.Newf(code.BadRequest, "%s has an element that is null", sp.name)
		}
		if dst, err = sp.valueFromJSON(dst, e); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// valueFromJSON appends one field; what is zero is left out unless the field is repeated.
func (sp *spec) valueFromJSON(dst []byte, raw json.RawMessage) ([]byte, error) {
	var val uint64
	var data []byte
	var err error
	switch sp.kind {
	case kindNumber, kindLong, kindTime, kindMessage:
		val, err = number(raw, sp.name)
	case kindBool:
		var on bool
		if on, err = boolean(raw, sp.name); on {
			val = 1
		}
	case kindDevice:
		val, err = deviceFromJSON(raw, sp.name)
	case kindBytes:
		data, err = fromBase64(raw, sp.name)
	case kindSub:
		if data, err = sp.sub.fromJSON(nil, raw); err == nil {
			return append(appendTag(dst, sp, len(data)), data...), nil
		}
	default:
		var s string
		if err = text(raw, sp.name, &s); err == nil {
			data, err = sp.textFromJSON(s)
		}
	}
	if err != nil {
		return nil, err
	}
	if sp.kind.wireType() == wtBytes {
		if len(data) == 0 && sp.attr&repeated == 0 {
			return dst, nil
		}
		return append(appendTag(dst, sp, len(data)), data...), nil
	}
	if val == 0 && sp.attr&repeated == 0 {
		return dst, nil
	}
	dst = binary.AppendUvarint(dst, uint64(sp.num)<<3|uint64(sp.kind.wireType()))
	if sp.kind == kindMessage {
		return binary.LittleEndian.AppendUint64(dst, val), nil
	}
	return binary.AppendUvarint(dst, val), nil
}

func appendTag(dst []byte, sp *spec, length int) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(sp.num)<<3|wtBytes), uint64(length))
}

func (sp *spec) textFromJSON(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	switch sp.kind {
	case kindConv:
		c, err := id.ParseConversation(s)
		if err != nil {
			return nil, code.Newf(code.BadRequest, "%s is not 32 hexadecimal digits", sp.name)
		}
		return c[:], nil
	case kindUUID:
		c, err := id.ParseClientMsgID(s)
		if err != nil {
			return nil, code.Newf(code.BadRequest, "%s is not a UUID in the 8-4-4-4-12 form", sp.name)
		}
		return c[:], nil
	}
	return []byte(s), nil
}

// present reports whether a member is there; null counts as absent.
func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

func object(raw []byte, name string) (map[string]json.RawMessage, error) {
	if !present(raw) {
		return nil, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, code.Newf(code.BadRequest, "%s is not a JSON object", name)
	}
	return m, nil
}

func text(raw json.RawMessage, name string, s *string) error {
	if !present(raw) {
		return code.Newf(code.BadRequest, "%s is missing", name)
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return code.Newf(code.BadRequest, "%s is not a string", name)
	}
	return nil
}

func number(raw json.RawMessage, name string) (uint64, error) {
	s := aliased(raw)
	if len(s) > 2 && s[0] == '"' {
		s = s[1 : len(s)-1]
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, code.Newf(code.BadRequest, "%s is not a whole number from 0", name)
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, code.Newf(code.BadRequest, "%s is not a number of 64 bits", name)
	}
	return n, nil
}

func boolean(raw json.RawMessage, name string) (bool, error) {
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, code.Newf(code.BadRequest, "%s is neither true nor false", name)
}

func deviceFromJSON(raw json.RawMessage, name string) (uint64, error) {
	if raw[0] != '"' {
		return number(raw, name)
	}
	var s string
	if err := text(raw, name, &s); err != nil {
		return 0, err
	}
	// A kind of a later version is a device of unknown kind.
	return uint64(max(0, slices.Index(deviceKinds[:], s))), nil
}

func fromBase64(raw json.RawMessage, name string) ([]byte, error) {
	if !present(raw) {
		return nil, nil
	}
	var s string
	if err := text(raw, name, &s); err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, code.Newf(code.BadRequest, "%s is not base64", name)
	}
	return b, nil
}

// RequestFromJSON returns the request of a known method that one JSON object stands for, checked like one that came in a frame.
func RequestFromJSON(m Method, b []byte) ([]byte, error) { return methods[m].request.bodyFromJSON(b) }

// SendFromJSON returns the body of the SEND that one JSON object stands for; DecodeSend checks what only it knows.
func SendFromJSON(b []byte) ([]byte, error) { return sendBody.bodyFromJSON(b) }

func (s *schema) bodyFromJSON(b []byte) ([]byte, error) {
	if !utf8.Valid(b) {
		return nil, invalidUTF8("the JSON text")
	}
	body, err := s.fromJSON(nil, b)
	if err != nil {
		return nil, err
	}
	if err := s.validate(body); err != nil {
		return nil, err
	}
	return body, nil
}
