package relay

import (
	"encoding/binary"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/session"
)

// What an edge tells a node of the directory, and is answered, one after the other. Numbers are never reused.
const (
	entryRegister   = 1 // user, device, kind, connection -> status, replaced, ousted
	entryUnregister = 2 // user, connection               -> status
	entryAnnounce   = 3 // slot, n, sessions              -> status
	entryRenew      = 4 // n, slots to be announced again -> status, n, slots that are missing
	entryRoom       = 5 // conversation, number of this state, of the one before (0: none), n, who came as connection and user, n, connections that left -> 1: all of it is wanted anew, n, connections to be taken out
)

const (
	statusEntered = 0
	statusForeign = 1 // another node's, or not now
	statusStale   = 2 // another start of the edge is alive
)

// ledger is one call: which edge it is, which revocations it knows, and entries.
type ledger struct {
	edge    session.Edge
	desk    uint64 // start of the node that it knows revocations of
	revoked uint64 // how many of those
	entries []byte
}

func (l *ledger) append(dst []byte) []byte {
	for _, n := range [...]uint64{uint64(l.edge.Worker), l.edge.Start, l.desk, l.revoked} {
		dst = binary.AppendUvarint(dst, n)
	}
	return append(dst, l.entries...)
}

func readLedger(b []byte) (l ledger, err error) {
	r := reader{b: b}
	worker := r.number()
	if worker >= 1<<id.ConnWorkerBits {
		r.fail()
	}
	l.edge = session.Edge{Worker: uint32(worker), Start: r.number()}
	l.desk, l.revoked = r.number(), r.number()
	l.entries = r.b
	return l, r.err
}

// statement answers a ledger: revocations that the edge may not know, then the entries' answers.
type statement struct {
	desk    uint64
	revoked uint64 // how many there were so far
	missed  bool   // some that the edge doesn't know are not known here any more, either
	orders  []byte // the others
	answers []byte
}

func (s *statement) append(dst []byte) []byte {
	missed := byte(0)
	if s.missed {
		missed = 1
	}
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, s.desk), s.revoked)
	dst = appendString(append(dst, missed), s.orders)
	return append(dst, s.answers...)
}

func readStatement(b []byte) (s statement, err error) {
	r := reader{b: b}
	s.desk, s.revoked = r.number(), r.number()
	s.missed = r.byte() != 0
	s.orders = r.bytes()
	s.answers = r.b
	return s, r.err
}

func appendSession(dst []byte, s *session.Session) []byte {
	dst = appendString(appendString(dst, s.User), s.Device)
	return appendConn(append(dst, s.Kind), s.Conn)
}

func (r *reader) session() session.Session {
	return session.Session{User: id.UserID(r.string()), Device: id.DeviceID(r.string()), Kind: r.byte(), Conn: r.conn()}
}

func appendSlots(dst []byte, slots []id.Slot) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(slots)))
	for _, s := range slots {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s))
	}
	return dst
}

func (r *reader) slots(dst []id.Slot) []id.Slot {
	for range r.count(2) {
		dst = append(dst, r.slot())
	}
	return dst
}

func (r *reader) slot() id.Slot {
	if len(r.b) < 2 {
		r.fail()
		return 0
	}
	s := id.Slot(binary.BigEndian.Uint16(r.b))
	r.b = r.b[2:]
	return s
}
