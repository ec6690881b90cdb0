package load

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

func smallRoom(target Target) Room {
	return Room{Target: target, Members: 8, Writers: 1, Rate: 90, Body: 20, Name: "x", Warm: 30 * time.Millisecond, Measure: 200 * time.Millisecond, patience: 30 * time.Second}
}

// onlyOnce is a fate for the message of one seq, to the last who is in the room.
func onlyOnce(seq uint64, f fate) func(id.UserID, uint64) fate {
	return func(u id.UserID, at uint64) fate {
		if u == lastOne && at == seq {
			return f
		}
		return delivered
	}
}

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		set   func(*Room)
		check func(r *RoomResult) bool
	}{
		{"all comes", nil, nil, func(r *RoomResult) bool { return r.Book.Delivered == r.Book.Due && r.Ack.Count > 0 && r.Late.Count > 0 }},
		{"several write", nil, func(g *Room) { g.Writers = 3 }, func(r *RoomResult) bool { return r.Book.Due%5 == 0 && r.Book.Delivered == r.Book.Due }},
		{"answers in parts", func(f *fake) { f.parts = true }, nil, func(r *RoomResult) bool { return !r.Verify.Unread }},
		{"asked again", func(f *fake) {
			f.group.refuse = func(n int) code.Code {
				if n <= 3 {
					return code.Overloaded
				}
				return 0
			}
		}, nil, nil},
		{"every third is left out, and said to be", func(f *fake) {
			f.room.to = func(_ id.UserID, seq uint64) fate {
				switch seq % 3 {
				case 0:
					return leftOut
				case 1:
					return delivered
				}
				return told
			}
		}, func(g *Room) { g.patience = 50 * time.Millisecond }, func(r *RoomResult) bool {
			// What is left out last isn't told by anything that follows here.
			return r.Book.Declared > 0 && r.Book.Delivered+r.Book.Declared+r.Book.Silent == r.Book.Due && r.Book.Skipped == 0
		}},
		{"a HINT of everything", func(f *fake) { f.room.to = onlyOnce(5, hintedAll) }, nil, func(r *RoomResult) bool { return r.Book.Others == 1 }},
		{"a SYNC that must wait", func(f *fake) {
			f.refuseSync = func(n int) code.Code {
				if n == 1 {
					return code.RateLimited
				}
				return 0
			}
		}, nil, nil},
	} {
		_, target := startFake(t, c.wrong)
		g := smallRoom(target)
		if c.set != nil {
			c.set(&g)
		}
		r, err := g.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !r.Verify.Sound() || r.Verify.Unacked > 0 || r.Book.Silent == 0 && !r.Book.Whole() || c.check != nil && !c.check(r) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestRoomFinds(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		check func(b *RoomBook, r *RoomResult) bool
	}{
		{"a copy that nobody speaks of", func(f *fake) { f.room.to = onlyOnce(5, dropped) }, func(b *RoomBook, _ *RoomResult) bool { return b.Skipped == 1 && b.Delivered+1 == b.Due }},
		{"silence at the end", func(f *fake) {
			f.room.to = func(u id.UserID, seq uint64) fate {
				if u == lastOne && seq > 3 {
					return dropped
				}
				return delivered
			}
		}, func(b *RoomBook, _ *RoomResult) bool { return b.Silent > 0 && b.Delivered+b.Silent == b.Due }},
		{"one that comes twice", func(f *fake) { f.room.to = onlyOnce(5, twice) }, func(b *RoomBook, _ *RoomResult) bool { return b.Repeats == 1 && b.Delivered == b.Due }},
		{"too many said to be left out", func(f *fake) { f.room.to = onlyOnce(5, overtold) }, func(b *RoomBook, _ *RoomResult) bool { return b.Overtold == 1 }},
		{"a HINT", func(f *fake) { f.room.to = onlyOnce(5, hinted) }, func(b *RoomBook, _ *RoomResult) bool { return b.Hints == 1 }},
		{"changed on its way", func(f *fake) {
			f.room.change = func(seq uint64, m []byte) []byte {
				if seq == 5 {
					m[len(m)-1] ^= 1
				}
				return m
			}
		}, func(_ *RoomBook, r *RoomResult) bool { return r.Verify.Corrupt > 0 }},
		{"not in the history", func(f *fake) { f.stored = func(seq uint64, _ []byte) bool { return seq != 5 } },
			func(_ *RoomBook, r *RoomResult) bool { return r.Verify.Lost > 0 }},
		{"a refused SEND", func(f *fake) {
			refused := false
			f.refuse = func(seq uint64) code.Code {
				if seq == 5 && !refused {
					refused = true
					return code.SlowMode
				}
				return 0
			}
		}, func(_ *RoomBook, r *RoomResult) bool { return r.Verify.Refused == 1 && r.Refusals["slow_mode"] == 1 }},
	} {
		_, target := startFake(t, c.wrong)
		g := smallRoom(target)
		if strings.HasPrefix(c.name, "silence") {
			g.patience = 50 * time.Millisecond
		}
		r, err := g.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if r.Book.Whole() && r.Verify.Sound() && r.Verify.Refused == 0 || !c.check(&r.Book, r) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestRoomsThatCannotGoOn(t *testing.T) {
	var failed *Failure
	var refused *Refused
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		set   func(*Room)
		want  any
		says  string
	}{
		{"a token the server doesn't take", func(f *fake) { f.refuseLogin = code.Unauthenticated }, nil, &refused, "unauthenticated"},
		{"a rate above the limit", nil, func(g *Room) { g.Rate = 1000 }, &refused, "limits.sends_per_second"},
		{"a room that may not be made", func(f *fake) { f.group.refuse = func(int) code.Code { return code.Forbidden } }, nil, &refused, "rooms.create"},
		{"a room that is full", func(f *fake) {
			f.group.refuse = func(n int) code.Code {
				if n == 4 {
					return code.TooMany
				}
				return 0
			}
		}, nil, &failed, "too_many"},
		{"put out of the room", func(f *fake) {
			f.room.out = func(u id.UserID, seq uint64) code.Code {
				if u == lastOne && seq == 3 {
					return code.BannedHere
				}
				return 0
			}
		}, nil, &failed, "put out"},
		{"a KICK", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Kick) } }, nil, &failed, "kick"},
		{"a SYNC refused for good", func(f *fake) { f.refuseSync = func(int) code.Code { return code.Forbidden } }, nil, &failed, "forbidden"},
	} {
		_, target := startFake(t, c.wrong)
		g := smallRoom(target)
		if c.set != nil {
			c.set(&g)
		}
		_, err := g.Run(t.Context())
		if err == nil || !errors.As(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %T %v", c.name, err, err)
		}
	}
	for _, g := range []Room{{}, {Members: 3, Writers: 3, Rate: 1, Body: 1, Name: "x"}, {Members: 3, Writers: 1, Rate: 1, Body: 1}} {
		if _, err := g.Run(t.Context()); err == nil {
			t.Errorf("%+v ran", g)
		}
	}
	_, target := startFake(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := smallRoom(target).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
