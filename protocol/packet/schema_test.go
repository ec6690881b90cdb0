package packet

import (
	"bufio"
	"bytes"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
)

// wireTypes names each schema's message in idl/wire.proto.
var wireTypes = map[string]*schema{
	"Message": &message, "Encryption": &encryption, "Send": &sendBody, "SendAck": &sendAck, "Connect": &connect,
	"Connack": &connack, "Limits": &limits, "ConversationState": &conversationState, "Preview": &preview,
	"Deliver": &deliver, "RecvAck": &recvAck, "ConversationSeq": &conversationSeqBody, "Sync": &syncBody,
	"SyncRange": &syncRange, "Synced": &synced, "Signal": &signal, "Request": &request, "Response": &response,
	"Hint": &hint, "Drain": &drain, "Kick": &kick, "Error": &errorBody, "HistoryRequest": &historyRequest,
	"HistoryResponse": &historyResponse, "ConversationsRequest": &conversationsRequest,
	"ConversationsResponse": &conversationsResponse, "ReadRequest": &readRequest, "ReadResponse": &readResponse,
	"OpenDirectRequest": &openDirectRequest, "OpenDirectResponse": &openDirectResponse, "ConversationRequest": &conversationRequest,
	"GroupCreateRequest":  &groupCreateRequest,
	"GroupUsersRequest":   &groupUsersRequest,
	"GroupChangeResponse": &groupChangeResponse,
	"GroupRefusal":        &groupRefusal,
	"GroupRoleRequest":    &groupRoleRequest,
	"GroupUpdateRequest":  &groupUpdateRequest,
	"Group":               &group,
	"MembersRequest":      &membersRequest,
	"MembersResponse":     &membersResponse,
	"GroupMember":         &groupMember,
	"NicknameRequest":     &nicknameRequest,
	"SettingsRequest":     &settingsRequest,
	"RoomCreateRequest":   &roomCreateRequest,
	"Room":                &room,
	"RoomLeaveResponse":   &roomLeaveResponse,
	"RoomMembersResponse": &roomMembersResponse,
	"RoomUpdateRequest":   &roomUpdateRequest,
	"RoomModerateRequest": &roomModerateRequest,
	"RoomNews":            &roomNews,
	"Broadcast":           &broadcast,
	"MentionsRequest":     &mentionsRequest,
	"MentionsResponse":    &mentionsResponse,
	"DevicesRequest":      &devicesRequest,
	"DevicesResponse":     &devicesResponse,
	"Device":              &device,
	"SignOutRequest":      &signOutRequest,
	"SignOutResponse":     &signOutResponse,
	"ProfilesRequest":     &profilesRequest,
	"ProfilesResponse":    &profilesResponse,
	"Profile":             &profile,
	"ProfileSetRequest":   &profileSetRequest,
	"BlockRequest":        &blockRequest,
	"BlockResponse":       &blockResponse,
	"BlocksRequest":       &blocksRequest,
	"BlocksResponse":      &blocksResponse,
	"BackgroundRequest":   &backgroundRequest,
	"BackgroundResponse":  &backgroundResponse,
	"Cursors":             &cursors,
}

// TestSchemasMatchIDL compares the tables, field by field, with idl/wire.proto: number,
// name (but for those that JSON names otherwise), wire type, repetition.
func TestSchemasMatchIDL(t *testing.T) {
	jsonNames := map[string]string{"Message.message_id": "msg_id", "SendAck.message_id": "msg_id", "Send.to_user_id": "receiver_id", "Signal.to_user_id": "receiver_id"}
	kinds := map[string][]kind{
		"uint64": {kindLong, kindTime}, "uint32": {kindNumber}, "bool": {kindBool}, "fixed64": {kindMessage},
		"string": {kindText, kindName}, "bytes": {kindConv, kindUUID, kindBytes}, "DeviceKind": {kindDevice},
	}
	file, err := os.ReadFile("../../idl/wire.proto")
	if err != nil {
		t.Fatal(err)
	}
	head := regexp.MustCompile(`^message (\w+) \{`)
	line := regexp.MustCompile(`^  (repeated )?(\w+) (\w+) = (\d+);`)
	seen, in, position := map[string]bool{}, "", 0
	for sc := bufio.NewScanner(bytes.NewReader(file)); sc.Scan(); {
		if m := head.FindStringSubmatch(sc.Text()); m != nil {
			in, position = m[1], 0
			seen[in] = true
			if wireTypes[in] == nil {
				t.Errorf("%s has no schema", in)
			}
			continue
		}
		if sc.Text() == "}" {
			if s := wireTypes[in]; s != nil && position != len(s.fields) {
				t.Errorf("%s has %d fields, its schema %d", in, position, len(s.fields))
			}
			in = ""
		}
		m := line.FindStringSubmatch(sc.Text())
		if m == nil || wireTypes[in] == nil {
			continue
		}
		s := wireTypes[in]
		if position >= len(s.fields) {
			t.Errorf("%s.%s is not in its schema", in, m[3])
			continue
		}
		sp := s.fields[position]
		position++
		num, _ := strconv.Atoi(m[4])
		name := m[3]
		if n := jsonNames[in+"."+name]; n != "" {
			name = n
		}
		if sp.num != uint32(num) || sp.name != name || (sp.attr&repeated != 0) != (m[1] != "") {
			t.Errorf("%s.%s = %d: schema has %+v", in, m[3], num, sp)
		}
		ok := sp.kind == kindSub && wireTypes[m[2]] == sp.sub && sp.sub != nil
		for _, k := range kinds[m[2]] {
			ok = ok || sp.kind == k
		}
		if !ok {
			t.Errorf("%s.%s is %s, its schema says kind %d", in, m[3], m[2], sp.kind)
		}
	}
	for name, s := range wireTypes {
		if !seen[name] {
			t.Errorf("%s is not in wire.proto", name)
		}
		if len(s.fields) > maxFields {
			t.Errorf("%s has %d fields, maxFields is %d", name, len(s.fields), maxFields)
		}
	}
	if len(deviceKinds) != len(wire.DeviceKind_name) {
		t.Errorf("%d device kinds, %d in wire.proto", len(deviceKinds), len(wire.DeviceKind_name))
	}
}

func TestDecodersRefuse(t *testing.T) {
	conv := testConv[:]
	err := func(_ any, e *code.Error) *code.Error { return e }
	method := func(m Method, b Body) *code.Error {
		return DecodeMethod(m, marshal(t, b), reflect.New(reflect.TypeOf(b).Elem()).Interface().(Body))
	}
	connectWith := func(f func(*wire.Connect)) *code.Error {
		m := &wire.Connect{Version: 1, DeviceId: "d"}
		f(m)
		return err(DecodeConnect(marshal(t, m)))
	}
	for name, tc := range map[string]struct {
		err  *code.Error
		want code.Code
	}{
		"connect version":    {connectWith(func(m *wire.Connect) { m.Version = 0 }), code.BadRequest},
		"connect device":     {connectWith(func(m *wire.Connect) { m.DeviceId = "" }), code.BadRequest},
		"connect device ctl": {connectWith(func(m *wire.Connect) { m.DeviceId = "a\tb" }), code.BadRequest},
		"connect utf8":       {connectWith(func(m *wire.Connect) { m.Client = "\xff" }), code.InvalidUTF8},
		"connect token":      {connectWith(func(m *wire.Connect) { m.Token = strings.Repeat("t", MaxToken+1) }), code.BadRequest},
		"connect garbage":    {err(DecodeConnect([]byte{0xFF})), code.BadRequest},
		"sync empty":         {err(DecodeSync(nil)), code.BadRequest},
		"sync conv":          {err(DecodeSync(marshal(t, &wire.Sync{Ranges: []*wire.SyncRange{{FromSeq: 1}}}))), code.BadRequest},
		"sync many": {err(DecodeSync(marshal(t, &wire.Sync{Ranges: func() (rs []*wire.SyncRange) {
			for range MaxSyncRanges + 1 {
				rs = append(rs, &wire.SyncRange{ConversationId: conv})
			}
			return rs
		}()}))), code.BadRequest},
		"signal target": {err(DecodeSignal(marshal(t, &wire.Signal{Kind: 1}))), code.BadRequest},
		"signal kind":   {err(DecodeSignal(marshal(t, &wire.Signal{ToUserId: "a"}))), code.BadRequest},
		"signal data":   {err(DecodeSignal(marshal(t, &wire.Signal{ToUserId: "a", Kind: 1, Data: make([]byte, MaxSignalData+1)}))), code.BadRequest},
		"history conv":  {method(MethodHistory, &wire.HistoryRequest{}), code.BadRequest},
		"history short": {method(MethodHistory, &wire.HistoryRequest{ConversationId: conv[:3]}), code.BadRequest},
		"read conv":     {method(MethodRead, &wire.ReadRequest{ReadSeq: 3}), code.BadRequest},
		"open nobody":   {method(MethodOpenDirect, &wire.OpenDirectRequest{}), code.BadRequest},
		"open utf8":     {method(MethodOpenDirect, &wire.OpenDirectRequest{UserId: "\xc3"}), code.InvalidUTF8},
		"cursor":        {method(MethodConversations, &wire.ConversationsRequest{Cursor: strings.Repeat("c", maxCursor+1)}), code.BadRequest},
		"method":        {method(99, &wire.ReadRequest{}), code.UnknownMethod},
		"answer method": {DecodeAnswer(99, nil, &wire.ReadResponse{}), code.UnknownMethod},
		"hint":          {err(DecodeHint([]byte{8 << 3, 0x80})), code.BadRequest},
		"drain":         {err(DecodeDrain([]byte{1<<3 | wtBytes, 0})), code.BadRequest},
		"32 bits":       {err(DecodeDrain([]byte{1 << 3, 0x80, 0x80, 0x80, 0x80, 0x10})), code.BadRequest},
	} {
		if tc.err == nil || tc.err.Code != tc.want {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
	if _, _, e := DecodeRequest(marshal(t, &wire.Request{Method: 1, Body: make([]byte, MaxMethodBody+1)})); e == nil {
		t.Error("a request of any length is taken")
	}
}

func TestDecodersRead(t *testing.T) {
	frameBody := marshal(t, &wire.Request{Method: 3, Body: marshal(t, &wire.ReadRequest{ConversationId: testConv[:], ReadSeq: 9})})
	m, inner, err := DecodeRequest(frameBody)
	var read wire.ReadRequest
	if err != nil || m != MethodRead || DecodeMethod(m, inner, &read) != nil || read.ReadSeq != 9 {
		t.Errorf("request: method %v, %+v, %v", m, read, err)
	}
	m, inner, err = DecodeResponse(marshal(t, &wire.Response{Method: 3, Body: marshal(t, &wire.ReadResponse{ReadSeq: 9, Unread: 2})}))
	var answer wire.ReadResponse
	if err != nil || m != MethodRead || DecodeAnswer(m, inner, &answer) != nil || answer.Unread != 2 {
		t.Errorf("response: method %v, %+v, %v", m, answer, err)
	}
	told, conv, err := DecodeError(marshal(t, &wire.Error{Code: 2002, Reason: "slow", RetryAfterMs: 1500, ConversationId: testConv[:]}))
	if err != nil || told.Code != code.RateLimited || told.RetryAfter.Milliseconds() != 1500 || conv != testConv {
		t.Errorf("error: %v, %v, %v", told, conv, err)
	}
	if told, err := DecodeKick(marshal(t, &wire.Kick{Code: 1008, Reason: "out"})); err != nil || told.Code != code.SessionRevoked || told.Reason != "out" {
		t.Errorf("kick: %v, %v", told, err)
	}
	if ack, err := DecodeConnack(marshal(t, &wire.Connack{UserId: "1001", Conversations: []*wire.ConversationState{{ConversationId: testConv[:], Unread: 3}}})); err != nil || ack.Conversations[0].Unread != 3 {
		t.Errorf("connack: %+v, %v", ack, err)
	}
	if s, err := DecodeSignal(marshal(t, &wire.Signal{ToUserId: "a", Kind: 1})); err != nil || s.ToUserId != "a" {
		t.Errorf("signal: %+v, %v", s, err)
	}
}
