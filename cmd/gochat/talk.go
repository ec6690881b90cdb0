package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

func deviceID(p *profile) id.DeviceID { return id.DeviceID(p.cred.DeviceID) }

// talk is what the person at the console sees. The client's goroutine calls handle, the
// console's calls line; mu guards what both touch.
type talk struct {
	con     *console
	name    string
	client  *gochat.Client
	stopped chan error // the client gave up, and why

	mu      sync.Mutex
	peer    id.UserID                 // who is talked to
	seen    map[id.UserID]uint64      // the last seq shown, by peer
	waiting map[id.ClientMsgID]string // sent and not stored yet
	down    bool

	toRead chan gochat.Message
	done   chan struct{}
	wg     sync.WaitGroup
}

func newTalk(con *console, name string) *talk {
	t := &talk{
		con: con, name: name, stopped: make(chan error, 1), seen: map[id.UserID]uint64{},
		waiting: map[id.ClientMsgID]string{}, toRead: make(chan gochat.Message, 64), done: make(chan struct{}),
	}
	t.wg.Go(t.markRead)
	return t
}

func (t *talk) stop() {
	close(t.done)
	t.wg.Wait()
}

// markRead tells the server what was shown, the latest of a burst only.
func (t *talk) markRead() {
	for {
		var m gochat.Message
		select {
		case <-t.done:
			return
		case m = <-t.toRead:
		}
		select {
		case <-t.done:
			return
		case <-time.After(300 * time.Millisecond):
		}
		last := map[id.ConversationID]uint64{m.Conversation: m.Seq}
		for more := true; more; {
			select {
			case m = <-t.toRead:
				last[m.Conversation] = max(last[m.Conversation], m.Seq)
			default:
				more = false
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		for conv, seq := range last {
			_, _, _ = t.client.MarkRead(ctx, conv, seq) // shown again as unread at worst
		}
		cancel()
	}
}

// handle shows what happens. It runs on the client's goroutine.
func (t *talk) handle(e gochat.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := e.(type) {
	case gochat.Connected:
		if t.down {
			t.note("connected again")
		} else if t.con.interactive {
			t.note("connected as " + string(e.User))
		}
		t.down = false
	case gochat.Disconnected:
		if !t.down {
			t.note("the server is away; what you type is kept and sent when it is back")
		}
		t.down = true
	case gochat.MessageReceived:
		t.show(e.Message)
	case gochat.MessageSent:
		delete(t.waiting, e.ID)
	case gochat.SendFailed:
		text := t.waiting[e.ID]
		delete(t.waiting, e.ID)
		t.note(fmt.Sprintf("not sent: %v: %s", e.Err, printable(text)))
	case gochat.Resynced:
		t.note("the server was restored from a backup; everything is read again")
	case gochat.Stopped:
		select {
		case t.stopped <- e.Err:
		default:
		}
	}
}

func (t *talk) show(m gochat.Message) {
	peer := m.Peer
	if m.Seq <= t.seen[peer] {
		return
	}
	t.seen[peer] = m.Seq
	if t.peer == "" && !m.Own {
		t.setPeer(peer)
		t.note("you are talking to " + string(peer))
	}
	who := string(m.Sender)
	if peer != t.peer {
		who = "[" + string(peer) + "] " + who
	}
	text := m.Text
	if m.Type != 1 {
		text = fmt.Sprintf("(a message of type %d) %s", m.Type, text)
	}
	// On a terminal one's own line stands there already, as it was typed.
	if !m.Own || !t.con.interactive || time.Since(m.Time) > 5*time.Second {
		fmt.Fprintf(t.con, "%s %s: %s\n", m.Time.Local().Format("15:04"), who, printable(text))
	}
	if !m.Own && t.con.interactive {
		select {
		case t.toRead <- m:
		default: // the next one says it too
		}
	}
}

func (t *talk) note(s string) { fmt.Fprintf(t.con, "· %s\n", s) }

func (t *talk) setPeer(peer id.UserID) {
	t.peer = peer
	t.con.prompt(string(peer) + "> ")
}

// printable keeps other people's messages from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}

const help = `/to NAME       talk to somebody
/list          your conversations
/history [N]   the last N messages (default 20)
/quit          leave; what isn't sent yet is sent next time
anything else is sent to whom you are talking to; begin with // to send a /`

// line does what was typed and reports whether that was to leave.
func (t *talk) line(ctx context.Context, line string) (quit bool) {
	cmd, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.TrimSpace(line) == "":
	case strings.HasPrefix(line, "//"):
		t.send(ctx, line[1:])
	case cmd == "/to":
		t.turnTo(ctx, rest)
	case cmd == "/list":
		t.list(ctx)
	case cmd == "/history":
		t.history(ctx, rest)
	case cmd == "/help":
		fmt.Fprintln(t.con, help)
	case cmd == "/quit" || cmd == "/exit":
		return true
	case strings.HasPrefix(line, "/"):
		t.say("no such command: " + printable(cmd) + "; /help lists them")
	default:
		t.send(ctx, line)
	}
	return false
}

func (t *talk) say(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(s)
}

func (t *talk) turnTo(_ context.Context, name string) {
	peer := id.UserID(name)
	if !peer.Valid() {
		t.say("whom? /to NAME")
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setPeer(peer)
	t.note("you are talking to " + name)
}

func (t *talk) send(ctx context.Context, text string) {
	t.mu.Lock()
	peer, seen := t.peer, t.seen[t.peer]
	t.mu.Unlock()
	if peer == "" {
		t.say("to whom? /to NAME")
		return
	}
	// Not under mu: the client's answer may come before Send returns, and handle takes mu.
	r, err := t.client.SendInteractive(ctx, gochat.ToUser(peer), gochat.Text(text), seen)
	if err != nil {
		t.say(fmt.Sprintf("not sent: %v", err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-r.Done():
	default:
		t.waiting[r.ID] = text
	}
}

// drain waits, after the end of piped input, until everything is stored.
func (t *talk) drain(ctx context.Context) error {
	for {
		left := len(t.client.Outbox())
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d messages wait to be sent next time", left)
		case err := <-t.stopped:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (t *talk) list(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	convs, err := t.client.Inbox(ctx)
	if err != nil {
		t.say(awayOr(err))
		return
	}
	if len(convs) == 0 {
		t.say("nobody yet: /to NAME")
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range convs {
		unread := ""
		if c.Unread > 0 {
			unread = fmt.Sprintf(" (%d new)", c.Unread)
		}
		last := ""
		if c.LastSeq > 0 {
			last = fmt.Sprintf("  %s %s: %s", c.LastTime.Local().Format("2 Jan 15:04"), c.PreviewFrom, printable(c.Preview))
		}
		fmt.Fprintf(t.con, "%-16s%s%s\n", c.Peer, unread, last)
	}
}

func (t *talk) history(ctx context.Context, arg string) {
	n := 20
	if arg != "" {
		var err error
		if n, err = strconv.Atoi(arg); err != nil || n < 1 {
			t.say("how many? /history [N]")
			return
		}
	}
	t.mu.Lock()
	peer := t.peer
	t.mu.Unlock()
	if peer == "" {
		t.say("of whom? /to NAME")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ms, more, err := t.client.History(ctx, id.Direct(t.client.User(), peer), 0, n)
	if err != nil {
		t.say(awayOr(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if more {
		t.note("there is more before this")
	}
	for _, m := range ms {
		fmt.Fprintf(t.con, "%s %s: %s\n", m.Time.Local().Format("2 Jan 15:04"), m.Sender, printable(m.Text))
	}
}

func awayOr(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the server doesn't answer"
	}
	return err.Error()
}
