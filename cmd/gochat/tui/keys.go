package tui

import (
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

func (m *Model) key(k tea.KeyPressMsg) tea.Cmd {
	switch s := k.String(); {
	case s == "ctrl+l":
		m.picking = !m.picking
		m.filter, m.pick, m.panel = prompt{}, 0, nil
		if cs := m.found(); m.picking && m.current != nil {
			m.pick = max(slices.Index(cs, m.current), 0)
		}
		return nil
	case m.picking:
		return m.pickKey(k, s)
	case m.panel != nil && m.panelKey(s):
		return nil
	case s == "ctrl+n" || s == "alt+down":
		m.step(1)
		return nil
	case s == "ctrl+p" || s == "alt+up":
		m.step(-1)
		return nil
	}
	return m.promptKey(k)
}

// written is the prompt in use.
func (m *Model) written() *prompt {
	if m.current != nil {
		return &m.current.draft
	}
	return &m.filter
}

// edit changes p by a key that any prompt knows.
func (m *Model) edit(p *prompt, k tea.KeyPressMsg, s string) bool {
	switch s {
	case "left", "ctrl+b":
		p.move(-1)
	case "right", "ctrl+f":
		p.move(1)
	case "ctrl+left", "alt+left", "alt+b":
		p.at = p.wordLeft()
	case "ctrl+right", "alt+right", "alt+f":
		p.at = p.wordRight()
	case "home", "ctrl+a":
		p.at = p.lineStart()
	case "end", "ctrl+e":
		p.at = p.lineEnd()
	case "backspace", "ctrl+h":
		p.deleteTo(max(p.at-1, 0))
	case "delete":
		p.deleteTo(min(p.at+1, len(p.text)))
	case "ctrl+w", "alt+backspace":
		p.deleteTo(p.wordLeft())
	case "ctrl+u":
		p.deleteTo(p.lineStart())
	case "ctrl+k":
		p.deleteTo(p.lineEnd())
	default:
		if k.Text == "" || k.Mod.Contains(tea.ModCtrl) || k.Mod.Contains(tea.ModAlt) {
			return false
		}
		p.insert(m.measure, k.Text)
	}
	return true
}

func (m *Model) promptKey(k tea.KeyPressMsg) tea.Cmd {
	p, s := m.written(), k.String()
	if s != "tab" && s != "shift+tab" {
		m.completing = completion{}
	}
	half := max(m.historyHeight()/2, 1)
	switch s {
	case "enter":
		return m.enter()
	case "alt+enter", "shift+enter", "ctrl+j":
		p.insert(m.measure, "\n")
	case "tab":
		m.complete(1)
	case "shift+tab":
		m.complete(-1)
	case "pgup":
		m.scroll(max(m.historyHeight()-2, 1))
	case "pgdown":
		m.scroll(-max(m.historyHeight()-2, 1))
	case "ctrl+up", "shift+up":
		m.scroll(half)
	case "ctrl+down", "shift+down":
		m.scroll(-half)
	case "ctrl+end":
		m.follow()
	case "up":
		if !p.vertical(m.promptWidth(), -1) {
			m.scroll(1)
		}
	case "down":
		if !p.vertical(m.promptWidth(), 1) {
			m.scroll(-1)
		}
	case "ctrl+r":
		m.chooseReply(-1)
	case "ctrl+t":
		m.chooseReply(1)
	case "esc":
		if m.current != nil && m.current.replyTo != nil {
			m.current.replyTo = nil
		} else {
			m.follow()
		}
	case "ctrl+c":
		if p.empty() {
			m.quitting = true
		}
		p.set(m.measure, "")
	case "ctrl+d":
		if p.empty() {
			m.quitting = true
		} else {
			p.deleteTo(min(p.at+1, len(p.text)))
		}
	default:
		if m.edit(p, k, s) {
			return m.tellTyping()
		}
	}
	return nil
}

// follow goes back to the newest message.
func (m *Model) follow() {
	if m.current != nil {
		m.current.anchor, m.current.hidden = nil, 0
	}
}

func (m *Model) paste(text string) tea.Cmd {
	if m.picking {
		m.filter.insert(m.measure, OneLine(text))
		m.pick = 0
		return nil
	}
	m.panel = nil
	m.written().insert(m.measure, strings.TrimRight(text, "\r\n"))
	return m.tellTyping()
}

// pickKey acts on a key while the list has them.
func (m *Model) pickKey(k tea.KeyPressMsg, s string) tea.Cmd {
	cs := m.found()
	switch s {
	case "esc", "ctrl+c":
		m.picking, m.filter = false, prompt{}
	case "up", "ctrl+p", "shift+tab":
		m.pick = max(m.pick-1, 0)
	case "down", "ctrl+n", "tab":
		m.pick = min(m.pick+1, max(len(cs)-1, 0))
	case "pgup":
		m.pick = max(m.pick-10, 0)
	case "pgdown":
		m.pick = min(m.pick+10, max(len(cs)-1, 0))
	case "enter":
		if m.pick < len(cs) {
			m.filter = prompt{}
			m.turnTo(cs[m.pick])
		}
	default:
		if m.edit(&m.filter, k, s) {
			m.pick = 0
		}
	}
	return nil
}

// panelKey acts on a key while a panel is shown; false: it goes on to the prompt, and the panel goes.
func (m *Model) panelKey(s string) bool {
	switch s {
	case "up":
		m.panelTop--
	case "down":
		m.panelTop++
	case "pgup":
		m.panelTop -= max(m.historyHeight()-1, 1)
	case "pgdown":
		m.panelTop += max(m.historyHeight()-1, 1)
	case "esc", "ctrl+c":
		m.panel = nil
	case "enter":
		if !m.written().empty() {
			return false
		}
		m.panel = nil
	default:
		return false
	}
	return true
}

// step opens the conversation that stands by rows below the current one in the list.
func (m *Model) step(by int) {
	cs := m.visible()
	if len(cs) == 0 {
		return
	}
	i := slices.Index(cs, m.current)
	if i < 0 && by > 0 {
		i = -1
	} else if i < 0 {
		i = 0
	}
	m.turnTo(cs[((i+by)%len(cs)+len(cs))%len(cs)])
}

// shown reports whether the list has a row for c.
func (m *Model) shown(c *conversation) bool {
	if c != m.current && (c.info.Hidden || c.info.LeftSeq != 0) {
		return false
	}
	return c == m.current || c.info.LastSeq > 0 || len(c.entries) > 0 || !c.draft.empty() || c.group() && c.have
}

// chooseReply moves the message that is replied to by one: below 0 to older ones, above to newer.
func (m *Model) chooseReply(by int) {
	c := m.current
	if c == nil {
		return
	}
	i := len(c.entries)
	if c.replyTo != nil {
		if at, ok := c.search(c.replyTo.msg.Seq); ok {
			i = at
		}
	} else if c.anchor != nil {
		i, _ = c.bottom()
		i++
	}
	for i += by; i >= 0 && i < len(c.entries); i += by {
		e := c.entries[i]
		if _, sys := system(e.msg); e.stored && !sys && (c.replyTo != nil || !e.msg.Own) {
			c.replyTo = e
			m.reveal(c, i)
			return
		}
	}
	if by > 0 {
		c.replyTo = nil
	}
}

// reveal scrolls until entry i is on the screen.
func (m *Model) reveal(c *conversation, i int) {
	w, h := m.paneWidth(), m.historyHeight()
	last, hidden := c.bottom()
	if i > last || i == last && hidden > 0 {
		m.place(c, i, 0)
		return
	}
	n := -hidden
	for j := last; j >= i; j-- {
		n += len(m.lines(c, j, w))
	}
	if n > h {
		m.place(c, last, hidden+n-h)
	}
}

// tellTyping lets the others know that something is being written, now and then.
func (m *Model) tellTyping() tea.Cmd {
	c := m.current
	if c == nil || !c.have || c.info.LastSeq == 0 || !m.connected || c.draft.empty() || c.draft.text[0].s == "/" || m.now().Sub(c.typedAt) < typingEvery {
		return nil
	}
	if c.direct() && c.info.Peer == "" || c.info.LeftSeq != 0 {
		return nil
	}
	c.typedAt = m.now()
	return m.tell(c, signalTyping)
}

func (m *Model) tell(c *conversation, kind uint32) tea.Cmd {
	to := gochat.ToConversation(c.id)
	return func() tea.Msg {
		_ = m.client.Signal(to, kind, nil) // it may be lost anyway
		return nil
	}
}

// enter does what was written.
func (m *Model) enter() tea.Cmd {
	p := m.written()
	text := strings.TrimRight(p.value(), " \n")
	if strings.TrimSpace(text) == "" {
		m.follow()
		return nil
	}
	if strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "//") {
		p.set(m.measure, "")
		m.panel = nil
		return m.command(text)
	}
	text = strings.TrimPrefix(text, "/") // "//" begins a message with one
	if m.current == nil {
		m.complain("to whom? /to NAME")
		return nil
	}
	return m.send(m.current, text)
}

// send stores a message in the outbox and shows it. What can't be sent stays in the prompt.
func (m *Model) send(c *conversation, text string) tea.Cmd {
	content := gochat.Text(text)
	content.Mentions, content.MentionAll = called(text, m.peopleOf(c))
	if c.replyTo != nil {
		content.ReplyToSeq = c.replyTo.msg.Seq
	}
	var cmd tea.Cmd
	if !c.typedAt.IsZero() && m.connected {
		cmd = m.tell(c, signalStopped)
	}
	// Here, and not beside the screen: the order of calls is the order of messages.
	r, err := m.client.SendInteractive(m.ctx, c.target(m.me), content, c.lastSeq())
	if err != nil {
		m.complain("not sent: " + explain(err))
		return nil
	}
	msg := gochat.Message{Conversation: c.id, Peer: c.info.Peer, Sender: m.me, ClientMsgID: r.ID, Own: true, Time: m.now(), Content: content}
	c.entries = append(c.entries, &entry{msg: msg})
	c.draft.set(m.measure, "")
	c.replyTo, c.newFrom, c.typedAt = nil, 0, c.typedAt.Add(-typingEvery)
	m.follow()
	return cmd
}

// completion is what Tab has offered last.
type completion struct {
	choices []string
	at      int
}

// complete puts the next word that fits in the place of the one before the cursor: a command, or a person behind @ and after a command.
func (m *Model) complete(by int) {
	p := m.written()
	if len(m.completing.choices) == 0 {
		m.completing = completion{choices: m.choices(p), at: -1}
		if by < 0 {
			m.completing.at = 0
		}
	}
	n := len(m.completing.choices)
	if n == 0 {
		return
	}
	m.completing.at = ((m.completing.at+by)%n + n) % n
	if word := p.word(); word == "" && p.at > 0 && isSpace(p.text[p.at-1]) && m.completing.choices[0] != "" {
		p.deleteTo(p.at - 1) // the space behind what was offered before
	}
	p.replaceWord(m.measure, m.completing.choices[m.completing.at]+" ")
}

func (m *Model) choices(p *prompt) []string {
	word, text := p.word(), p.value()
	var all []string
	lead := ""
	switch {
	case strings.HasPrefix(word, "/") && len(m.clusters(word)) == p.at:
		for _, c := range commands {
			all = append(all, "/"+c.name)
		}
	case strings.HasPrefix(word, "@") && m.current != nil:
		lead = "@"
		all = append(slices.Clone(m.peopleOf(m.current)), "all")
	case strings.HasPrefix(text, "/to "):
		all = slices.Clone(m.names)
		for _, c := range m.order {
			if c.group() && c.info.Name != "" && !strings.Contains(c.info.Name, " ") {
				all = append(all, c.info.Name)
			}
		}
	case strings.HasPrefix(text, "/") && word != "":
		all = slices.Clone(m.names)
	}
	var fit []string
	for _, a := range all {
		if strings.HasPrefix(strings.ToLower(lead+a), strings.ToLower(word)) && lead+a != lead+string(m.me) {
			fit = append(fit, lead+a)
		}
	}
	return fit
}

func (m *Model) clusters(s string) []cluster { return m.measure.clusters(s) }

// peopleOf returns whom a message in c may call.
func (m *Model) peopleOf(c *conversation) []string {
	if c.direct() {
		return []string{string(c.info.Peer)}
	}
	names := slices.Clone(c.members)
	for _, e := range c.entries {
		if s := string(e.msg.Sender); s != string(m.me) && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}
