package group

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

// What somebody's coming or going costs doesn't depend on how many others there are, as
// long as nobody asks for all of them; and what is kept of changes is bounded.
func TestAChangeCostsWhatChanged(t *testing.T) {
	const members, changes = 100_000, 20_000
	r := &roster{version: 1, since: 1, at: make(map[id.UserID]int32)}
	for i := range members {
		u := id.UserID(fmt.Sprint("u", i))
		r.at[u] = int32(len(r.list))
		r.list = append(r.list, u)
	}
	if len(r.members()) != members {
		t.Fatal("not everybody is in")
	}
	one := []id.UserID{"somebody"}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range uint64(changes) {
		st := step{seq: i + 2, joined: one}
		if i%2 == 1 {
			st = step{seq: i + 2, left: one}
		}
		if !r.apply(i+2, st) {
			t.Fatalf("change %d is refused", i)
		}
		if in, ok := r.stays("somebody", i+2); !ok || in != (i%2 == 0) {
			t.Fatalf("after change %d: in %v, known %v", i, in, ok)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / changes; each > 4<<10 {
		t.Errorf("a change allocates %d bytes in a group of %d", each, members)
	}
	if len(r.steps) > maxSteps || r.moved > maxSteps || r.moved != len(r.steps) {
		t.Errorf("%d steps of %d users are kept", len(r.steps), r.moved)
	}
	last := uint64(changes + 1)
	if in, ok := r.stays("somebody", last-1); !ok || !in {
		t.Errorf("before the last change: in %v, known %v", in, ok)
	}
	if _, ok := r.stays("somebody", 2); ok || r.since < last-maxSteps || r.since >= r.steps[0].seq {
		t.Errorf("what was forgotten is answered; all is known since %d, steps begin at %d", r.since, r.steps[0].seq)
	}
	if from := r.stepFrom(last - 10); r.steps[from].seq != last-10 || r.stepFrom(last+1) != len(r.steps) || r.stepFrom(1) != 0 {
		t.Errorf("steps from %d on begin with that of %d", last-10, r.steps[from].seq)
	}
	if users, to, ok := r.recipients(last-1, last); !ok || to != last || len(users) != members+1 {
		t.Errorf("%d recipients up to %d, %v", len(users), to, ok)
	}
}
