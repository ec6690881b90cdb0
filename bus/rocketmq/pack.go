package rocketmq

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/bus"
)

// A pack is the body of one RocketMQ message: events of one queue, as many as were
// published while the pack before was under way. All of it is little:
//
//	version   byte, 1
//	flags     byte, packEcho
//	publisher uvarint, Config.Publisher
//	queue     uvarint, as the publisher counts them
//	number    uvarint, of the pack among the publisher's in this queue, from 1
//	events, each:
//	  conversation 16 bytes
//	  epoch, first seq, last minus first, origin, size of messages  uvarints
//	  messages  the repeated field, as it is stored; none: read them from the timeline
//
// A pack without events is a probe. Versions and flags are never used again for anything
// else; a consumer that doesn't know a version lets the pack come again, and at last to the
// dead letters, from where a newer one replays it.
const packVersion = 1

// packEcho asks the consumer to report that it handled the pack.
const packEcho = 1

// packFlags are the flags that this version knows.
const packFlags = packEcho

type packHeader struct {
	Mark
	echo bool
}

// Mark names a pack: what comes through a queue is reported by it.
type Mark struct {
	Publisher uint64 // Config.Publisher of who published it
	Queue     uint32 // as that publisher counts them
	Number    uint64 // ascends in every queue of a publisher
}

var errPack = errors.New("rocketmq: unreadable pack")

func appendPackHeader(dst []byte, h *packHeader) []byte {
	flags := byte(0)
	if h.echo {
		flags |= packEcho
	}
	dst = append(dst, packVersion, flags)
	dst = binary.AppendUvarint(dst, h.Publisher)
	dst = binary.AppendUvarint(dst, uint64(h.Queue))
	return binary.AppendUvarint(dst, h.Number)
}

// eventRoom is what an event takes in a pack at most, its messages aside.
const eventRoom = 16 + 5*binary.MaxVarintLen64

// appendEvent appends ev, without its messages if they are longer than most.
func appendEvent(dst []byte, ev *bus.Event, most int) []byte {
	dst = append(dst, ev.Conversation[:]...)
	dst = binary.AppendUvarint(dst, ev.Epoch)
	dst = binary.AppendUvarint(dst, ev.FirstSeq)
	dst = binary.AppendUvarint(dst, ev.LastSeq-ev.FirstSeq)
	dst = binary.AppendUvarint(dst, ev.Origin)
	messages := ev.Messages
	if len(messages) > most {
		messages = nil
	}
	dst = binary.AppendUvarint(dst, uint64(len(messages)))
	return append(dst, messages...)
}

// parsePack reads a pack and appends its events to evs. Their messages are parts of body.
func parsePack(body []byte, evs []bus.Event) (packHeader, []bus.Event, error) {
	var h packHeader
	if len(body) < 2 {
		return h, evs, fmt.Errorf("%w: %d bytes", errPack, len(body))
	}
	if body[0] != packVersion || body[1]&^packFlags != 0 {
		return h, evs, fmt.Errorf("%w: version %d, flags %#x", errPack, body[0], body[1])
	}
	h.echo = body[1]&packEcho != 0
	r := reader{rest: body[2:]}
	h.Publisher = r.uvarint()
	h.Queue = uint32(r.uvarint())
	h.Number = r.uvarint()
	for len(r.rest) > 0 && !r.bad {
		var ev bus.Event
		copy(ev.Conversation[:], r.bytes(uint64(len(ev.Conversation))))
		ev.Epoch = r.uvarint()
		ev.FirstSeq = r.uvarint()
		more := r.uvarint()
		ev.LastSeq = ev.FirstSeq + more
		ev.Origin = r.uvarint()
		if n := r.uvarint(); n > 0 {
			ev.Messages = r.bytes(n)
		}
		if ev.FirstSeq == 0 || ev.LastSeq < ev.FirstSeq || !ev.Conversation.Valid() {
			r.bad = true
		}
		evs = append(evs, ev)
	}
	if r.bad {
		return h, evs, fmt.Errorf("%w: cut short or out of bounds", errPack)
	}
	return h, evs, nil
}

type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
