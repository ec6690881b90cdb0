package rest

import "github.com/gochat-im/gochat/protocol/packet"

const (
	v1           = "/api/v1"
	conversation = v1 + "/conversations/{conversation_id}"
	room         = v1 + "/rooms/{conversation_id}"
	group        = v1 + "/groups/{conversation_id}"
)

// calls are the routes that are one method each.
var calls = []call{
	{id: "setProfile", verb: "PATCH", path: v1 + "/users/me", tag: "users", doc: "Changes what others see of you. What is left out stays.",
		method: packet.MethodProfileSet, body: []string{"name", "avatar", "ext"}, bits: map[string]uint32{"name": 1, "avatar": 2, "ext": 4}},
	{id: "listBlocks", verb: "GET", path: v1 + "/blocks", tag: "users", doc: "Whom you have blocked.",
		method: packet.MethodBlocks, query: []string{"cursor", "limit"}},
	{id: "block", verb: "PUT", path: v1 + "/blocks/{user_id}", tag: "users", doc: "Blocks a user: they can't write to you any more.",
		method: packet.MethodBlock, always: `"blocked":true`},
	{id: "unblock", verb: "DELETE", path: v1 + "/blocks/{user_id}", tag: "users", doc: "Takes a block back.",
		method: packet.MethodBlock},

	{id: "listConversations", verb: "GET", path: v1 + "/conversations", tag: "conversations", doc: "Your conversations, the latest first, each with its last message and what is unread. With the sync_mark of an earlier answer only what changed since.",
		method: packet.MethodConversations, query: []string{"cursor", "limit", "sync_mark"}},
	{id: "openConversation", verb: "POST", path: v1 + "/conversations", tag: "conversations", doc: "Your direct conversation with a user, made if there is none.",
		method: packet.MethodOpenDirect, body: []string{"user_id"}, needs: []string{"user_id"}},
	{id: "getConversation", verb: "GET", path: conversation, tag: "conversations", doc: "One conversation.",
		method: packet.MethodConversation},
	{id: "setConversation", verb: "PATCH", path: conversation + "/settings", tag: "conversations", doc: "Pins, mutes or hides a conversation, for you alone.",
		method: packet.MethodSettings, body: []string{"pinned", "muted", "hidden"}, bits: map[string]uint32{"pinned": 1, "muted": 2, "hidden": 4}},
	{id: "markRead", verb: "PUT", path: conversation + "/read", tag: "conversations", doc: "You have read up to here. Never moves back.",
		method: packet.MethodRead, body: []string{"read_seq"}, needs: []string{"read_seq"}},
	{id: "listMentions", verb: "GET", path: conversation + "/mentions", tag: "conversations", doc: "Messages that mention you, or everyone.",
		method: packet.MethodMentions, query: []string{"after_seq", "limit"}},

	{id: "createGroup", verb: "POST", path: v1 + "/groups", tag: "groups", doc: "A new group, which you own. With a key of your own it is made once.",
		method: packet.MethodGroupCreate, body: []string{"name", "key", "user_ids", "avatar", "ext", "join"}, keyed: true},
	{id: "getGroup", verb: "GET", path: group, tag: "groups", doc: "What a group is.",
		method: packet.MethodGroup},
	{id: "updateGroup", verb: "PATCH", path: group, tag: "groups", doc: "Changes a group. What is left out stays.",
		method: packet.MethodGroupUpdate, body: []string{"name", "avatar", "ext", "join"}, bits: map[string]uint32{"name": 1, "avatar": 2, "ext": 4, "join": 8}},
	{id: "listMembers", verb: "GET", path: group + "/members", tag: "groups", doc: "A group's members, in the order of their ids.",
		method: packet.MethodMembers, query: []string{"cursor", "limit"}},
	{id: "addMembers", verb: "POST", path: group + "/members", tag: "groups", doc: "Brings users into a group.",
		method: packet.MethodGroupAdd, body: []string{"user_ids"}, needs: []string{"user_ids"}},
	{id: "removeMember", verb: "DELETE", path: group + "/members/{user_id}", tag: "groups", doc: "Takes a member out of a group.",
		method: packet.MethodGroupRemove, listed: "user_id"},
	{id: "removeMembers", verb: "POST", path: group + "/members/remove", tag: "groups", doc: "Takes users out of a group, many at once.",
		method: packet.MethodGroupRemove, body: []string{"user_ids"}, needs: []string{"user_ids"}},
	{id: "setRole", verb: "PATCH", path: group + "/members/{user_id}", tag: "groups", doc: "Makes a member an admin (2), a plain member (1), or the owner (3) in your place.",
		method: packet.MethodGroupRole, body: []string{"role"}, needs: []string{"role"}},
	{id: "setNickname", verb: "PUT", path: group + "/nickname", tag: "groups", doc: "What you are called in a group; empty: by your name.",
		method: packet.MethodNickname, body: []string{"nickname"}, needs: []string{"nickname"}},
	{id: "joinGroup", verb: "POST", path: group + "/join", tag: "groups", doc: "Joins a group that lets everybody in.",
		method: packet.MethodGroupJoin},
	{id: "leaveGroup", verb: "POST", path: group + "/leave", tag: "groups", doc: "Leaves a group.",
		method: packet.MethodGroupLeave},

	{id: "createRoom", verb: "POST", path: v1 + "/rooms", tag: "rooms", doc: "A new room, which you moderate; the one of that name, if there is one.",
		method: packet.MethodRoomCreate, body: []string{"name", "title", "slow_seconds"}, needs: []string{"name"}},
	{id: "getRoom", verb: "GET", path: room, tag: "rooms", doc: "What a room is, and how many are in it. Its messages are read, and written, as those of any conversation; rooms are entered over a connection.",
		method: packet.MethodRoom},
	{id: "updateRoom", verb: "PATCH", path: room, tag: "rooms", doc: "Changes a room that you moderate. What is left out stays.",
		method: packet.MethodRoomUpdate, body: []string{"title", "slow_seconds"}, bits: map[string]uint32{"title": 1, "slow_seconds": 2}},
	{id: "listRoomMembers", verb: "GET", path: room + "/members", tag: "rooms", doc: "Who is in a room now, in the order of their ids.",
		method: packet.MethodRoomMembers, query: []string{"cursor", "limit"}},
	{id: "moderateRoom", verb: "PUT", path: room + "/users/{user_id}", tag: "rooms", doc: "Mutes (1) or bans (3) a user in a room that you moderate, for some seconds or, with 0, until you take it back (2, 4); makes a moderator (5), or one no longer (6).",
		method: packet.MethodRoomModerate, body: []string{"action", "seconds"}, needs: []string{"action"}},

	{id: "listDevices", verb: "GET", path: v1 + "/devices", tag: "devices", doc: "Your devices that are signed in or connected.",
		method: packet.MethodDevices},
	{id: "signOutOthers", verb: "DELETE", path: v1 + "/devices", tag: "devices", doc: "Signs out all of your devices but this one.",
		method: packet.MethodSignOut},
	{id: "signOut", verb: "DELETE", path: v1 + "/devices/{device_id}", tag: "devices", doc: "Signs out one of your devices.",
		method: packet.MethodSignOut},
}
