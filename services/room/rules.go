package room

import (
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Rules is what a sequencer checks each message of a room against; an alias, as conversation's is.
type Rules = interface {
	Check(p *packet.Pending) *code.Error
}

// rules are those of one room, as its row was at one StateVersion.
type rules struct {
	s    *Service
	conv id.ConversationID
	row  msgstore.Room
	curb map[id.UserID]*msgstore.Curb
	mods map[id.UserID]bool
}

// Rules returns what messages to the room conv must keep to, as of now.
func (s *Service) Rules(ctx context.Context, conv id.ConversationID) (Rules, error) {
	row, _, err := s.get(ctx, conv)
	if err != nil {
		return nil, err
	}
	r := &rules{s: s, conv: conv, row: row, curb: make(map[id.UserID]*msgstore.Curb), mods: make(map[id.UserID]bool)}
	for i := range row.Curbs {
		r.curb[row.Curbs[i].User] = &row.Curbs[i]
	}
	for _, m := range row.Moderators {
		r.mods[m] = true
	}
	return r, nil
}

// Check implements Rules. Who isn't in the room may write there: an owner knows who is in only by what edges tell, and
// programs write without a connection.
func (r *rules) Check(p *packet.Pending) *code.Error {
	user, now := p.From.User, r.s.now()
	if len(p.OriginDevice) > 0 && string(p.OriginDevice) != string(p.From.Device) {
		return code.Newf(code.BadRequest, "origin_device is not the sending device")
	}
	if user == id.System || r.mods[user] {
		return nil
	}
	if c := r.curb[user]; c != nil && (c.Until == 0 || c.Until > now) {
		err := code.New(code.Muted)
		if c.Banned {
			err = code.New(code.BannedHere)
		}
		if c.Until > 0 {
			err.RetryAfter = time.Duration(c.Until-now) * time.Millisecond
		}
		return err
	}
	if r.row.Slow == 0 {
		return nil
	}
	if wait := r.s.spoken.speak(speaker{r.conv, user}, p.ClientMsgID, now, int64(r.row.Slow)*1000); wait > 0 {
		err := code.New(code.SlowMode)
		err.RetryAfter = time.Duration(wait) * time.Millisecond
		return err
	}
	return nil
}

// spoken is who spoke last when in rooms with slow mode. It is this process's own: a new owner lets everybody speak once.
type spoken struct {
	mu sync.Mutex
	by map[speaker]utterance
}

type speaker struct {
	conv id.ConversationID
	user id.UserID
}

type utterance struct {
	msg   id.ClientMsgID // judged again after a conflict, it may pass again
	at    int64
	until int64 // when the next one may follow
}

// maxSpoken bounds what is remembered; beyond it slow mode is lenient.
const maxSpoken = 1 << 20

// speak returns how many ms k has to wait, 0: msg may pass, and is noted.
func (s *spoken) speak(k speaker, msg id.ClientMsgID, now, slow int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, some := s.by[k]
	switch {
	case some && last.msg == msg:
		return 0
	case some && now < last.at+slow:
		return last.at + slow - now
	case !some && len(s.by) >= maxSpoken:
		return 0
	}
	s.by[k] = utterance{msg, now, now + slow}
	return 0
}

// sweep forgets who may speak again.
func (s *spoken) sweep(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, u := range s.by {
		if u.until < now {
			delete(s.by, k)
		}
	}
}
