package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// conversationLen is the length of the beginning that all keys of a conversation share.
const conversationLen = prefixLen + 1 + 16

// place is a key taken apart as far as its area.
type place struct {
	layout byte
	slot   id.Slot
	area   byte
	rest   []byte // what follows the area; aliases the key
}

// split takes key apart; false: it is too short for any key of ours.
func split(key []byte) (place, bool) {
	if len(key) <= prefixLen {
		return place{}, false
	}
	return place{
		layout: key[2],
		slot:   id.Slot(binary.BigEndian.Uint16(key[3:])),
		area:   key[prefixLen],
		rest:   key[prefixLen+1:],
	}, true
}

// conversation returns the conversation that a key of areaConversation belongs to.
func (p place) conversation() (id.ConversationID, bool) {
	if p.area != areaConversation || p.slot == id.SlotStore || len(p.rest) < 16 {
		return id.ConversationID{}, false
	}
	return id.ConversationID(p.rest[:16]), true
}

// areaKey is the beginning of the keys of one area of a slot.
func (k Keys) areaKey(dst []byte, slot id.Slot, area byte) []byte {
	return append(k.prefix(dst, slot), area)
}

// end is the first key after all of the keyspace in this layout; nil: there is none.
func (k Keys) end() []byte { return prefixEnd(k.All(nil)) }

// firstKey returns a copy of the first key of [start, end), nil if there is none.
func firstKey(ctx context.Context, store kv.Store, start, end []byte) (first []byte, err error) {
	err = store.Scan(ctx, kv.Span{Start: start, End: end, Limit: 1}, func(key, _ []byte) (bool, error) {
		first = bytes.Clone(key)
		return false, nil
	})
	return first, err
}

// nextConversation returns the first conversation that has keys at or after from, and
// where to go on after it; next nil: there is none. Seeks skip what lies between.
func nextConversation(ctx context.Context, store kv.Store, keys Keys, from []byte) (c id.ConversationID, next []byte, err error) {
	for end := keys.end(); ; {
		key, err := firstKey(ctx, store, from, end)
		if err != nil || key == nil {
			return c, nil, err
		}
		p, ok := split(key)
		if c, isConversation := p.conversation(); ok && isConversation {
			return c, prefixEnd(key[:conversationLen]), nil // by the key as it is, whatever slot that is
		}
		switch {
		case !ok:
			from = append(key, 0)
		case p.slot == id.SlotStore:
			return c, nil, nil
		case p.area < areaConversation:
			from = keys.areaKey(nil, p.slot, areaConversation)
		default: // behind the slot's conversations, or a key too short
			from = prefixEnd(keys.areaKey(nil, p.slot, p.area))
		}
	}
}

// pair is one key and its value.
type pair struct{ key, value []byte }

// Bounds of what each reads at once.
const (
	eachPairs = 256
	eachBytes = 1 << 20
)

// each calls fn with the pairs of [start, end) in order. It reads a bounded number at once,
// so fn may use the store; what it sees is not one moment. key and value are fn's to keep.
func each(ctx context.Context, store kv.Store, start, end []byte, fn func(key, value []byte) error) error {
	for {
		var batch []pair
		size := 0
		more := false
		err := store.Scan(ctx, kv.Span{Start: start, End: end}, func(key, value []byte) (bool, error) {
			batch = append(batch, pair{bytes.Clone(key), bytes.Clone(value)})
			size += len(key) + len(value)
			more = len(batch) == eachPairs || size >= eachBytes
			return !more, nil
		})
		if err != nil {
			return err
		}
		for _, p := range batch {
			if err := fn(p.key, p.value); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		start = append(bytes.Clone(batch[len(batch)-1].key), 0)
	}
}
