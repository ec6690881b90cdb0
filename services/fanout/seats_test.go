package fanout

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

// interrupted reads the recipients as the hall does, and lets something happen while it reads.
type interrupted struct {
	*hall
	meanwhile func()
	reads     int
}

func (g *interrupted) Recipients(ctx context.Context, conv id.ConversationID, first, last uint64) ([]id.UserID, uint64, error) {
	users, to, err := g.hall.Recipients(ctx, conv, first, last)
	g.reads++
	if g.meanwhile != nil {
		g.meanwhile()
	}
	return users, to, err
}

// Messages and moves go on while the members are read for an edge that has lost them, and what it is given is right
// for the moment in which it is.
func TestFillHoldsNobodyUp(t *testing.T) {
	for _, c := range []struct {
		name      string
		meanwhile func(w *hall, say func(joined, left []id.UserID), reads int)
		reads     int
		want      []id.UserID
	}{
		{"nothing", func(*hall, func(_, _ []id.UserID), int) {}, 1, []id.UserID{"u0", "u1", "u2"}},
		{"messages", func(_ *hall, say func(_, _ []id.UserID), _ int) { say(nil, nil); say(nil, nil) }, 1, []id.UserID{"u0", "u1", "u2"}},
		{"somebody leaves", func(_ *hall, say func(_, _ []id.UserID), reads int) {
			if reads == 1 {
				say(nil, []id.UserID{"u1"})
			}
		}, 2, []id.UserID{"u0", "u2"}},
		{"members who come each time", func(_ *hall, say func(_, _ []id.UserID), reads int) {
			if reads <= 2 { // the third time messages wait
				say([]id.UserID{id.UserID(fmt.Sprint("v", reads))}, nil)
			}
		}, 3, []id.UserID{"u0", "u1", "u2", "v1", "v2"}},
		{"the audience is closed", func(w *hall, _ func(_, _ []id.UserID), _ int) { w.closed = -1 }, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newHall(t, 1)
			g := &interrupted{hall: w}
			h := w.handler(func(cfg *Config) { cfg.Groups, cfg.LargeGroup = g, 2 })
			say := func(joined, left []id.UserID) {
				seq := w.append(joined, left)
				if err := h.Handle(t.Context(), w.events(seq, seq)); err != nil {
					t.Error(err)
				}
			}
			say([]id.UserID{"u0", "u1", "u2"}, nil)
			say(nil, nil)
			if h.large.get(w.conv) == nil {
				t.Fatal("no audience was opened")
			}
			g.reads = 0
			g.meanwhile = func() {
				c.meanwhile(w, say, g.reads)
				if w.closed < 0 {
					h.mu.Lock()
					h.close(h.large.get(w.conv))
					h.mu.Unlock()
				}
			}
			var got []id.UserID
			if err := h.Fill(t.Context(), w.conv, func(users []id.UserID) { got = slices.Sorted(slices.Values(users)) }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, c.want) || g.reads != c.reads {
				t.Errorf("it was given %v after %d reads, want %v after %d", got, g.reads, c.want, c.reads)
			}
		})
	}
}
