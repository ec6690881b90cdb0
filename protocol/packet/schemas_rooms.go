package packet

import "github.com/gochat-im/gochat/kitex_gen/wire"

// MaxRoomName is the longest name of a room, in bytes.
const MaxRoomName = 120

var (
	roomCreateRequest = schema{name: "room_create", fields: []spec{
		{num: 1, name: "name", kind: kindText, attr: required, max: MaxRoomName},
		{num: 2, name: "title", kind: kindText, max: maxTitle},
		{num: 3, name: "slow_seconds", kind: kindNumber},
	}}

	room = schema{name: "room", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv},
		{num: 2, name: "name", kind: kindText},
		{num: 3, name: "title", kind: kindText},
		{num: 4, name: "count", kind: kindNumber, attr: always},
		{num: 5, name: "slow_seconds", kind: kindNumber},
		{num: 6, name: "first_seq", kind: kindLong, attr: always},
		{num: 7, name: "last_seq", kind: kindLong, attr: always},
		{num: 8, name: "role", kind: kindNumber},
		{num: 9, name: "muted_until", kind: kindTime},
		{num: 10, name: "created_time", kind: kindTime},
		{num: 11, name: "created_by", kind: kindName},
		{num: 12, name: "moderators", kind: kindName, attr: repeated},
	}}

	roomLeaveResponse = schema{name: "room_leave"}

	roomMembersResponse = schema{name: "room_members", fields: []spec{
		{num: 1, name: "user_ids", kind: kindName, attr: repeated},
		{num: 2, name: "cursor", kind: kindText},
		{num: 3, name: "count", kind: kindNumber, attr: always},
	}}

	roomUpdateRequest = schema{name: "room_update", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "fields", kind: kindNumber, attr: required},
		{num: 3, name: "title", kind: kindText, max: maxTitle},
		{num: 4, name: "slow_seconds", kind: kindNumber},
	}}

	roomModerateRequest = schema{name: "room_moderate", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "user_id", kind: kindName, attr: required},
		{num: 3, name: "action", kind: kindNumber, attr: required},
		{num: 4, name: "seconds", kind: kindNumber},
	}}

	roomNews = schema{name: "room_news", fields: []spec{
		{num: 1, name: "count", kind: kindNumber},
		{num: 2, name: "joined", kind: kindName, attr: repeated},
		{num: 3, name: "left", kind: kindName, attr: repeated},
		{num: 4, name: "joined_count", kind: kindNumber},
		{num: 5, name: "left_count", kind: kindNumber},
		{num: 6, name: "last_seq", kind: kindLong},
		{num: 7, name: "left_out", kind: kindLong},
		{num: 8, name: "code", kind: kindNumber},
	}}

	broadcast = schema{name: "broadcast", fields: []spec{
		{num: 1, name: "id", kind: kindText},
		{num: 2, name: "title", kind: kindText, max: maxTitle},
		{num: 3, name: "text", kind: kindText},
		{num: 4, name: "ext", kind: kindBytes, max: MaxProfileExt},
		{num: 5, name: "time", kind: kindTime},
	}}
)

// DecodeRoomNews reads the data of a signal of kind SignalRoom.
func DecodeRoomNews(data []byte) (*wire.RoomNews, error) {
	m := new(wire.RoomNews)
	if err := decode(&roomNews, data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// DecodeBroadcast reads the data of a signal of kind SignalNotice.
func DecodeBroadcast(data []byte) (*wire.Broadcast, error) {
	m := new(wire.Broadcast)
	if err := decode(&broadcast, data, m); err != nil {
		return nil, err
	}
	return m, nil
}
