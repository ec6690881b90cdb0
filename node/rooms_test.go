package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// guest is somebody with one device who notes all events.
type guest struct {
	*gochat.Client
	mu     sync.Mutex
	events []gochat.Event
}

func (s *several) guest(name, edge string) *guest {
	s.t.Helper()
	crypt, err := account.ReadKeys(s.keys)
	if err != nil {
		s.t.Fatal(err)
	}
	g := &guest{}
	g.Client, err = gochat.Open(gochat.Config{
		Address: s.in[edge].TCPAddr().String(), Device: "d",
		Token: func(context.Context) (string, error) {
			return account.MintToken(crypt, account.DefaultIssuer, id.UserID(name), "", time.Now(), time.Minute)
		},
		Handler: func(e gochat.Event) {
			g.mu.Lock()
			g.events = append(g.events, e)
			g.mu.Unlock()
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = g.Close() })
	return g
}

// saw waits until g was told something that fits.
func (s *several) saw(g *guest, what string, fits func(e gochat.Event) bool) {
	s.t.Helper()
	for {
		g.mu.Lock()
		for _, e := range g.events {
			if fits(e) {
				g.mu.Unlock()
				return
			}
		}
		n := len(g.events)
		g.mu.Unlock()
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("%s never saw %s among %d events", g.User(), what, n)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *several) sawText(g *guest, conv id.ConversationID, text string) {
	s.t.Helper()
	s.saw(g, text, func(e gochat.Event) bool {
		m, ok := e.(gochat.MessageReceived)
		return ok && m.Message.Conversation == conv && m.Message.Text == text
	})
}

func (s *several) tell(g *guest, conv id.ConversationID, text string) error {
	r, err := g.Send(s.ctx, gochat.ToConversation(conv), gochat.Text(text))
	if err == nil {
		_, err = r.Wait(s.ctx)
	}
	return err
}

func anyonesRooms(c *Config, _ *Program) { c.Rooms.Create, c.Broadcast.Every = "anyone", 0 }

func codeOf(err error) code.Code {
	var e *code.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// People in a room at two edges hear each other whoever owns it, and are told who is there; who is banned is out.
func TestRoomAtSeveralEdges(t *testing.T) {
	s := newSeveral(t)
	s.usual(anyonesRooms)
	s.register("edge-1", "ann", "ben", "cat")
	ann, ben, cat := s.guest("ann", "edge-1"), s.guest("ben", "edge-2"), s.guest("cat", "edge-2")
	conv := gochat.RoomID("lobby")
	if _, err := ben.JoinRoom(s.ctx, conv); codeOf(err) != code.NoSuchConversation {
		t.Fatalf("a room that isn't there is entered: %v", err)
	}
	room, err := ann.CreateRoom(s.ctx, "lobby", "The lobby", 0)
	if err != nil || room.ID != conv || !room.Moderator {
		t.Fatalf("%+v, %v", room, err)
	}
	for _, g := range []*guest{ann, ben, cat} {
		if room, err = g.JoinRoom(s.ctx, conv); err != nil {
			t.Fatal(err)
		}
	}
	if room.Count != 3 {
		t.Errorf("cat is told of %d users", room.Count)
	}
	if err := s.tell(ann, conv, "hello"); err != nil {
		t.Fatal(err)
	}
	s.sawText(ben, conv, "hello")
	s.sawText(cat, conv, "hello")
	s.sawText(ann, conv, "hello") // the own one, in its place
	users, count, next, err := ann.RoomMembers(s.ctx, conv, "", 2)
	if err != nil || count != 3 || fmt.Sprint(users) != "[ann ben]" || next != "ben" {
		t.Errorf("in the room: %v of %d, then %q, %v", users, count, next, err)
	}
	s.saw(ann, "who came", func(e gochat.Event) bool {
		c, ok := e.(gochat.RoomChanged)
		return ok && c.Conversation == conv && c.Count == 3
	})

	// Its owner leaves. Who is in is known to the next one soon, and messages don't wait for that.
	owner := s.in["logic-1"].peers.Router.Owner(conv.Slot()).ID
	s.hide(owner)
	if err := s.in[owner].stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.tell(ben, conv, "still there"); err != nil {
		t.Fatal(err)
	}
	s.sawText(ann, conv, "still there")
	s.sawText(cat, conv, "still there")
	for {
		if room, err := cat.Room(s.ctx, conv); err == nil && room.Count == 3 {
			break
		} else if s.ctx.Err() != nil {
			t.Fatalf("the new owner knows of %d users, %v", room.Count, err)
		}
		time.Sleep(20 * time.Millisecond)
	}

	// Order is kept.
	if _, err := ben.Moderate(s.ctx, conv, "cat", gochat.Mute, 0); codeOf(err) != code.Forbidden {
		t.Errorf("ben mutes: %v", err)
	}
	if _, err := ann.Moderate(s.ctx, conv, "cat", gochat.Mute, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.tell(cat, conv, "oops"); codeOf(err) != code.Muted {
		t.Errorf("cat, muted, says: %v", err)
	}
	slow := time.Hour
	if _, err := ann.SetRoom(s.ctx, conv, nil, &slow); err != nil {
		t.Fatal(err)
	}
	if err := s.tell(ben, conv, "once"); err != nil {
		t.Errorf("ben in slow mode: %v", err)
	}
	if err := s.tell(ben, conv, "twice"); codeOf(err) != code.SlowMode {
		t.Errorf("ben again in slow mode: %v", err)
	}
	if _, err := ann.Moderate(s.ctx, conv, "cat", gochat.Ban, 0); err != nil {
		t.Fatal(err)
	}
	s.saw(cat, "that she is out", func(e gochat.Event) bool {
		l, ok := e.(gochat.RoomLeft)
		return ok && codeOf(l.Err) == code.BannedHere
	})
	if _, err := cat.JoinRoom(s.ctx, conv); codeOf(err) != code.BannedHere {
		t.Errorf("cat, banned, enters: %v", err)
	}
	if _, _, err := cat.History(s.ctx, conv, 0, 10); codeOf(err) != code.BannedHere {
		t.Errorf("cat, banned, reads: %v", err)
	}
	if page, _, err := ben.History(s.ctx, conv, 0, 10); err != nil || len(page) != 3 {
		t.Errorf("%d messages are kept, %v", len(page), err)
	}

	// Everybody who is connected is told, at whichever edge.
	for name, n := range s.in {
		if name == "logic-1" && name != owner || name == "logic-2" && owner == "logic-1" {
			if err := n.broadcast(s.ctx, "test", &wire.Broadcast{Title: "Tonight", Text: "We restart at ten."}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, g := range []*guest{ann, ben, cat} {
		s.saw(g, "the broadcast", func(e gochat.Event) bool {
			a, ok := e.(gochat.Announcement)
			return ok && a.Text == "We restart at ten." && a.ID != ""
		})
	}
	if err := ben.LeaveRoom(s.ctx, conv); err != nil {
		t.Fatal(err)
	}
	s.saw(ann, "that ben left", func(e gochat.Event) bool {
		c, ok := e.(gochat.RoomChanged)
		return ok && c.Count == 1
	})
	s.audit()
}
