package conn

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// ConversationMethods returns the methods that are about conversations and need nothing of a
// connection but who asks. inboxPage is how many conversations a page of CONVERSATIONS has at most.
func ConversationMethods(convs Conversations, inboxPage int) map[packet.Method]Method {
	m := conversationMethods{convs, inboxPage}
	return map[packet.Method]Method{
		packet.MethodConversations: m.conversations,
		packet.MethodRead:          m.read,
		packet.MethodOpenDirect:    m.openDirect,
		packet.MethodConversation:  m.conversation,
	}
}

type conversationMethods struct {
	convs     Conversations
	inboxPage int
}

func (m conversationMethods) conversations(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.ConversationsRequest
	if err := packet.DecodeMethod(packet.MethodConversations, inner, &r); err != nil {
		return nil, err
	}
	limit := m.inboxPage
	if r.Limit > 0 {
		limit = int(min(uint32(limit), r.Limit))
	}
	states, next, mark, err := m.convs.Inbox(ctx, o, r.SyncMark, r.Cursor, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the inbox: %w", err)
	}
	return &wire.ConversationsResponse{Conversations: states, Cursor: next, SyncMark: mark}, nil
}

func (m conversationMethods) read(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.ReadRequest
	if err := packet.DecodeMethod(packet.MethodRead, inner, &r); err != nil {
		return nil, err
	}
	read, unread, err := m.convs.Read(ctx, o, id.ConversationID(r.ConversationId), r.ReadSeq)
	if err != nil {
		return nil, fmt.Errorf("moving a read cursor: %w", err)
	}
	return &wire.ReadResponse{ReadSeq: read, Unread: unread}, nil
}

func (m conversationMethods) openDirect(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.OpenDirectRequest
	if err := packet.DecodeMethod(packet.MethodOpenDirect, inner, &r); err != nil {
		return nil, err
	}
	state, err := m.convs.OpenDirect(ctx, o, id.UserID(r.UserId))
	if err != nil {
		return nil, fmt.Errorf("opening a direct conversation: %w", err)
	}
	return &wire.OpenDirectResponse{Conversation: state}, nil
}

func (m conversationMethods) conversation(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.ConversationRequest
	if err := packet.DecodeMethod(packet.MethodConversation, inner, &r); err != nil {
		return nil, err
	}
	state, err := m.convs.State(ctx, o, id.ConversationID(r.ConversationId))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading a conversation: %w", err)
	case state == nil:
		return nil, code.New(code.NoSuchConversation)
	}
	return state, nil
}
