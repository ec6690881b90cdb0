package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// commands of a device: "alice/phone say bob hello". A conversation is a user's id, or the name of a group with a #.
// What they return stands in the transcript behind "= "; an error behind "! ".
var commands = map[string]func(p *player, w []string) (string, error){
	"on":  (*player).join, // [desktop] [slow]: signs in the first time, and connects; slow: with little room in the kernel
	"off": func(p *player, _ []string) (string, error) { p.leave(); return "", nil },

	"say": func(p *player, w []string) (string, error) { // TO TEXT…, with @user and @all
		return p.say(w[0], content(w[1:]), 0)
	},
	"answer": func(p *player, w []string) (string, error) { // TO SEEN TEXT…: by a person who has read up to there
		return p.say(w[0], content(w[2:]), number(w[1]))
	},
	"write": func(p *player, w []string) (string, error) { // TO TEXT…: into the outbox, waiting for nothing
		_, err := p.client.Send(p.s.ctx, p.to(w[0]), content(w[1:]))
		return "", err
	},
	"flood": func(p *player, w []string) (string, error) { // TO N: so many large messages
		var last *gochat.Receipt
		for i := range number(w[1]) {
			r, err := p.client.Send(p.s.ctx, p.to(w[0]), gochat.Text(fmt.Sprintf("flood %d %s", i, strings.Repeat("x", 10<<10))))
			if err != nil {
				return "", err
			}
			last = r
		}
		ack, err := last.Wait(p.s.ctx)
		return fmt.Sprint(ack.Seq), err
	},
	"read": func(p *player, w []string) (string, error) { // IN SEQ
		read, unread, err := p.client.MarkRead(p.s.ctx, p.conv(w[0]), number(w[1]))
		return fmt.Sprintf("read %d, unread %d", read, unread), err
	},
	"history": func(p *player, w []string) (string, error) { // OF BEFORE LIMIT
		page, more, err := p.client.History(p.s.ctx, p.conv(w[0]), number(w[1]), int(number(w[2])))
		var lines []string
		for i := range page {
			lines = append(lines, written(&page[i]))
		}
		if more {
			lines = append([]string{"…"}, lines...)
		}
		return strings.Join(lines, "; "), err
	},
	"inbox": func(p *player, _ []string) (string, error) {
		all, err := p.client.Inbox(p.s.ctx)
		var lines []string
		for _, c := range all {
			lines = append(lines, fmt.Sprintf("%s unread %d %q", p.s.label(c.ID, p.user), c.Unread, c.Preview))
		}
		return strings.Join(lines, "; "), err
	},
	"mentions": func(p *player, w []string) (string, error) { // IN AFTER
		seqs, more, err := p.client.Mentions(p.s.ctx, p.conv(w[0]), number(w[1]), 0)
		return fmt.Sprint(seqs, " more ", more), err
	},
	"open": func(p *player, w []string) (string, error) { // USER
		c, err := p.client.OpenDirect(p.s.ctx, id.UserID(w[0]))
		return fmt.Sprintf("last %d", c.LastSeq), err
	},

	"group": func(p *player, w []string) (string, error) { // #NAME USERS…; its name is the same without the #
		g, err := p.client.CreateGroup(p.s.ctx, gochat.NewGroup{Name: w[0][1:], Key: w[0], Users: users(w[1:])})
		if err == nil {
			p.s.mu.Lock()
			p.s.groups[w[0]] = g.Conversation
			p.s.mu.Unlock()
		}
		return changed(g), err
	},
	"add": change(func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error) {
		return p.client.AddMembers(ctx, c, users(w)...)
	}),
	"remove": change(func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error) {
		return p.client.RemoveMembers(ctx, c, users(w)...)
	}),
	"join": change(func(ctx context.Context, p *player, c id.ConversationID, _ []string) (gochat.GroupChange, error) {
		return p.client.JoinGroup(ctx, c)
	}),
	"leave": change(func(ctx context.Context, p *player, c id.ConversationID, _ []string) (gochat.GroupChange, error) {
		return p.client.LeaveGroup(ctx, c)
	}),
	"role": change(func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error) { // #G USER ROLE
		role := map[string]gochat.Role{"member": gochat.Member, "admin": gochat.Admin, "owner": gochat.Owner}[w[1]]
		return p.client.SetRole(ctx, c, id.UserID(w[0]), role)
	}),
	"rename": change(func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error) {
		return p.client.UpdateGroup(ctx, c, gochat.GroupUpdate{Name: ptr(strings.Join(w, " "))})
	}),
	"welcome": change(func(ctx context.Context, p *player, c id.ConversationID, _ []string) (gochat.GroupChange, error) { // anyone may join
		return p.client.UpdateGroup(ctx, c, gochat.GroupUpdate{Open: ptr(true)})
	}),
	"nick": change(func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error) {
		return p.client.SetNickname(ctx, c, strings.Join(w, " "))
	}),
	"members": func(p *player, w []string) (string, error) {
		page, _, count, err := p.client.Members(p.s.ctx, p.conv(w[0]), "", 0)
		lines := []string{fmt.Sprint(count)}
		for _, m := range page {
			line := string(m.User)
			if m.Nickname != "" {
				line += " as " + m.Nickname
			}
			lines = append(lines, fmt.Sprintf("%s %s from %d", line, m.Role, m.JoinedSeq))
		}
		return strings.Join(lines, ", "), err
	},

	"make": func(p *player, w []string) (string, error) { // #NAME: the room of that name without the #
		r, err := p.client.CreateRoom(p.s.ctx, w[0][1:], "", 0)
		if err == nil {
			p.s.mu.Lock()
			p.s.groups[w[0]] = r.ID
			p.s.mu.Unlock()
		}
		return fmt.Sprintf("last %d, moderator %v", r.LastSeq, r.Moderator), err
	},
	"enter": func(p *player, w []string) (string, error) { // #NAME: the same room
		r, err := p.client.JoinRoom(p.s.ctx, gochat.RoomID(strings.TrimPrefix(w[0], "#")))
		return fmt.Sprintf("last %d", r.LastSeq), err
	},
	"exit": func(p *player, w []string) (string, error) { return "", p.client.LeaveRoom(p.s.ctx, p.conv(w[0])) },
	"there": func(p *player, w []string) (string, error) { // IN
		users, count, _, err := p.client.RoomMembers(p.s.ctx, p.conv(w[0]), "", 0)
		return fmt.Sprint(count, " ", users), err
	},
	"curb": func(p *player, w []string) (string, error) { // #NAME WHAT USER
		what := map[string]gochat.Moderation{"mute": gochat.Mute, "unmute": gochat.Unmute, "ban": gochat.Ban, "unban": gochat.Unban}[w[1]]
		_, err := p.client.Moderate(p.s.ctx, p.conv(w[0]), id.UserID(w[2]), what, 0)
		return "", err
	},
	"slow": func(p *player, w []string) (string, error) { // #NAME SECONDS
		_, err := p.client.SetRoom(p.s.ctx, p.conv(w[0]), nil, ptr(time.Duration(number(w[1]))*time.Second))
		return "", err
	},

	"profile": func(p *player, w []string) (string, error) {
		q, err := p.client.SetProfile(p.s.ctx, gochat.ProfileChange{Name: ptr(strings.Join(w, " "))})
		return fmt.Sprintf("version %d", q.Version), err
	},
	"name": func(p *player, w []string) (string, error) { // IN USER: as it is shown
		return p.client.Name(p.conv(w[0]), id.UserID(w[1])), nil
	},
	"block":   func(p *player, w []string) (string, error) { return "", p.client.Block(p.s.ctx, id.UserID(w[0])) },
	"unblock": func(p *player, w []string) (string, error) { return "", p.client.Unblock(p.s.ctx, id.UserID(w[0])) },
	"blocked": func(p *player, _ []string) (string, error) {
		all, err := p.client.Blocked(p.s.ctx)
		return fmt.Sprint(all), err
	},
	"pin":    setting(func(on bool) gochat.Settings { return gochat.Settings{Pinned: &on} }),
	"mute":   setting(func(on bool) gochat.Settings { return gochat.Settings{Muted: &on} }),
	"hide":   setting(func(on bool) gochat.Settings { return gochat.Settings{Hidden: &on} }),
	"typing": func(p *player, w []string) (string, error) { return "", p.client.SetTyping(p.to(w[0]), true) },
	"stops":  func(p *player, w []string) (string, error) { return "", p.client.SetTyping(p.to(w[0]), false) },
	"draft": func(p *player, w []string) (string, error) { // IN TEXT…, word by word
		d := p.client.NewDraft(p.to(w[0]))
		for i, word := range w[1:] {
			if i > 0 {
				word = " " + word
			}
			if err := d.Write(word); err != nil {
				return "", err
			}
		}
		return "", nil
	},
	"background": func(p *player, _ []string) (string, error) { return "", p.client.SetBackground(p.s.ctx, true) },
	"foreground": func(p *player, _ []string) (string, error) { return "", p.client.SetBackground(p.s.ctx, false) },
	"devices": func(p *player, _ []string) (string, error) {
		all, err := p.client.Devices(p.s.ctx)
		var lines []string
		for _, d := range all {
			line := string(d.ID)
			if d.Current {
				line += " (this one)"
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		return strings.Join(lines, ", "), err
	},
	"signout": func(p *player, w []string) (string, error) { // DEVICE
		was, err := p.client.SignOut(p.s.ctx, id.DeviceID(w[0]))
		return fmt.Sprint(was), err
	},
	"stall": func(p *player, _ []string) (string, error) { p.wire.stalled(true); return "", nil },
	"wakes": func(p *player, _ []string) (string, error) { p.wire.stalled(false); return "", nil },
	"hinted": func(p *player, _ []string) (string, error) { // whether the server ever said so on this connection
		p.wire.mu.Lock()
		defer p.wire.mu.Unlock()
		return fmt.Sprint(p.wire.hints > 0), nil
	},
	"cut": func(p *player, _ []string) (string, error) { return "", p.wire.Close() },
}

// run runs a command and returns the lines that it answers with.
func (s *stage) run(w []string) string {
	s.t.Helper()
	answer := func(text string, err error) string {
		switch {
		case err != nil:
			return "! " + told(err) + "\n"
		case text != "":
			return "= " + text + "\n"
		}
		return ""
	}
	switch w[0] {
	case "server": // key=value…
		s.change = func(c *Config, in *Program) {
			for _, o := range w[1:] {
				k, v, _ := strings.Cut(o, "=")
				switch k {
				case "per_kind":
					c.Devices.PerKind = int(number(v))
				case "write":
					c.Contacts.Write = v
				case "hook":
					in.BeforeSend = censor
				case "outbound":
					c.Limits.Outbound = config.Bytes(number(v) << 10)
				case "rooms":
					c.Rooms.Create = v
				case "large_group":
					c.Fanout.LargeGroup = int(number(v))
				default:
					s.t.Fatalf("a server has no %q", k)
				}
			}
		}
		return answer("", s.start())
	case "restart": // the server goes, and comes back; its clients are told, and come back too
		if err := s.node.stop(); err != nil {
			return answer("", err)
		}
		return answer("", s.start())
	case "trim": // CONVERSATION SEQ, as "alice+bob" or "#group": what is below goes, as by retention
		conv := s.groups[w[1]]
		if a, b, ok := strings.Cut(w[1], "+"); ok {
			conv = id.Direct(id.UserID(a), id.UserID(b))
		}
		return answer(fmt.Sprintf("first %d", trim(s.t, s.node, conv, number(w[2]))), nil)
	}
	user, device, ok := strings.Cut(w[0], "/")
	if !ok || len(w) < 2 || commands[w[1]] == nil {
		s.t.Fatalf("what is %q? commands: %q", w, slices.Sorted(maps.Keys(commands)))
	}
	s.mu.Lock()
	p := s.players[w[0]]
	if p == nil {
		p = &player{s: s, name: w[0], user: id.UserID(user), device: device, store: keep{gochat.NewMemoryStore()}, known: map[id.ConversationID]bool{},
			last: map[id.ConversationID]uint64{}, messages: map[id.ConversationID][]gochat.Message{}, shown: map[id.ConversationID]string{}}
		s.players[w[0]] = p
	}
	s.mu.Unlock()
	if p.client == nil && w[1] != "on" {
		s.t.Fatalf("%s is away", p.name)
	}
	return answer(commands[w[1]](p, w[2:]))
}

// join signs the device in, if it isn't, and connects.
func (p *player) join(w []string) (string, error) {
	if p.client != nil {
		p.leave()
	}
	kind := wire.DeviceKind_DEVICE_KIND_PHONE
	if slices.Contains(w, "desktop") {
		kind = wire.DeviceKind_DEVICE_KIND_DESKTOP
	}
	slow := slices.Contains(w, "slow")
	if p.token == "" {
		route := "register"
		for _, q := range p.s.players {
			if q.user == p.user && q.token != "" {
				route = "login"
			}
		}
		in, _ := json.Marshal(map[string]any{"name": p.user, "password": "long enough", "device_id": p.device, "device_kind": int(kind)})
		res, err := http.Post("http://"+p.s.node.HTTPAddr().String()+"/api/v1/auth/"+route, "application/json", bytes.NewReader(in))
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		var grant struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.NewDecoder(res.Body).Decode(&grant); err != nil || grant.AccessToken == "" {
			return "", fmt.Errorf("%s: %s, %v", route, res.Status, err)
		}
		p.token = grant.AccessToken
	}
	c, err := gochat.Open(gochat.Config{
		Address: p.s.addr, Device: id.DeviceID(p.device), Kind: kind, Store: p.store, Handler: p.handle,
		Token:      func(context.Context) (string, error) { return p.token, nil },
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, AckInterval: 10 * time.Millisecond,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			if slow {
				_ = c.(*net.TCPConn).SetReadBuffer(32 << 10)
			}
			p.s.mu.Lock()
			defer p.s.mu.Unlock()
			p.wire = tapped(c)
			return p.wire, nil
		},
	})
	if err != nil {
		return "", err
	}
	p.client = c
	return "", c.Connected(p.s.ctx)
}

func (p *player) leave() {
	if p.client != nil {
		if err := p.client.Close(); err != nil {
			p.s.t.Error(err)
		}
		p.client = nil
	}
}

func (p *player) to(name string) gochat.Target {
	if strings.HasPrefix(name, "#") {
		return gochat.ToConversation(p.conv(name))
	}
	if name == "self" {
		return gochat.ToConversation(id.Self(p.user))
	}
	return gochat.ToUser(id.UserID(name))
}

func (p *player) conv(name string) id.ConversationID {
	if strings.HasPrefix(name, "#") {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if c, ok := p.s.groups[name]; ok {
			return c
		}
		p.s.t.Fatalf("there is no group %s", name)
	}
	return id.Direct(p.user, id.UserID(name))
}

func (p *player) say(to string, m gochat.Content, seen uint64) (string, error) {
	var r *gochat.Receipt
	var err error
	if seen > 0 {
		r, err = p.client.SendInteractive(p.s.ctx, p.to(to), m, seen)
	} else {
		r, err = p.client.Send(p.s.ctx, p.to(to), m)
	}
	if err != nil {
		return "", err
	}
	ack, err := r.Wait(p.s.ctx)
	return fmt.Sprint(ack.Seq), err
}

func content(w []string) gochat.Content {
	m := gochat.Text(strings.Join(w, " "))
	for _, word := range w {
		if who, ok := strings.CutPrefix(word, "@"); ok && who == "all" {
			m.MentionAll = true
		} else if ok {
			m.Mentions = append(m.Mentions, who)
		}
	}
	return m
}

func change(f func(ctx context.Context, p *player, c id.ConversationID, w []string) (gochat.GroupChange, error)) func(*player, []string) (string, error) {
	return func(p *player, w []string) (string, error) {
		g, err := f(p.s.ctx, p, p.conv(w[0]), w[1:])
		return changed(g), err
	}
}

func changed(g gochat.GroupChange) string {
	text := fmt.Sprintf("seq %d, changed %d", g.Seq, g.Changed)
	for _, r := range g.Refused {
		text += fmt.Sprintf(", not %s: %s", r.User, r.Code)
	}
	return text
}

func setting(of func(on bool) gochat.Settings) func(*player, []string) (string, error) {
	return func(p *player, w []string) (string, error) { // CONVERSATION [off]
		_, err := p.client.SetSettings(p.s.ctx, p.conv(w[0]), of(len(w) < 2 || w[1] != "off"))
		return "", err
	}
}

func users(w []string) (out []id.UserID) {
	for _, u := range w {
		out = append(out, id.UserID(u))
	}
	return out
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
