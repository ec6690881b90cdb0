// Code generated from codes.json; DO NOT EDIT.

package code

import "time"

// The registered codes.
const (
	BadFrame           Code = 1000 // the frame can't be read
	FrameTooLarge      Code = 1001 // the frame is larger than CONNACK allows
	NotConnected       Code = 1002 // the first frame must be CONNECT
	HandshakeTimeout   Code = 1003 // no CONNECT in time
	IdleTimeout        Code = 1004 // nothing was heard for longer than the heartbeat
	VersionUnsupported Code = 1005 // no protocol version in common
	Unauthenticated    Code = 1006 // the token is missing, malformed or not signed by a known key
	TokenExpired       Code = 1007 // the token has expired; refresh it
	SessionRevoked     Code = 1008 // this device was signed out
	Replaced           Code = 1009 // the same device connected again, or another one took its place
	TooManyConnections Code = 1010 // connection limit reached
	Flooding           Code = 1011 // the limits were ignored for too long
	TooSlow            Code = 1012 // the client doesn't read
	Draining           Code = 1013 // this server is leaving; connect again
	AlreadyConnected   Code = 1014 // a second CONNECT on one connection
	Banned             Code = 1015 // this account is closed
	Unavailable        Code = 2000 // not possible right now
	Overloaded         Code = 2001 // too much is waiting
	RateLimited        Code = 2002 // too many requests
	StorageFull        Code = 2003 // the store is nearly full
	LaneBlocked        Code = 2004 // an earlier message of this conversation was refused; resend from there
	Undetermined       Code = 2005 // the outcome isn't known; resend with the same id
	WrongOwner         Code = 2006 // another node owns this conversation now
	BadRequest         Code = 3000 // a field is missing or malformed
	InvalidUTF8        Code = 3001 // a text field isn't valid UTF-8
	ContentTooLarge    Code = 3002 // the message is larger than CONNACK allows
	NoSuchConversation Code = 3003 // no such conversation, or not yours
	NoSuchUser         Code = 3004 // no such user
	Forbidden          Code = 3005 // not allowed
	IDConflict         Code = 3006 // this client_msg_id belongs to a message with another body
	IDInFuture         Code = 3007 // client_msg_id is ahead of the server's time; make a new one on server time
	IDUnknown          Code = 3008 // client_msg_id is too old to tell whether it was stored: sync first
	UnknownMethod      Code = 3009 // no such method
	UnknownFrame       Code = 3010 // no such frame type
	NameTaken          Code = 3011 // this name is taken
	BadCredentials     Code = 3012 // unknown name or wrong password
	RegistrationClosed Code = 3013 // accounts are made elsewhere
	TooMany            Code = 3014 // over the limit of this installation
	SlowMode           Code = 3015 // this room wants more time between two messages of a user
	Muted              Code = 3016 // you may not write in this room
	BannedHere         Code = 3017 // you may not enter this room
	Internal           Code = 3999 // the server failed
)

type entry struct {
	name, text string
	scope      Scope
	class      Class
	retryAfter time.Duration
	http, ws   int
}

var registry = map[Code]entry{
	BadFrame:           {"bad_frame", "the frame can't be read", ScopeConnection, Terminal, 0 * time.Millisecond, 400, 4000},
	FrameTooLarge:      {"frame_too_large", "the frame is larger than CONNACK allows", ScopeConnection, Terminal, 0 * time.Millisecond, 413, 4001},
	NotConnected:       {"not_connected", "the first frame must be CONNECT", ScopeConnection, Terminal, 0 * time.Millisecond, 400, 4002},
	HandshakeTimeout:   {"handshake_timeout", "no CONNECT in time", ScopeConnection, RetryNew, 1000 * time.Millisecond, 408, 4003},
	IdleTimeout:        {"idle_timeout", "nothing was heard for longer than the heartbeat", ScopeConnection, RetryNew, 0 * time.Millisecond, 408, 4004},
	VersionUnsupported: {"version_unsupported", "no protocol version in common", ScopeConnection, Terminal, 0 * time.Millisecond, 400, 4005},
	Unauthenticated:    {"unauthenticated", "the token is missing, malformed or not signed by a known key", ScopeConnection, Terminal, 0 * time.Millisecond, 401, 4006},
	TokenExpired:       {"token_expired", "the token has expired; refresh it", ScopeConnection, RetryNew, 0 * time.Millisecond, 401, 4007},
	SessionRevoked:     {"session_revoked", "this device was signed out", ScopeConnection, Terminal, 0 * time.Millisecond, 401, 4008},
	Replaced:           {"replaced", "the same device connected again, or another one took its place", ScopeConnection, Terminal, 0 * time.Millisecond, 409, 4009},
	TooManyConnections: {"too_many_connections", "connection limit reached", ScopeConnection, RetryNew, 5000 * time.Millisecond, 503, 4010},
	Flooding:           {"flooding", "the limits were ignored for too long", ScopeConnection, RetryNew, 5000 * time.Millisecond, 429, 4011},
	TooSlow:            {"too_slow", "the client doesn't read", ScopeConnection, RetryNew, 1000 * time.Millisecond, 408, 4012},
	Draining:           {"draining", "this server is leaving; connect again", ScopeConnection, RetryNew, 0 * time.Millisecond, 503, 1012},
	AlreadyConnected:   {"already_connected", "a second CONNECT on one connection", ScopeConnection, Terminal, 0 * time.Millisecond, 400, 4014},
	Banned:             {"banned", "this account is closed", ScopeConnection, Terminal, 0 * time.Millisecond, 403, 4015},
	Unavailable:        {"unavailable", "not possible right now", ScopeLane, RetrySame, 500 * time.Millisecond, 503, 1013},
	Overloaded:         {"overloaded", "too much is waiting", ScopeLane, RetrySame, 1000 * time.Millisecond, 503, 1013},
	RateLimited:        {"rate_limited", "too many requests", ScopeLane, RetrySame, 1000 * time.Millisecond, 429, 4029},
	StorageFull:        {"storage_full", "the store is nearly full", ScopeLane, RetrySame, 10000 * time.Millisecond, 507, 1013},
	LaneBlocked:        {"lane_blocked", "an earlier message of this conversation was refused; resend from there", ScopeLane, RetrySame, 0 * time.Millisecond, 409, 4030},
	Undetermined:       {"undetermined", "the outcome isn't known; resend with the same id", ScopeLane, RetrySame, 500 * time.Millisecond, 503, 1013},
	WrongOwner:         {"wrong_owner", "another node owns this conversation now", ScopeLane, RetrySame, 100 * time.Millisecond, 503, 1013},
	BadRequest:         {"bad_request", "a field is missing or malformed", ScopeMessage, Terminal, 0 * time.Millisecond, 400, 4040},
	InvalidUTF8:        {"invalid_utf8", "a text field isn't valid UTF-8", ScopeMessage, Terminal, 0 * time.Millisecond, 400, 4041},
	ContentTooLarge:    {"content_too_large", "the message is larger than CONNACK allows", ScopeMessage, Terminal, 0 * time.Millisecond, 413, 4042},
	NoSuchConversation: {"no_such_conversation", "no such conversation, or not yours", ScopeMessage, Terminal, 0 * time.Millisecond, 404, 4043},
	NoSuchUser:         {"no_such_user", "no such user", ScopeMessage, Terminal, 0 * time.Millisecond, 404, 4044},
	Forbidden:          {"forbidden", "not allowed", ScopeMessage, Terminal, 0 * time.Millisecond, 403, 4045},
	IDConflict:         {"id_conflict", "this client_msg_id belongs to a message with another body", ScopeMessage, RetryNew, 0 * time.Millisecond, 409, 4046},
	IDInFuture:         {"id_in_future", "client_msg_id is ahead of the server's time; make a new one on server time", ScopeMessage, RetryNew, 0 * time.Millisecond, 400, 4047},
	IDUnknown:          {"id_unknown", "client_msg_id is too old to tell whether it was stored: sync first", ScopeMessage, RetryNew, 0 * time.Millisecond, 409, 4048},
	UnknownMethod:      {"unknown_method", "no such method", ScopeMessage, Terminal, 0 * time.Millisecond, 404, 4049},
	UnknownFrame:       {"unknown_frame", "no such frame type", ScopeMessage, Terminal, 0 * time.Millisecond, 400, 4050},
	NameTaken:          {"name_taken", "this name is taken", ScopeMessage, Terminal, 0 * time.Millisecond, 409, 4051},
	BadCredentials:     {"bad_credentials", "unknown name or wrong password", ScopeMessage, Terminal, 0 * time.Millisecond, 401, 4052},
	RegistrationClosed: {"registration_closed", "accounts are made elsewhere", ScopeMessage, Terminal, 0 * time.Millisecond, 403, 4053},
	TooMany:            {"too_many", "over the limit of this installation", ScopeMessage, Terminal, 0 * time.Millisecond, 400, 4054},
	SlowMode:           {"slow_mode", "this room wants more time between two messages of a user", ScopeMessage, Terminal, 0 * time.Millisecond, 429, 4055},
	Muted:              {"muted", "you may not write in this room", ScopeMessage, Terminal, 0 * time.Millisecond, 403, 4056},
	BannedHere:         {"banned_here", "you may not enter this room", ScopeMessage, Terminal, 0 * time.Millisecond, 403, 4057},
	Internal:           {"internal", "the server failed", ScopeMessage, RetrySame, 1000 * time.Millisecond, 500, 1011},
}

// All lists every registered code in ascending order.
var All = []Code{
	BadFrame,
	FrameTooLarge,
	NotConnected,
	HandshakeTimeout,
	IdleTimeout,
	VersionUnsupported,
	Unauthenticated,
	TokenExpired,
	SessionRevoked,
	Replaced,
	TooManyConnections,
	Flooding,
	TooSlow,
	Draining,
	AlreadyConnected,
	Banned,
	Unavailable,
	Overloaded,
	RateLimited,
	StorageFull,
	LaneBlocked,
	Undetermined,
	WrongOwner,
	BadRequest,
	InvalidUTF8,
	ContentTooLarge,
	NoSuchConversation,
	NoSuchUser,
	Forbidden,
	IDConflict,
	IDInFuture,
	IDUnknown,
	UnknownMethod,
	UnknownFrame,
	NameTaken,
	BadCredentials,
	RegistrationClosed,
	TooMany,
	SlowMode,
	Muted,
	BannedHere,
	Internal,
}
