package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Keep says how long the messages of one conversation are kept, in the place of what holds
// for its kind. Neither Age nor Messages: for ever.
//
// Row: version, Age in seconds, Messages, Set.
type Keep struct {
	Age      time.Duration // after they were sent, in whole seconds; 0: whatever their age
	Messages uint64        // the newest so many; 0: any number
	Set      int64         // Unix ms when this was decided
}

// Append appends the row to dst.
func (k *Keep) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, rowVersion), uint64(k.Age/time.Second))
	dst = binary.AppendUvarint(dst, k.Messages)
	return binary.AppendUvarint(dst, uint64(k.Set))
}

// maxKeepSeconds is the longest Age: a duration can't be longer.
const maxKeepSeconds = uint64(1<<63-1) / uint64(time.Second)

// ParseKeep reads the row of a conversation's own retention.
func ParseKeep(b []byte) (Keep, error) {
	var k Keep
	r := reader{b: b}
	r.version()
	seconds := r.uvarint()
	k.Messages = r.uvarint()
	k.Set = r.time()
	err := r.end()
	if err == nil && seconds > maxKeepSeconds {
		err = ErrCorrupt
	}
	if err != nil {
		return Keep{}, fmt.Errorf("row of a conversation's retention: %w", err)
	}
	k.Age = time.Duration(seconds) * time.Second
	return k, nil
}

// Keep is the key of the conversation's own retention.
func (k Keys) Keep(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowKeep)
}

// Keep returns the conversation's own retention as it is stored, and its row; raw is nil
// where what holds for its kind holds.
func (t *Timeline) Keep(ctx context.Context, c id.ConversationID) (k Keep, raw []byte, err error) {
	var kb [MaxKeyLen]byte
	raw, err = t.store.Get(ctx, t.keys.Keep(kb[:0], c))
	if err == nil && raw != nil {
		k, err = ParseKeep(raw)
	}
	if err != nil {
		return Keep{}, nil, fmt.Errorf("read the retention of %s: %w", c, err)
	}
	return k, raw, nil
}

// SetKeep stores how long the messages of c, which must exist, are kept; nil: as long as
// those of its kind. It holds from the sweeper's next pass on.
func (t *Timeline) SetKeep(ctx context.Context, c id.ConversationID, k *Keep) error {
	var kb [MaxKeyLen]byte
	for {
		_, raw, err := t.Keep(ctx, c)
		if err != nil {
			return err
		}
		if raw == nil && k == nil {
			return nil
		}
		tx, key := new(kv.Tx), t.keys.Keep(kb[:0], c)
		tx.Require(key, raw)
		if k != nil {
			tx.SetFunc(key, k.Append)
		} else {
			tx.Delete(key)
		}
		t.store.Commit(ctx, tx)
		switch {
		case tx.Err == nil:
			return nil
		case errors.Is(tx.Err, kv.ErrConflict) && ctx.Err() == nil:
		default:
			return fmt.Errorf("store the retention of %s: %w", c, tx.Err)
		}
	}
}

// goneRows is how many rows that tell of messages that are gone one transaction removes.
const goneRows = 256

// sweepGone removes what tells of messages of c below first, which are gone: mentions and
// full lists of members. Nobody writes such rows of messages that exist already, so no fence is needed.
func (s *Sweeper) sweepGone(ctx context.Context, c id.ConversationID, first uint64) error {
	lists := s.cfg.Keys.conversation(nil, c, rowMemberList)
	end := binary.BigEndian.AppendUint64(append([]byte(nil), lists...), first)
	if err := s.clear(ctx, lists, end); err != nil {
		return err
	}
	mentions := s.cfg.Keys.conversation(nil, c, rowMention)
	for from, end := mentions, prefixEnd(append([]byte(nil), mentions...)); ; {
		key, err := firstKey(ctx, s.cfg.Store, from, end)
		if err != nil || key == nil {
			return err
		}
		if len(key) < len(mentions)+9 { // for the audit
			from = append(key, 0)
			continue
		}
		// One user's lie together, in order: all below first go, the rest is passed over.
		user := key[:len(key)-8]
		if binary.BigEndian.Uint64(key[len(user):]) < first {
			if err := s.clear(ctx, key, binary.BigEndian.AppendUint64(append([]byte(nil), user...), first)); err != nil {
				return err
			}
		}
		from = prefixEnd(append([]byte(nil), user...))
	}
}

// clear removes the rows of [start, end).
func (s *Sweeper) clear(ctx context.Context, start, end []byte) error {
	for {
		var tx kv.Tx
		tx.Frees = true
		n := 0
		err := s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: end, Limit: goneRows}, func(key, _ []byte) (bool, error) {
			tx.Delete(key)
			n++
			return true, nil
		})
		if err != nil || n == 0 {
			return err
		}
		if s.cfg.Store.Commit(ctx, &tx); tx.Err != nil {
			return tx.Err
		}
		if n < goneRows {
			return nil
		}
	}
}
