package packet

import (
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// decode checks body against s and reads it into m, which keeps nothing of body.
func decode(s *schema, body []byte, m Body) *code.Error {
	if err := s.validate(body); err != nil {
		return err
	}
	if err := m.Unmarshal(body); err != nil {
		return &code.Error{Code: code.BadRequest, Reason: "the body of " + s.name + " can't be read", Cause: err}
	}
	return nil
}

// DecodeConnect reads the body of a CONNECT. version and device_id are there; whether
// token or resume_token is good is not looked at.
func DecodeConnect(body []byte) (*wire.Connect, *code.Error) {
	m := new(wire.Connect)
	return m, decode(&connect, body, m)
}

// DecodeConnack reads the body of a CONNACK.
func DecodeConnack(body []byte) (*wire.Connack, *code.Error) {
	m := new(wire.Connack)
	return m, decode(&connack, body, m)
}

// DecodeSync reads the body of a SYNC: 1 to MaxSyncRanges ranges, each with a conversation.
func DecodeSync(body []byte) (*wire.Sync, *code.Error) {
	m := new(wire.Sync)
	return m, decode(&syncBody, body, m)
}

// DecodeSignal reads the body of a SIGNAL, which names a conversation or a user. From a
// client, sender_id and sender_device are to be overwritten.
func DecodeSignal(body []byte) (*wire.Signal, *code.Error) {
	m := new(wire.Signal)
	return m, decode(&signal, body, m)
}

// DecodeRequest reads the body of a REQUEST; inner aliases it and is not checked yet (DecodeMethod).
func DecodeRequest(body []byte) (m Method, inner []byte, err *code.Error) {
	if err := request.validate(body); err != nil {
		return 0, nil, err
	}
	for len(body) > 0 {
		f, n := next(body)
		switch f.num {
		case 1:
			m = Method(f.val)
		case 2:
			inner = f.data
		}
		body = body[n:]
	}
	if most := m.maxBody(); len(inner) > most {
		return m, nil, code.Newf(code.BadRequest, "the body of the request is longer than %d bytes", most)
	}
	return m, inner, nil
}

// DecodeResponse reads the body of a RESPONSE; inner aliases it and is not checked yet (DecodeAnswer).
func DecodeResponse(body []byte) (m Method, inner []byte, err *code.Error) {
	if err := response.validate(body); err != nil {
		return 0, nil, err
	}
	for len(body) > 0 {
		f, n := next(body)
		switch f.num {
		case 1:
			inner = f.data
		case 2:
			m = Method(f.val)
		}
		body = body[n:]
	}
	return m, inner, nil
}

// DecodeMethod checks inner as the request of method m and reads it into req, the message
// that the method's comment names. An unknown method is unknown_method.
func DecodeMethod(m Method, inner []byte, req Body) *code.Error {
	if !m.Known() {
		return code.New(code.UnknownMethod)
	}
	return decode(methods[m].request, inner, req)
}

// DecodeAnswer checks inner as the answer of method m and reads it into ans.
func DecodeAnswer(m Method, inner []byte, ans Body) *code.Error {
	if !m.Known() {
		return code.New(code.UnknownMethod)
	}
	return decode(methods[m].answer, inner, ans)
}

// DecodeHint reads the body of a HINT.
func DecodeHint(body []byte) (*wire.Hint, *code.Error) {
	m := new(wire.Hint)
	return m, decode(&hint, body, m)
}

// DecodeDrain reads the body of a DRAIN.
func DecodeDrain(body []byte) (*wire.Drain, *code.Error) {
	m := new(wire.Drain)
	return m, decode(&drain, body, m)
}

// DecodeKick reads the body of a KICK as the error that it tells.
func DecodeKick(body []byte) (*code.Error, *code.Error) {
	m := new(wire.Kick)
	if err := decode(&kick, body, m); err != nil {
		return nil, err
	}
	return &code.Error{Code: code.Code(m.Code), Reason: m.Reason}, nil
}

// DecodeError reads the body of an ERROR as the error that it tells, and the conversation
// if it is about a lane.
func DecodeError(body []byte) (told *code.Error, conv id.ConversationID, err *code.Error) {
	m := new(wire.Error)
	if err := decode(&errorBody, body, m); err != nil {
		return nil, conv, err
	}
	copy(conv[:], m.ConversationId)
	return FromWire(m), conv, nil
}

// FromWire returns the error that an ERROR, or a SYNCED's error, tells.
func FromWire(m *wire.Error) *code.Error {
	return &code.Error{Code: code.Code(m.Code), Reason: m.Reason, RetryAfter: time.Duration(m.RetryAfterMs) * time.Millisecond}
}

// DecodeSynced reads the body of a SYNCED. p.Messages is for NextMessage and aliases
// body; refused is why this conversation could not be read, if so.
func DecodeSynced(body []byte) (p Page, refused *code.Error, err *code.Error) {
	if err := synced.validate(body); err != nil {
		return p, nil, err
	}
	var messages run
	for b := body; len(b) > 0; {
		f, n := next(b)
		switch f.num {
		case 1:
			p.Conversation = id.ConversationID(f.data)
		case 2:
			p.Users = append(p.Users, id.UserID(f.data))
		case 3:
			p.FromSeq = f.val
		case 4:
			p.ToSeq = f.val
		case 5:
			p.FirstSeq = f.val
		case 6:
			p.LastSeq = f.val
		case 8:
			messages.add(body, len(body)-len(b), n)
		case 9:
			var m wire.Error
			if e := m.Unmarshal(f.data); e != nil {
				return p, nil, malformed("synced")
			}
			refused = FromWire(&m)
		}
		b = b[n:]
	}
	p.Messages = messages.bytes(body)
	return p, refused, nil
}

// DecodeHistory reads inner, the answer of HISTORY, as a page; Messages aliases it.
func DecodeHistory(inner []byte) (p Page, err *code.Error) {
	if err := historyResponse.validate(inner); err != nil {
		return p, err
	}
	var messages run
	for b := inner; len(b) > 0; {
		f, n := next(b)
		switch f.num {
		case 1:
			p.Conversation = id.ConversationID(f.data)
		case 5:
			p.FirstSeq = f.val
		case 6:
			p.LastSeq = f.val
		case 8:
			messages.add(inner, len(inner)-len(b), n)
		case 10:
			p.More = f.val != 0
		}
		b = b[n:]
	}
	p.Messages = messages.bytes(inner)
	return p, nil
}

// run gathers the elements of a repeated field as one slice of the body that they stand
// in; only if something stands between them it copies.
type run struct {
	start, end int
	copied     []byte
}

// add takes in the field at body[i:i+n].
func (r *run) add(body []byte, i, n int) {
	switch {
	case r.copied != nil:
		r.copied = append(r.copied, body[i:i+n]...)
	case r.end == 0:
		r.start, r.end = i, i+n
	case r.end == i:
		r.end = i + n
	default:
		r.copied = append(make([]byte, 0, len(body)-r.start), body[r.start:r.end]...)
		r.copied = append(r.copied, body[i:i+n]...)
	}
}

func (r *run) bytes(body []byte) []byte {
	if r.copied != nil {
		return r.copied
	}
	return body[r.start:r.end:r.end]
}

// Validate checks the body of any frame, as whoever receives it would: a SEND against lim,
// a REQUEST or RESPONSE with the method's own body. A frame of unknown type is unknown_frame,
// and one that asks for an answer without saying to which request is bad_frame.
func Validate(f *frame.Frame, lim *Limits) *code.Error {
	if !f.Type.Known() {
		return code.New(code.UnknownFrame)
	}
	switch f.Type {
	case frame.Send, frame.Sync, frame.Request:
		if !f.HasReqID() {
			return code.Newf(code.BadFrame, "a %v without request id", f.Type)
		}
	}
	switch f.Type {
	case frame.Ping, frame.Pong:
		return nil
	case frame.Send:
		return DecodeSend(new(Send), f.Body, lim)
	case frame.Request:
		m, inner, err := DecodeRequest(f.Body)
		if err == nil && !m.Known() {
			err = code.New(code.UnknownMethod)
		}
		if err == nil {
			err = methods[m].request.validate(inner)
		}
		return err
	case frame.Response:
		m, inner, err := DecodeResponse(f.Body)
		if err == nil && m.Known() {
			err = methods[m].answer.validate(inner)
		}
		return err
	}
	return bodies[f.Type].validate(f.Body)
}
