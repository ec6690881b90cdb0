//go:build e2e && faults

package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// prompt is the longest that a message may take, to its ack and to everybody whom it is for, while the service counts as full.
const prompt = time.Second

// load is people who talk through the SDK: pairs across the edges and one group. It writes at its times whatever
// is answered, and keeps the books about everything that was said and heard.
type load struct {
	t      *testing.T
	edges  []string // where clients connect
	token  func(user string) (string, error)
	people []*person
	lanes  []*lane
	stop   func()

	mu     sync.Mutex
	closed bool
	sent   map[id.ClientMsgID]*said
	log    []*said // in the order in which they were due
	wrong  []string
	turn   int
}

// person is a user with one device.
type person struct {
	*gochat.Client
	load *load
	name id.UserID
	home int // the edge that they start at

	mu   sync.Mutex
	at   int // the edge that is tried next
	on   int // the edge that conn leads to
	conn net.Conn

	// Guarded by load.mu.
	heard map[id.ConversationID][]heard
	spots map[id.ConversationID]int // where the person stands in the lanes' lists, by conversation
}

// heard is a message as the application was told it.
type heard struct {
	seq uint64
	id  id.ClientMsgID
}

// lane is a sender in a conversation.
type lane struct {
	sender *person
	to     gochat.Target
	conv   id.ConversationID
	others int // who hear it besides the sender
	count  int
}

// said is one message.
type said struct {
	id    id.ClientMsgID
	lane  *lane
	n     int // in its lane, from 1
	due   time.Time
	acked time.Time
	by    int       // the edge that acked it
	done  time.Time // everybody has it
	seq   uint64
	left  int // who haven't
}

// latest is when the message was acked and everybody had it; zero: not yet.
func (s *said) latest() time.Time {
	if s.acked.IsZero() || s.done.IsZero() {
		return time.Time{}
	}
	if s.acked.After(s.done) {
		return s.acked
	}
	return s.done
}

// slow reports whether the message took, or by now has taken, too long.
func (s *said) slow(now time.Time) bool {
	at := s.latest()
	if at.IsZero() {
		at = now
	}
	return at.Sub(s.due) > prompt
}

// newLoad connects pairs of people at all edges, and a group of some of them.
func newLoad(t *testing.T, edges []string, token func(user string) (string, error), pairs, members int) *load {
	t.Helper()
	l := &load{t: t, edges: edges, token: token, sent: map[id.ClientMsgID]*said{}}
	t.Cleanup(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		for _, p := range l.people {
			_ = p.Close()
		}
	})
	for i := range 2 * pairs {
		// The two of a pair are at different edges, and every other sender at the first.
		l.people = append(l.people, l.join(fmt.Sprintf("p%03d", i), (i+i/2)%len(edges)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, p := range l.people {
		if err := p.Connected(ctx); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
	}
	for i := range pairs {
		a, b := l.people[2*i], l.people[2*i+1]
		conv := id.Direct(a.name, b.name)
		l.lanes = append(l.lanes, &lane{sender: a, to: gochat.ToUser(b.name), conv: conv, others: 1})
		if i%4 == 0 { // some answer
			l.lanes = append(l.lanes, &lane{sender: b, to: gochat.ToUser(a.name), conv: conv, others: 1})
		}
	}
	if members > 0 {
		var users []id.UserID
		for _, p := range l.people[1:members] {
			users = append(users, p.name)
		}
		g, err := l.people[0].CreateGroup(ctx, gochat.NewGroup{Name: "all", Users: users})
		if err != nil {
			t.Fatalf("making the group: %v", err)
		}
		for _, p := range l.people[:2] {
			l.lanes = append(l.lanes, &lane{sender: p, to: gochat.ToConversation(g.Conversation), conv: g.Conversation, others: members - 1})
		}
	}
	return l
}

// join opens a client, which goes to another edge when the one it is at fails it.
func (l *load) join(name string, home int) *person {
	p := &person{load: l, name: id.UserID(name), home: home, at: home, heard: map[id.ConversationID][]heard{}}
	var err error
	p.Client, err = gochat.Open(gochat.Config{
		Address: l.edges[home], Device: "d", Dial: p.dial, Handler: p.handle, Logger: slog.New(slog.DiscardHandler),
		Token:      func(context.Context) (string, error) { return l.token(name) },
		MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Second, DialTimeout: 2 * time.Second,
		Heartbeat: 2 * time.Second, DeadAfter: time.Second, AckInterval: 500 * time.Millisecond,
	})
	if err != nil {
		l.t.Fatalf("%s: %v", name, err)
	}
	return p
}

// dial connects to the edge whose turn it is.
func (p *person) dial(ctx context.Context, address string) (net.Conn, error) {
	p.mu.Lock()
	if address == p.load.edges[p.home] {
		address = p.load.edges[p.at]
	} else if i := slices.Index(p.load.edges, address); i >= 0 {
		p.at = i // told by a DRAIN
	}
	p.mu.Unlock()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		p.mu.Lock()
		p.conn, p.on = c, slices.Index(p.load.edges, address)
		p.mu.Unlock()
	}
	return c, err
}

// goHome has a person who went elsewhere come back.
func (p *person) goHome() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at != p.home && p.conn != nil {
		p.at = (p.home + len(p.load.edges) - 1) % len(p.load.edges) // the next is home
		_ = p.conn.Close()
	}
}

func (p *person) handle(e gochat.Event) {
	l := p.load
	now := time.Now()
	switch e := e.(type) {
	case gochat.Disconnected:
		p.mu.Lock()
		p.at = (p.at + 1) % len(l.edges)
		p.mu.Unlock()
	case gochat.MessageReceived:
		l.mu.Lock()
		defer l.mu.Unlock()
		p.hears(&e.Message, now)
	case gochat.MessageSent:
		l.mu.Lock()
		defer l.mu.Unlock()
		s := l.sent[e.ID]
		switch {
		case s == nil:
			l.complain("%s: message %s was acked, which nobody said", p.name, e.ID)
		case s.seq != 0 && s.seq != e.Ack.Seq:
			l.complain("%s: message %d was acked as seq %d and %d", p.name, s.n, s.seq, e.Ack.Seq)
		default:
			p.mu.Lock()
			s.seq, s.acked, s.by = e.Ack.Seq, now, p.on
			p.mu.Unlock()
		}
	case gochat.SendFailed:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.complain("%s: a message was refused for good: %v", p.name, e.Err)
	case gochat.Stopped:
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.complain("%s: the client gave up: %v", p.name, e.Err)
		}
	case gochat.Resynced, gochat.MessagesGone:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.complain("%s: %T", p.name, e)
	}
}

// hears books what the application was told. load.mu is held.
func (p *person) hears(m *gochat.Message, now time.Time) {
	l := p.load
	list := p.heard[m.Conversation]
	if n := len(list); n > 0 && m.Seq != list[n-1].seq+1 {
		l.complain("%s heard seq %d of %s behind %d", p.name, m.Seq, m.Conversation, list[n-1].seq)
	}
	p.heard[m.Conversation] = append(list, heard{m.Seq, m.ClientMsgID})
	s := l.sent[m.ClientMsgID]
	if s == nil || m.Sender == p.name {
		return
	}
	if s.left--; s.left == 0 {
		s.done = now
	}
}

// complain notes what must not be. load.mu is held.
func (l *load) complain(format string, args ...any) {
	if len(l.wrong) < 20 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

// say has the next lane's sender say something; due is when that should have been.
func (l *load) say(ctx context.Context, due time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The first conversation is busier than the others.
	i := 0
	if l.turn++; l.turn%8 != 0 {
		i = l.turn % len(l.lanes)
	}
	return l.sayIn(ctx, l.lanes[i], due)
}

// sayIn is say in a certain lane. load.mu is held: an ack must find its message.
func (l *load) sayIn(ctx context.Context, in *lane, due time.Time) error {
	text := fmt.Sprintf("%d in %s by %s %s", in.count+1, in.conv, in.sender.name, strings.Repeat("x", 120))
	r, err := in.sender.Send(ctx, in.to, gochat.Text(text))
	if err != nil {
		return fmt.Errorf("%s: %w", in.sender.name, err)
	}
	in.count++
	s := &said{id: r.ID, lane: in, n: in.count, due: due, left: in.others}
	l.sent[r.ID] = s
	l.log = append(l.log, s)
	return nil
}

// start begins to talk, at so many messages a second, until stop.
func (l *load) start(rate float64) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		began := time.Now()
		for i := 0; ; i++ {
			due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(due)):
			}
			if err := l.say(context.Background(), due); err != nil {
				l.mu.Lock()
				l.complain("sending: %v", err)
				l.mu.Unlock()
				return
			}
		}
	}()
	l.stop = func() { cancel(); <-ended }
}

// measure finds out what the cluster can go on with: the highest of several rates at which, written at their times
// whatever is answered, 99 of 100 messages are prompt. It is 0 if not even the lowest is.
func (l *load) measure() (reached float64) {
	l.t.Helper()
	for rate := 250.0; rate <= 8000; rate *= math.Sqrt2 {
		began := time.Now()
		l.start(rate)
		time.Sleep(5 * time.Second)
		l.stop()
		l.settled(20 * time.Second)
		all, slow := 0, 0
		l.mu.Lock()
		for _, s := range slices.Backward(l.log) {
			if s.due.Before(began.Add(time.Second)) {
				break
			}
			if all++; s.slow(time.Now()) {
				slow++
			}
		}
		l.mu.Unlock()
		if slow*100 > all {
			return reached
		}
		reached = rate
	}
	return reached
}

// full waits until the service is full: everything that was due in a second and a half was prompt. It returns when
// that began, at the end of the last message due since that wasn't; ok is false if it took longer than the limit.
func (l *load) full(since time.Time, limit time.Duration) (at time.Time, ok bool) {
	const steady = 1500 * time.Millisecond
	for {
		now := time.Now()
		at, last := since, since
		l.mu.Lock()
		for _, s := range slices.Backward(l.log) {
			if s.due.Before(since.Add(-prompt)) {
				break
			}
			if !s.slow(now) {
				continue
			}
			end := s.latest()
			if end.IsZero() {
				end = now
			}
			if end.After(at) {
				at = end
			}
			if s.due.After(last) {
				last = s.due
			}
		}
		l.mu.Unlock()
		if now.Sub(at) > steady+prompt && now.Sub(since) > steady+prompt {
			return at, true
		}
		if now.Sub(since) > limit+steady+prompt {
			return at, false
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// settled waits until everything said was acked and heard by everybody.
func (l *load) settled(limit time.Duration) {
	l.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		var unacked, unheard int
		l.mu.Lock()
		for _, s := range l.log {
			if s.acked.IsZero() {
				unacked++
			}
			if s.done.IsZero() {
				unheard++
			}
		}
		l.mu.Unlock()
		if unacked+unheard == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("%v after the last message %d aren't acked and %d not with everybody", limit, unacked, unheard)
			return
		}
	}
}

// verify reads every conversation back and compares it with what was acked and heard: nothing acked is lost, doubled or
// reordered, and everybody has everything. It returns how many messages there are.
func (l *load) verify() (stored int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	convs := map[id.ConversationID][]*lane{}
	for _, in := range l.lanes {
		convs[in.conv] = append(convs[in.conv], in)
	}
	for conv, lanes := range convs {
		reader := lanes[0].sender
		var whole []gochat.Message
		for before, more := uint64(0), true; more; {
			page, m, err := reader.History(ctx, conv, before, 100)
			if err != nil {
				l.t.Errorf("%s reads %s: %v", reader.name, conv, err)
				whole = nil
				break
			}
			if more = m && len(page) > 0; len(page) > 0 {
				whole, before = append(slices.Clone(page), whole...), page[0].Seq
			}
		}
		if len(whole) == 0 {
			continue // nobody knows what it holds
		}
		stored += len(whole)
		l.mu.Lock()
		at := map[id.ClientMsgID]uint64{}
		next := map[*lane]int{}
		for i, m := range whole {
			if m.Seq != whole[0].Seq+uint64(i) {
				l.complain("%s: seq %d stands behind %d", conv, m.Seq, whole[i-1].Seq)
			}
			s := l.sent[m.ClientMsgID]
			if s == nil {
				continue // the group's own
			}
			if at[m.ClientMsgID] != 0 {
				l.complain("%s: message %d of %s is stored twice", conv, s.n, m.Sender)
			}
			at[m.ClientMsgID] = m.Seq
			if next[s.lane]++; s.n != next[s.lane] {
				l.complain("%s: message %d of %s stands where %d belongs", conv, s.n, m.Sender, next[s.lane])
			}
			if s.seq != 0 && s.seq != m.Seq {
				l.complain("%s: message %d of %s was acked as seq %d and is %d", conv, s.n, m.Sender, s.seq, m.Seq)
			}
		}
		for _, s := range l.log {
			if s.lane.conv == conv && !s.acked.IsZero() && at[s.id] == 0 {
				l.complain("%s: message %d of %s was acked as seq %d and is lost", conv, s.n, s.lane.sender.name, s.seq)
			}
		}
		for _, p := range l.people {
			got := p.heard[conv]
			if len(got) == 0 {
				continue
			}
			for _, g := range got {
				if seq := at[g.id]; seq != 0 && seq != g.seq {
					l.complain("%s heard message %s as seq %d, which is %d", p.name, g.id, g.seq, seq)
				}
			}
			if end := got[len(got)-1].seq; len(whole) > 0 && end != whole[len(whole)-1].Seq {
				l.complain("%s heard %s up to %d of %d", p.name, conv, end, whole[len(whole)-1].Seq)
			}
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		l.t.Error(w)
	}
	l.wrong = nil
	return stored
}

// goHome spreads people over the edges as at the beginning.
func (l *load) goHome() {
	for _, p := range l.people {
		p.goHome()
	}
}
