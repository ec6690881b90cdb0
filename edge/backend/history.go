package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Past is one message of before.
type Past struct {
	At     int64 // Unix ms
	Sender id.UserID
	Send   packet.Send // its target doesn't count
}

// Brought is what became of an import.
type Brought struct {
	Conversation id.ConversationID
	Imported     int
	Duplicates   int // stored before
	LastSeq      uint64
}

// Importer brings in messages of before.
type Importer interface {
	Direct(ctx context.Context, a, b id.UserID, messages []Past) (Brought, error)
	Group(ctx context.Context, conv id.ConversationID, messages []Past) (Brought, error)

	// Open returns nil if conv takes history: it doesn't once somebody has written there.
	Open(ctx context.Context, conv id.ConversationID) error
}

const (
	maxPast     = 2000 // messages of one request
	maxIncoming = 1000 // members of one request
	roleAdmin   = 2
)

// what an imported message says of itself beside who sent it and when.
var pastFields = []string{"client_msg_id", "msg_type", "content", "data", "ext"}

func (s *routes) imports() []rest.Route {
	text := openapi.Text()
	past := openapi.Fields(packet.SendShape(), pastFields...)
	past["msg_type"]["default"] = packet.TypeText
	past["sender_id"], past["timestamp"] = openapi.Name(), openapi.Time()
	past["key"] = openapi.Schema{"type": "string", "minLength": 1, "maxLength": 128, "description": "what the message was called there; instead of a client_msg_id"}
	message := openapi.Closed(past, "sender_id", "timestamp")
	message["oneOf"] = []openapi.Schema{{"required": []string{"client_msg_id"}}, {"required": []string{"key"}}}
	messages := openapi.Closed(map[string]openapi.Schema{
		"conversation_id": openapi.Conversation(),
		"user_ids":        {"type": "array", "items": openapi.Name(), "minItems": 2, "maxItems": 2, "description": "the two of a direct conversation; instead of conversation_id"},
		"messages":        {"type": "array", "items": message, "minItems": 1, "maxItems": maxPast, "description": "the oldest first"},
	}, "messages")
	messages["oneOf"] = []openapi.Schema{{"required": []string{"conversation_id"}}, {"required": []string{"user_ids"}}}
	list := []rest.Route{
		s.route("importMessages", "POST", admin+"/import/messages", "import", "Stores messages of before with their original times, as a whole or not at all. What is stored already is left out, so it may be repeated. Nobody is sent them, and they don't count as unread. "+
			"A conversation takes them until somebody writes there.", messages, "Imported", s.importMessages),
		s.route("importGroup", "POST", admin+"/import/groups", "import", "Makes a group as of an earlier time, with its members, or brings more of them into it, until somebody writes there.",
			openapi.Closed(map[string]openapi.Schema{
				"key": {"type": "string", "minLength": 1, "maxLength": 64, "description": "what the group was called there: it makes the conversation's id"}, "owner_id": openapi.Name(), "created_time": openapi.Time(), "name": text, "avatar": text, "join": openapi.Whole(),
				"members": {"type": "array", "maxItems": maxIncoming, "items": openapi.Closed(map[string]openapi.Schema{"user_id": openapi.Name(), "role": {"type": "string", "enum": []string{"member", "admin"}}}, "user_id")},
			}, "key", "owner_id", "created_time"), openapi.ComponentName(packet.MethodGroupCreate.Answer()), s.importGroup),
	}
	list[0].Components = map[string]openapi.Schema{"Imported": openapi.Object(map[string]openapi.Schema{
		"conversation_id": openapi.Conversation(), "imported": openapi.Whole(),
		"duplicates": {"type": "integer", "minimum": 0, "description": "of the request's messages, stored before"}, "last_seq": openapi.Long(),
	}, "conversation_id", "imported", "duplicates", "last_seq")}
	return list
}

// strict reads a JSON object whose members are all among names.
func strict(raw []byte, names ...string) (map[string]json.RawMessage, error) {
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(raw, &obj); err != nil || obj == nil {
		return nil, code.Newf(code.BadRequest, "an object is wanted")
	}
	known := make(map[string]bool, len(names))
	for _, n := range names {
		known[n] = true
	}
	for n, v := range obj {
		if !known[n] {
			return nil, code.Newf(code.BadRequest, "a member that this route doesn't know")
		}
		if string(v) == "null" {
			delete(obj, n)
		}
	}
	return obj, nil
}

// read puts the member name of obj, if it is there, into v.
func read(obj map[string]json.RawMessage, name string, v any) error {
	raw, ok := obj[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return code.Newf(code.BadRequest, "%s is malformed", name)
	}
	return nil
}

func (s *routes) importMessages(ctx context.Context, r *api.Request) (any, error) {
	obj, err := strict(r.Body(), "conversation_id", "user_ids", "messages")
	if err != nil {
		return nil, err
	}
	var (
		conv  string
		users []id.UserID
		list  []json.RawMessage
	)
	if err := errors.Join(read(obj, "conversation_id", &conv), read(obj, "user_ids", &users), read(obj, "messages", &list)); err != nil {
		return nil, err
	}
	switch {
	case (conv == "") == (users == nil) || users != nil && len(users) != 2:
		return nil, code.Newf(code.BadRequest, "either conversation_id or two user_ids say where")
	case len(list) == 0 || len(list) > maxPast:
		return nil, code.Newf(code.BadRequest, "messages holds 1 to %d of them", maxPast)
	}
	messages := make([]Past, len(list))
	for i, raw := range list {
		if err := s.past(raw, &messages[i]); err != nil {
			var e *code.Error
			if errors.As(err, &e) {
				err = code.Newf(e.Code, "message %d: %s", i, e.Reason)
			}
			return nil, err
		}
	}
	var b Brought
	if users != nil {
		b, err = s.Import.Direct(ctx, users[0], users[1], messages)
	} else {
		c, perr := id.ParseConversation(conv)
		if perr != nil {
			return nil, code.Newf(code.BadRequest, "conversation_id is not 32 hexadecimal digits")
		}
		b, err = s.Import.Group(ctx, c, messages)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"conversation_id": b.Conversation.String(), "imported": b.Imported, "duplicates": b.Duplicates, "last_seq": strconv.FormatUint(b.LastSeq, 10)}, nil
}

// past reads one message. It is stored as one that raises no unread number and wakes nobody.
func (s *routes) past(raw json.RawMessage, m *Past) error {
	obj, err := strict(raw, append([]string{"sender_id", "timestamp", "key"}, pastFields...)...)
	if err != nil {
		return err
	}
	var key string
	if err := errors.Join(read(obj, "sender_id", &m.Sender), read(obj, "timestamp", &m.At), read(obj, "key", &key)); err != nil {
		return err
	}
	_, named := obj["client_msg_id"]
	switch {
	case !m.Sender.Valid():
		return code.Newf(code.BadRequest, "sender_id is no user id")
	case m.At < 0 || obj["timestamp"] == nil:
		return code.Newf(code.BadRequest, "timestamp is wanted, in Unix milliseconds")
	case named == (key != "") || len(key) > 128:
		return code.Newf(code.BadRequest, "either client_msg_id or a key of at most 128 bytes says which message it is")
	case key != "":
		obj["client_msg_id"] = fmt.Appendf(nil, "%q", id.DerivedClientMsgID(m.At, "import", string(m.Sender), key).String())
	}
	for _, n := range [...]string{"sender_id", "timestamp", "key"} {
		delete(obj, n)
	}
	if obj["msg_type"] == nil {
		obj["msg_type"] = strconv.AppendUint(nil, packet.TypeText, 10)
	}
	obj["no_count"], obj["no_push"] = json.RawMessage("true"), json.RawMessage("true")
	obj["receiver_id"] = json.RawMessage(`"-"`) // a SEND has a target; this one's is known already
	text, err := json.Marshal(obj)
	if err != nil {
		return code.Newf(code.BadRequest, "it can't be read")
	}
	body, err := packet.SendFromJSON(text)
	if err != nil {
		return err
	}
	if err := packet.DecodeSend(&m.Send, body, &s.Limits); err != nil {
		return err
	}
	return nil
}

func (s *routes) importGroup(ctx context.Context, r *api.Request) (any, error) {
	obj, err := strict(r.Body(), "key", "owner_id", "created_time", "name", "avatar", "join", "members")
	if err != nil {
		return nil, err
	}
	var (
		key     string
		owner   id.UserID
		created int64
		list    []json.RawMessage
	)
	if err := errors.Join(read(obj, "key", &key), read(obj, "owner_id", &owner), read(obj, "created_time", &created), read(obj, "members", &list)); err != nil {
		return nil, err
	}
	switch {
	case key == "" || !owner.Valid():
		return nil, code.Newf(code.BadRequest, "key and owner_id are wanted")
	case created <= 0 || created > s.Now():
		return nil, code.Newf(code.BadRequest, "created_time is a time of the past, in Unix milliseconds")
	case len(list) > maxIncoming:
		return nil, code.Newf(code.TooMany, "at most %d members come at once", maxIncoming)
	}
	conv := id.Named(id.KindGroup, key)
	if err := s.Import.Open(ctx, conv); err != nil { // before anything is written into people's lists
		return nil, err
	}
	var users, admins []string
	for _, raw := range list {
		m, err := object(raw, "user_id", "role")
		if err != nil {
			return nil, err
		}
		users = append(users, m["user_id"])
		switch m["role"] {
		case "", "member":
		case "admin":
			admins = append(admins, m["user_id"])
		default:
			return nil, code.Newf(code.BadRequest, "role is member or admin")
		}
	}
	for _, n := range [...]string{"owner_id", "created_time", "members"} {
		delete(obj, n)
	}
	if len(users) > 0 {
		obj["user_ids"], _ = json.Marshal(users) // of strings: can't fail
	}
	methods, by := s.Dated(created), &packet.Origin{User: owner}
	answer, err := called(ctx, methods, packet.MethodGroupCreate, by, obj)
	if err != nil {
		return nil, err
	}
	for _, u := range admins {
		role := map[string]json.RawMessage{"role": strconv.AppendUint(nil, roleAdmin, 10)}
		role["user_id"], _ = json.Marshal(u)
		role["conversation_id"], _ = json.Marshal(conv.String())
		if _, err := called(ctx, methods, packet.MethodGroupRole, by, role); err != nil {
			var e *code.Error
			if errors.As(err, &e) && e.Code == code.NoSuchUser {
				continue // it is among the refused
			}
			return nil, err
		}
	}
	body, err := packet.AnswerJSON(packet.MethodGroupCreate, answer)
	return json.RawMessage(body), err
}

// called has a method answer the request that obj stands for.
func called(ctx context.Context, methods map[packet.Method]conn.Method, m packet.Method, by *packet.Origin, obj map[string]json.RawMessage) (packet.Body, error) {
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	inner, err := packet.RequestFromJSON(m, text)
	if err != nil {
		return nil, err
	}
	return methods[m](ctx, by, inner)
}
