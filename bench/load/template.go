package load

import (
	"fmt"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
)

// template is the body of a sender's SENDs, in which only id and content change. Both have
// a fixed length and stand where the generated codec puts them.
type template struct {
	body          []byte
	idAt, content int
	salt          uint16
	sender        int
}

// newTemplate makes one for contents of so many bytes; sender is the number in ids and contents.
func newTemplate(content int, salt uint16, sender int, address func(*wire.Send)) (template, error) {
	text := make([]byte, content)
	verify.FillBody(text, sender, 0)
	var mid [16]byte
	verify.PutID(&mid, 0, salt, sender, 0)
	m := wire.Send{ClientMsgId: mid[:], MsgType: 1, Content: string(text)}
	address(&m)
	body, err := m.Marshal(nil)
	if err != nil {
		return template{}, fmt.Errorf("encode a SEND: %w", err)
	}
	m.MsgType, m.Content = 0, ""
	before, err := m.Marshal(nil) // address and id alone: the id is its end
	if err != nil {
		return template{}, fmt.Errorf("encode a SEND: %w", err)
	}
	return template{body: body, idAt: len(before) - 16, content: len(body) - len(text), salt: salt, sender: sender}, nil
}

// append puts the SEND of a number, with an id of that Unix millisecond, behind out.
func (t *template) append(out []byte, reqID uint32, ms int64, number uint64) []byte {
	out = frame.AppendHeader(out, frame.Send, frame.FlagRequestID, reqID, len(t.body))
	i := len(out)
	out = append(out, t.body...)
	verify.PutID((*[16]byte)(out[i+t.idAt:]), ms, t.salt, t.sender, number)
	verify.FillBody(out[i+t.content:], t.sender, number)
	return out
}

// permitted compares what is to be sent with what the server's CONNACK allows: bodies, SENDs
// without an answer on a connection, and, unless rate is 0, SENDs a second of a connection.
func permitted(l *wire.Limits, body, underway int, rate float64) error {
	if l == nil {
		return failure("the server's CONNACK has no limits")
	}
	if l.MaxContent > 0 && body > int(l.MaxContent) {
		return &Refused{fmt.Sprintf("bodies of %d bytes: the server allows %d", body, l.MaxContent)}
	}
	if l.MaxInflight > 0 && underway > int(l.MaxInflight) {
		return &Refused{fmt.Sprintf("%d messages under way a connection: the server allows %d (limits.inflight)", underway, l.MaxInflight)}
	}
	if rate > 0 && l.SendsPerSecond > 0 && rate > float64(l.SendsPerSecond) {
		return &Refused{fmt.Sprintf("%.0f messages a second a connection: the server allows %d (limits.sends_per_second)", rate, l.SendsPerSecond)}
	}
	return nil
}
