package packet

// Bounds of what a method's request names.
const (
	MaxGroupUsers = 10_000 // of one request
	MaxProfiles   = 100    // of one request
	maxTitle      = 256    // bytes of a name or nickname
	maxURL        = 2048
	maxGroupKey   = 128
	MaxProfileExt = 1024 // bytes of ext of a user or group
)

var (
	groupCreateRequest = schema{name: "group_create", fields: []spec{
		{num: 1, name: "name", kind: kindText, max: maxTitle},
		{num: 2, name: "key", kind: kindText, max: maxGroupKey},
		{num: 3, name: "user_ids", kind: kindName, attr: repeated, max: MaxGroupUsers},
		{num: 4, name: "avatar", kind: kindText, max: maxURL},
		{num: 5, name: "ext", kind: kindBytes, max: MaxProfileExt},
		{num: 6, name: "join", kind: kindNumber},
	}}

	groupUsersRequest = schema{name: "group_users", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "user_ids", kind: kindName, attr: repeated, max: MaxGroupUsers},
	}}

	groupChangeResponse = schema{name: "group_change", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv},
		{num: 2, name: "seq", kind: kindLong, attr: always},
		{num: 3, name: "changed", kind: kindNumber, attr: always},
		{num: 4, name: "refused", kind: kindSub, attr: repeated, sub: &groupRefusal},
	}}

	groupRefusal = schema{name: "refusal", fields: []spec{
		{num: 1, name: "user_id", kind: kindName},
		{num: 2, name: "code", kind: kindNumber, attr: always},
	}}

	groupRoleRequest = schema{name: "group_role", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "user_id", kind: kindName, attr: required},
		{num: 3, name: "role", kind: kindNumber, attr: required},
	}}

	groupUpdateRequest = schema{name: "group_update", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "fields", kind: kindNumber, attr: required},
		{num: 3, name: "name", kind: kindText, max: maxTitle},
		{num: 4, name: "avatar", kind: kindText, max: maxURL},
		{num: 5, name: "ext", kind: kindBytes, max: MaxProfileExt},
		{num: 6, name: "join", kind: kindNumber},
	}}

	group = schema{name: "group", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv},
		{num: 2, name: "name", kind: kindText},
		{num: 3, name: "avatar", kind: kindText},
		{num: 4, name: "ext", kind: kindBytes},
		{num: 5, name: "join", kind: kindNumber},
		{num: 6, name: "key", kind: kindText},
		{num: 7, name: "members", kind: kindNumber},
		{num: 8, name: "role", kind: kindNumber},
		{num: 9, name: "nickname", kind: kindText},
		{num: 10, name: "created_by", kind: kindName},
		{num: 11, name: "created_time", kind: kindTime},
	}}

	membersRequest = schema{name: "members", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "cursor", kind: kindText, max: maxCursor},
		{num: 3, name: "limit", kind: kindNumber},
	}}

	membersResponse = schema{name: "members", fields: []spec{
		{num: 1, name: "members", kind: kindSub, attr: repeated, sub: &groupMember},
		{num: 2, name: "cursor", kind: kindText},
		{num: 3, name: "count", kind: kindNumber, attr: always},
	}}

	groupMember = schema{name: "member", fields: []spec{
		{num: 1, name: "user_id", kind: kindName},
		{num: 2, name: "role", kind: kindNumber, attr: always},
		{num: 3, name: "joined_seq", kind: kindLong},
		{num: 4, name: "nickname", kind: kindText},
	}}

	nicknameRequest = schema{name: "nickname", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "nickname", kind: kindText, max: maxTitle},
	}}

	settingsRequest = schema{name: "settings", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "fields", kind: kindNumber, attr: required},
		{num: 3, name: "pinned", kind: kindBool},
		{num: 4, name: "muted", kind: kindBool},
		{num: 5, name: "hidden", kind: kindBool},
	}}

	mentionsRequest = schema{name: "mentions", fields: []spec{
		{num: 1, name: "conversation_id", kind: kindConv, attr: required},
		{num: 2, name: "after_seq", kind: kindLong},
		{num: 3, name: "limit", kind: kindNumber},
	}}

	mentionsResponse = schema{name: "mentions", fields: []spec{
		{num: 1, name: "mentions", kind: kindSub, attr: repeated, sub: &conversationSeqBody},
		{num: 2, name: "more", kind: kindBool},
	}}

	devicesRequest = schema{name: "devices"}

	devicesResponse = schema{name: "devices", fields: []spec{
		{num: 1, name: "devices", kind: kindSub, attr: repeated, sub: &device},
	}}

	device = schema{name: "device", fields: []spec{
		{num: 1, name: "device_id", kind: kindName},
		{num: 2, name: "kind", kind: kindDevice},
		{num: 3, name: "online", kind: kindBool},
		{num: 4, name: "current", kind: kindBool},
		{num: 5, name: "signed_in_time", kind: kindTime},
		{num: 6, name: "last_seen_time", kind: kindTime},
	}}

	signOutRequest = schema{name: "sign_out", fields: []spec{
		{num: 1, name: "device_id", kind: kindName},
	}}

	signOutResponse = schema{name: "sign_out", fields: []spec{
		{num: 1, name: "signed_out", kind: kindNumber, attr: always},
	}}

	profilesRequest = schema{name: "profiles", fields: []spec{
		{num: 1, name: "user_ids", kind: kindName, attr: repeated, max: MaxProfiles},
	}}

	profilesResponse = schema{name: "profiles", fields: []spec{
		{num: 1, name: "profiles", kind: kindSub, attr: repeated, sub: &profile},
		{num: 2, name: "answered", kind: kindNumber, attr: always},
	}}

	profile = schema{name: "profile", fields: []spec{
		{num: 1, name: "user_id", kind: kindName},
		{num: 2, name: "name", kind: kindText},
		{num: 3, name: "avatar", kind: kindText},
		{num: 4, name: "ext", kind: kindBytes},
		{num: 5, name: "version", kind: kindLong},
	}}

	profileSetRequest = schema{name: "profile_set", fields: []spec{
		{num: 1, name: "fields", kind: kindNumber, attr: required},
		{num: 2, name: "name", kind: kindText, max: maxTitle},
		{num: 3, name: "avatar", kind: kindText, max: maxURL},
		{num: 4, name: "ext", kind: kindBytes, max: MaxProfileExt},
	}}

	blockRequest = schema{name: "block", fields: []spec{
		{num: 1, name: "user_id", kind: kindName, attr: required},
		{num: 2, name: "blocked", kind: kindBool},
	}}

	blockResponse = schema{name: "block"}

	blocksRequest = schema{name: "blocks", fields: []spec{
		{num: 1, name: "cursor", kind: kindText, max: maxCursor},
		{num: 2, name: "limit", kind: kindNumber},
	}}

	blocksResponse = schema{name: "blocks", fields: []spec{
		{num: 1, name: "user_ids", kind: kindName, attr: repeated},
		{num: 2, name: "cursor", kind: kindText},
	}}

	backgroundRequest = schema{name: "background", fields: []spec{
		{num: 1, name: "background", kind: kindBool},
	}}

	backgroundResponse = schema{name: "background"}
)
