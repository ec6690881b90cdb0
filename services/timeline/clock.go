package timeline

import (
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/id"
)

// counterMax is the highest counter in a MessageID.
const counterMax = 1<<12 - 1

// clock makes MessageIDs: each greater than the one before it, none twice. It is the
// sequencer goroutine's, latest aside.
type clock struct {
	worker uint32
	ms     int64  // of the last id
	used   uint32 // ids made of ms

	// ahead counts the ids made of milliseconds that ms has not reached: of
	// conversations whose last message another owner stamped with a faster clock. Their
	// time is not everybody's time. Nearly always empty.
	ahead map[int64]uint32

	latest atomic.Int64 // the latest Unix ms in any id
}

// begin moves the clock to now, never back.
func (k *clock) begin(now int64) {
	if now > k.ms {
		k.turn(now)
	}
}

func (k *clock) turn(ms int64) {
	k.ms, k.used = ms, 0
	if len(k.ahead) > 0 {
		k.used = k.ahead[ms]
		for t := range k.ahead {
			if t <= ms {
				delete(k.ahead, t)
			}
		}
	}
	if ms > k.latest.Load() {
		k.latest.Store(ms)
	}
}

// next returns an id of a time not below floor. For one floor or rising ones the ids rise.
func (k *clock) next(floor int64) id.MessageID {
	if floor > k.ms {
		return k.nextAhead(floor)
	}
	for k.used > counterMax { // more than four million a second: borrow from the next millisecond
		k.turn(k.ms + 1)
	}
	k.used++
	return id.MakeMessageID(k.ms, k.worker, k.used-1)
}

func (k *clock) nextAhead(ms int64) id.MessageID {
	if k.ahead == nil {
		k.ahead = make(map[int64]uint32)
	}
	for k.ahead[ms] > counterMax {
		ms++
	}
	n := k.ahead[ms]
	k.ahead[ms] = n + 1
	if ms > k.latest.Load() {
		k.latest.Store(ms)
	}
	return id.MakeMessageID(ms, k.worker, n)
}
