package pebblekv

import (
	"bytes"
	"encoding/binary"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// written finds the last write of a key among the transactions of the group that is
// being built. It is asked only about required keys that recent doesn't know, so it
// is filled when asked and costs nothing while there is no such key.
type written struct {
	epoch uint32 // of the group; slots of another are empty
	done  int    // how many transactions of the group are in the table
	count int
	table []writeSlot // open addressing, a power of two long
}

type writeSlot struct {
	hash    uint64
	epoch   uint32
	tx, opn uint32
}

// reset begins another group.
func (w *written) reset() {
	w.done, w.count = 0, 0
	w.epoch++
	if w.epoch == 0 || len(w.table) > 1<<16 { // wrapped, or a giant group came by
		w.epoch, w.table = 1, nil
	}
}

// last returns the value that the group's transactions leave under key (empty: they
// delete it), and false if none of them writes it.
func (w *written) last(r *recent, group []*kv.Tx, h uint64, key []byte) ([]byte, bool) {
	for ; w.done < len(group); w.done++ {
		ops := group[w.done].Ops()
		for i := range ops {
			if ops[i].Kind == kv.OpRequire {
				continue
			}
			if 2*(w.count+1) > len(w.table) {
				w.grow()
			}
			w.put(r.hashOp(&ops[i], group[w.done].Stamp), uint32(w.done), uint32(i), group)
		}
	}
	if len(w.table) == 0 {
		return nil, false
	}
	for i := h; ; i++ {
		s := &w.table[i&uint64(len(w.table)-1)]
		if s.epoch != w.epoch {
			return nil, false
		}
		if s.hash != h {
			continue
		}
		tx := group[s.tx]
		if op := &tx.Ops()[s.opn]; sameKey(op, tx.Stamp, key) {
			if op.Kind == kv.OpDelete {
				return nil, true
			}
			return op.Value, true
		}
	}
}

func (w *written) put(h uint64, tx, opn uint32, group []*kv.Tx) {
	for i := h; ; i++ {
		s := &w.table[i&uint64(len(w.table)-1)]
		if s.epoch != w.epoch {
			*s = writeSlot{hash: h, epoch: w.epoch, tx: tx, opn: opn}
			w.count++
			return
		}
		if s.hash == h && sameWrite(group, s, tx, opn) {
			s.tx, s.opn = tx, opn
			return
		}
	}
}

func (w *written) grow() {
	old := w.table
	w.table = make([]writeSlot, max(256, 2*len(old)))
	if w.epoch == 0 {
		w.epoch = 1
	}
	for _, s := range old {
		if s.epoch != w.epoch {
			continue
		}
		i := s.hash
		for w.table[i&uint64(len(w.table)-1)].epoch == w.epoch {
			i++
		}
		w.table[i&uint64(len(w.table)-1)] = s
	}
}

// hashOp is the hash of the key that op writes.
func (r *recent) hashOp(op *kv.Op, stamp uint64) uint64 {
	if op.Kind != kv.OpStamped {
		return r.hash(op.Key)
	}
	var buf [kv.MaxKey]byte
	return r.hash(binary.BigEndian.AppendUint64(append(buf[:0], op.Key...), stamp))
}

// sameKey tells whether op, of a transaction with that stamp, writes key.
func sameKey(op *kv.Op, stamp uint64, key []byte) bool {
	if op.Kind != kv.OpStamped {
		return bytes.Equal(op.Key, key)
	}
	n := len(op.Key)
	return len(key) == n+kv.StampLen && bytes.Equal(op.Key, key[:n]) && binary.BigEndian.Uint64(key[n:]) == stamp
}

// sameWrite tells whether the write in s and operation opn of transaction tx have the same key.
func sameWrite(group []*kv.Tx, s *writeSlot, tx, opn uint32) bool {
	a, b := &group[s.tx].Ops()[s.opn], &group[tx].Ops()[opn]
	if b.Kind != kv.OpStamped {
		return sameKey(a, group[s.tx].Stamp, b.Key)
	}
	key := binary.BigEndian.AppendUint64(bytes.Clone(b.Key), group[tx].Stamp)
	return sameKey(a, group[s.tx].Stamp, key)
}
