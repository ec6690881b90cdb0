package rest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// sendFields are the members of a message that a client sends. What says which of its devices
// it is from, or how far it has read, is for connections.
var sendFields = []string{
	"client_msg_id", "msg_type", "content", "data", "mentions", "mention_all", "reply_to_seq", "thread_seq",
	"expires_at", "no_count", "no_push", "ext", "encryption",
}

var targets = []string{"conversation_id", "receiver_id"}

const maxKey = 128 // bytes of an Idempotency-Key

func idempotencyKey(doc string) openapi.Param {
	return openapi.Param{Name: "Idempotency-Key", In: "header", Doc: doc, Schema: openapi.Schema{"type": "string", "minLength": 1, "maxLength": maxKey}}
}

func (s *routes) messages() []Route {
	shape := packet.SendShape()
	sent := openapi.Fields(shape, sendFields...)
	sent["msg_type"]["default"] = packet.TypeText
	anywhere := openapi.Fields(shape, append(slices.Clone(sendFields), targets...)...)
	anywhere["msg_type"]["default"] = packet.TypeText
	anyBody := openapi.Closed(anywhere)
	anyBody["oneOf"] = []openapi.Schema{{"required": []string{"conversation_id"}}, {"required": []string{"receiver_id"}}}
	conv := openapi.Param{Name: "conversation_id", In: "path", Required: true, Schema: openapi.Conversation()}
	key := idempotencyKey("stands for a client_msg_id for a day: the same key, sent again, stores nothing again")
	return []Route{
		{Operation: openapi.Operation{
			ID: "listMessages", Method: "GET", Path: conversation + "/messages", Tag: "messages", Security: "bearer",
			Doc: "Messages of a conversation in ascending order: the newest, those before a cursor, or those after one. The answer's cursor is the next one in the same direction.",
			Params: []openapi.Param{conv,
				{Name: "before", In: "query", Doc: "a seq, exclusive; from the newest message back", Schema: openapi.Long()},
				{Name: "after", In: "query", Doc: "a seq, exclusive; 0: from the first message on", Schema: openapi.Long()},
				{Name: "limit", In: "query", Schema: openapi.Schema{"type": "integer", "minimum": 1, "maximum": 200, "default": 100}},
			},
			Answer: openapi.Ref("Messages"),
		}, Serve: s.history},
		{Operation: openapi.Operation{
			ID: "sendTo", Method: "POST", Path: conversation + "/messages", Tag: "messages", Doc: "Sends a message. An answer means that it is stored.",
			Security: "bearer", Params: []openapi.Param{conv, key}, Body: openapi.Closed(sent), Answer: openapi.Ref("Sent"),
		}, Serve: s.sendTo},
		{Operation: openapi.Operation{
			ID: "send", Method: "POST", Path: v1 + "/messages", Tag: "messages", Doc: "Sends a message to a conversation, or to a user by receiver_id. An answer means that it is stored.",
			Security: "bearer", Params: []openapi.Param{key}, Body: anyBody, Answer: openapi.Ref("Sent"),
		}, Serve: s.send},
	}
}

// components are what the document needs beside the packets' shapes.
func components() map[string]openapi.Schema {
	return map[string]openapi.Schema{
		"Messages": openapi.Object(map[string]openapi.Schema{
			"conversation_id": openapi.Conversation(), "messages": openapi.List(openapi.Ref("Message")),
			"first_seq": {"type": "string", "pattern": "^[0-9]+$", "description": "of the conversation: what is below is gone"},
			"last_seq":  {"type": "string", "pattern": "^[0-9]+$", "description": "of the conversation"},
			"more":      {"type": "boolean", "description": "whether there are more in this direction now"},
			"cursor":    {"type": "string", "description": "the next before or after; with before, empty at the beginning"},
		}, "conversation_id", "messages", "first_seq", "last_seq", "more", "cursor"),
		"Sent": openapi.Object(map[string]openapi.Schema{
			"conversation_id": openapi.Conversation(), "client_msg_id": openapi.UUID(), "msg_id": openapi.Long(),
			"timestamp": openapi.Time(), "seq": openapi.Long(),
			"duplicate": {"type": "boolean", "description": "it was stored before; the numbers are the first one's"},
		}, "conversation_id", "client_msg_id", "msg_id", "timestamp", "seq", "duplicate"),
		"Me": openapi.Object(map[string]openapi.Schema{
			"user_id": openapi.Name(), "device_id": openapi.Name(), "profile": openapi.Ref("Profile"),
		}, "user_id", "profile"),
		"Found": openapi.Object(map[string]openapi.Schema{
			"users": openapi.List(openapi.Ref("Profile")), "cursor": openapi.Text(),
		}, "users", "cursor"),
	}
}

func (s *routes) history(ctx context.Context, r *api.Request) (*api.Answer, error) {
	conv, err := id.ParseConversation(r.Param("conversation_id"))
	if err != nil {
		return nil, code.Newf(code.BadRequest, "conversation_id is not 32 hexadecimal digits")
	}
	got := map[string]string{}
	if err := query(r, []string{"before", "after", "limit"}, func(name, value string) { got[name] = value }); err != nil {
		return nil, err
	}
	numbers := map[string]uint64{}
	for name, value := range got {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || name == "limit" && (n == 0 || n > 1<<20) {
			return nil, code.Newf(code.BadRequest, "%s is no number in its range", name)
		}
		numbers[name] = n
	}
	_, back := got["before"]
	_, on := got["after"]
	if back && on {
		return nil, code.Newf(code.BadRequest, "before and after exclude each other")
	}
	if back && numbers["before"] == 0 {
		return nil, code.Newf(code.BadRequest, "nothing is before 0")
	}
	var p packet.Page
	cursor := ""
	if on {
		after := numbers["after"]
		after = min(after, math.MaxInt64)
		if p, err = s.Conversations.Sync(ctx, origin(r), conv, after+1, 0, int(numbers["limit"]), nil); err != nil {
			return nil, err
		}
		cursor = strconv.FormatUint(p.ToSeq, 10)
	} else {
		if p, err = s.Conversations.History(ctx, origin(r), conv, numbers["before"], int(numbers["limit"]), nil); err != nil {
			return nil, err
		}
		if p.More {
			cursor = strconv.FormatUint(p.FromSeq, 10)
		}
	}
	body := append([]byte(`{"conversation_id":"`), conv.String()...)
	body = strconv.AppendUint(append(body, `","first_seq":"`...), p.FirstSeq, 10)
	body = strconv.AppendUint(append(body, `","last_seq":"`...), p.LastSeq, 10)
	if body, err = packet.AppendMessagesJSON(append(body, `","messages":`...), &p); err != nil {
		return nil, err
	}
	body = strconv.AppendBool(append(body, `,"more":`...), p.More)
	body = append(append(append(body, `,"cursor":"`...), cursor...), `"}`...)
	return &api.Answer{Body: body}, nil
}

func (s *routes) sendTo(ctx context.Context, r *api.Request) (*api.Answer, error) {
	obj := map[string]json.RawMessage{}
	if err := members(r.Body(), sendFields, obj); err != nil {
		return nil, err
	}
	obj["conversation_id"] = quoted(r.Param("conversation_id"))
	return s.deliver(ctx, r, obj)
}

func (s *routes) send(ctx context.Context, r *api.Request) (*api.Answer, error) {
	obj := map[string]json.RawMessage{}
	if err := members(r.Body(), append(slices.Clone(sendFields), targets...), obj); err != nil {
		return nil, err
	}
	return s.deliver(ctx, r, obj)
}

// deliver sends a message and waits until it is stored.
func (s *routes) deliver(ctx context.Context, r *api.Request, obj map[string]json.RawMessage) (*api.Answer, error) {
	if err := query(r, nil, nil); err != nil {
		return nil, err
	}
	if e, ok := obj["encryption"]; ok && string(e) != "null" {
		if err := members(e, []string{"scheme", "epoch", "header"}, map[string]json.RawMessage{}); err != nil {
			return nil, err
		}
	}
	if v, ok := obj["msg_type"]; !ok || string(v) == "null" {
		obj["msg_type"] = strconv.AppendUint(nil, packet.TypeText, 10)
	}
	key, err := keyOf(r)
	if err != nil {
		return nil, err
	}
	named := obj["client_msg_id"] != nil && string(obj["client_msg_id"]) != "null"
	if named && key != "" {
		return nil, code.Newf(code.BadRequest, "client_msg_id and an Idempotency-Key exclude each other")
	}
	fresh := id.NewClientMsgID(s.Now())
	if !named {
		obj["client_msg_id"] = quoted(fresh.String())
	}
	p, err := s.pending(r, obj, named)
	if err != nil {
		return nil, err
	}
	if key != "" { // after everything that can be told of the message was told
		known, err := s.Repeats.MessageID(ctx, r.Caller.User, key, fresh)
		if err != nil {
			return nil, err
		}
		if known != fresh {
			obj["client_msg_id"] = quoted(known.String())
			if p, err = s.pending(r, obj, true); err != nil {
				return nil, err
			}
		}
	}
	out := make(reply, 1)
	p.Reply = out
	msgID := p.ClientMsgID
	s.Conversations.Send([]packet.Pending{p})
	select {
	case o := <-out:
		if o.err != nil {
			return nil, o.err
		}
		return &api.Answer{Body: sentJSON(&o.ack, msgID)}, nil
	case <-ctx.Done():
		return nil, code.Wrap(code.Undetermined, ctx.Err())
	}
}

// pending makes a message ready to be handed over; again: it may have been sent before.
func (s *routes) pending(r *api.Request, obj map[string]json.RawMessage, again bool) (p packet.Pending, _ error) {
	text, err := json.Marshal(obj)
	if err != nil {
		return p, code.Newf(code.BadRequest, "the request can't be read")
	}
	body, err := packet.SendFromJSON(text)
	if err != nil {
		return p, err
	}
	if err := packet.DecodeSend(&p.Send, body, &s.Limits); err != nil {
		return p, err
	}
	// A lane of its own: what becomes of this message is no other's business. Hubs number
	// their connections by the second, and never so high.
	p.From = origin(r)
	p.From.Conn = s.turn.Add(1)
	p.Resend, p.At = again, trace.Now()
	if t, err := trace.Parse(r.ID); err == nil {
		p.Trace = &t
	}
	return p, nil
}

func sentJSON(a *packet.Ack, msgID id.ClientMsgID) []byte {
	b := append([]byte(`{"conversation_id":"`), a.Conversation.String()...)
	b = append(append(b, `","client_msg_id":"`...), msgID.String()...)
	b = strconv.AppendUint(append(b, `","msg_id":"`...), uint64(a.MessageID), 10)
	b = strconv.AppendInt(append(b, `","timestamp":`...), a.MessageID.UnixMilli(), 10)
	b = strconv.AppendUint(append(b, `,"seq":"`...), a.Seq, 10)
	b = strconv.AppendBool(append(b, `","duplicate":`...), a.Duplicate)
	return append(b, '}')
}

type outcome struct {
	ack packet.Ack
	err *code.Error
}

// reply has room for its one outcome, so that nobody waits for whoever has stopped listening.
type reply chan outcome

func (r reply) Acked(_ *packet.Pending, ack packet.Ack)    { r <- outcome{ack: ack} }
func (r reply) Refused(_ *packet.Pending, err *code.Error) { r <- outcome{err: err} }

// keyOf returns the Idempotency-Key, empty if there is none.
func keyOf(r *api.Request) (string, error) {
	key := r.Header("Idempotency-Key")
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' || i >= maxKey {
			return "", code.Newf(code.BadRequest, "an Idempotency-Key is 1 to %d visible characters of ASCII", maxKey)
		}
	}
	return key, nil
}

// nameByKey makes the Idempotency-Key, if there is one, the key of the group that is to be made.
// Groups are named for everybody, so who asks is part of it.
func nameByKey(r *api.Request, obj map[string]json.RawMessage) error {
	key, err := keyOf(r)
	if err != nil || key == "" {
		return err
	}
	if v := obj["key"]; v != nil && string(v) != "null" {
		return code.Newf(code.BadRequest, "key and an Idempotency-Key exclude each other")
	}
	sum := sha256.Sum256([]byte(string(r.Caller.User) + "\x00" + key))
	obj["key"] = quoted("once-" + base64.RawURLEncoding.EncodeToString(sum[:]))
	return nil
}
