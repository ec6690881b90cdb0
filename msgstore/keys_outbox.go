package msgstore

import "github.com/gochat-im/gochat/protocol/id"

// OutboxMarks is the beginning of the keys of the outbox marks of a slot's conversations;
// 16 bytes of the conversation follow.
func (k Keys) OutboxMarks(dst []byte, slot id.Slot) []byte {
	return append(k.prefix(dst, slot), areaOutbox)
}
