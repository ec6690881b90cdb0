package timeline

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Imported is a message that comes from elsewhere with a time of its own.
type Imported struct {
	At     int64 // Unix ms
	Sender id.UserID
	Send   packet.Send // of which the id and what is stored count; mentions get no rows
}

// MaxImported bounds what one change imports, in bytes by what is stored of the messages.
const MaxImported = runBytes

// errBegun is what history is refused with once something was written as it happened: nothing is put
// before what people have seen, and nothing old behind it.
var errBegun = code.Newf(code.Forbidden, "people have begun to write in this conversation: history comes before")

// dated reports whether w has times of its own: then nobody is sent it, and the bus isn't told.
func (w *Change) dated() bool { return w.At != 0 || len(w.Imported) > 0 }

// mayDate returns why a change with times of its own may not be made, or nil. It reads the last
// message, whose id tells where it came from.
func (s *Sequencer) mayDate(ctx context.Context, c *conversation, w *Change) error {
	size := 0
	for i := range w.Imported {
		size += len(w.Imported[i].Send.Tail) + len(w.Imported[i].Sender) + 64
	}
	if w.At > s.cfg.Now() || len(w.Imported) > runMessages || size > MaxImported || len(w.Imported) > 0 && w.Type != 0 {
		return fmt.Errorf("import %d messages of %d bytes at %d: out of bounds", len(w.Imported), size, w.At)
	}
	if c.absent || c.head.LastSeq == 0 {
		return nil
	}
	last := c.head.LastSeq
	messages, _, _, err := s.timeline.Range(ctx, c.id, last, last, 1, 0)
	if err != nil {
		return err
	}
	if len(messages) == 0 {
		return errBegun // retention took it
	}
	v, _, err := packet.NextMessage(messages)
	if err != nil {
		return fmt.Errorf("message %d of %s: %w", last, c.id, msgstore.ErrCorrupt)
	}
	if v.ID.Worker() != id.ImportWorker {
		return errBegun
	}
	return nil
}

// dates makes the MessageIDs of one change: of the times asked for, or as soon after as keeps
// them rising.
type dates struct {
	ms   int64
	used uint32
}

// after begins behind what h has. A conversation without messages has no time yet, whenever it was made.
func after(h *msgstore.Head) dates {
	if h.LastSeq == 0 {
		return dates{ms: id.Epoch}
	}
	return dates{ms: h.LastTime + 1} // all of LastTime may be used
}

func (d *dates) next(at int64) id.MessageID {
	if at > d.ms {
		d.ms, d.used = at, 0
	}
	if d.used > counterMax {
		d.ms, d.used = d.ms+1, 0
	}
	d.used++
	return id.MakeMessageID(d.ms, id.ImportWorker, d.used-1)
}

// buildImport encodes the messages that w imports behind h, which it moves on, and returns them.
func (s *Sequencer) buildImport(w *Change, h *msgstore.Head) []byte {
	r := &s.round
	size := 0
	for i := range w.Imported {
		size += len(w.Imported[i].Send.Tail) + len(w.Imported[i].Sender) + 64
	}
	slab := r.room(size)
	begin := len(slab)
	d := after(h)
	for i := range w.Imported {
		m := &w.Imported[i]
		mid := d.next(m.At)
		h.LastSeq++
		from := len(slab)
		slab = packet.AppendMessage(slab, h.LastSeq, mid, m.Sender, m.Send.Tail)
		r.segments.Add(len(slab)-from, packet.Counts(m.Send.Type, m.Send.NoCount))
		ms := m.Send.ClientMsgID.UnixMilli()
		h.IDMax = max(h.IDMax, ms)
		if ms >= h.IDFloor { // below, ids aren't kept
			r.ids.Add(ms, msgstore.IDEntry{Hash: msgstore.IDHash(m.Sender, m.Send.ClientMsgID), Seq: h.LastSeq, Body: m.Send.BodyHash})
		}
		h.LastTime = mid.UnixMilli()
		h.PreviewSeq, h.PreviewType, h.PreviewSender, h.PreviewText = h.LastSeq, m.Send.Type, m.Sender, m.Send.Content
	}
	h.Countable = r.segments.Countable()
	r.slab = slab
	return slab[begin:len(slab):len(slab)]
}
