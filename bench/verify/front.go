package verify

// Front is how far all of many recipients of one log have come: the lowest of their
// marks. Moving a recipient costs the same however many there are.
type Front struct {
	at  []int32 // how many stand at a seq; a ring
	low uint64
}

// NewFront returns a Front of n recipients, at least 1, who all stand at seq. None may
// get reach or more ahead of another.
func NewFront(n int, seq uint64, reach int) *Front {
	size := 64
	for size < reach {
		size *= 2
	}
	f := &Front{at: make([]int32, size), low: seq}
	f.at[seq&uint64(size-1)] = int32(n)
	return f
}

// Low returns the seq that everybody has reached.
func (f *Front) Low() uint64 { return f.low }

// Move takes one recipient from one seq up to another and reports whether Low rose.
// ok is false, and nothing has changed, if that is out of the Front's reach.
func (f *Front) Move(from, to uint64) (rose, ok bool) {
	mask := uint64(len(f.at) - 1)
	if to < from || from < f.low || to-f.low > mask {
		return false, false
	}
	f.at[from&mask]--
	f.at[to&mask]++
	if from != f.low || f.at[from&mask] > 0 {
		return false, true
	}
	for f.at[f.low&mask] == 0 {
		f.low++
	}
	return true, true
}
