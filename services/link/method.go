package link

import (
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// aboutConversation are the methods that are about one conversation, which is field 1 of the request.
var aboutConversation = [...]packet.Method{
	packet.MethodHistory, packet.MethodRead, packet.MethodConversation,
	packet.MethodGroupAdd, packet.MethodGroupJoin, packet.MethodGroupLeave, packet.MethodGroupRemove, packet.MethodGroupRole,
	packet.MethodGroupUpdate, packet.MethodGroup, packet.MethodMembers, packet.MethodNickname,
	packet.MethodSettings, packet.MethodMentions,
	packet.MethodRoomJoin, packet.MethodRoomLeave, packet.MethodRoom, packet.MethodRoomMembers, packet.MethodRoomUpdate, packet.MethodRoomModerate,
}

// MethodSlot is the slot whose owner answers a method: that of the conversation which the request is
// about, of the direct conversation which it opens, else of the user who asks. inner is unchecked: one that
// can't be read is refused wherever it goes.
func MethodSlot(m packet.Method, user id.UserID, inner []byte) id.Slot {
	for _, known := range aboutConversation {
		if m == known {
			if b := firstField(inner); len(b) == 16 {
				return id.ConversationID(b).Slot()
			}
			return user.Slot()
		}
	}
	if m == packet.MethodOpenDirect {
		return id.Direct(user, id.UserID(firstField(inner))).Slot()
	}
	if m == packet.MethodRoomCreate {
		return id.Named(id.KindRoom, string(firstField(inner))).Slot()
	}
	return user.Slot()
}

// Reads reports whether a method may be asked twice: it changes nothing, or what it changes is so already the second
// time. Entering a room and leaving it are of that kind: they note of one connection, in memory, that it is in or isn't.
func Reads(m packet.Method) bool {
	switch m {
	case packet.MethodHistory, packet.MethodConversations, packet.MethodConversation, packet.MethodGroup, packet.MethodMembers,
		packet.MethodMentions, packet.MethodDevices, packet.MethodProfiles, packet.MethodBlocks,
		packet.MethodRoom, packet.MethodRoomMembers, packet.MethodRoomJoin, packet.MethodRoomLeave:
		return true
	}
	return false
}

// firstField is the content of field 1 of a message, if that is of the kind bytes, and stands first as encoders put it.
func firstField(b []byte) []byte {
	if len(b) < 2 || b[0] != 1<<3|2 || b[1] > 127 || int(b[1]) > len(b)-2 {
		return nil
	}
	return b[2 : 2+int(b[1])]
}
