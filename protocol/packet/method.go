package packet

import (
	"fmt"

	"github.com/gochat-im/gochat/protocol/frame"
)

// Method says what a REQUEST asks for. Numbers are never reused.
type Method uint32

// The methods, their request and their answer.
const (
	MethodHistory       Method = 1 // wire.HistoryRequest -> wire.HistoryResponse
	MethodConversations Method = 2 // wire.ConversationsRequest -> wire.ConversationsResponse
	MethodRead          Method = 3 // wire.ReadRequest -> wire.ReadResponse
	MethodOpenDirect    Method = 4 // wire.OpenDirectRequest -> wire.OpenDirectResponse
	MethodConversation  Method = 5 // wire.ConversationRequest -> wire.ConversationState
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
}

// Known reports whether this version of the protocol has the method.
func (m Method) Known() bool { return m > 0 && int(m) < len(methods) }

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
