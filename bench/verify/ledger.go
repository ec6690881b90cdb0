package verify

import (
	"github.com/gochat-im/gochat/protocol/packet"
)

// Ledger is the book of one pair: one sender, one recipient, one conversation that
// nobody else writes to and that was empty before.
type Ledger struct {
	Pair   int
	Salt   uint16
	Sender string
	Body   int // bytes of each message

	Sent  uint64 // numbers 1..Sent were sent
	acked Runs
	got   Received
	came  Runs // what came by DELIVER or a pull, the first time

	arrived            uint64 // seqs that came, by whatever way, once
	inOrder, pulled    uint64
	repeats, gaps      uint64
	corrupt, duplicate uint64

	walked  uint64 // seqs of the timeline read so far
	matched uint64 // of them, whose number was acked with this seq
	last    uint64 // the highest number seen in the timeline
	lost    uint64
	doubled uint64
}

// Acked records the ack of a number.
func (l *Ledger) Acked(number, seq uint64, duplicate bool) {
	l.acked.Add(number, seq)
	if duplicate {
		l.duplicate++
	}
}

// AckedCount returns how many acks were recorded.
func (l *Ledger) AckedCount() uint64 { return l.acked.Count() }

// Mark returns the seq up to which the recipient has everything.
func (l *Ledger) Mark() uint64 { return l.got.Mark }

// Delivered records one message of a DELIVER and returns its number, 0 if it isn't
// one of this pair's. gap tells that messages before it are missing, now for the first time.
func (l *Ledger) Delivered(v *packet.MessageView) (number uint64, gap bool) {
	number = l.check(v)
	next := l.got.Mark + 1
	if len(l.got.late) > 0 { // what is above the open gap is expected in order, too
		next = l.got.late[len(l.got.late)-1].to + 1
	}
	if !l.got.Add(v.Seq) {
		l.repeats++
		return number, false
	}
	l.arrived++
	switch {
	case v.Seq == next:
		l.inOrder++
	case v.Seq > next:
		l.gaps++
		gap = true
	}
	if number != 0 {
		l.came.Add(number, v.Seq)
	}
	return number, gap
}

// Pulled records one message of a SYNCED that the recipient asked for because of a gap or a hint.
func (l *Ledger) Pulled(v *packet.MessageView) {
	number := l.check(v)
	if l.got.Add(v.Seq) {
		l.arrived++
		l.pulled++
		if number != 0 {
			l.came.Add(number, v.Seq)
		}
	}
}

// Missing returns the first range below what has come that hasn't; from is 0 if there is none.
func (l *Ledger) Missing() (from, to uint64) { return l.got.Missing() }

// check returns the number of a message, 0 if it is not one that this pair sent.
func (l *Ledger) check(v *packet.MessageView) uint64 {
	number, ok := ReadID(v.ClientMsgID, l.Salt, l.Pair)
	if !ok || number > l.Sent || string(v.Sender) != l.Sender || len(v.Content) != l.Body || !SameBody(v.Content, l.Pair, number) {
		l.corrupt++
		return 0
	}
	return number
}

// Walked returns the seq up to which Stored has seen the timeline.
func (l *Ledger) Walked() uint64 { return l.walked }

// Answered records that the timeline holds nothing more up to seq than Stored was shown.
func (l *Ledger) Answered(seq uint64) {
	if seq > l.walked {
		l.lost += seq - l.walked
		l.walked = seq
	}
}

// Stored takes the timeline's messages in order, from seq 1 to the head, after the load has ended.
func (l *Ledger) Stored(v *packet.MessageView) {
	if v.Seq <= l.walked {
		l.doubled++
		return
	}
	l.Answered(v.Seq - 1) // a hole: no retention runs meanwhile
	l.walked = v.Seq
	number := l.check(v)
	if number == 0 {
		return
	}
	if number <= l.last {
		l.doubled++ // or reordered: a lane is first in, first out
	} else {
		l.last = number
		if seq := l.came.Seq(number); seq != 0 && seq != v.Seq {
			l.corrupt++ // the recipient was shown this message at another seq
		}
	}
	if l.acked.Seq(number) == v.Seq {
		l.matched++
	}
}

// Result is the verdict on a run, summed over its pairs.
type Result struct {
	Pairs      int    `json:"pairs"`
	Sent       uint64 `json:"sent"`
	Acked      uint64 `json:"acked"`
	Stored     uint64 `json:"stored"`     // messages in the timelines
	Delivered  uint64 `json:"delivered"`  // of them came by DELIVER, in order, once
	Pulled     uint64 `json:"pulled"`     // came by SYNC because of a gap or a hint
	Repeats    uint64 `json:"repeats"`    // came again
	Gaps       uint64 `json:"gaps"`       // times that one came before the one below it
	Pulls      uint64 `json:"pulls"`      // SYNCs sent because of gaps and hints
	Lost       uint64 `json:"lost"`       // acked, and not in the timeline at the ack's seq; holes of the timeline
	Doubled    uint64 `json:"doubled"`    // in the timeline twice, or out of order
	Corrupt    uint64 `json:"corrupt"`    // not byte for byte what was sent
	Missing    uint64 `json:"missing"`    // in the timeline and never came, neither by DELIVER nor by a pull
	Duplicates uint64 `json:"duplicates"` // acks that said the id was stored before
	Unacked    uint64 `json:"unacked"`    // sent and neither acked nor refused
	Refused    uint64 `json:"refused"`
	Unread     int    `json:"unread"` // pairs whose timeline could not be read to its end
}

// Add sums up one pair. head is the conversation's last seq as the final sync told it.
func (r *Result) Add(l *Ledger, head uint64) {
	r.Pairs++
	r.Sent += l.Sent
	r.Acked += l.acked.Count()
	r.Stored += l.walked
	r.Delivered += l.inOrder - min(l.inOrder, l.repeats) // what came again didn't come once
	r.Pulled += l.pulled
	r.Repeats += l.repeats
	r.Gaps += l.gaps
	r.Doubled += l.doubled
	r.Corrupt += l.corrupt
	r.Duplicates += l.duplicate
	r.Lost += l.lost + (l.acked.Count() - l.matched)
	r.Missing += l.walked - min(l.walked, l.arrived)
	if l.walked < head {
		r.Unread++
	}
}

// DeliveredShare returns the percentage of stored messages that came by DELIVER, in order and once.
func (r *Result) DeliveredShare() float64 {
	if r.Stored == 0 {
		return 100
	}
	return 100 * float64(r.Delivered) / float64(r.Stored)
}

// Clean is what a run without faults must be: nothing lost, doubled or changed, everything
// answered, and at least 99.9 % delivered with no gap and no repeat.
func (r *Result) Clean() bool {
	return r.Sound() && r.Missing == 0 && r.Unacked == 0 && r.Refused == 0 && r.DeliveredShare() >= 99.9
}

// Sound is what every run must be: what was acked is stored where the ack said, once and unchanged.
func (r *Result) Sound() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Corrupt == 0 && r.Unread == 0
}
