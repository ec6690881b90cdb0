package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/cmd/gochat/tui"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// talk is what the person at the console sees. The client's goroutine calls handle, the
// console's calls line; mu guards what both touch.
type talk struct {
	con     *console
	me      id.UserID
	client  *gochat.Client
	stopped chan error // the client gave up, and why

	mu      sync.Mutex
	conv    id.ConversationID            // what is talked in; zero: nothing yet
	seen    map[id.ConversationID]uint64 // the last seq shown
	titles  map[id.ConversationID]string
	waiting map[id.ClientMsgID]string // sent and not stored yet
	typed   map[id.ClientMsgID]bool   // sent from here and not shown by the server yet
	sending int                       // Sends under way, whose ids aren't known yet
	failed  int                       // messages that will never be stored, and commands that there aren't
	down    bool

	toRead chan gochat.Message
	done   chan struct{}
	wg     sync.WaitGroup
}

func newTalk(con *console, me id.UserID) *talk {
	t := &talk{
		con: con, me: me, stopped: make(chan error, 1), seen: map[id.ConversationID]uint64{}, titles: map[id.ConversationID]string{},
		waiting: map[id.ClientMsgID]string{}, typed: map[id.ClientMsgID]bool{}, toRead: make(chan gochat.Message, 64), done: make(chan struct{}),
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
	case gochat.ConversationChanged:
		t.know(e.Conversation)
	case gochat.MessagesLeftOut:
		t.note(fmt.Sprintf("%s: %d messages were left out, too much is said at once; /history has them", t.title(e.Conversation), e.Count))
	case gochat.RoomLeft:
		t.note(fmt.Sprintf("you are not in %s any more: %v", t.title(e.Conversation), e.Err))
		if t.conv == e.Conversation {
			t.conv = id.ConversationID{}
		}
	case gochat.MessageSent:
		delete(t.waiting, e.ID)
	case gochat.SendFailed:
		t.failed++
		delete(t.typed, e.ID)
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
	if m.Seq <= t.seen[m.Conversation] {
		return
	}
	t.seen[m.Conversation] = m.Seq
	if m.Peer != "" {
		t.titles[m.Conversation] = string(m.Peer)
	}
	if t.conv.IsZero() && !m.Own && m.Conversation.Kind() != id.KindSelf {
		t.setConversation(m.Conversation)
		t.note("you are talking to " + t.title(m.Conversation))
	}
	who := string(m.Sender)
	if m.Conversation != t.conv {
		who = "[" + t.title(m.Conversation) + "] " + who
	}
	text := tui.Text(m)
	// On a terminal a line typed here stands there already; one's own from another device doesn't.
	here := m.Own && (t.typed[m.ClientMsgID] || t.sending > 0)
	delete(t.typed, m.ClientMsgID)
	if !here || !t.con.interactive {
		fmt.Fprintf(t.con, "%s %s: %s\n", m.Time.Local().Format("15:04"), who, printable(text))
	}
	if !m.Own && t.con.interactive && m.Conversation.Kind() != id.KindRoom {
		select {
		case t.toRead <- m:
		default: // the next one says it too
		}
	}
}

func (t *talk) note(s string) { fmt.Fprintf(t.con, "· %s\n", s) }

// title is what a conversation is called here.
func (t *talk) title(conv id.ConversationID) string {
	if s := t.titles[conv]; s != "" {
		return printable(s)
	}
	if conv == id.Direct(t.me, t.me) {
		return "yourself"
	}
	return conv.String()
}

func (t *talk) know(c gochat.Conversation) {
	switch {
	case c.Peer != "":
		t.titles[c.ID] = string(c.Peer)
	case c.Name != "":
		t.titles[c.ID] = c.Name
	case c.ID.Kind() == id.KindSelf:
		t.titles[c.ID] = "account"
	}
}

func (t *talk) setConversation(conv id.ConversationID) {
	t.conv = conv
	t.con.prompt(t.title(conv) + "> ")
}

func printable(s string) string { return tui.OneLine(s) }

const help = `/to NAME       talk to somebody, or in a group by its name or id
/room NAME     enter a room, and talk there
/leave         leave it
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
		t.turnTo(rest)
	case cmd == "/room":
		if err := t.enter(ctx, rest); err != nil {
			t.say(err.Error())
		}
	case cmd == "/leave":
		t.leave(ctx)
	case cmd == "/list":
		t.list(ctx)
	case cmd == "/history":
		t.history(ctx, rest)
	case cmd == "/help":
		fmt.Fprintln(t.con, help)
	case cmd == "/quit" || cmd == "/exit":
		return true
	case strings.HasPrefix(line, "/"):
		t.mu.Lock()
		t.failed++
		t.note("no such command: " + printable(cmd) + "; /help lists them")
		t.mu.Unlock()
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

func (t *talk) turnTo(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	conv, err := id.ParseConversation(name)
	for c, title := range t.titles {
		if title == name && c.Kind() == id.KindGroup {
			conv, err = c, nil
		}
	}
	if err != nil {
		peer := id.UserID(name)
		if !peer.Valid() {
			t.note("whom? /to NAME")
			return
		}
		conv = id.Direct(t.me, peer)
		t.titles[conv] = name
	}
	t.setConversation(conv)
	t.note("you are talking to " + t.title(conv))
}

// enter enters the room of that name, which is made if there is none, and turns to it.
func (t *talk) enter(ctx context.Context, name string) error {
	if name == "" {
		return errors.New("which? /room NAME")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	conv := gochat.RoomID(name)
	err := t.client.Connected(ctx)
	var room gochat.Room
	if err == nil {
		room, err = t.client.JoinRoom(ctx, conv)
	}
	var refused *code.Error
	if errors.As(err, &refused) && refused.Code == code.NoSuchConversation {
		if _, err = t.client.CreateRoom(ctx, name, "", 0); err == nil {
			room, err = t.client.JoinRoom(ctx, conv)
		}
	}
	if err != nil {
		return fmt.Errorf("the room %s: %s", printable(name), awayOr(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.titles[conv] = name
	t.setConversation(conv)
	if t.con.interactive {
		t.note(fmt.Sprintf("you are in %s, where there are %d; /history shows what was said", t.title(conv), room.Count))
	}
	return nil
}

// leave leaves the room that is talked in.
func (t *talk) leave(ctx context.Context) {
	t.mu.Lock()
	conv := t.conv
	t.mu.Unlock()
	if conv.Kind() != id.KindRoom {
		t.say("you are in no room here; /quit leaves altogether")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := t.client.LeaveRoom(ctx, conv); err != nil {
		t.say(awayOr(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note("you have left " + t.title(conv))
	t.conv = id.ConversationID{}
	t.con.prompt("> ")
}

// target is where what is typed goes: a direct conversation may have to be made.
func (t *talk) target() gochat.Target {
	if peer := id.UserID(t.titles[t.conv]); t.conv.Kind() == id.KindDirect && id.Direct(t.me, peer) == t.conv {
		return gochat.ToUser(peer)
	}
	return gochat.ToConversation(t.conv)
}

func (t *talk) send(ctx context.Context, text string) {
	t.mu.Lock()
	conv, seen := t.conv, t.seen[t.conv]
	to := t.target()
	if conv.IsZero() {
		t.failed++
		t.mu.Unlock()
		t.say("to whom? /to NAME")
		return
	}
	t.sending++
	t.mu.Unlock()
	// Not under mu: the client's answer may come before Send returns, and handle takes mu.
	var r *gochat.Receipt
	var err error
	if conv.Kind() == id.KindRoom { // nobody has read up to somewhere there
		r, err = t.client.Send(ctx, to, gochat.Text(text))
	} else {
		r, err = t.client.SendInteractive(ctx, to, gochat.Text(text), seen)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sending--
	if err != nil {
		t.failed++
		t.note(fmt.Sprintf("not sent: %v", err))
		return
	}
	if t.con.interactive {
		t.typed[r.ID] = true
	}
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
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.failed > 0 {
				return fmt.Errorf("%d lines came to nothing", t.failed)
			}
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
		t.know(c)
		unread := ""
		if c.Unread > 0 {
			unread = fmt.Sprintf(" (%d new)", c.Unread)
		}
		last := ""
		if c.LastSeq > 0 {
			last = fmt.Sprintf("  %s %s: %s", c.LastTime.Local().Format("2 Jan 15:04"), c.PreviewFrom, printable(c.Preview))
		}
		fmt.Fprintf(t.con, "%-16s%s%s\n", t.title(c.ID), unread, last)
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
	conv := t.conv
	t.mu.Unlock()
	if conv.IsZero() {
		t.say("of whom? /to NAME")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ms, more, err := t.client.History(ctx, conv, 0, n)
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
		fmt.Fprintf(t.con, "%s %s: %s\n", m.Time.Local().Format("2 Jan 15:04"), m.Sender, printable(tui.Text(m)))
	}
}

func awayOr(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the server doesn't answer"
	}
	return err.Error()
}
