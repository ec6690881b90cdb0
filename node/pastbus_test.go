package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// watched has nodes with a store know what becomes of what they publish.
func (s *several) watched(_ *Config, p *Program) {
	if p.Store != nil {
		b := loopbus.New(s.bus.Addr())
		p.Bus, p.Consumers = b, b.Watch(fanoutGroup)
	}
}

// comes waits for something that other goroutines bring about.
func (s *several) comes(what string, ok func() bool) {
	s.t.Helper()
	for !ok() {
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// owner is the node that leads conv.
func (s *several) owner(conv id.ConversationID) *running {
	s.t.Helper()
	return s.in[s.in["edge-1"].peers.Router.Owner(conv.Slot()).ID]
}

// While the bus is away owners bring messages themselves, and go on until it is seen to bring something again; then
// queue by queue they leave it to the bus, which brings what it has missed.
func TestBusAway(t *testing.T) {
	s := newSeveral(t)
	s.usual(s.watched)
	s.register("edge-1", "ann", "ben")
	ann, ben := s.actor("ann", "edge-1"), s.actor("ben", "edge-2")
	dm := id.Direct("ann", "ben")
	n := 0
	say := func() {
		t.Helper()
		n++
		s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), fmt.Sprint("message ", n)))
	}
	say()
	owner, fanout := s.owner(dm), s.in["fanout-1"].fanout
	queues := (&loopbus.Consumers{}).Queues()
	throughBus := func() bool { return owner.logic.Sequencer.DirectQueues() < queues }
	trust := func() {
		t.Helper()
		s.comes("the queue's messages come through the bus", func() bool { say(); return throughBus() })
	}
	trust()
	handed, brought := owner.direct.Stats().Events, fanout.Stats().Events
	if say(); owner.direct.Stats().Events != handed || fanout.Stats().Events == brought {
		t.Errorf("with a bus that works %d events were handed over past it", owner.direct.Stats().Events-handed)
	}

	addr := s.bus.Addr()
	if err := s.bus.Close(); err != nil {
		t.Fatal(err)
	}
	brought = fanout.Stats().Events
	for range 5 {
		say()
	}
	if fanout.Stats().Events != brought || throughBus() {
		t.Errorf("without a bus %d events came through it, %d queues are handed over directly", fanout.Stats().Events-brought, owner.logic.Sequencer.DirectQueues())
	}

	var err error
	if s.bus, err = loopbus.Serve(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.bus.Close() })
	trust()
	handed = owner.direct.Stats().Events
	if say(); owner.direct.Stats().Events != handed {
		t.Error("the bus is back, and its messages are handed over past it")
	}
	if got := len(s.history(ben, dm)); got != n {
		t.Errorf("%d messages are stored, want %d", got, n)
	}
	s.audit()
}

// Without anybody who takes from the bus owners bring messages themselves.
func TestNobodyTakesFromTheBus(t *testing.T) {
	s := newSeveral(t)
	s.usual(s.watched)
	s.register("edge-1", "ann", "ben")
	ann, ben := s.actor("ann", "edge-1"), s.actor("ben", "edge-2")
	dm := id.Direct("ann", "ben")
	s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "one"))
	s.kill("fanout-1")
	s.hide("fanout-1")
	s.say(ann, gochat.ToUser("ben"), "who takes this?") // may be the one that shows it
	for range 3 {
		s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "still here"))
	}
	s.start("fanout-2", 12, "fanout", s.watched)
	s.comes("a node that comes takes what is published", func() bool {
		s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "again"))
		return s.in["fanout-2"].fanout.Stats().Events > 0
	})
	s.audit()
}
