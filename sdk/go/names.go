package gochat

import (
	"cmp"
	"errors"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	maxPeople    = 10_000        // profiles that the client remembers, and nicknames of one group
	profileAge   = 1 * time.Hour // after which one that is shown is asked for again
	askPeopleOff = 5 * time.Second
)

// person is what is known of a user's profile.
type person struct {
	profile Profile
	known   bool      // the server was asked, or told
	asked   time.Time // when it last answered
	visit   uint64    // on which connection; another one: news may have been missed
}

// people is the profiles that the application shows. Client.mu guards it.
type people struct {
	by     map[id.UserID]*person
	wanted map[id.UserID]struct{}
	visit  uint64 // counts connections
	busy   bool
	wait   time.Time // nothing is asked for before
}

// Name is how to show a user within a conversation: the nickname in that group, else the name of the
// profile, else the id. It returns at once with what is known, and has the client ask for what isn't, or may be out of
// date; a profile that comes then is told as ProfileChanged. So an application may call it for every line that it draws.
// Nicknames are known from messages (TypeNickname) and from Members: call that when a group is shown.
//
// Names are what people chose: anybody may bear anybody's. Where it matters show the id beside.
func (c *Client) Name(conv id.ConversationID, user id.UserID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	nick := ""
	if v := c.convs[conv]; v != nil {
		nick = v.nicknames[user]
	}
	p := c.meetPerson(user)
	return cmp.Or(nick, p.profile.Name, string(user))
}

// Nickname returns a user's own name in a group as far as the client knows it; "" is none.
func (c *Client) Nickname(conv id.ConversationID, user id.UserID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.convs[conv]; v != nil {
		return v.nicknames[user]
	}
	return ""
}

// Profile returns a user's profile as far as the client knows it, and whether the server has told of it, be it that there is
// none (Version 0). Like Name it returns at once, and what comes later is told as ProfileChanged.
// The caller must not change Ext.
func (c *Client) Profile(user id.UserID) (p Profile, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.meetPerson(user)
	return q.profile, q.known
}

// meetPerson returns what is known of a user who is shown. The caller holds mu.
func (c *Client) meetPerson(user id.UserID) *person {
	p := c.people.by[user]
	if p == nil {
		p = &person{profile: Profile{User: user}}
	}
	if c.link == nil || !user.Valid() || p.visit == c.people.visit && time.Since(p.asked) < profileAge {
		return p
	}
	if _, ok := c.people.wanted[user]; !ok && len(c.people.wanted) < maxPeople {
		if c.people.wanted == nil {
			c.people.wanted = map[id.UserID]struct{}{}
		}
		c.people.wanted[user] = struct{}{}
		c.link.wakeWriter()
	}
	return p
}

// learn takes in a profile, and tells of it if it is news. The caller holds mu.
func (c *Client) learn(p Profile) {
	old := c.person(p.User)
	if old.asked, old.visit = time.Now(), c.people.visit; old.known && p.Version <= old.profile.Version {
		return // late, or nothing new
	}
	news := p.Version > 0
	old.known, old.profile = true, p
	if news {
		c.push(ProfileChanged{Profile: p})
	}
}

// person returns the entry of a user, made if need be; an arbitrary other one makes room.
func (c *Client) person(user id.UserID) *person {
	p := c.people.by[user]
	if p != nil {
		return p
	}
	if c.people.by == nil {
		c.people.by = map[id.UserID]*person{}
	}
	for other := range c.people.by {
		if len(c.people.by) < maxPeople {
			break
		}
		delete(c.people.by, other)
	}
	p = &person{profile: Profile{User: user}}
	c.people.by[user] = p
	return p
}

// peopleDue asks for the profiles that are wanted, some at a time, and returns when to look again.
// The caller holds mu.
func (c *Client) peopleDue(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	w := &c.people
	switch {
	case len(w.wanted) == 0 || w.busy || len(c.events) >= c.cfg.Queue:
		return next
	case now.Before(w.wait):
		return w.wait
	}
	req := &wire.ProfilesRequest{}
	for u := range w.wanted {
		delete(w.wanted, u)
		if req.UserIds = append(req.UserIds, string(u)); len(req.UserIds) == packet.MaxProfiles {
			break
		}
	}
	w.busy = true
	c.ask(l, &call{method: packet.MethodProfiles, request: req, done: func(inner []byte, err error) {
		w.busy = false
		ans := new(wire.ProfilesResponse)
		if err == nil {
			err = answerInto(packet.MethodProfiles, inner, ans)
		}
		if err != nil { // whoever is still shown is asked for again
			if errors.Is(err, errLost) {
				return
			}
			c.log.Info("asking for profiles", "error", err)
			w.wait = time.Now().Add(askPeopleOff)
			if e, ok := err.(*code.Error); ok {
				w.wait = w.wait.Add(e.RetryAfter)
			}
			return
		}
		for _, p := range ans.Profiles {
			c.learn(profileOf(p))
		}
		answered := len(req.UserIds)
		if ans.Answered > 0 {
			answered = min(answered, int(ans.Answered))
		}
		for i, u := range req.UserIds {
			if i >= answered {
				w.wanted[id.UserID(u)] = struct{}{}
				continue
			}
			p := c.person(id.UserID(u)) // who has none is known not to have one
			p.known, p.asked, p.visit = true, time.Now(), c.people.visit
		}
	}})
	return next
}

// nicknamed notes a user's own name in a group. The caller holds mu.
func (v *conversation) nicknamed(user id.UserID, nickname string) {
	switch {
	case nickname == "":
		delete(v.nicknames, user)
	case v.nicknames == nil:
		v.nicknames = map[id.UserID]string{user: nickname}
	case len(v.nicknames) < maxPeople:
		v.nicknames[user] = nickname
	}
}
