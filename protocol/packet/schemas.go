package packet

import (
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// Limits on what a client sends besides messages.
const (
	MaxToken       = 4096      // bytes of an access token
	MaxResumeToken = 1024      // bytes of a resume token
	MaxSyncRanges  = 100       // ranges in one SYNC
	MaxRecvAcks    = 1024      // entries in one RECVACK
	MaxSignalData  = 4096      // bytes of a SIGNAL's data
	MaxMethodBody  = 4096      // bytes of a REQUEST's body,
	MaxUsersBody   = 112 << 10 // and of one that may name many users
	maxClientName  = 128
	maxCursor      = 256
)

// bodies holds the schema of each frame's body; nil: the frame has none.
var bodies = [frame.Error + 1]*schema{
	frame.Connect: &connect, frame.Connack: &connack, frame.Send: &sendBody, frame.SendAck: &sendAck,
	frame.Deliver: &deliver, frame.RecvAck: &recvAck, frame.Sync: &syncBody, frame.Synced: &synced,
	frame.Signal: &signal, frame.Request: &request, frame.Response: &response, frame.Hint: &hint,
	frame.Drain: &drain, frame.Kick: &kick, frame.Error: &errorBody,
}

// tailFields are the fields that SEND and a stored message share.
var tailFields = []spec{
	{num: 4, name: "client_msg_id", kind: kindUUID},
	{num: 5, name: "msg_type", kind: kindNumber, attr: always},
	{num: 6, name: "content", kind: kindText, attr: always},
	{num: 7, name: "data", kind: kindBytes},
	{num: 8, name: "mentions", kind: kindName, attr: repeated},
	{num: 9, name: "mention_all", kind: kindBool},
	{num: 10, name: "reply_to_seq", kind: kindLong},
	{num: 11, name: "thread_seq", kind: kindLong},
	{num: 12, name: "expires_at", kind: kindTime},
	{num: 13, name: "no_count", kind: kindBool},
	{num: 14, name: "no_push", kind: kindBool},
	{num: 15, name: "origin_device", kind: kindName},
	{num: 16, name: "ext", kind: kindBytes},
	{num: 17, name: "encryption", kind: kindSub, sub: &encryption},
}

func withTail(before []spec, after ...spec) []spec {
	return append(append(before, tailFields...), after...)
}

var (
	message = schema{name: "message", fields: withTail([]spec{
		{num: 1, name: "seq", kind: kindLong, attr: always},
		{num: 2, name: "msg_id", kind: kindMessage, attr: always},
		{num: 3, name: "sender_id", kind: kindName, attr: always},
	},
		spec{num: 32, name: "last_change_seq", kind: kindLong},
		spec{num: 33, name: "target_seq", kind: kindLong},
	)}

	encryption = schema{name: "encryption", fields: []spec{
		{num: 1, name: "scheme", kind: kindNumber},
		{num: 2, name: "epoch", kind: kindLong},
		{num: 3, name: "header", kind: kindBytes},
	}}

	sendBody = schema{name: "send", fields: withTail([]spec{
		{num: 1, name: "conversation_id", kind: kindConv},
		{num: 2, name: "receiver_id", kind: kindName},
		{num: 3, name: "seen_seq", kind: kindLong},
	})}

	sendAck = schema{name: "sendack", fields: []spec{
		{num: 1, name: "seq", kind: kindLong, attr: always},
		{num: 2, name: "msg_id", kind: kindMessage, attr: always},
		{num: 3, name: "conversation_id", kind: kindConv},
		{num: 4, name: "duplicate", kind: kindBool},
	}}

	connect = schema{name: "connect", fields: []spec{
		{num: 1, name: "version", kind: kindNumber, attr: required},
		{num: 2, name: "features", kind: kindLong},
		{num: 3, name: "token", kind: kindText, max: MaxToken},
		{num: 4, name: "device_id", kind: kindName, attr: required},
		{num: 5, name: "device_kind", kind: kindDevice},
		{num: 6, name: "resume_token", kind: kindText, max: MaxResumeToken},
		{num: 7, name: "sync_mark", kind: kindLong},
		{num: 8, name: "store_epoch", kind: kindLong},
		{num: 9, name: "client", kind: kindText, max: maxClientName},
		{num: 10, name: "background", kind: kindBool},
		{num: 11, name: "heartbeat_seconds", kind: kindNumber},
		{num: 12, name: "inbox_limit", kind: kindNumber},
	}}

	connack = schema{name: "connack", fields: []spec{
		{num: 1, name: "version", kind: kindNumber, attr: always},
		{num: 2, name: "features", kind: kindLong},
		{num: 3, name: "user_id", kind: kindName, attr: always},
		{num: 4, name: "server_time", kind: kindTime, attr: always},
		{num: 5, name: "store_epoch", kind: kindLong, attr: always},
		{num: 6, name: "heartbeat_seconds", kind: kindNumber, attr: always},
		{num: 7, name: "heartbeat_min_seconds", kind: kindNumber},
		{num: 8, name: "heartbeat_max_seconds", kind: kindNumber},
		{num: 9, name: "limits", kind: kindSub, sub: &limits},
		{num: 10, name: "resume_token", kind: kindText},
		{num: 11, name: "resume_seconds", kind: kindNumber},
		{num: 12, name: "resumed", kind: kindBool},
		{num: 13, name: "sync_mark", kind: kindLong},
		{num: 14, name: "conversations", kind: kindSub, attr: repeated, sub: &conversationState},
		{num: 15, name: "inbox_cursor", kind: kindText},
		{num: 16, name: "server", kind: kindText},
	}}

	limits = schema{name: "limits", fields: []spec{
		{num: 1, name: "max_frame", kind: kindNumber},
		{num: 2, name: "max_content", kind: kindNumber},
		{num: 3, name: "max_ext", kind: kindNumber},
		{num: 4, name: "max_mentions", kind: kindNumber},
		{num: 5, name: "max_inflight", kind: kindNumber},
		{num: 6, name: "sends_per_second", kind: kindNumber},
		{num: 7, name: "max_page", kind: kindNumber},
		{num: 8, name: "bytes_per_second", kind: kindNumber},
	}}

	conversationState = schema{name: "conversation", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "users", kind: kindName, attr: repeated},
		{num: 3, name: "last_seq", kind: kindLong, attr: always},
		{num: 4, name: "first_seq", kind: kindLong},
		{num: 5, name: "read_seq", kind: kindLong, attr: always},
		{num: 6, name: "recv_seq", kind: kindLong},
		{num: 7, name: "unread", kind: kindNumber, attr: always},
		{num: 8, name: "last_time", kind: kindTime},
		{num: 9, name: "preview", kind: kindSub, sub: &preview},
		{num: 10, name: "peer_read_seq", kind: kindLong},
		{num: 11, name: "peer_recv_seq", kind: kindLong},
		{num: 12, name: "joined_seq", kind: kindLong},
		{num: 13, name: "left_seq", kind: kindLong},
		{num: 14, name: "state_version", kind: kindLong},
		{num: 15, name: "pinned", kind: kindBool},
		{num: 16, name: "muted", kind: kindBool},
		{num: 17, name: "name", kind: kindText},
		{num: 18, name: "avatar", kind: kindText},
		{num: 19, name: "mentions", kind: kindNumber},
		{num: 20, name: "members", kind: kindNumber},
		{num: 21, name: "role", kind: kindNumber},
		{num: 22, name: "nickname", kind: kindText},
		{num: 23, name: "hidden", kind: kindBool},
		{num: 24, name: "settings_version", kind: kindLong},
	}}

	preview = schema{name: "preview", fields: []spec{
		{num: 1, name: "seq", kind: kindLong},
		{num: 2, name: "sender_id", kind: kindName},
		{num: 3, name: "msg_type", kind: kindNumber},
		{num: 4, name: "text", kind: kindText},
	}}

	deliver = schema{name: "deliver", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "users", kind: kindName, attr: repeated},
		{num: 3, name: "left_out", kind: kindLong}, // in JSON beside the message
		{num: 8, name: "messages", kind: kindSub, attr: repeated, sub: &message},
	}}

	recvAck = schema{name: "recvack", fields: []spec{
		{num: 1, name: "acks", kind: kindSub, attr: repeated, max: MaxRecvAcks, sub: &conversationSeqBody},
	}}

	conversationSeqBody = schema{name: "conversation and seq", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "seq", kind: kindLong, attr: always},
	}}

	syncBody = schema{name: "sync", fields: []spec{
		{num: 1, name: "ranges", kind: kindSub, attr: repeated | required, max: MaxSyncRanges, sub: &syncRange},
	}}

	syncRange = schema{name: "range", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "from_seq", kind: kindLong, attr: always},
		{num: 3, name: "to_seq", kind: kindLong},
		{num: 4, name: "limit", kind: kindNumber},
	}}

	synced = schema{name: "synced", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "users", kind: kindName, attr: repeated},
		{num: 3, name: "from_seq", kind: kindLong, attr: always},
		{num: 4, name: "to_seq", kind: kindLong, attr: always},
		{num: 5, name: "first_seq", kind: kindLong, attr: always},
		{num: 6, name: "last_seq", kind: kindLong, attr: always},
		{num: 8, name: "messages", kind: kindSub, attr: repeated, sub: &message},
		{num: 9, name: "error", kind: kindSub, sub: &errorBody},
	}}

	signal = schema{name: "signal", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv},
		{num: 2, name: "receiver_id", kind: kindName},
		{num: 3, name: "kind", kind: kindNumber, attr: required},
		{num: 4, name: "data", kind: kindBytes, max: MaxSignalData},
		{num: 5, name: "sender_id", kind: kindName},
		{num: 6, name: "sender_device", kind: kindName},
	}, check: func(filled uint32) *code.Error {
		if filled&3 == 0 {
			return badField("a SIGNAL names a conversation or a user")
		}
		return nil
	}}

	request = schema{name: "request", fields: []spec{
		{num: 1, name: "method", kind: kindNumber, attr: required},
		{num: 2, name: "body", kind: kindBytes},
	}}

	response = schema{name: "response", fields: []spec{
		{num: 1, name: "body", kind: kindBytes},
		{num: 2, name: "method", kind: kindNumber},
	}}

	hint = schema{name: "hint", fields: []spec{
		{num: 1, name: "heads", kind: kindSub, attr: repeated, sub: &conversationSeqBody},
		{num: 2, name: "all", kind: kindBool},
	}}

	drain = schema{name: "drain", fields: []spec{
		{num: 1, name: "deadline_ms", kind: kindNumber, attr: always},
		{num: 2, name: "jitter_ms", kind: kindNumber},
		{num: 3, name: "alternatives", kind: kindText, attr: repeated},
	}}

	kick = schema{name: "kick", fields: []spec{
		{num: 1, name: "code", kind: kindNumber, attr: always},
		{num: 2, name: "reason", kind: kindText},
	}}

	errorBody = schema{name: "error", fields: []spec{
		{num: 1, name: "code", kind: kindNumber, attr: always},
		{num: 2, name: "reason", kind: kindText},
		{num: 3, name: "retry_after_ms", kind: kindNumber},
		{num: 4, name: "conversation_id", kind: kindConv},
	}}

	historyRequest = schema{name: "history", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "before_seq", kind: kindLong},
		{num: 3, name: "limit", kind: kindNumber},
	}}

	historyResponse = schema{name: "history", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 5, name: "first_seq", kind: kindLong, attr: always},
		{num: 6, name: "last_seq", kind: kindLong, attr: always},
		{num: 8, name: "messages", kind: kindSub, attr: repeated, sub: &message},
		{num: 10, name: "more", kind: kindBool},
	}}

	conversationsRequest = schema{name: "conversations", fields: []spec{
		{num: 1, name: "cursor", kind: kindText, max: maxCursor},
		{num: 2, name: "limit", kind: kindNumber},
		{num: 3, name: "sync_mark", kind: kindLong},
	}}

	conversationsResponse = schema{name: "conversations", fields: []spec{
		{num: 1, name: "conversations", kind: kindSub, attr: repeated, sub: &conversationState},
		{num: 2, name: "cursor", kind: kindText},
		{num: 3, name: "sync_mark", kind: kindLong},
	}}

	readRequest = schema{name: "read", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "read_seq", kind: kindLong, attr: always},
	}}

	readResponse = schema{name: "read", fields: []spec{
		{num: 1, name: "read_seq", kind: kindLong, attr: always},
		{num: 2, name: "unread", kind: kindNumber, attr: always},
	}}

	openDirectRequest = schema{name: "open_direct", fields: []spec{
		{num: 1, name: "user_id", kind: kindName, attr: required},
	}}

	openDirectResponse = schema{name: "open_direct", fields: []spec{
		{num: 1, name: "conversation", kind: kindSub, sub: &conversationState},
	}}

	conversationRequest = schema{name: "conversation", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
	}}
)
