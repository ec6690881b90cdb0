package gochat

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// asked takes the next REQUEST, which must be of m, and reads it into req.
func (p *peer) asked(m packet.Method, req packet.Body) frame.Frame {
	p.t.Helper()
	f := p.expect(frame.Request)
	got, inner, err := packet.DecodeRequest(f.Body)
	if err != nil || got != m {
		p.t.Fatalf("asked for %v, %v, want %v", got, err, m)
	}
	if err := packet.DecodeMethod(m, inner, req); err != nil {
		p.t.Fatal(err)
	}
	return f
}

// say answers a REQUEST that was asked.
func (p *peer) say(f frame.Frame, m packet.Method, body packet.Body) {
	p.t.Helper()
	b, err := packet.AppendResponse(nil, f.ReqID, false, m, body)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(b)
}

// However many users are asked about, and however little fits an answer, all are found.
func TestProfilesInParts(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	var users []id.UserID
	for i := range 150 {
		users = append(users, id.UserID(fmt.Sprintf("user%03d", i)))
	}
	type result struct {
		found map[id.UserID]Profile
		err   error
	}
	done := make(chan result, 1)
	go func() {
		found, err := c.Profiles(t.Context(), users...)
		done <- result{found, err}
	}()
	var sizes []int
	for total := 0; total < len(users); {
		var r wire.ProfilesRequest
		f := p.asked(packet.MethodProfiles, &r)
		sizes = append(sizes, len(r.UserIds))
		ans := &wire.ProfilesResponse{Answered: uint32(min(70, len(r.UserIds)))}
		for i, u := range r.UserIds[:ans.Answered] {
			if want := string(users[total+i]); u != want {
				t.Fatalf("asked about %s, want %s", u, want)
			}
			if i%2 == 0 {
				ans.Profiles = append(ans.Profiles, &wire.Profile{UserId: u, Name: "N" + u, Version: 1})
			}
		}
		total += int(ans.Answered)
		p.say(f, packet.MethodProfiles, ans)
	}
	if got := <-done; got.err != nil || len(got.found) != 75 || got.found["user000"].Name != "Nuser000" {
		t.Errorf("found %d, %v", len(got.found), got.err)
	}
	if want := []int{100, 80, 10}; !slices.Equal(sizes, want) {
		t.Errorf("asked for %v at once, want %v", sizes, want)
	}
	go func() {
		_, err := c.Profiles(t.Context(), "bob")
		done <- result{nil, err}
	}()
	var req wire.ProfilesRequest
	f := p.asked(packet.MethodProfiles, &req)
	p.body(frame.Error, frame.FlagRequestID, f.ReqID, &wire.Error{Code: uint32(code.RateLimited)})
	var e *code.Error
	if got := <-done; !errors.As(got.err, &e) || e.Code != code.RateLimited {
		t.Errorf("refused: %v", got.err)
	}
}

func TestASignalOfAProfile(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	for _, data := range [][]byte{{0xFF}, mustMarshal(t, &wire.Profile{UserId: "bob", Name: "Bob", Ext: []byte{1}, Version: 4})} {
		p.body(frame.Signal, 0, 0, &wire.Signal{ToUserId: string(alice), SenderId: "bob", Kind: packet.SignalProfile, Data: data})
	}
	if got := waitEvent[ProfileChanged](t, r).Profile; got.User != "bob" || got.Name != "Bob" || len(got.Ext) != 1 || got.Version != 4 {
		t.Errorf("got %+v", got)
	}
}

// Names come from what is known, what isn't is asked for beside, once a connection, and late news are dropped.
func TestNames(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	told := func(want ...string) {
		t.Helper()
		var got []string
		r.wait(t, fmt.Sprintf("profiles %q", want), func(events []Event) bool {
			got = nil
			for _, e := range events {
				if e, ok := e.(ProfileChanged); ok {
					got = append(got, e.Profile.Name)
				}
			}
			return len(got) >= len(want)
		})
		if !slices.Equal(got, want) {
			t.Fatalf("told of %q, want %q", got, want)
		}
	}
	group := id.ConversationID{0: byte(id.KindGroup), 15: 7}
	if got := c.Name(group, "bob"); got != "bob" {
		t.Errorf("before the first connection bob is %q", got)
	}
	p, _ := s.welcome(nil)
	waitEvent[Connected](t, r)
	if got := c.Name(group, "bob"); got != "bob" {
		t.Errorf("of whom nothing is known is %q", got)
	}
	var req wire.ProfilesRequest
	f := p.asked(packet.MethodProfiles, &req)
	c.Name(group, "bob") // asked for already
	c.Name(group, "carol")
	p.say(f, packet.MethodProfiles, &wire.ProfilesResponse{Answered: 1, Profiles: []*wire.Profile{{UserId: "bob", Name: "Bob", Version: 3}}})
	told("Bob")
	f = p.asked(packet.MethodProfiles, &req) // bob, who was shown meanwhile, may be asked for once more
	p.say(f, packet.MethodProfiles, &wire.ProfilesResponse{Answered: uint32(len(req.UserIds))})
	for _, w := range []*wire.Profile{{UserId: "bob", Name: "Old", Version: 2}, {UserId: "bob", Name: "Robert", Version: 4}} {
		p.body(frame.Signal, 0, 0, &wire.Signal{ToUserId: string(alice), SenderId: "bob", Kind: packet.SignalProfile, Data: mustMarshal(t, w)})
	}
	told("Bob", "Robert")
	if p, known := c.Profile("carol"); !known || p.Version != 0 || c.Name(group, "carol") != "carol" {
		t.Errorf("of carol, who has no profile: %+v, %v", p, known)
	}
	wait := later(func() {
		if page, _, _, err := c.Members(timeout(t), group, "", 0); err != nil || len(page) != 1 {
			t.Errorf("%+v, %v", page, err)
		}
	})
	p.answer(packet.MethodMembers, new(wire.MembersRequest), &wire.MembersResponse{Members: []*wire.GroupMember{{UserId: "bob", Role: 1, Nickname: "B"}}, Count: 1})
	wait()
	if c.Name(group, "bob") != "B" || c.Name(id.Direct(alice, "bob"), "bob") != "Robert" {
		t.Errorf("bob is %q in the group, %q alone", c.Name(group, "bob"), c.Name(id.Direct(alice, "bob"), "bob"))
	}
	// Another connection: news may have been missed.
	_ = p.conn.Close()
	p, _ = s.welcome(nil)
	r.wait(t, "a second connection", func(events []Event) bool { _, ok := events[len(events)-1].(Connected); return ok })
	if got := c.Name(id.Direct(alice, "bob"), "bob"); got != "Robert" {
		t.Errorf("after another connection bob is %q", got)
	}
	f = p.asked(packet.MethodProfiles, &req)
	p.say(f, packet.MethodProfiles, &wire.ProfilesResponse{Answered: 1, Profiles: []*wire.Profile{{UserId: "bob", Name: "Bobby", Version: 5}}})
	told("Bob", "Robert", "Bobby")
}

func mustMarshal(t *testing.T, b packet.Body) []byte {
	t.Helper()
	out, err := b.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
