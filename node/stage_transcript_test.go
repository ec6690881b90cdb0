package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/hook"
)

// Transcripts are scenes of several devices at one server, in testdata/transcripts. A scene is blocks, one after another:
//
//	# a comment
//	alice/phone say bob hello
//	----
//	= 1
//	bob/phone      alice  1 alice: hello
//
// Above the dashes stand commands (see the table in commands), below, first what they were answered, then what each device that is
// there has seen since the block before: the messages of each conversation, in the order in which they came, what
// else it was told, and how conversations stand in its list where that has changed. With -rewrite the lower halves are
// written anew, after everything has been quiet for a while. Without, a block waits until what was seen is what is
// written there, and no clock decides.
var rewrite = flag.Bool("rewrite", false, "write the lower halves of testdata/transcripts anew")

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newStage(t)
			var out strings.Builder
			for _, b := range blocksOf(string(text)) {
				got := s.play(b)
				out.WriteString(b.head + "----\n" + got + "\n")
				if !*rewrite && got != b.want {
					t.Fatalf("%s: after\n%s\nis\n%s\nwant\n%s", file, b.head, got, b.want)
				}
			}
			s.end()
			if *rewrite && !t.Failed() {
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(out.String(), "\n")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// block is some commands and what comes of them.
type block struct{ head, want string }

func blocksOf(text string) (all []block) {
	var b block
	below := false
	for line := range strings.Lines(text) {
		switch {
		case line == "----\n":
			below = true
		case below && strings.TrimSpace(line) == "":
			all, b, below = append(all, b), block{}, false
		case below:
			b.want += line
		default:
			b.head += line
		}
	}
	if below {
		all = append(all, b)
	}
	return all
}

// stage is where a scene plays: a server, and devices.
type stage struct {
	t      *testing.T
	ctx    context.Context
	data   string
	addr   string
	change func(*Config, *Program)
	node   *running
	groups map[string]id.ConversationID // by the names that the scene gives them

	mu      sync.Mutex // guards what the players have seen
	players map[string]*player
	news    chan struct{} // closed and replaced at each event
	wrong   error
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, data: t.TempDir(), addr: "127.0.0.1:0", groups: map[string]id.ConversationID{}, players: map[string]*player{}, news: make(chan struct{})}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return s
}

// start starts the server, again at the same address.
func (s *stage) start() error {
	cfg, in := Default(), Program{Version: "test", Logger: slog.New(slog.DiscardHandler)}
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = s.data, s.addr, "127.0.0.1:0"
	cfg.Storage.Memtable, cfg.HTTP.AuthPerMinute = 4<<20, 10_000
	cfg.Limits.SendsPerSecond, cfg.Limits.UserSendsPerSecond, cfg.Limits.BytesPerSecond = 100_000, 100_000, 1<<30
	if s.change != nil {
		s.change(&cfg, &in)
	}
	n, err := New(cfg, in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	s.node = &running{Node: n, stop: func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}}
	s.t.Cleanup(func() { _ = s.node.stop() })
	s.addr = n.TCPAddr().String()
	return nil
}

// end sends everybody away and looks whether the store is sound.
func (s *stage) end() {
	s.t.Helper()
	for _, p := range s.players {
		p.leave()
	}
	if s.node == nil {
		s.t.Fatal("nothing happened")
	}
	if err := s.node.stop(); err != nil {
		s.t.Error(err)
	}
	var findings []string
	sum, err := storage.Check(s.ctx, s.node.cfg, slog.New(slog.DiscardHandler), func(_, text string) { findings = append(findings, text) })
	if err != nil || sum.Errors+sum.Warnings > 0 {
		s.t.Errorf("audit: %+v, %v, %q", sum, err, findings)
	}
}

// play runs a block and returns its lower half: as it should be, as soon as it is, else as it is in the end.
func (s *stage) play(b block) string {
	var answers strings.Builder
	for line := range strings.Lines(b.head) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#!")
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(line, "#") {
			answers.WriteString(s.run(words))
		}
	}
	const patience, quiet = 2 * time.Minute, 3 * time.Second
	end := time.After(patience)
	for {
		var still <-chan time.Time
		if *rewrite {
			still = time.After(quiet)
		}
		s.mu.Lock()
		got, news := answers.String()+s.seen(), s.news
		if !*rewrite && got == b.want {
			s.forget()
			s.mu.Unlock()
			return got
		}
		s.mu.Unlock()
		select {
		case <-news:
			continue
		case <-still:
		case <-end:
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		got = answers.String() + s.seen()
		s.forget()
		return got
	}
}

// seen is what all devices have seen since forget. The caller holds mu.
func (s *stage) seen() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.players)) {
		for _, line := range s.players[name].seen() {
			fmt.Fprintf(&b, "%-14s %s\n", name, line)
		}
	}
	if s.wrong != nil {
		fmt.Fprintf(&b, "wrong: %v\n", s.wrong)
	}
	return b.String()
}

func (s *stage) forget() {
	for _, p := range s.players {
		p.messages, p.told = map[id.ConversationID][]gochat.Message{}, nil
		for _, c := range p.listed() {
			p.shown[c.ID] = p.stands(c)
		}
	}
}

// label is how a scene calls a conversation, for a user.
func (s *stage) label(c id.ConversationID, user id.UserID) string {
	for name, g := range s.groups {
		if g == c {
			return name
		}
	}
	for _, p := range s.players {
		if c == id.Direct(user, p.user) {
			return string(p.user)
		}
	}
	if c.Kind() == id.KindSelf {
		return "self"
	}
	return c.String()[:8]
}

// player is one device.
type player struct {
	s      *stage
	name   string // user/device
	user   id.UserID
	device string
	token  string
	store  gochat.Store
	client *gochat.Client // nil: away
	wire   *tap           // of the connection that was made last
	list   gochat.List
	known  map[id.ConversationID]bool // what the list holds
	last   map[id.ConversationID]uint64

	messages map[id.ConversationID][]gochat.Message
	told     []string
	shown    map[id.ConversationID]string
}

func (p *player) handle(e gochat.Event) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.list.Apply(e)
	switch e := e.(type) {
	case gochat.Connected:
		p.tell("is connected")
	case gochat.Stopped:
		p.tell("stops: " + told(e.Err))
	case gochat.MessageReceived:
		m := e.Message
		if m.Seq <= p.last[m.Conversation] {
			p.s.wrong = fmt.Errorf("%s got message %d after %d", p.name, m.Seq, p.last[m.Conversation])
		}
		p.last[m.Conversation], p.known[m.Conversation] = m.Seq, true
		p.messages[m.Conversation] = append(p.messages[m.Conversation], m)
	case gochat.ConversationChanged:
		p.known[e.Conversation.ID] = true
	case gochat.CursorsMoved:
		p.known[e.Conversation] = true
	case gochat.SendFailed:
		p.tell("could not send: " + told(e.Err))
	case gochat.MessagesGone:
		p.tell(fmt.Sprintf("%s: what is below %d is gone", p.s.label(e.Conversation, p.user), e.FirstSeq))
	case gochat.ProfileChanged:
		p.tell(fmt.Sprintf("%s is called %q", e.Profile.User, e.Profile.Name))
	case gochat.SignalReceived:
		what := fmt.Sprintf("signals %d", e.Kind)
		switch e.Kind {
		case gochat.SignalTyping:
			what = "is typing"
		case gochat.SignalStopped:
			what = "has stopped typing"
		}
		p.tell(fmt.Sprintf("%s: %s/%s %s", p.s.label(e.Conversation, p.user), e.Sender, e.Device, what))
	case gochat.RoomLeft:
		p.tell(fmt.Sprintf("%s: is out: %s", p.s.label(e.Conversation, p.user), told(e.Err)))
	case gochat.MessagesLeftOut:
		p.tell(fmt.Sprintf("%s: %d were left out", p.s.label(e.Conversation, p.user), e.Count))
	case gochat.DraftChanged:
		p.tell(fmt.Sprintf("%s: %s/%s writes %q", p.s.label(e.Conversation, p.user), e.Sender, e.Device, e.Text))
	case gochat.AccountChanged:
		line := "account: " + e.What
		if e.Device != "" {
			line += " " + string(e.Device)
		}
		if e.By != "" {
			line += " by " + string(e.By)
		}
		p.tell(line)
	}
	close(p.s.news)
	p.s.news = make(chan struct{})
}

func (p *player) tell(line string) { p.told = append(p.told, line) }

func told(err error) string {
	if e, ok := asCode(err); ok {
		return fmt.Sprintf("%s (%s)", e.Code, e.Reason)
	}
	return err.Error()
}

// seen is what the device has seen since forget.
func (p *player) seen() (lines []string) {
	var convs []id.ConversationID
	for c := range p.messages {
		if c.Kind() != id.KindSelf {
			convs = append(convs, c)
		}
	}
	slices.SortFunc(convs, func(a, b id.ConversationID) int {
		return cmp.Or(cmp.Compare(p.s.label(a, p.user), p.s.label(b, p.user)), bytes.Compare(a[:], b[:]))
	})
	for _, c := range convs {
		label := p.s.label(c, p.user)
		for _, m := range folded(p.messages[c]) {
			lines = append(lines, fmt.Sprintf("%-6s %s", label, m))
		}
	}
	// What isn't of one conversation has no order, and a connection that fails is made anew.
	others := slices.Clone(p.told)
	if i := slices.IndexFunc(others, func(s string) bool { return strings.HasPrefix(s, "stops") }); i >= 0 {
		others = others[i : i+1] // what happened to the account just before may have reached it, or not
	}
	slices.Sort(others)
	lines = append(lines, slices.Compact(others)...)
	var stand []string
	for _, c := range p.listed() {
		if now := p.stands(c); now != p.shown[c.ID] {
			stand = append(stand, now)
		}
	}
	slices.Sort(stand)
	return append(lines, stand...)
}

// folded writes messages down, a flood in one line.
func folded(ms []gochat.Message) (lines []string) {
	for i := 0; i < len(ms); i++ {
		j := i
		for j+1 < len(ms) && isFlood(ms[i]) && isFlood(ms[j+1]) && ms[j+1].Seq == ms[j].Seq+1 {
			j++
		}
		if j > i {
			lines = append(lines, fmt.Sprintf("%d to %d, %s: a flood", ms[i].Seq, ms[j].Seq, ms[i].Sender))
			i = j
			continue
		}
		lines = append(lines, written(&ms[i]))
	}
	return lines
}

func isFlood(m gochat.Message) bool { return strings.HasPrefix(m.Text, "flood ") }

func written(m *gochat.Message) string {
	text := m.Text
	if w, ok := m.Membership(); ok {
		text = fmt.Sprintf("(%s %s", w.Do, strings.Join(stringsOf(w.Users), ", "))
		if w.Role != "" {
			text += " " + w.Role
		}
		text += ")"
	}
	if w, ok := m.GroupChange(); ok {
		text = "(changes the group"
		if w.Name != nil {
			text += fmt.Sprintf(", name %q", *w.Name)
		}
		if w.Join != nil {
			text += fmt.Sprintf(", join %d", *w.Join)
		}
		text += ")"
	}
	if nick, ok := m.Nickname(); ok {
		text = fmt.Sprintf("(nickname %q)", nick)
	}
	return fmt.Sprintf("%d %s: %s", m.Seq, m.Sender, text)
}

func stringsOf(users []id.UserID) (out []string) {
	for _, u := range users {
		out = append(out, string(u))
	}
	return out
}

func (p *player) listed() (all []gochat.Conversation) {
	for c := range p.known {
		if v, ok := p.list.Get(c); ok && c.Kind() != id.KindSelf {
			all = append(all, v)
		}
	}
	return all
}

// stands is how a conversation stands in the device's list.
func (p *player) stands(c gochat.Conversation) string {
	line := fmt.Sprintf("[%s] last %d, read %d, unread %d", p.s.label(c.ID, p.user), c.LastSeq, c.ReadSeq, c.Unread)
	add := func(yes bool, format string, args ...any) {
		if yes {
			line += ", " + fmt.Sprintf(format, args...)
		}
	}
	add(c.Mentions > 0, "mentioned %d", c.Mentions)
	add(c.PeerRecvSeq > 0, "received %d", c.PeerRecvSeq)
	add(c.PeerReadSeq > 0, "seen %d", c.PeerReadSeq)
	add(c.Name != "", "%q", c.Name)
	add(c.Nickname != "", "as %q", c.Nickname)
	add(c.Role > gochat.Member, "%s", c.Role)
	add(c.LeftSeq != 0, "left %d", c.LeftSeq)
	add(c.Pinned, "pinned")
	add(c.Muted, "muted")
	add(c.Hidden, "hidden")
	return line
}

// tap is a connection that can be made to stall, and that notes which frames came.
type tap struct {
	net.Conn
	mu    sync.Mutex
	cond  *sync.Cond
	stall bool
	over  bool
	buf   []byte
	hints int
}

func tapped(c net.Conn) *tap {
	t := &tap{Conn: c}
	t.cond = sync.NewCond(&t.mu)
	return t
}

func (t *tap) Read(b []byte) (int, error) {
	t.mu.Lock()
	for t.stall && !t.over {
		t.cond.Wait()
	}
	t.mu.Unlock()
	n, err := t.Conn.Read(b[:min(len(b), 16<<10)])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b[:n]...)
	for {
		f, used, ferr := frame.Parse(t.buf, frame.HardMax)
		if ferr != nil || used == 0 {
			return n, err
		}
		if f.Type == frame.Hint {
			t.hints++
		}
		t.buf = t.buf[used:]
	}
}

func (t *tap) Close() error {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.cond.Broadcast()
	return t.Conn.Close()
}

func (t *tap) stalled(on bool) {
	t.mu.Lock()
	t.stall = on
	t.mu.Unlock()
	t.cond.Broadcast()
}

// censor is the hook of the scenes.
var censor = hook.Func(func(_ context.Context, m *hook.Message) (hook.Verdict, error) {
	soft := strings.ReplaceAll(m.Content, "damn", "d***")
	switch {
	case strings.Contains(m.Content, "spam"):
		return hook.Verdict{Refuse: true, Reason: "no advertising"}, nil
	case soft != m.Content:
		return hook.Verdict{Content: &soft}, nil
	}
	return hook.Verdict{}, nil
})

func asCode(err error) (*code.Error, bool) {
	var e *code.Error
	ok := errors.As(err, &e)
	return e, ok
}
