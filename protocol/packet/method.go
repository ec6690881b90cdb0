package packet

import (
	"fmt"

	"github.com/gochat-im/gochat/protocol/frame"
)

// Method says what a REQUEST asks for. Numbers are never reused.
type Method uint32

// The methods, their request and their answer.
const (
	MethodHistory       Method = 1  // wire.HistoryRequest -> wire.HistoryResponse
	MethodConversations Method = 2  // wire.ConversationsRequest -> wire.ConversationsResponse
	MethodRead          Method = 3  // wire.ReadRequest -> wire.ReadResponse
	MethodOpenDirect    Method = 4  // wire.OpenDirectRequest -> wire.OpenDirectResponse
	MethodConversation  Method = 5  // wire.ConversationRequest -> wire.ConversationState
	MethodGroupCreate   Method = 6  // wire.GroupCreateRequest -> wire.GroupChangeResponse
	MethodGroupAdd      Method = 7  // wire.GroupUsersRequest -> wire.GroupChangeResponse
	MethodGroupJoin     Method = 8  // wire.ConversationRequest -> wire.GroupChangeResponse
	MethodGroupLeave    Method = 9  // wire.ConversationRequest -> wire.GroupChangeResponse
	MethodGroupRemove   Method = 10 // wire.GroupUsersRequest -> wire.GroupChangeResponse
	MethodGroupRole     Method = 11 // wire.GroupRoleRequest -> wire.GroupChangeResponse
	MethodGroupUpdate   Method = 12 // wire.GroupUpdateRequest -> wire.GroupChangeResponse
	MethodGroup         Method = 13 // wire.ConversationRequest -> wire.Group
	MethodMembers       Method = 14 // wire.MembersRequest -> wire.MembersResponse
	MethodNickname      Method = 15 // wire.NicknameRequest -> wire.GroupChangeResponse
	MethodSettings      Method = 16 // wire.SettingsRequest -> wire.ConversationState
	MethodMentions      Method = 17 // wire.MentionsRequest -> wire.MentionsResponse
	MethodDevices       Method = 18 // wire.DevicesRequest -> wire.DevicesResponse
	MethodSignOut       Method = 19 // wire.SignOutRequest -> wire.SignOutResponse
	MethodProfiles      Method = 20 // wire.ProfilesRequest -> wire.ProfilesResponse
	MethodProfileSet    Method = 21 // wire.ProfileSetRequest -> wire.Profile
	MethodBlock         Method = 22 // wire.BlockRequest -> wire.BlockResponse
	MethodBlocks        Method = 23 // wire.BlocksRequest -> wire.BlocksResponse
	MethodBackground    Method = 24 // wire.BackgroundRequest -> wire.BackgroundResponse
	MethodRoomCreate    Method = 25 // wire.RoomCreateRequest -> wire.Room
	MethodRoomJoin      Method = 26 // wire.ConversationRequest -> wire.Room
	MethodRoomLeave     Method = 27 // wire.ConversationRequest -> wire.RoomLeaveResponse
	MethodRoom          Method = 28 // wire.ConversationRequest -> wire.Room
	MethodRoomMembers   Method = 29 // wire.MembersRequest -> wire.RoomMembersResponse
	MethodRoomUpdate    Method = 30 // wire.RoomUpdateRequest -> wire.Room
	MethodRoomModerate  Method = 31 // wire.RoomModerateRequest -> wire.Room
)

// methods holds, by number, the name in JSON and the schemas of request and answer.
var methods = [...]struct {
	name            string
	request, answer *schema
}{
	MethodHistory:       {"history", &historyRequest, &historyResponse},
	MethodConversations: {"conversations", &conversationsRequest, &conversationsResponse},
	MethodRead:          {"read", &readRequest, &readResponse},
	MethodOpenDirect:    {"open_direct", &openDirectRequest, &openDirectResponse},
	MethodConversation:  {"conversation", &conversationRequest, &conversationState},
	MethodGroupCreate:   {"group_create", &groupCreateRequest, &groupChangeResponse},
	MethodGroupAdd:      {"group_add", &groupUsersRequest, &groupChangeResponse},
	MethodGroupJoin:     {"group_join", &conversationRequest, &groupChangeResponse},
	MethodGroupLeave:    {"group_leave", &conversationRequest, &groupChangeResponse},
	MethodGroupRemove:   {"group_remove", &groupUsersRequest, &groupChangeResponse},
	MethodGroupRole:     {"group_role", &groupRoleRequest, &groupChangeResponse},
	MethodGroupUpdate:   {"group_update", &groupUpdateRequest, &groupChangeResponse},
	MethodGroup:         {"group", &conversationRequest, &group},
	MethodMembers:       {"members", &membersRequest, &membersResponse},
	MethodNickname:      {"nickname", &nicknameRequest, &groupChangeResponse},
	MethodSettings:      {"settings", &settingsRequest, &conversationState},
	MethodMentions:      {"mentions", &mentionsRequest, &mentionsResponse},
	MethodDevices:       {"devices", &devicesRequest, &devicesResponse},
	MethodSignOut:       {"sign_out", &signOutRequest, &signOutResponse},
	MethodProfiles:      {"profiles", &profilesRequest, &profilesResponse},
	MethodProfileSet:    {"profile_set", &profileSetRequest, &profile},
	MethodBlock:         {"block", &blockRequest, &blockResponse},
	MethodBlocks:        {"blocks", &blocksRequest, &blocksResponse},
	MethodBackground:    {"background", &backgroundRequest, &backgroundResponse},
	MethodRoomCreate:    {"room_create", &roomCreateRequest, &room},
	MethodRoomJoin:      {"room_join", &conversationRequest, &room},
	MethodRoomLeave:     {"room_leave", &conversationRequest, &roomLeaveResponse},
	MethodRoom:          {"room", &conversationRequest, &room},
	MethodRoomMembers:   {"room_members", &membersRequest, &roomMembersResponse},
	MethodRoomUpdate:    {"room_update", &roomUpdateRequest, &room},
	MethodRoomModerate:  {"room_moderate", &roomModerateRequest, &room},
}

// Known reports whether this version of the protocol has the method.
func (m Method) Known() bool { return m > 0 && int(m) < len(methods) }

// maxBody returns how long the method's request may be.
func (m Method) maxBody() int {
	switch m {
	case MethodGroupCreate, MethodGroupAdd, MethodGroupRemove, MethodProfiles:
		return MaxUsersBody
	}
	return MaxMethodBody
}

// String returns the method's name in JSON.
func (m Method) String() string {
	if m.Known() {
		return methods[m].name
	}
	return fmt.Sprintf("method_%d", uint32(m))
}

// Body is a generated message of package wire.
type Body interface {
	Marshal(dst []byte) ([]byte, error)
	Unmarshal([]byte) error
}

// AppendRequest appends a whole REQUEST frame.
func AppendRequest(dst []byte, reqID uint32, m Method, body Body) ([]byte, error) {
	return appendCall(dst, frame.Request, frame.FlagRequestID, reqID, m, body)
}

// AppendResponse appends a whole RESPONSE frame; more tells that further parts of the answer follow.
func AppendResponse(dst []byte, reqID uint32, more bool, m Method, body Body) ([]byte, error) {
	flags := frame.FlagRequestID
	if more {
		flags |= frame.FlagMore
	}
	return appendCall(dst, frame.Response, flags, reqID, m, body)
}

func appendCall(dst []byte, t frame.Type, flags frame.Flags, reqID uint32, m Method, body Body) ([]byte, error) {
	inner, err := body.Marshal(nil)
	if err != nil {
		return dst, fmt.Errorf("encoding the %s of %s: %w", t, m, err)
	}
	size := varintLen(uint64(m))
	if len(inner) > 0 {
		size += bytesLen(len(inner))
	}
	dst = frame.AppendHeader(dst, t, flags, reqID, size)
	if t == frame.Request {
		dst = appendVarint(dst, 1, uint64(m))
		if len(inner) > 0 {
			dst = appendBytes(dst, 2, aliased(inner))
		}
		return dst, nil
	}
	if len(inner) > 0 {
		dst = appendBytes(dst, 1, aliased(inner))
	}
	return appendVarint(dst, 2, uint64(m)), nil
}

// AppendBody appends a whole frame of type t around a generated message.
func AppendBody(dst []byte, t frame.Type, flags frame.Flags, reqID uint32, body Body) ([]byte, error) {
	inner, err := body.Marshal(nil)
	if err != nil {
		return dst, fmt.Errorf("encoding %s: %w", t, err)
	}
	return frame.Append(dst, t, flags, reqID, inner), nil
}

// Field is one field of a Shape, as it is in JSON.
type Field struct {
	Name     string
	Kind     string // number, long, time, bool, device, message_id, text, name, conversation_id, uuid, bytes or object
	Repeated bool
	Required bool  // of a request
	Always   bool  // written even when it is zero
	Max      int   // bytes, or elements of a repeated field; 0: what fits
	Shape    Shape // of an object
}

// Shape tells what a body looks like in JSON, for those who describe it elsewhere.
type Shape struct{ s *schema }

var kindNames = [...]string{
	kindNumber: "number", kindLong: "long", kindTime: "time", kindBool: "bool", kindDevice: "device", kindMessage: "message_id",
	kindText: "text", kindName: "name", kindConv: "conversation_id", kindUUID: "uuid", kindBytes: "bytes", kindSub: "object",
}

// Name is what the body is called; several may share one.
func (x Shape) Name() string { return x.s.name }

// Fields returns the fields, ascending by number; a new slice each time. Of a message the timestamp
// beside msg_id, and of an error the name beside code, are none of them.
func (x Shape) Fields() []Field {
	out := make([]Field, 0, len(x.s.fields))
	for i := range x.s.fields {
		sp := &x.s.fields[i]
		f := Field{
			Name: sp.name, Kind: kindNames[sp.kind], Max: sp.max,
			Repeated: sp.attr&repeated != 0, Required: sp.attr&required != 0, Always: sp.attr&always != 0,
		}
		if sp.kind == kindSub {
			f.Shape = Shape{sp.sub}
		}
		out = append(out, f)
	}
	return out
}

// Request and Answer are the shapes of a known method's bodies.
func (m Method) Request() Shape { return Shape{methods[m].request} }
func (m Method) Answer() Shape  { return Shape{methods[m].answer} }

// SendShape is the shape of SEND, MessageShape that of a message.
func SendShape() Shape    { return Shape{&sendBody} }
func MessageShape() Shape { return Shape{&message} }
