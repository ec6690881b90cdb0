package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/session"
)

// Desk is a logic node's end of what Sessions of edges tell, and LookUps ask.
type Desk struct {
	part  *session.Part
	edges *Edges
	start uint64
	rooms RoomKeeper // nil: there are none

	mu      sync.Mutex
	log     []Revocation // the latest
	revoked uint64       // how many there were
}

// maxRevocations is how many are kept for edges that couldn't be told.
const maxRevocations = 16 << 10

// NewDesk returns the Desk for part. What others have to close goes through edges; start is of this process.
func NewDesk(part *session.Part, edges *Edges, start uint64) *Desk {
	return &Desk{part: part, edges: edges, start: start}
}

// Keep says who is told of rooms, before the first call.
func (d *Desk) Keep(k RoomKeeper) { d.rooms = k }

// errOusted tells a client why its connection is closed.
var errOusted = code.Newf(code.Replaced, "another device of yours took this one's place")

// Take answers a ledger. Nothing of body is kept.
func (d *Desk) Take(body []byte) ([]byte, error) {
	l, err := readLedger(body)
	if err != nil {
		return nil, fmt.Errorf("reading what an edge tells: %w", err)
	}
	var s statement
	d.bringUp(&l, &s)
	r := reader{b: l.entries}
	for len(r.b) > 0 {
		switch r.byte() {
		case entryRegister:
			if x := r.session(); r.err == nil {
				replaced, ousted, err := d.part.Register(l.edge, x.User, x.Device, x.Kind, x.Conn)
				d.shut(l.edge, replaced, code.New(code.Replaced))
				d.shut(l.edge, ousted, errOusted)
				s.answers = appendConn(appendConn(append(s.answers, statusOf(err)), replaced), ousted)
			}
		case entryUnregister:
			user, conn := id.UserID(r.string()), r.conn()
			if r.err == nil {
				s.answers = append(s.answers, statusOf(d.part.Unregister(l.edge, user, conn)))
			}
		case entryAnnounce:
			slot := r.slot()
			sessions := make([]session.Session, 0, r.count(11))
			for range cap(sessions) {
				sessions = append(sessions, r.session())
			}
			if r.err == nil {
				closed, err := d.part.Announce(l.edge, slot, sessions, nil)
				for _, conn := range closed {
					d.edges.CloseConn(conn, errOusted)
				}
				s.answers = append(s.answers, statusOf(err))
			}
		case entryRenew:
			again := r.slots(nil)
			if r.err == nil {
				missing, err := d.part.Renew(l.edge, again, nil)
				s.answers = appendSlots(append(s.answers, statusOf(err)), missing)
			}
		case entryRoom:
			if m := r.roomMoves(); r.err == nil {
				s.answers = m.answer(s.answers, d.rooms, l.edge)
			}
		default:
			return nil, errUnknown
		}
		if r.err != nil {
			return nil, fmt.Errorf("reading what an edge tells: %w", r.err)
		}
	}
	return s.append(nil), nil
}

func statusOf(err error) byte {
	switch {
	case err == nil:
		return statusEntered
	case errors.Is(err, session.ErrForeign):
		return statusForeign
	}
	return statusStale
}

// shut closes a connection at an edge other than from, which is told by the answer.
func (d *Desk) shut(from session.Edge, conn uint64, why *code.Error) {
	if conn != 0 && id.ConnWorker(conn) != from.Worker {
		d.edges.CloseConn(conn, why)
	}
}

// Revoke closes connections at all edges. Those that can't be told now learn of it with their next call.
func (d *Desk) Revoke(v Revocation) {
	d.mu.Lock()
	if len(d.log) == maxRevocations {
		d.log = append(d.log[:0], d.log[maxRevocations/4:]...)
	}
	d.log = append(d.log, v)
	d.revoked++
	d.mu.Unlock()
	d.edges.revokeNow(v)
}

// bringUp adds the revocations that an edge may not know to s.
func (d *Desk) bringUp(l *ledger, s *statement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.desk, s.revoked = d.start, d.revoked
	n := d.revoked // how many it lacks
	if l.desk == d.start {
		n -= min(l.revoked, n)
	}
	if n > uint64(len(d.log)) {
		s.missed, n = true, uint64(len(d.log))
	}
	for _, v := range d.log[uint64(len(d.log))-n:] {
		s.orders = v.append(s.orders)
	}
}

// LookUp answers LookUps: for each user the connections, of which 0 stands for others that there may be; with devices
// what these are, too. Nothing of body is kept.
func (d *Desk) LookUp(body []byte) ([]byte, error) {
	r := reader{b: body}
	devices := r.byte() != 0
	users := r.users()
	if r.err != nil || len(r.b) > 0 {
		return nil, fmt.Errorf("reading who is looked for: %w", errShort)
	}
	if !devices {
		conns, ends := d.part.Gather(context.Background(), users, nil, nil)
		out := make([]byte, 0, 9*len(conns)+len(ends))
		from := 0
		for _, end := range ends {
			out = binary.AppendUvarint(out, uint64(end-from))
			for _, c := range conns[from:end] {
				out = appendConn(out, c)
			}
			from = end
		}
		return out, nil
	}
	var out []byte
	for _, u := range users {
		all, sure := d.part.Devices(u, nil)
		if !sure {
			all = append(all, session.Session{})
		}
		out = binary.AppendUvarint(out, uint64(len(all)))
		for i := range all {
			all[i].User = ""
			out = appendSession(out, &all[i])
		}
	}
	return out, nil
}
