// Package bustest is the conformance suite of the bus port: whatever carries events, the
// embedded log or a broker, passes it. It is the contract in runnable form, from a consumer's
// side: nothing that was published is missing, what comes is what was stored, and what comes
// more than once or late can be told by (conversation, epoch, seq).
package bustest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Bus is the port, both sides of it.
type Bus interface {
	bus.Publisher
	bus.Subscriber
}

// World is what a bus stands on: a store or a broker, with timelines of conversations.
type World interface {
	// Open returns the bus as a process has it that has just started. It closes it when the test ends.
	Open(t testing.TB) Bus

	// Append stores n messages at the end of conv, with Tail of size bytes each, and enlists their
	// event with b if that is how b publishes. It doesn't publish. Called from one goroutine.
	Append(t testing.TB, b Bus, conv id.ConversationID, n, size int) bus.Event
}

// Config says how to test a bus.
type Config struct {
	World    func(t testing.TB) World // a new one for each test
	Ordered  bool                     // every conversation's events come once and in order while nothing fails
	Parallel bool                     // tests may run at the same time
	Patience time.Duration            // what a test waits for something to come. Default 20 s.
}

const epoch = 7

// Epoch is that of events of a World.
func Epoch() uint64 { return epoch }

// Tail returns what the suite expects behind the sender of message seq of conv: a field
// that nobody reads, of about size bytes.
func Tail(conv id.ConversationID, seq uint64, size int) []byte {
	content := make([]byte, max(size, 24))
	copy(content, conv[:])
	binary.BigEndian.PutUint64(content[16:], seq)
	tail := binary.AppendUvarint([]byte{7<<3 | 2}, uint64(len(content)))
	return append(tail, content...)
}

// Messages returns messages first..last of conv as a World stores them.
func Messages(conv id.ConversationID, first, last uint64, size int) []byte {
	var b []byte
	for seq := first; seq <= last; seq++ {
		b = packet.AppendMessage(b, seq, id.MessageID(seq), "alice", Tail(conv, seq, size))
	}
	return b
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	if c.Patience == 0 {
		c.Patience = 20 * time.Second
	}
	for name, test := range map[string]func(*suite){
		"everything comes":            everything,
		"at least once over restarts": restarts,
		"errors come again":           errorsComeAgain,
		"one that fails for a while":  oneFails,
		"groups have positions":       groups,
		"a new group starts from now": fromNow,
		"one subscriber a process":    oneSubscriber,
		"big batches, big events":     big,
		"cancellation":                cancellation,
		"published again":             publishedAgain,
	} {
		t.Run(name, func(t *testing.T) {
			if c.Parallel {
				t.Parallel()
			}
			s := &suite{T: t, Config: c, w: c.World(t)}
			s.b = s.w.Open(t)
			test(s)
		})
	}
}

type suite struct {
	*testing.T
	Config
	w World
	b Bus
}

func conv(n int) id.ConversationID {
	c := id.ConversationID{0: byte(id.KindGroup)}
	binary.BigEndian.PutUint32(c[10:], uint32(n))
	return c
}

// bell is the conversation that tells whether a group has joined.
var bell = conv(1 << 20)

// publish appends and publishes an event for each of counts.
func (s *suite) publish(c id.ConversationID, counts ...int) {
	s.Helper()
	for _, n := range counts {
		ev := s.w.Append(s, s.b, c, n, 0)
		s.give(ev)
	}
}

func (s *suite) give(evs ...bus.Event) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	if err := s.b.Publish(ctx, evs); err != nil {
		s.Fatalf("publish: %v", err)
	}
}

// restart makes s's bus that of another process.
func (s *suite) restart() { s.b = s.w.Open(s) }

// group is a consumer that keeps what it was given.
type group struct {
	s    *suite
	name string

	mu      sync.Mutex
	got     map[id.ConversationID]map[uint64]int // how often each message came
	fail    func(evs []bus.Event) error          // asked first; may be nil
	ordered bool
	calls   int
	most    int // events in a call

	inside atomic.Int32
	end    func()
}

func (s *suite) consumer(name string) *group {
	return &group{s: s, name: name, ordered: s.Ordered, got: make(map[id.ConversationID]map[uint64]int)}
}

// join subscribes g and returns when events come through.
func (g *group) join() {
	g.s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	b := g.s.b
	go func() {
		defer close(ended)
		if err := b.Subscribe(ctx, g.name, g.handle); err != nil {
			g.s.Errorf("group %s: %v", g.name, err)
		}
	}()
	g.end = sync.OnceFunc(func() {
		cancel()
		<-ended
		if g.inside.Load() != 0 {
			g.s.Errorf("group %s: the subscription ended with its handler running", g.name)
		}
	})
	g.s.Cleanup(g.end)
	before := g.count(bell)
	for deadline := time.Now().Add(g.s.Patience); g.count(bell) == before; {
		if time.Now().After(deadline) {
			g.s.Fatalf("group %s has heard nothing after %s", g.name, g.s.Patience)
		}
		g.s.publish(bell, 1)
		time.Sleep(20 * time.Millisecond)
	}
}

func (g *group) handle(_ context.Context, evs []bus.Event) error {
	if g.inside.Add(1) != 1 {
		g.s.Errorf("group %s: the handler is called twice at a time", g.name)
	}
	defer g.inside.Add(-1)
	g.mu.Lock()
	fail := g.fail
	g.mu.Unlock()
	if fail != nil {
		if err := fail(evs); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	g.most = max(g.most, len(evs))
	if len(evs) == 0 {
		g.s.Errorf("group %s: a call without events", g.name)
	}
	for i := range evs {
		g.take(&evs[i])
	}
	return nil
}

// take keeps ev, and looks whether it is what was stored.
func (g *group) take(ev *bus.Event) {
	if ev.Epoch != epoch {
		g.s.Errorf("group %s: epoch %d", g.name, ev.Epoch)
	}
	got := g.got[ev.Conversation]
	if got == nil {
		got = make(map[uint64]int)
		g.got[ev.Conversation] = got
	}
	seq := ev.FirstSeq
	for rest := ev.Messages; len(rest) > 0; seq++ {
		v, after, err := packet.NextMessage(rest)
		if err != nil || v.Seq != seq {
			g.s.Errorf("group %s: message %d (%v) in the place of %d", g.name, v.Seq, err, seq)
			return
		}
		one := rest[:len(rest)-len(after)]
		at := Tail(ev.Conversation, seq, 0)[2:]
		if !contains(one, at) {
			g.s.Errorf("group %s: message %d of %s is not what was stored", g.name, seq, ev.Conversation)
		}
		if g.ordered && ev.Conversation != bell && seq > 1 && got[seq-1] == 0 {
			g.s.Errorf("group %s: message %d of %s came before %d", g.name, seq, ev.Conversation, seq-1)
		}
		got[seq]++
		rest = after
	}
	if seq != ev.LastSeq+1 {
		g.s.Errorf("group %s: an event up to %d ends before %d", g.name, ev.LastSeq, seq)
	}
}

func contains(b, part []byte) bool {
	for i := 0; i+len(part) <= len(b); i++ {
		if string(b[i:i+len(part)]) == string(part) {
			return true
		}
	}
	return false
}

// count returns how many messages of c came.
func (g *group) count(c id.ConversationID) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.got[c])
}

// heard waits until messages first..last of c came.
func (g *group) heard(c id.ConversationID, first, last uint64) {
	g.s.Helper()
	for deadline := time.Now().Add(g.s.Patience); ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		missing := uint64(0)
		for seq := first; seq <= last && missing == 0; seq++ {
			if g.got[c][seq] == 0 {
				missing = seq
			}
		}
		g.mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			g.s.Fatalf("group %s: message %d of %s didn't come in %s", g.name, missing, c, g.s.Patience)
		}
	}
}

func (g *group) failWith(f func(evs []bus.Event) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = f
}

// everything: many conversations at once, events of many sizes.
func everything(s *suite) {
	g := s.consumer("all")
	g.join()
	const convs, rounds = 40, 25
	var evs []bus.Event
	for r := range rounds {
		evs = evs[:0:0]
		for c := range convs {
			evs = append(evs, s.w.Append(s, s.b, conv(c), 1+(r+c)%5, 40*(c%7)))
		}
		s.give(evs...)
	}
	for _, ev := range evs {
		g.heard(ev.Conversation, 1, ev.LastSeq)
	}
	if s.Ordered {
		g.mu.Lock()
		defer g.mu.Unlock()
		for c, got := range g.got {
			for seq, n := range got {
				if n != 1 {
					s.Errorf("message %d of %s came %d times though nothing failed", seq, c, n)
				}
			}
		}
	}
}

// restarts: what is published while nobody consumes comes to who consumes next, in the same
// process or another; and nothing that wasn't handled is lost.
func restarts(s *suite) {
	g := s.consumer("again")
	g.join()
	s.publish(conv(1), 1, 2, 3)
	g.heard(conv(1), 1, 6)
	g.end()
	s.publish(conv(1), 4)
	g.join()
	g.heard(conv(1), 1, 10)
	g.end()
	s.restart()
	s.publish(conv(1), 5)
	s.publish(conv(2), 5)
	g.join()
	g.heard(conv(1), 1, 15)
	g.heard(conv(2), 1, 5)
	g.end()
}

var errNotNow = errors.New("not now")

// errorsComeAgain: whatever a handler fails with, it is given again.
func errorsComeAgain(s *suite) {
	g := s.consumer("fails")
	g.join()
	var failed int
	g.failWith(func([]bus.Event) error {
		if failed++; failed <= 3 || failed%2 == 0 && failed < 20 {
			return errNotNow
		}
		return nil
	})
	for c := range 5 {
		s.publish(conv(c), 1, 1, 1)
	}
	for c := range 5 {
		g.heard(conv(c), 1, 3)
	}
}

// oneFails: events that fail for a while come at last, and so do all others.
func oneFails(s *suite) {
	g := s.consumer("poison")
	g.join()
	var failed int
	g.failWith(func(evs []bus.Event) error {
		for i := range evs {
			if evs[i].Conversation == conv(1) && failed < 4 {
				failed++
				return errNotNow
			}
		}
		return nil
	})
	for c := range 4 {
		s.publish(conv(c), 2, 2)
	}
	for c := range 4 {
		g.heard(conv(c), 1, 4)
	}
}

// groups: each is given everything, at its own pace.
func groups(s *suite) {
	quick, slow := s.consumer("quick"), s.consumer("slow")
	slow.join()
	slow.end()
	quick.join()
	s.publish(conv(1), 3, 4)
	quick.heard(conv(1), 1, 7)
	if n := slow.count(conv(1)); n != 0 {
		s.Errorf("a group without a subscriber was given %d messages", n)
	}
	slow.join()
	slow.heard(conv(1), 1, 7)
	quick.end()
	s.publish(conv(1), 1)
	slow.heard(conv(1), 8, 8)
	quick.join()
	quick.heard(conv(1), 8, 8)
}

// fromNow: a new group isn't given what was before it.
func fromNow(s *suite) {
	first := s.consumer("first")
	first.join()
	for c := range 20 {
		s.publish(conv(c), 1, 2)
		first.heard(conv(c), 1, 3)
	}
	later := s.consumer("later")
	later.ordered = false
	later.join()
	for c := range 20 {
		s.publish(conv(c), 2)
	}
	for c := range 20 {
		later.heard(conv(c), 4, 5)
		if later.count(conv(c)) != 2 {
			s.Errorf("a new group was given messages of %s from before it joined", conv(c))
		}
	}
}

// oneSubscriber: a second one of a group is refused, and is welcome when the first has gone.
func oneSubscriber(s *suite) {
	g := s.consumer("single")
	g.join()
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	if err := s.b.Subscribe(ctx, g.name, g.handle); err == nil {
		s.Error("a second subscriber of a group was not refused")
	}
	s.publish(conv(1), 1)
	g.heard(conv(1), 1, 1)
	g.end()
	g.join()
	s.publish(conv(1), 1)
	g.heard(conv(1), 1, 2)
}

// big: thousands of events in one call, and events as big as an append can be.
func big(s *suite) {
	g := s.consumer("big")
	g.join()
	var evs []bus.Event
	const convs, each = 50, 40
	for range each {
		for c := range convs {
			evs = append(evs, s.w.Append(s, s.b, conv(c), 1, 100))
		}
	}
	large := s.w.Append(s, s.b, conv(convs), 40, 60<<10) // more than 2 MiB
	evs = append(evs, large)
	s.give(evs...)
	for c := range convs {
		g.heard(conv(c), 1, each)
	}
	g.heard(large.Conversation, 1, large.LastSeq)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Logf("%d events came in %d calls, up to %d in one", len(evs), g.calls, g.most)
}

// cancellation: Subscribe returns when its context ends, though its handler hangs until
// then; what that handler had in its hands comes again.
func cancellation(s *suite) {
	g := s.consumer("hangs")
	g.join()
	entered := make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(context.Background())
	g.end()
	ended := make(chan error, 1)
	go func() {
		ended <- s.b.Subscribe(ctx, g.name, func(ctx context.Context, evs []bus.Event) error {
			for i := range evs {
				if evs[i].Conversation == conv(1) {
					once.Do(func() { close(entered) })
					<-ctx.Done()
					return ctx.Err()
				}
			}
			return nil
		})
	}()
	s.publish(conv(1), 2)
	select {
	case <-entered:
	case <-time.After(s.Patience):
		s.Fatal("the handler was not called")
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			s.Errorf("a subscription that was cancelled ended with %v", err)
		}
	case <-time.After(s.Patience):
		s.Fatal("a subscription that was cancelled didn't end")
	}
	g.join()
	g.heard(conv(1), 1, 2)
}

// publishedAgain: after an error any of the events may have been taken; who publishes them
// once more loses nothing.
func publishedAgain(s *suite) {
	g := s.consumer("twice")
	g.join()
	g.ordered = false
	var evs []bus.Event
	for i := range 30 {
		evs = append(evs, s.w.Append(s, s.b, conv(i%3), 1, 0))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.b.Publish(ctx, evs) // an error, or not: both are right
	s.Log("publishing with a context that has ended:", fmt.Sprint(err))
	s.give(evs...)
	s.give(evs...)
	for c := range 3 {
		g.heard(conv(c), 1, 10)
	}
}
