// Package tui is GoChat's terminal client: a list of conversations, the history of one,
// and a prompt. It stands on the client library alone; how to sign in is its caller's.
package tui

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

const (
	page        = 50                     // messages asked for at a time
	callTimeout = 10 * time.Second       // for a call whose answer somebody waits for
	noticeFor   = 8 * time.Second        // a notice stays in the status line
	readAfter   = 400 * time.Millisecond // what is on the screen for this long counts as read
	typingEvery = 4 * time.Second        // we tell that we type at most so often
	typingFor   = 6 * time.Second        // others' typing lapses after
	retryAfter  = 3 * time.Second        // before older messages that could not be read are asked for again
	awayAfter   = 5 * time.Second        // without the focus the app counts as being in the background
	healEvery   = 15 * time.Second       // how far the other side has read is asked for again while it may have moved
)

// Kinds of signals that the terminal client knows.
const (
	signalTyping  = 1
	signalStopped = 2
)

// Model is all that is on the screen. Update and View are called from one goroutine; the
// Cmds that Update returns run beside it and touch nothing of the Model.
type Model struct {
	client *gochat.Client
	ctx    context.Context
	me     id.UserID

	list    gochat.List // what the rows show: folded from the client's events
	convs   map[id.ConversationID]*conversation
	order   []*conversation // pinned first, then latest activity first
	current *conversation
	names   []string // of everybody heard of, for completion

	width, height int
	measure       measure
	blurred       bool // the terminal said that nobody looks
	toldAway      bool // the server knows that
	telling       bool // it is being told

	picking bool // the list has the keys
	filter  prompt
	pick    int

	panel      []string // shown in the place of the history
	panelTitle string
	panelTop   int

	connected bool
	down      error
	retryAt   time.Time
	listed    bool // the whole list was read
	listing   bool
	healed    time.Time

	notice   string
	noticeAt time.Time
	bad      bool // the notice tells of something that went wrong

	completing completion
	fatal      error
	quitting   bool
	now        func() time.Time
}

// New returns the screen of me, who has no conversations yet.
func New(ctx context.Context, me id.UserID) *Model {
	return &Model{ctx: ctx, me: me, convs: map[id.ConversationID]*conversation{}, width: 80, height: 24, now: time.Now}
}

// Use gives the model the client whose events it gets.
func (m *Model) Use(c *gochat.Client) { m.client = c }

// Err returns why the client can't go on, nil if the person left.
func (m *Model) Err() error { return m.fatal }

// Happened carries an event of the client library to Update.
type Happened struct{ Event gochat.Event }

type (
	tick      struct{}
	inboxRead struct {
		convs []gochat.Conversation
		err   error
	}
	pageRead struct {
		conv     *conversation
		messages []gochat.Message
		more     bool
		err      error
	}
	stateRead struct {
		info gochat.Conversation
		err  error
	}
	readDue  struct{ conv *conversation }
	readTold struct {
		conv *conversation
		err  error
	}
	lookDue  struct{}
	lookTold struct {
		away bool
		err  error
	}
	// done is the end of a command: what it did to the screen runs in Update.
	done struct {
		apply func() tea.Cmd
		err   error
	}
)

func (m *Model) Init() tea.Cmd { return tickLater() }

func tickLater() tea.Cmd { return tea.Tick(time.Second, func(time.Time) tea.Msg { return tick{} }) }

func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
	case tea.ModeReportMsg:
		if msg.Mode == ansi.ModeUnicodeCore && (msg.Value == ansi.ModeReset || msg.Value == ansi.ModeSet || msg.Value == ansi.ModePermanentlySet) {
			m.setMeasure(measure{ansi.GraphemeWidth})
		}
	case tea.FocusMsg:
		m.blurred = false
		cmd = m.tellLooking()
	case tea.BlurMsg:
		m.blurred = true
		cmd = tea.Tick(awayAfter, func(time.Time) tea.Msg { return lookDue{} })
	case lookDue:
		cmd = m.tellLooking()
	case lookTold:
		m.telling = false
		if msg.err == nil {
			m.toldAway = msg.away
			cmd = m.tellLooking() // it may have changed meanwhile
		}
	case tea.KeyPressMsg:
		cmd = m.key(msg)
	case tea.PasteMsg:
		cmd = m.paste(msg.Content)
	case tick:
		cmd = tea.Batch(tickLater(), m.heal())
	case Happened:
		cmd = m.event(msg.Event)
	case inboxRead:
		cmd = m.inbox(msg)
	case pageRead:
		m.page(msg)
	case stateRead:
		if msg.err == nil {
			m.heard(msg.info)
		}
	case readDue:
		cmd = m.tellRead(msg.conv)
	case readTold:
		if msg.err != nil {
			msg.conv.readSent = 0 // told again with the next change
		}
	case done:
		if msg.err != nil {
			m.complain(explain(msg.err))
		} else if msg.apply != nil {
			cmd = msg.apply()
		}
	}
	if m.quitting {
		return m, tea.Quit
	}
	m.sortList()
	m.settle()
	return m, tea.Batch(cmd, m.more(), m.seen(), m.readMembers())
}

func (m *Model) setMeasure(to measure) {
	m.measure = to
	for _, c := range m.convs {
		at := join(c.draft.text[:c.draft.at])
		c.draft.set(to, c.draft.value())
		c.draft.at = min(len(to.clusters(at)), len(c.draft.text))
	}
}

// conversation returns the row of conv, made if need be.
func (m *Model) conversation(conv id.ConversationID, peer id.UserID) *conversation {
	c := m.convs[conv]
	if c == nil {
		c = newConversation(conv, peer)
		m.convs[conv] = c
		m.order = append(m.order, c)
	}
	m.remember(string(peer))
	return c
}

// heard takes in how a conversation stands at the server.
func (m *Model) heard(info gochat.Conversation) {
	m.list.Load([]gochat.Conversation{info})
	c := m.conversation(info.ID, info.Peer)
	first := !c.have
	c.have = true
	m.refresh(c)
	if first && c == m.current && c.newFrom == 0 && c.info.Unread > 0 { // it was opened before anything was known of it
		c.newFrom = c.info.ReadSeq + 1
	}
}

// refresh gives the row what the list knows.
func (m *Model) refresh(c *conversation) {
	if info, ok := m.list.Get(c.id); ok {
		if info.Peer == "" {
			info.Peer = c.info.Peer
		}
		info.PeerRecvSeq = max(info.PeerRecvSeq, info.PeerReadSeq)
		c.info = info
	}
	m.nameOf(c)
}

// nameOf gives the row what its other one is called.
func (m *Model) nameOf(c *conversation) {
	if m.client == nil || c.info.Peer == "" {
		return
	}
	if c.peerName = m.client.Name(c.id, c.info.Peer); c.peerName == string(c.info.Peer) {
		c.peerName = ""
	}
}

// remember remembers a name for completion.
func (m *Model) remember(name string) {
	if i, ok := slices.BinarySearch(m.names, name); !ok && name != "" && len(m.names) < 10_000 {
		m.names = slices.Insert(m.names, i, name)
	}
}

func (m *Model) sortList() {
	slices.SortStableFunc(m.order, func(a, b *conversation) int {
		if a.info.Pinned != b.info.Pinned {
			if a.info.Pinned {
				return -1
			}
			return 1
		}
		if c := b.info.LastTime.Compare(a.info.LastTime); c != 0 {
			return c
		}
		return cmp.Compare(a.title(), b.title())
	})
}

// turnTo shows c.
func (m *Model) turnTo(c *conversation) {
	m.picking, m.panel = false, nil
	if m.current == c {
		return
	}
	if m.current != nil {
		m.current.trim()
		m.current.newFrom = 0
	}
	m.current = c
	m.completing = completion{}
	c.readSent = 0
	if c.info.Unread > 0 {
		c.newFrom = c.info.ReadSeq + 1
	}
}

// event acts on what the client library tells.
func (m *Model) event(e gochat.Event) tea.Cmd {
	m.list.Apply(e)
	switch e := e.(type) {
	case gochat.Connected:
		m.connected, m.down = true, nil
		m.me = e.User
		for _, c := range m.convs {
			c.readSent = 0
			m.nameOf(c)
		}
		if !m.listed {
			return m.readInbox()
		}
	case gochat.Disconnected:
		m.connected, m.down, m.retryAt = false, e.Err, m.now().Add(e.Retry)
	case gochat.Stopped:
		m.fatal, m.quitting = e.Err, true
	case gochat.MessageReceived:
		return m.message(e.Message)
	case gochat.MessageSent:
		if c := m.convs[e.Ack.Conversation]; c != nil {
			c.sent(e.ID, e.Ack)
		}
	case gochat.SendFailed:
		for _, c := range m.convs {
			if i := c.waiting(e.ID); i >= 0 {
				c.entries[i].err = e.Err
				m.complain("not sent: " + explain(e.Err))
			}
		}
	case gochat.ConversationChanged:
		m.heard(e.Conversation)
	case gochat.CursorsMoved:
		if c := m.convs[e.Conversation]; c != nil {
			m.refresh(c)
		}
	case gochat.ProfileChanged:
		for _, c := range m.convs {
			if c.info.Peer == e.Profile.User {
				m.nameOf(c)
			}
		}
	case gochat.AccountChanged:
		m.account(e)
	case gochat.SignalReceived:
		m.signal(e)
	case gochat.Resynced:
		m.resynced()
		return m.readInbox()
	}
	return nil
}

// resynced forgets what was read: the server was restored from a backup.
func (m *Model) resynced() {
	for _, c := range m.convs {
		c.entries = slices.DeleteFunc(c.entries, func(e *entry) bool { return e.stored })
		c.have, c.older, c.loading, c.anchor, c.hidden, c.newFrom, c.readSent = false, true, false, nil, 0, 0, 0
		c.info = gochat.Conversation{ID: c.id, Peer: c.info.Peer, Name: c.info.Name}
	}
	m.listed = false
	m.complain("the server was restored from a backup; everything is read again")
}

func (m *Model) message(msg gochat.Message) tea.Cmd {
	c := m.conversation(msg.Conversation, msg.Peer)
	m.remember(string(msg.Sender))
	c.put(msg)
	delete(c.typing, msg.Sender)
	m.refresh(c)
	if c == m.current && c.newFrom == 0 && m.blurred && !msg.Own {
		c.newFrom = msg.Seq
	}
	if c != m.current && len(c.entries) > 2*keep {
		c.trim()
	}
	if msg.Type == typeChange || msg.Type == typeSettings || msg.Type == typeNickname {
		c.members = nil
		return m.readState(c)
	}
	if !c.have && m.listed {
		return m.readState(c)
	}
	return nil
}

// account tells of what happened to the user's account elsewhere.
func (m *Model) account(e gochat.AccountChanged) {
	if m.now().Sub(e.Time) > time.Minute {
		return // it was long ago: the account's own conversation has it
	}
	s := "your account: " + strings.ReplaceAll(e.What, "_", " ")
	if e.Kind != "" {
		s += " on a " + e.Kind
	}
	m.say(s)
}

func (m *Model) signal(s gochat.SignalReceived) {
	c := m.convs[s.Conversation]
	if c == nil || s.Sender == m.me {
		return
	}
	switch s.Kind {
	case signalTyping:
		c.typing[s.Sender] = m.now().Add(typingFor)
	case signalStopped:
		delete(c.typing, s.Sender)
	}
}

// call runs f beside the screen; its context ends after callTimeout.
func (m *Model) call(f func(ctx context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
		defer cancel()
		return f(ctx)
	}
}

func (m *Model) readInbox() tea.Cmd {
	if m.listing {
		return nil
	}
	m.listing = true
	return m.call(func(ctx context.Context) tea.Msg {
		convs, err := m.client.Inbox(ctx)
		return inboxRead{convs, err}
	})
}

func (m *Model) inbox(msg inboxRead) tea.Cmd {
	m.listing = false
	if msg.err != nil { // the tick asks again
		return nil
	}
	m.listed = true
	for _, info := range msg.convs {
		m.heard(info)
	}
	var cmds []tea.Cmd
	for _, c := range m.order {
		if !c.have && c.info.LastSeq > 0 {
			cmds = append(cmds, m.readState(c))
		}
	}
	return tea.Batch(cmds...)
}

func (m *Model) readState(c *conversation) tea.Cmd {
	conv := c.id
	return m.call(func(ctx context.Context) tea.Msg {
		info, err := m.client.Conversation(ctx, conv)
		return stateRead{info, err}
	})
}

// heal asks again for what may have been missed: delivery of positions is a hint.
func (m *Model) heal() tea.Cmd {
	if !m.connected {
		return nil
	}
	if !m.listed {
		return m.readInbox()
	}
	c := m.current
	if c == nil || !c.have || !c.direct() || m.now().Sub(m.healed) < healEvery {
		return nil
	}
	for i := len(c.entries) - 1; i >= 0; i-- {
		if e := c.entries[i]; e.stored && e.msg.Own {
			if e.msg.Seq > c.info.PeerReadSeq {
				m.healed = m.now()
				return m.readState(c)
			}
			break
		}
	}
	return nil
}

// more asks for older messages when the top of the screen comes near the first one.
func (m *Model) more() tea.Cmd {
	c := m.current
	if c == nil || !c.older || c.loading || !m.connected || m.client == nil || m.now().Before(c.retryAt) || !m.nearTop(c) {
		return nil
	}
	c.loading = true
	conv, before := c.id, c.firstSeq()
	return m.call(func(ctx context.Context) tea.Msg {
		ms, more, err := m.client.History(ctx, conv, before, page)
		return pageRead{c, ms, more, err}
	})
}

func (m *Model) page(p pageRead) {
	c := p.conv
	switch {
	case errors.Is(p.err, code.New(code.NoSuchConversation)): // nothing was said yet
		c.older = false
	case p.err != nil:
		if c == m.current {
			m.complain("older messages: " + explain(p.err))
		}
		c.retryAt = m.now().Add(retryAfter)
	default:
		for _, msg := range p.messages {
			c.put(msg)
			m.remember(string(msg.Sender))
		}
		c.older = p.more
	}
	c.loading = false
}

// seen has what is on the screen told as read, after a moment.
func (m *Model) seen() tea.Cmd {
	c := m.current
	if c == nil || m.blurred || m.picking && !m.wide() || m.panel != nil || c.anchor != nil || !m.connected || m.client == nil {
		return nil
	}
	last := c.lastSeq()
	if last <= c.info.ReadSeq || last <= c.readSent {
		return nil
	}
	c.readSent = last
	return tea.Tick(readAfter, func(time.Time) tea.Msg { return readDue{c} })
}

func (m *Model) tellRead(c *conversation) tea.Cmd {
	seq := c.readSent
	if seq == 0 || c != m.current { // left before it could be read
		c.readSent = 0
		return nil
	}
	conv := c.id
	return m.call(func(ctx context.Context) tea.Msg {
		_, _, err := m.client.MarkRead(ctx, conv, seq)
		return readTold{c, err}
	})
}

// tellLooking tells the server whether somebody looks, one call at a time. What fails is told again
// when the terminal gains or loses the focus next; a new connection tells it by itself.
func (m *Model) tellLooking() tea.Cmd {
	if m.client == nil || m.telling || m.toldAway == m.blurred {
		return nil
	}
	m.telling = true
	away := m.blurred
	return m.call(func(ctx context.Context) tea.Msg { return lookTold{away, m.client.SetBackground(ctx, away)} })
}

func (m *Model) say(s string)      { m.notice, m.noticeAt, m.bad = OneLine(s), m.now(), false }
func (m *Model) complain(s string) { m.notice, m.noticeAt, m.bad = OneLine(s), m.now(), true }

func explain(err error) string {
	var e *code.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the server doesn't answer"
	case errors.As(err, &e) && e.Reason != "":
		return e.Reason
	case errors.As(err, &e):
		return strings.ReplaceAll(e.Code.String(), "_", " ")
	}
	return err.Error()
}
