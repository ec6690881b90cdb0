package conversation

import (
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// span lists from..to.
func span(from, to uint64) []uint64 {
	var out []uint64
	for s := from; s <= to; s++ {
		out = append(out, s)
	}
	return out
}

func TestSync(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	direct := w.say("alice", "bob", 10).Conversation
	long := w.say("alice", "carol", 250).Conversation
	group := w.group(20, map[id.UserID][]msgstore.Interval{
		"founder": {{Joined: 1}},
		"late":    {{Joined: 8}},
		"twice":   {{Joined: 3, Left: 5}, {Joined: 12}},
		"former":  {{Joined: 2, Left: 6}},
		"nobody":  {},
	})
	cut := w.group(30, map[id.UserID][]msgstore.Interval{"founder": {{Joined: 1}}, "past": {{Joined: 1, Left: 4}, {Joined: 12}}})
	w.trim(cut, 11)
	empty := w.group(0, map[id.UserID][]msgstore.Interval{"founder": {{Joined: 1}}})
	for _, tc := range []struct {
		name     string
		user     id.UserID
		conv     id.ConversationID
		from, to uint64
		limit    int
		want     []uint64
		answered uint64 // ToSeq
		more     bool
	}{
		{"all", "alice", direct, 1, 0, 0, span(1, 10), 10, false},
		{"the other side", "bob", direct, 1, 0, 0, span(1, 10), 10, false},
		{"from 0 is from the first", "alice", direct, 0, 0, 0, span(1, 10), 10, false},
		{"a part", "alice", direct, 3, 6, 0, span(3, 6), 6, false},
		{"beyond the newest", "alice", direct, 8, 99, 0, span(8, 10), 10, false},
		{"nothing new", "alice", direct, 11, 0, 0, nil, 10, false},
		{"far beyond", "alice", direct, 50, 60, 0, nil, 49, false},
		{"backwards", "alice", direct, 6, 3, 0, nil, 5, false},
		{"a page", "alice", direct, 2, 0, 4, span(2, 5), 5, true},
		{"the last page", "alice", direct, 6, 0, 5, span(6, 10), 10, false},
		{"the usual page", "alice", long, 1, 0, 0, span(1, DefaultPage), DefaultPage, true},
		{"the largest page", "alice", long, 1, 0, 10_000, span(1, MaxPage), MaxPage, true},
		{"a negative limit", "alice", long, 1, 0, -1, span(1, DefaultPage), DefaultPage, true},
		{"an empty conversation", "founder", empty, 1, 0, 0, nil, 0, false},
		{"from the start", "founder", group, 1, 0, 0, span(1, 20), 20, false},
		{"who joined later", "late", group, 1, 0, 0, span(8, 20), 20, false},
		{"who joined later, before that", "late", group, 1, 5, 0, nil, 5, false},
		{"the first stay", "twice", group, 1, 0, 0, span(3, 5), 11, true},
		{"the second stay", "twice", group, 12, 0, 0, span(12, 20), 20, false},
		{"between the stays", "twice", group, 6, 11, 0, nil, 11, false},
		{"between the stays and on", "twice", group, 6, 0, 3, span(12, 14), 14, true},
		{"the first stay alone", "twice", group, 1, 5, 0, span(3, 5), 5, false},
		{"the first stay in parts", "twice", group, 1, 0, 2, span(3, 4), 4, true},
		{"who left", "former", group, 1, 0, 0, span(2, 6), 20, false},
		{"gone by retention", "founder", cut, 1, 0, 0, span(11, 30), 30, false},
		{"all of it gone", "founder", cut, 1, 9, 0, nil, 9, false},
		{"a stay that is gone, and on", "past", cut, 1, 0, 0, span(12, 30), 30, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := w.svc.Sync(w.ctx, alive(tc.user), tc.conv, tc.from, tc.to, tc.limit, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := seqs(t, p.Messages); !slices.Equal(got, tc.want) {
				t.Errorf("messages %v, want %v", got, tc.want)
			}
			if p.FromSeq != max(tc.from, 1) || p.ToSeq != tc.answered || p.More != tc.more {
				t.Errorf("answers for %d to %d, more %v; want %d, %v", p.FromSeq, p.ToSeq, p.More, tc.answered, tc.more)
			}
			if p.Conversation != tc.conv || (tc.conv.Kind() == id.KindDirect) != (len(p.Users) == 2) {
				t.Errorf("page of %s, users %v", p.Conversation, p.Users)
			}
		})
	}
	for _, u := range []id.UserID{"mallory", "nobody"} {
		_, err := w.svc.Sync(w.ctx, alive(u), group, 1, 0, 0, nil)
		wantCode(t, err, code.NoSuchConversation)
		_, err = w.svc.History(w.ctx, alive(u), group, 0, 0, nil)
		wantCode(t, err, code.NoSuchConversation)
		_, _, err = w.svc.Read(w.ctx, alive(u), group, 1)
		wantCode(t, err, code.NoSuchConversation)
		_, err = w.svc.State(w.ctx, alive(u), group)
		wantCode(t, err, code.NoSuchConversation)
	}
	_, err := w.svc.Sync(w.ctx, alive("alice"), id.NewGroup(), 1, 0, 0, nil)
	wantCode(t, err, code.NoSuchConversation)
}

// trim cuts what is below keep off, as retention does.
func (w *world) trim(conv id.ConversationID, keep uint64) {
	w.t.Helper()
	h, raw, err := w.seq.timeline.Head(w.ctx, conv)
	if err != nil {
		w.t.Fatal(err)
	}
	tx := new(kv.Tx)
	if _, err := w.seq.timeline.Trim(w.ctx, tx, conv, raw, &h, keep, 1000); err != nil {
		w.t.Fatal(err)
	}
	w.commit(tx)
}

func TestHistory(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	direct := w.say("alice", "bob", 10).Conversation
	group := w.group(20, map[id.UserID][]msgstore.Interval{
		"late":  {{Joined: 8}},
		"twice": {{Joined: 3, Left: 5}, {Joined: 12}},
	})
	cut := w.group(30, map[id.UserID][]msgstore.Interval{"founder": {{Joined: 1}}})
	w.trim(cut, 11)
	for _, tc := range []struct {
		name   string
		user   id.UserID
		conv   id.ConversationID
		before uint64
		limit  int
		want   []uint64
		more   bool
	}{
		{"the newest", "alice", direct, 0, 3, span(8, 10), true},
		{"all", "alice", direct, 0, 0, span(1, 10), false},
		{"a middle", "alice", direct, 8, 3, span(5, 7), true},
		{"the first", "alice", direct, 3, 5, span(1, 2), false},
		{"before the first", "alice", direct, 1, 5, nil, false},
		{"from beyond", "alice", direct, 99, 2, span(9, 10), true},
		{"who joined later", "late", group, 0, 100, span(8, 20), false},
		{"who joined later, paging", "late", group, 10, 100, span(8, 9), false},
		{"who joined later, before that", "late", group, 8, 100, nil, false},
		{"the second stay", "twice", group, 0, 100, span(12, 20), true},
		{"the first stay", "twice", group, 12, 100, span(3, 5), false},
		{"the first stay, a part", "twice", group, 12, 2, span(4, 5), true},
		{"retention", "founder", cut, 15, 100, span(11, 14), false},
		{"below retention", "founder", cut, 5, 100, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := w.svc.History(w.ctx, alive(tc.user), tc.conv, tc.before, tc.limit, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := seqs(t, p.Messages); !slices.Equal(got, tc.want) {
				t.Errorf("messages %v, want %v", got, tc.want)
			}
			if p.More != tc.more {
				t.Errorf("more %v, want %v", p.More, tc.more)
			}
		})
	}
}

// A page fits a frame, however long the messages are, and pages go on to the end.
func TestPagesFitFrames(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.group(0, map[id.UserID][]msgstore.Interval{"founder": {{Joined: 1}}})
	const n = 40
	for range n {
		w.append(conv, "founder", strings.Repeat("x", 120)+strings.Repeat("y", 100), true)
	}
	w.serve(func(c *Config) { c.PageBytes = 1000 })
	next := uint64(1)
	for pages := 0; ; pages++ {
		p, err := w.svc.Sync(w.ctx, alive("founder"), conv, next, 0, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Messages) > 1000 || len(p.Messages) == 0 {
			t.Fatalf("a page of %d bytes", len(p.Messages))
		}
		next = p.ToSeq + 1
		if !p.More {
			break
		}
	}
	if next != n+1 {
		t.Fatalf("ended at %d", next)
	}
	p, err := w.svc.History(w.ctx, alive("founder"), conv, 0, 0, nil)
	if err != nil || len(p.Messages) > 1000 || !p.More {
		t.Fatalf("history of %d bytes, more %v, %v", len(p.Messages), p.More, err)
	}
}
