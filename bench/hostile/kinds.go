package hostile

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// kind is one way to misbehave and what may be answered to it.
type kind struct {
	name    string
	clients int           // at the same time
	every   time.Duration // each begins anew, at the earliest
	sources int           // addresses that they come from; 0: 1
	allowed []string      // labels
	want    []string      // those that must come at least once
	script  func(ctx context.Context, c *client)
}

// handshakeSlack is how long the handshake's deadline may take, a busy machine's delay included.
const handshakeSlack = 40 * time.Second

const (
	endBadFrame   = goodbye + "bad_frame"
	endTooLarge   = goodbye + "frame_too_large"
	endFlooding   = goodbye + "flooding"
	endTooSlow    = goodbye + "too_slow"
	endNotConn    = goodbye + "not_connected"
	endHandshake  = goodbye + "handshake_timeout"
	endStranger   = goodbye + "unauthenticated"
	endTooMany    = goodbye + "too_many_connections"
	endReplaced   = goodbye + "replaced"
	endConnected  = goodbye + "already_connected"
	endExpired    = goodbye + "token_expired"
	endUTF8       = goodbye + "invalid_utf8"
	endBadRequest = goodbye + "bad_request"
	endVersion    = goodbye + "version_unsupported"
)

// kinds is everything that is done. The numbers keep to what one machine that also runs
// the server and the good load can do: what is tested is the answers, and that others don't suffer.
var kinds = slices.Concat([]kind{
	{name: "frame over 8 KiB before CONNECT", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{endTooLarge}, want: []string{endTooLarge}, script: oversizedStranger},
	{name: "frame over 128 KiB", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", endTooLarge}, want: []string{endTooLarge}, script: oversized},
	{name: "length ff ff ff ff ff", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", endBadFrame, endTooLarge}, script: raw([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 3, 1})},
	{name: "length 268435455", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", endTooLarge}, want: []string{endTooLarge}, script: raw([]byte{0xFF, 0xFF, 0xFF, 0x7F, 3, 1, 1})},
	{name: "malformed headers", clients: 2, every: 100 * time.Millisecond,
		allowed: []string{"connack", endBadFrame}, want: []string{endBadFrame}, script: raw(
			[]byte{0, 3}, []byte{1, 3}, []byte{0x80, 0, 3}, []byte{2, 3, 1}, []byte{3, 3, 1, 0x80}, []byte{8, 3, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1},
			[]byte{4, 3, 3, 1, 2}, []byte{3, 3, 5, 1}, []byte{2, 3, 0}, []byte{2, 10, 0})},
	{name: "cut off in mid-frame", clients: 6, every: 200 * time.Millisecond,
		allowed: []string{"connack"}, want: []string{"connack"}, script: truncated},
	{name: "unknown types", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", "unknown_frame", "pong"}, want: []string{"unknown_frame", "pong"}, script: unknownTypes},
	{name: "half-open", clients: 100, every: 0, sources: 4,
		allowed: []string{endHandshake}, want: []string{endHandshake}, script: halfOpen},
	{name: "a byte of CONNECT a second", clients: 100, every: 0, sources: 4,
		allowed: []string{endHandshake}, want: []string{endHandshake}, script: slowConnect},
	{name: "frames before CONNECT", clients: 2, every: 100 * time.Millisecond,
		allowed: []string{endNotConn}, want: []string{endNotConn}, script: beforeConnect},
	{name: "second CONNECT", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", endConnected}, want: []string{endConnected}, script: secondConnect},
	{name: "forged tokens", clients: 4, every: 100 * time.Millisecond,
		allowed: []string{endStranger}, want: []string{endStranger}, script: forgedToken},
	{name: "expired tokens", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{endExpired}, want: []string{endExpired}, script: expiredToken},
	{name: "malformed CONNECT", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{endUTF8, endBadRequest, endVersion}, want: []string{endUTF8, endBadRequest}, script: malformedConnect},
	{name: "invalid UTF-8 in SEND", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", "invalid_utf8", "pong"}, want: []string{"invalid_utf8", "pong"}, script: sendUTF8},
	{name: "malformed SENDs", clients: 2, every: 300 * time.Millisecond,
		allowed: []string{"connack", "bad_request", "content_too_large", "id_in_future", "id_unknown", "pong"},
		want:    []string{"bad_request", "content_too_large", "id_in_future", "pong"}, script: malformedSend},
	{name: "one id, other bodies", clients: 2, every: 300 * time.Millisecond,
		allowed: []string{"connack", "sendack", "id_conflict", "pong"}, want: []string{"sendack", "id_conflict", "pong"}, script: otherBodies},
	{name: "flood of SENDs", clients: 4, every: 500 * time.Millisecond,
		allowed: []string{"connack", "sendack", "rate_limited", "lane_blocked", "overloaded", endFlooding},
		want:    []string{"sendack", "rate_limited", endFlooding}, script: floodSends},
	{name: "flood of resends of one id", clients: 4, every: 500 * time.Millisecond,
		allowed: []string{"connack", "sendack", "rate_limited", "lane_blocked", "overloaded", endFlooding},
		want:    []string{"sendack", "rate_limited"}, script: floodResends},
	{name: "flood of requests", clients: 4, every: 500 * time.Millisecond,
		allowed: []string{"connack", "response", "synced", "pong", "no_such_conversation", "unknown_method", "rate_limited", "overloaded", endFlooding},
		want:    []string{"rate_limited", endFlooding}, script: floodRequests},
	{name: "floods one who never reads", clients: victims, every: time.Second,
		allowed: []string{"connack", "sendack"}, want: []string{"sendack"}, script: floodVictim},
	{name: "never reads", clients: victims * devices, every: time.Second,
		allowed: []string{"connack", "deliver", "hint", endTooSlow, cut}, want: []string{"deliver", "hint"}, script: neverReads},
	{name: "asks and never reads", clients: 2, every: 5 * time.Second,
		allowed: []string{"connack", "sendack", "synced", "rate_limited", "overloaded", endTooSlow, endFlooding, cut}, script: asksNeverReads},
	{name: "connect storm", clients: 8, every: 12 * time.Millisecond,
		allowed: []string{"connack", endTooMany}, want: []string{"connack", endTooMany}, script: storm},
	{name: "one device again and again", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"connack", endReplaced}, want: []string{endReplaced}, script: sameDevice},
	{name: "a user's devices without end", clients: 1, every: time.Second,
		allowed: []string{"connack", endReplaced, endTooMany}, want: []string{endReplaced}, script: manyDevices},
	{name: "HTTP: body over 192 KiB", clients: 2, every: 300 * time.Millisecond,
		allowed: []string{"http 413 content_too_large"}, want: []string{"http 413 content_too_large"}, script: httpOversized},
	{name: "HTTP: a byte a second", clients: 50, every: time.Second,
		allowed: []string{"http 408 bad_request", httpCut}, script: httpSlow},
	{name: "HTTP: malformed requests", clients: 2, every: 100 * time.Millisecond, sources: 2,
		allowed: []string{"http 400 bad_request", "http 400 invalid_utf8", "http 404 unknown_method", "http 405 bad_request", "http 415 bad_request", "http 431 bad_request", "http 429 rate_limited", httpCut},
		want:    []string{"http 400 bad_request"}, script: httpMalformed},
	// From one address: from several a busy machine may not hash as many passwords as make an address too hasty.
	{name: "HTTP: logins without end", clients: 4, every: 30 * time.Millisecond,
		allowed: []string{"http 401 bad_credentials", "http 429 rate_limited", "http 503 overloaded", "http 403 registration_closed"},
		want:    []string{"http 429 rate_limited"}, script: httpLogins},
	{name: "HTTP: 300 connections", clients: 1, every: 12 * time.Second,
		allowed: []string{httpCut}, want: []string{httpCut}, script: httpHold},
	// Not hostile: who comes in the midst of all that is served.
	{name: "(newcomers who behave)", clients: 4, every: 200 * time.Millisecond,
		allowed: []string{"connack", "sendack", "synced"}, want: []string{"sendack", "synced"}, script: newcomer},
}, apiKinds, webSockets)

// Each of the victims is a user with several devices, all of which don't read.
const (
	victims = 2
	devices = 10
)

func oversizedStranger(ctx context.Context, c *client) {
	if c.dial(ctx, false) {
		c.write(frame.Append(nil, frame.Connect, 0, 0, make([]byte, frame.HandshakeMax)), 1)
		c.awaitEnd(ctx, patience)
	}
}

func oversized(ctx context.Context, c *client) {
	if c.login(ctx, false) {
		c.write(frame.Append(nil, frame.Send, frame.FlagRequestID, 1, make([]byte, frame.DefaultMax)), 1)
		c.awaitEnd(ctx, patience)
	}
}

// raw sends one of the byte strings, before and after CONNECT in turn.
func raw(frames ...[]byte) func(context.Context, *client) {
	return func(ctx context.Context, c *client) {
		if i := c.turn/2 + c.n; c.turn%2 == 0 {
			if !c.dial(ctx, false) {
				return
			}
			// Some of them are well-formed frames that are wrong for what they lack: those come after CONNECT.
			c.write(frames[i%min(len(frames), wellFormedFrom)], 1)
		} else {
			if !c.login(ctx, false) {
				return
			}
			c.write(frames[i%len(frames)], 1)
		}
		c.awaitEnd(ctx, patience)
	}
}

// wellFormedFrom is where those frames begin in the list of malformed headers: SEND and REQUEST without request id.
const wellFormedFrom = 8

func truncated(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	whole := c.connectFrame(token, "d", nil)
	if c.turn%2 == 0 {
		if c.dial(ctx, false) {
			c.write(whole[:1+c.turn%(len(whole)-1)], 1)
		}
	} else {
		if !c.login(ctx, false) {
			return
		}
		whole = frame.Append(nil, frame.Send, frame.FlagRequestID, 1, make([]byte, 100<<10))
		c.write(whole[:1+(c.turn*7919)%(len(whole)-1)], 1)
	}
	if c.nc != nil && c.turn%4 < 2 {
		_ = c.nc.SetLinger(-1) // a FIN instead of a reset
	}
	wait(ctx, 50*time.Millisecond)
}

func unknownTypes(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	var b []byte
	for i, t := range []frame.Type{18, 64, 255, 0, frame.Connack, frame.Deliver, frame.Kick} {
		b = frame.Append(b, t, frame.FlagRequestID, uint32(i+1), []byte("body"))
		b = frame.Append(b, t, 0, 0, []byte("body"))
	}
	c.write(frame.Append(b, frame.Ping, 0, 0, nil), 15)
	c.await(ctx, "pong")
}

func halfOpen(ctx context.Context, c *client) {
	if c.dial(ctx, false) {
		c.awaitEnd(ctx, handshakeSlack)
	}
}

func slowConnect(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	if !c.dial(ctx, false) {
		return
	}
	by := time.Now().Add(handshakeSlack)
	for _, v := range c.connectFrame(token, "d", nil) {
		if ctx.Err() != nil || !c.write([]byte{v}, 0) || c.next(time.Now().Add(time.Second)) != "" || c.over {
			break
		}
		if time.Now().After(by) {
			c.missed(ctx, silence)
		}
	}
	c.count(0, 1, 0)
	c.awaitEnd(ctx, handshakeSlack)
}

func beforeConnect(ctx context.Context, c *client) {
	if !c.dial(ctx, false) {
		return
	}
	types := []frame.Type{frame.Send, frame.Ping, frame.Sync, frame.Request, frame.RecvAck, frame.Signal, frame.Connack, 99}
	c.write(frame.Append(nil, types[(c.turn+c.n)%len(types)], frame.FlagRequestID, 1, []byte("body")), 1)
	c.awaitEnd(ctx, patience)
}

func secondConnect(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	c.write(c.connectFrame(token, "d", nil), 1)
	c.awaitEnd(ctx, patience)
}

func (c *client) present(ctx context.Context, token string, err error) {
	if err != nil {
		c.fault(err)
		return
	}
	if c.dial(ctx, false) {
		c.write(c.connectFrame(token, "d", nil), 1)
		c.awaitEnd(ctx, patience)
	}
}

func forgedToken(ctx context.Context, c *client) {
	token, err := c.tokens.forged(c.turn+c.n, c.user())
	c.present(ctx, token, err)
}

func expiredToken(ctx context.Context, c *client) {
	token, err := c.tokens.expired(c.user())
	c.present(ctx, token, err)
}

func malformedConnect(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	if !c.dial(ctx, false) {
		return
	}
	const bad = "\xff\xfe"
	changes := []func(*wire.Connect){
		func(m *wire.Connect) { m.DeviceId = "d" + bad },
		func(m *wire.Connect) { m.Token = bad + m.Token },
		func(m *wire.Connect) { m.Client = bad },
		func(m *wire.Connect) { m.DeviceId = "" },
		func(m *wire.Connect) { m.DeviceId = "a\x00b" },
		func(m *wire.Connect) { m.Version = 0 },
	}
	if i := (c.turn + c.n) % (len(changes) + 1); i < len(changes) {
		c.write(c.connectFrame(token, "d", changes[i]), 1)
	} else { // no protobuf at all
		c.write(frame.Append(nil, frame.Connect, 0, 0, []byte{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}), 1)
	}
	c.awaitEnd(ctx, patience)
}

func sendUTF8(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	var b []byte
	for i, s := range []string{"\xff", "caf\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "a\x80b"} {
		b = c.sendFrame(b, uint32(i+1), 0, c.user(), newID(), s)
	}
	c.write(frame.Append(b, frame.Ping, 0, 0, nil), 7)
	c.await(ctx, "pong")
}

func malformedSend(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	var b []byte
	body := func(req uint32, body []byte) { b = frame.Append(b, frame.Send, frame.FlagRequestID, req, body) }
	body(1, nil)
	body(2, []byte{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}) // a field longer than all
	body(3, []byte{0x0B, 0x0C})                         // a group
	garbage := make([]byte, 64)
	_, _ = rand.Read(garbage)
	garbage[0] = 0xFF // no tag ends there
	for i := range 10 {
		garbage[i] |= 0x80
	}
	body(4, garbage)
	b = c.sendFrame(b, 5, 0, c.user(), id.ClientMsgID{}, "an id that is none")
	b = c.sendFrame(b, 6, 0, c.user(), newID(), "")
	b = c.sendFrame(b, 7, 0, "no\x00body", newID(), "x")
	b = c.sendFrame(b, 8, 0, c.user(), newID(), string(make([]byte, 13<<10)))
	b = c.sendFrame(b, 9, 0, c.user()+"-f", id.NewClientMsgID(time.Now().Add(time.Hour).UnixMilli()), "x")
	c.write(frame.Append(b, frame.Ping, 0, 0, nil), 10)
	// The refusal of the id comes from further inside than the PONG.
	for by, pong, future := time.Now().Add(patience), false, false; !pong || !future; {
		switch c.next(by) {
		case "pong":
			pong = true
		case "id_in_future":
			future = true
		case "":
			if !c.over {
				c.missed(ctx, silence)
			}
			return
		}
	}
}

func otherBodies(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	mid := newID()
	to := c.user() + "-c"
	c.write(c.sendFrame(nil, 1, 0, to, mid, "first"), 1)
	if !c.await(ctx, "sendack") {
		return
	}
	for i := range 5 {
		c.write(c.sendFrame(nil, uint32(i+2), frame.FlagResend, to, mid, fmt.Sprint("another ", i)), 1)
		if !c.await(ctx, "id_conflict") {
			return
		}
	}
	c.write(frame.Append(nil, frame.Ping, 0, 0, nil), 1)
	c.await(ctx, "pong")
}

// flood writes what batch makes until the server ends it, or the attack is over.
func (c *client) flood(ctx context.Context, frames int, batch func() []byte) {
	for ctx.Err() == nil && !c.ended {
		if !c.write(batch(), frames) {
			break
		}
		c.read(20 * time.Millisecond)
	}
	if ctx.Err() == nil && c.nc != nil {
		c.awaitEnd(ctx, patience)
	}
}

func floodSends(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	req := uint32(0)
	c.flood(ctx, 50, func() (b []byte) {
		for range 50 {
			req++
			b = c.sendFrame(b, req, 0, c.user()+"-f", newID(), "buy now, buy here, buy this")
		}
		return b
	})
}

func floodResends(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	mid := newID()
	c.acks = map[id.ClientMsgID]uint64{}
	c.ids = append(c.ids, mid) // by request id: 0
	req := frame.Flags(0)
	c.flood(ctx, 50, func() (b []byte) {
		for range 50 {
			b = c.sendFrame(b, 0, req, c.user()+"-f", mid, "buy now, buy here, buy this")
			req = frame.FlagResend
		}
		return b
	})
}

func floodRequests(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	conv := id.Direct(id.UserID(c.user()), id.UserID(c.user()+"-f"))
	other := id.Direct("somebody", "else")
	add := func(b []byte, t frame.Type, req uint32, m packet.Body) []byte {
		b, err := packet.AppendBody(b, t, frame.FlagRequestID, req, m)
		if err != nil {
			c.fault(err)
		}
		return b
	}
	c.flood(ctx, 40, func() (b []byte) {
		for i := range uint32(10) {
			b = add(b, frame.Sync, i, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}, {ConversationId: other[:], FromSeq: 1}}})
			b = add(b, frame.Request, i+10, &wire.Request{Method: uint32(packet.MethodConversations)})
			b = add(b, frame.Request, i+20, &wire.Request{Method: 99})
			b = frame.Append(b, frame.Ping, 0, 0, nil)
		}
		return b
	})
}

func (c *client) victim(n int) string { return fmt.Sprintf("%svictim%d", c.Users, n) }

func floodVictim(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	content := string(make([]byte, 8<<10)) // NUL is a character, too
	for req := uint32(1); ctx.Err() == nil && !c.ended; req++ {
		if !c.write(c.sendFrame(nil, req, 0, c.victim(c.n), newID(), content), 1) {
			break
		}
		c.read(50 * time.Millisecond)
	}
	if ctx.Err() == nil && c.nc != nil {
		c.awaitEnd(ctx, patience)
	}
}

func neverReads(ctx context.Context, c *client) {
	c.buf = make([]byte, 4<<10)
	if !c.loginAs(ctx, c.victim(c.n%victims), fmt.Sprint("d", c.n), true) {
		return
	}
	<-ctx.Done()
	// Then it reads after all: what waits, in order, and that it missed something.
	c.heads = map[id.ConversationID]uint64{}
	for by := time.Now().Add(patience); ; {
		if got := c.next(by); got == "hint" || got == "" {
			return
		}
	}
}

func asksNeverReads(ctx context.Context, c *client) {
	c.buf = make([]byte, 4<<10)
	if !c.login(ctx, true) {
		return
	}
	to := c.user() + "-f"
	conv := id.Direct(id.UserID(c.user()), id.UserID(to))
	var b []byte
	for i := range uint32(20) {
		b = c.sendFrame(b, i+1, 0, to, newID(), string(make([]byte, 4<<10)))
	}
	c.write(b, 20)
	if !c.await(ctx, "sendack") {
		return
	}
	var m wire.Sync
	for range 100 {
		m.Ranges = append(m.Ranges, &wire.SyncRange{ConversationId: conv[:], FromSeq: 1})
	}
	ask, err := packet.AppendBody(nil, frame.Sync, frame.FlagRequestID, 100, &m)
	if err != nil {
		c.fault(err)
		return
	}
	for range 40 {
		if ctx.Err() != nil || !c.write(ask, 1) {
			break
		}
		wait(ctx, 10*time.Millisecond)
	}
	wait(ctx, 3*time.Second)
	c.read(2 * time.Second)
}

func storm(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	if c.dial(ctx, false) {
		c.write(c.connectFrame(token, "d", nil), 1)
		c.next(time.Now().Add(patience))
		if c.ended {
			c.awaitEnd(ctx, patience)
		}
	}
}

func sameDevice(ctx context.Context, c *client) {
	if !c.login(ctx, false) {
		return
	}
	old, in := c.nc, append([]byte(nil), c.in...)
	c.nc = nil
	if !c.login(ctx, false) {
		_ = old.Close()
		return
	}
	c.spare = append(c.spare, c.nc)
	c.nc, c.in, c.ended, c.over = old, in, false, false
	c.awaitEnd(ctx, patience)
}

// manyDevices connects ever more devices of one user. The newest win: the first ones hear that they
// have to give way.
func manyDevices(ctx context.Context, c *client) {
	const served = 20 // of a user at once, unless the server was told otherwise
	var all []*client
	defer func() {
		for _, d := range all {
			d.close()
		}
	}()
	for i := range 30 {
		d := &client{attack: c.attack, tally: c.tally, index: c.index, n: c.n, source: c.source}
		all = append(all, d)
		token, err := c.tokens.of(c.user())
		if err != nil || !d.dial(ctx, false) {
			return
		}
		d.write(d.connectFrame(token, fmt.Sprint("device", i), nil), 1)
		if d.next(time.Now().Add(patience)) == "" && !d.over {
			d.missed(ctx, silence)
		}
		if d.ended {
			d.awaitEnd(ctx, patience)
		}
		if i >= served {
			all[i-served].awaitEnd(ctx, patience)
		}
	}
}

func newcomer(ctx context.Context, c *client) {
	if !c.loginAs(ctx, fmt.Sprintf("%s-%d", c.user(), c.turn%50), "d", false) {
		return
	}
	to := c.user() + "-friend"
	c.write(c.sendFrame(nil, 1, 0, to, newID(), "hello"), 1)
	if !c.await(ctx, "sendack") {
		return
	}
	conv := id.Direct(id.UserID(fmt.Sprintf("%s-%d", c.user(), c.turn%50)), id.UserID(to))
	b, err := packet.AppendBody(nil, frame.Sync, frame.FlagRequestID, 2, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}}})
	if err != nil {
		c.fault(err)
		return
	}
	c.write(b, 1)
	c.await(ctx, "synced")
}
