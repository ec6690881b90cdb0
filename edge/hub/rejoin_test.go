package hub

import (
	"slices"
	"testing"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// byHand is a room that goes round when a test says so.
type byHand struct {
	t    *testing.T
	h    *Hub
	room id.ConversationID
}

func (b *byHand) enter(name string) *conntest.Pipe {
	b.t.Helper()
	p := conntest.NewPipe()
	c, err := b.h.Open(p, p.RemoteAddr().Addr())
	if err != nil {
		b.t.Fatal(err)
	}
	p.C = c
	c.Input(conntest.Connect(name, "d"))
	p.Discard()
	b.seat(p)
	return p
}

func (b *byHand) seat(p *conntest.Pipe) {
	b.t.Helper()
	if entered, err := b.h.Rooms().Seat(b.room, p.C.Incarnation()); err != nil || !entered {
		b.t.Fatal(entered, err)
	}
}

// say is deliver without its goroutines.
func (b *byHand) say(n uint64) {
	f := packet.AppendDeliver(nil, b.room, nil, packet.AppendMessage(nil, n, 1, "u", nil))
	au := b.h.rooms.a.of(b.room)
	au.mu.Lock()
	defer au.mu.Unlock()
	au.round.news = append(au.round.news, news{frames: f, ends: []int{len(f)}, but: []uint64{0}, came: au.round.way})
}

// meet is what goRound does until it hands something out, which the function that it returns does.
func (b *byHand) meet() (handOut func()) {
	b.t.Helper()
	au := b.h.rooms.a.of(b.room)
	au.mu.Lock()
	defer au.mu.Unlock()
	au.round.met = append(au.round.met, turn{})
	var ps [group]place
	n, some, mine := au.next(&ps, nil)
	if n == 0 {
		b.t.Fatal("nobody lacks anything")
	}
	return func() {
		hand(ps[:n], some)
		au.mu.Lock()
		defer au.mu.Unlock()
		au.round.done(mine)
	}
}

// Who leaves a room while it is in hand to be handed something, and comes back, is handed nothing older after something newer.
func TestComingBackInTheMiddleOfATurn(t *testing.T) {
	for name, comeBack := range map[string]func(b *byHand, p *conntest.Pipe){
		"at another place": func(b *byHand, p *conntest.Pipe) {
			b.h.Rooms().Unseat(b.room, p.C.Incarnation())
			b.enter("third") // takes the place that was p's
			b.seat(p)
		},
		"into the room opened anew": func(b *byHand, p *conntest.Pipe) {
			for _, x := range b.h.Incarnations(nil) {
				b.h.Rooms().Unseat(b.room, x)
			}
			b.h.Rooms().Each(func(id.ConversationID, uint64) {}) // forgets it
			b.seat(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := New(Config{}, conntest.New().For())
			if err != nil {
				t.Fatal(err)
			}
			b := &byHand{t, h, id.NewGroup()}
			first, second := b.enter("first"), b.enter("second")
			b.say(1)
			older := b.meet()
			comeBack(b, second)
			b.say(2)
			b.meet()()
			older()
			heard, err := second.Take()
			if err != nil || len(heard) != 1 || heard[0] != "DELIVER [2 u: ]" {
				t.Errorf("who came back heard %q, %v", heard, err)
			}
			if heard, err = first.Take(); err != nil || len(heard) > 0 && heard[0] != "DELIVER [1 u: ]" || !slices.IsSorted(heard) {
				t.Errorf("who sat beside heard %q, %v", heard, err)
			}
		})
	}
}
