package floor

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// scratch is the committer's memory, used again for every conversation.
type scratch struct {
	segment []byte
	ids     []byte
	acks    []byte
	ref     uint64
}

// The rows that a stored segment costs: the segment, the head, one row of client
// ids a second, one reference on the embedded bus. The same rows and sizes as
// GoChat's own, without what a head or an id really holds.
const (
	tagSegment = 0x40
	tagHead    = 0x50
	tagIDs     = 0x70
	headSize   = 80
)

// key is prefix | conversation (16 bytes) | tag.
func (cv *conversation) appendKey(dst []byte, tag byte) []byte {
	slot := uint16(cv.key*2654435761>>16) & 0x0FFF // spread like a hash
	dst = append(dst, 0, 1, 1)
	dst = binary.BigEndian.AppendUint16(dst, slot)
	dst = append(dst, 0x10)
	dst = binary.BigEndian.AppendUint32(dst, cv.key)
	dst = append(dst, make([]byte, 12)...)
	return append(dst, tag)
}

// store adds the rows of cv.work to the batch and moves cv.seq. The segment stays in s.segment.
func (s *Server) store(batch *pebble.Batch, cv *conversation, now int64, buf *scratch) {
	var keys [3][48]byte
	seg := binary.BigEndian.AppendUint64(buf.segment[:0], cv.seq+1)
	seg = binary.BigEndian.AppendUint32(seg, uint32(len(cv.work)))
	ids := buf.ids[:0]
	for i := range cv.work {
		m := cv.work[i].stored
		seg = binary.BigEndian.AppendUint32(seg, uint32(len(m)))
		seg = append(seg, m...)
		ids = append(ids, m[8:24]...)
	}
	buf.segment, buf.ids = seg, ids
	cv.seq += uint64(len(cv.work))

	segKey := binary.BigEndian.AppendUint64(cv.appendKey(keys[0][:0], tagSegment), cv.seq)
	var head [headSize]byte
	binary.BigEndian.PutUint64(head[:], cv.seq)
	idKey := binary.BigEndian.AppendUint64(cv.appendKey(keys[2][:0], tagIDs), ^uint64(now))
	idKey = binary.BigEndian.AppendUint64(idKey, cv.seq)
	buf.ref++
	var ref [13]byte
	ref[4] = 1
	binary.BigEndian.PutUint64(ref[5:], buf.ref)

	// A Set fails only on a batch that is committed or closed.
	_ = batch.Set(segKey, seg, nil)
	_ = batch.Set(cv.appendKey(keys[1][:0], tagHead), head[:], nil)
	_ = batch.Set(idKey, ids, nil)
	_ = batch.Set(ref[:], segKey[5:], nil)
}

// prepare puts the acks and deliveries of cv.work into the connections' buffers
// and returns touched with the connections that weren't in it.
func (s *Server) prepare(touched []*client, cv *conversation, first uint64, buf *scratch) []*client {
	// Acks that go to one connection one after the other go in one piece.
	for i := 0; i < len(cv.work); {
		from := cv.work[i].from
		acks := buf.acks[:0]
		for ; i < len(cv.work) && cv.work[i].from == from; i++ {
			acks = binary.BigEndian.AppendUint32(acks, 1+12)
			acks = append(acks, frameAck)
			acks = binary.BigEndian.AppendUint32(acks, cv.work[i].request)
			acks = binary.BigEndian.AppendUint64(acks, first+uint64(i))
		}
		buf.acks = acks
		if from.put(acks, nil) {
			touched = append(touched, from)
		}
	}
	var header [headerLen]byte
	binary.BigEndian.PutUint32(header[:], uint32(1+len(buf.segment)))
	header[4] = frameDeliver
	if s.group {
		for _, c := range s.members() {
			if c != nil && c.put(header[:], buf.segment) {
				touched = append(touched, c)
			}
		}
		return touched
	}
	if to := s.peerOf(cv.work[0].from); to != nil && to.put(header[:], buf.segment) {
		touched = append(touched, to)
	}
	return touched
}

// members returns everybody, by index. Elements are set once, so the slice may be read without the lock
// once all have joined; the load client sends nothing before.
func (s *Server) members() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients
}

func (s *Server) peerOf(c *client) *client {
	if c.peer == nil {
		s.mu.Lock()
		if i := c.index ^ 1; i < uint32(len(s.clients)) {
			c.peer = s.clients[i]
		}
		s.mu.Unlock()
	}
	return c.peer
}
