package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
)

// Fill calls into with who belongs to the audience of conv, in steps with what else happens to it: not
// while somebody joins or leaves. It doesn't call it if conv has no audience, yet or any more. fanout.Handler.Fill is one.
type Fill func(ctx context.Context, conv id.ConversationID, into func(users []id.UserID)) error

// Audiences are those of large groups at all edges: fan-out's Audiences. What happens to them goes to each
// edge in one stream. An edge that is new, or lost something of it, is filled again and its members get a HINT.
type Audiences struct {
	e *Edges

	mu   sync.RWMutex
	last map[id.ConversationID]uint64 // of those open, the seq up to which was delivered
	fill Fill
}

func (a *Audiences) init(e *Edges) {
	a.e = e
	a.last = make(map[id.ConversationID]uint64)
}

// Audiences returns those at these edges.
func (e *Edges) Audiences() *Audiences { return &e.audiences }

// Bind says who knows the members, before anything is opened.
func (a *Audiences) Bind(fill Fill) { a.fill = fill }

const aboutParcel = 40 // bytes of a parcel beside its users and frames, at most

func usersSize(users []id.UserID) int {
	n := aboutParcel
	for _, u := range users {
		n += len(u) + 2
	}
	return n
}

func appendAbout(dst []byte, kind byte, conv id.ConversationID) []byte {
	return append(append(dst, kind), conv[:]...)
}

// Open implements fanout.Audiences.
func (a *Audiences) Open(conv id.ConversationID) {
	a.mu.Lock()
	if _, is := a.last[conv]; !is {
		a.last[conv] = 0
	}
	a.mu.Unlock()
	if a.e.cfg.Seating != nil {
		a.e.cfg.Seating.Open(conv)
	}
	a.toAll(conv, aboutParcel, func(dst []byte) []byte { return appendAbout(dst, parcelOpen, conv) })
}

// toAll adds a parcel to each edge's stream and has it sent, and returns how many connections are in the audience there.
func (a *Audiences) toAll(conv id.ConversationID, n int, add func(dst []byte) []byte) (connections int) {
	for _, l := range *a.e.lanes.Load() {
		connections += int(l.audience(conv, n, add))
		l.wake()
	}
	return connections
}

func (a *Audiences) farewell(conv id.ConversationID, n int, add func(dst []byte) []byte) {
	for _, l := range *a.e.lanes.Load() {
		l.farewell(conv, n, add)
		l.wake()
	}
}

// Join implements fanout.Audiences.
func (a *Audiences) Join(conv id.ConversationID, users []id.UserID) {
	if a.e.cfg.Seating != nil {
		a.e.cfg.Seating.Join(conv, users)
	}
	a.toAll(conv, usersSize(users), func(dst []byte) []byte { return appendUsers(appendAbout(dst, parcelJoin, conv), users) })
}

// Leave implements fanout.Audiences.
func (a *Audiences) Leave(conv id.ConversationID, users []id.UserID) {
	if a.e.cfg.Seating != nil {
		a.e.cfg.Seating.Leave(conv, users)
	}
	a.farewell(conv, usersSize(users), func(dst []byte) []byte { return appendUsers(appendAbout(dst, parcelLeave, conv), users) })
}

// Deliver implements fanout.Audiences. It counts the connections that edges told of last.
func (a *Audiences) Deliver(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) (connections int) {
	a.mu.Lock()
	if before, is := a.last[conv]; is {
		a.last[conv] = max(before, last)
	}
	a.mu.Unlock()
	if a.e.cfg.Seating != nil {
		connections = a.e.cfg.Seating.Deliver(conv, last, frames, ends, but, flush)
	}
	return connections + a.toAll(conv, aboutParcel+len(frames)+12*len(ends), func(dst []byte) []byte {
		return appendAudience(dst, conv, last, frames, ends, but, flush)
	})
}

// Close implements fanout.Audiences.
func (a *Audiences) Close(conv id.ConversationID) {
	if a.e.cfg.Seating != nil {
		a.e.cfg.Seating.Close(conv)
	}
	// Known until then: a lane that begins anew meanwhile knows that it owes the audience something.
	a.farewell(conv, aboutParcel, func(dst []byte) []byte { return appendAbout(dst, parcelEnd, conv) })
	a.mu.Lock()
	delete(a.last, conv)
	a.mu.Unlock()
}

// Seats implements fanout.Audiences, by what edges told last.
func (a *Audiences) Seats() (n int) {
	if a.e.cfg.Seating != nil {
		n = a.e.cfg.Seating.Seats()
	}
	for _, l := range *a.e.lanes.Load() {
		l.mu.Lock()
		n += int(l.seats)
		l.mu.Unlock()
	}
	return n
}

// all returns the conversations that have an audience.
func (a *Audiences) all() (convs []id.ConversationID) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for conv := range a.last {
		convs = append(convs, conv)
	}
	return convs
}

// refillAfter is when an audience that couldn't be filled is tried again.
const refillAfter = 100 * time.Millisecond

// fillOne brings the audience of conv to a lane, and the HINT of what may have been missed. It reports false if
// the members can't be read now.
func (a *Audiences) fillOne(ctx context.Context, l *lane, conv id.ConversationID) bool {
	if a.fill == nil {
		return true
	}
	filled := false
	err := a.fill(ctx, conv, func(users []id.UserID) {
		filled = true
		if _, is := a.upTo(conv); !is {
			return
		}
		l.must(func(dst []byte) []byte { return appendAbout(dst, parcelOpen, conv) })
		l.must(func(dst []byte) []byte { return appendUsers(appendAbout(dst, parcelJoin, conv), users) })
		// Only now: what was delivered before the audience was open on this lane is in the HINT.
		if last, _ := a.upTo(conv); last > 0 {
			hint := appendHint(nil, conv, last)
			l.must(func(dst []byte) []byte {
				return appendAudience(dst, conv, last, hint, []int{len(hint)}, []uint64{0}, true)
			})
		}
	})
	if err != nil {
		a.e.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "an audience can't be filled again yet", slog.String("conversation", conv.String()), slog.String("edge", l.to.ID), slog.Any("err", err))
	}
	if err == nil && !filled {
		_, is := a.upTo(conv)
		return !is // it is about to be opened, or closed
	}
	return err == nil
}

// upTo returns the seq up to which was delivered to an audience; false: it isn't open.
func (a *Audiences) upTo(conv id.ConversationID) (last uint64, open bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	last, open = a.last[conv]
	return last, open
}
