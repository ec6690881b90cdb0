package timeline

import (
	"context"
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
)

// atRefusal is a sender that acts the moment it hears its first refusal, before anything
// else is sequenced.
type atRefusal struct {
	*sender
	act func()
}

func (r *atRefusal) Refused(p *packet.Pending, e *code.Error) {
	r.sender.Refused(p, e)
	if act := r.act; act != nil {
		r.act = nil
		act()
	}
}

// A sender that hears a refusal sends all again at once, while the end of its first flight
// still waits. So that end and the whole burst are decided on together; then the
// burst is refused too, from some message on. What is refused stays in order all the same.
func TestBurstIsRefusedTogetherWithWhatItOvertook(t *testing.T) {
	for _, tc := range []struct {
		name     string
		full     int    // commits that the store has no room for
		slow     string // refused by the rules once the first flight is
		heard    []string
		resends  []int
		expected []string
	}{
		{"as a whole by the store", 2, "", []string{
			"1:storage_full", "2:lane_blocked", // the first flight,
			"3:lane_blocked",                                     // its end
			"1:storage_full", "2:lane_blocked", "3:lane_blocked", // and the burst
		}, []int{0, 1, 2}, []string{"1:seq=1", "2:seq=2", "3:seq=3"}},
		{"in its middle by the rules", 1, "b", []string{
			"1:storage_full", "2:lane_blocked",
			"3:lane_blocked",
			"1:seq=1", "2:rate_limited", "3:lane_blocked",
		}, []int{1, 2}, []string{"2:seq=2", "3:seq=3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			commits, slow := 0, false
			st := newStage(t, func(c *Config) {
				c.Guard = rulesFunc(func(p *packet.Pending) *code.Error {
					if slow && string(p.Content) == tc.slow {
						slow = false
						return code.New(code.RateLimited)
					}
					return nil
				})
			})
			entered, release := make(chan struct{}), make(chan struct{})
			st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
				if commits++; commits == 1 {
					close(entered)
					<-release
				}
				if commits > tc.full {
					next.Commit(ctx, txs...)
					return
				}
				for _, tx := range txs {
					tx.Err = fmt.Errorf("by the test: %w", kv.ErrFull)
				}
			})
			var flight, burst []packet.Pending
			for _, text := range []string{"a", "b", "c"} {
				flight = append(flight, st.a.text(st.id(0), text))
				burst = append(burst, resend(flight[len(flight)-1]))
			}
			again := append([]packet.Pending(nil), burst...)
			flight[0].Reply = &atRefusal{st.a, func() {
				slow = true
				st.send(burst...)
			}}
			st.send(flight[:2]...)
			<-entered
			st.send(flight[2:]...) // waits
			close(release)
			st.a.expect(t, tc.heard...)
			for _, i := range tc.resends { // each by itself, as they come from a socket
				st.send(again[i])
			}
			st.a.expect(t, tc.expected...)
			st.send(st.a.text(st.id(0), "d"))
			st.a.expect(t, "4:seq=4")
			got := ""
			for _, v := range messages(t, st.store, dm) {
				got += string(v.Content)
			}
			if got != "abcd" {
				t.Errorf("stored %q", got)
			}
		})
	}
}

// A lane of which some message is being refused all the time stays usable: what passed
// is forgotten, however many there were.
func TestLaneUnderLongOverload(t *testing.T) {
	l := newLaneScript(t)
	name := func(i int) string { return string(rune(0x4E00 + i)) }
	l.arrives(name(0))
	l.noRoom(name(1), false)
	for i := range 4 * maxRanks {
		l.expect(l.decides(), name(i))
		l.arrives("!" + name(i+1))
		l.noRoom(name(i+2), false)
	}
	if n := len(l.c.lanes[1].rank); n > maxRanks {
		t.Errorf("%d messages are remembered", n)
	}
}
