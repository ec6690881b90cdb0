package verify

// Runs is an exact map of message numbers to seqs, kept as runs in which both go up
// by one: one run for a sender whose messages are stored in order, whatever their count.
type Runs struct {
	runs  []run
	count uint64
}

type run struct{ number, seq, count uint64 }

// Add records that a number has a seq. Numbers may come in any order, each once.
func (r *Runs) Add(number, seq uint64) {
	r.count++
	if n := len(r.runs); n > 0 {
		if l := &r.runs[n-1]; number == l.number+l.count && seq == l.seq+l.count {
			l.count++
			return
		}
	}
	r.runs = append(r.runs, run{number, seq, 1})
}

// Count returns how often Add was called.
func (r *Runs) Count() uint64 { return r.count }

// Seq returns the seq of a number, 0 if it has none. It is quick for ascending numbers.
func (r *Runs) Seq(number uint64) uint64 {
	for i := range r.runs {
		if l := &r.runs[i]; number >= l.number && number < l.number+l.count {
			if i > 0 { // the next number is likely in the same run
				r.runs[0], r.runs[i] = r.runs[i], r.runs[0]
				l = &r.runs[0]
			}
			return l.seq + number - l.number
		}
	}
	return 0
}

// Received is what has reached a recipient of one conversation: a contiguous mark and
// the ranges above it that have come already.
type Received struct {
	Mark uint64 // everything up to here has come
	late []span // ascending, above Mark+1
}

type span struct{ from, to uint64 }

// Add records one seq; first is false for a repeat.
func (r *Received) Add(seq uint64) (first bool) {
	if seq == r.Mark+1 {
		r.Mark++
		if len(r.late) > 0 && r.late[0].from == r.Mark+1 {
			r.Mark = r.late[0].to
			r.late = append(r.late[:0], r.late[1:]...)
		}
		return true
	}
	if seq <= r.Mark {
		return false
	}
	i := len(r.late)
	for i > 0 && r.late[i-1].from > seq {
		i--
	}
	// late[i-1] begins at or below seq, late[i] above.
	if i > 0 && seq <= r.late[i-1].to {
		return false
	}
	below, above := i > 0 && r.late[i-1].to+1 == seq, i < len(r.late) && r.late[i].from == seq+1
	switch {
	case below && above:
		r.late[i-1].to = r.late[i].to
		r.late = append(r.late[:i], r.late[i+1:]...)
	case below:
		r.late[i-1].to = seq
	case above:
		r.late[i].from = seq
	default:
		r.late = append(r.late, span{})
		copy(r.late[i+1:], r.late[i:])
		r.late[i] = span{seq, seq}
	}
	return true
}

// AddRange records the seqs from..to and returns how many of them are new.
func (r *Received) AddRange(from, to uint64) (fresh uint64) {
	if from == r.Mark+1 && len(r.late) == 0 && to >= from {
		r.Mark = to
		return to - from + 1
	}
	for seq := from; seq <= to; seq++ {
		if r.Add(seq) {
			fresh++
		}
	}
	return fresh
}

// Missing returns the first range that hasn't come though something above it has; from is 0 if there is none.
func (r *Received) Missing() (from, to uint64) {
	if len(r.late) == 0 {
		return 0, 0
	}
	return r.Mark + 1, r.late[0].from - 1
}
