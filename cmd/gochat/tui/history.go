package tui

import (
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/gochat-im/gochat/protocol/id"
)

// together is how far apart messages of one sender may be under one heading.
const together = 5 * time.Minute

// block draws one message: a line for the day or for what is new, the sender, the text. prev stands above it, if any.
func (m *Model) block(c *conversation, e, prev *entry, w int) []string {
	var lines []string
	put := func(style lipgloss.Style, s string) { lines = append(lines, style.Render(m.measure.pad(s, w))) }
	msg := e.msg
	fresh := prev == nil || !sameDay(prev.msg.Time, msg.Time)
	if fresh {
		put(dim, m.rule(m.day(msg.Time), w))
	}
	if m.beginsNew(c, e, prev) {
		put(calling, m.rule("new", w))
		fresh = true
	}
	if s, ok := system(msg); ok {
		for _, l := range m.measure.wrap(OneLine(s), w-4) {
			put(dim, "  · "+l)
		}
		return lines
	}
	if prev != nil && !fresh {
		_, wasSystem := system(prev.msg)
		fresh = wasSystem || prev.msg.Sender != msg.Sender || msg.Time.Sub(prev.msg.Time) > together
	}
	chosen := c.replyTo == e
	if fresh {
		style := own
		if !msg.Own {
			style = colorOf(string(msg.Sender))
		}
		name := m.measure.cut(OneLine(m.called(c, msg.Sender)), w-8)
		at := msg.Time.Local().Format("15:04")
		lines = append(lines, " "+style.Render(name)+" "+dim.Render(m.measure.pad(at, w-2-m.measure.StringWidth(name))))
	}
	lead, style := "   ", lipgloss.NewStyle()
	switch {
	case chosen:
		lead, style = " ▌ ", accent
	case e.err != nil:
		style = alert
	case mentions(msg, m.me):
		lead, style = " @ ", calling
	}
	if msg.ReplyToSeq != 0 {
		about := "an earlier message"
		if r := c.find(msg.ReplyToSeq); r != nil {
			about = m.called(c, r.msg.Sender) + ": " + Text(r.msg)
		}
		put(dim, "   ┌ "+m.measure.cut(OneLine(about), w-6))
	}
	mark, markStyle := m.mark(c, e)
	text := m.measure.wrap(Printable(Text(msg)), w-6)
	for i, l := range text {
		if i < len(text)-1 || mark == "" {
			put(style, lead+l)
			continue
		}
		room := w - 3 - m.measure.StringWidth(mark) - 1
		lines = append(lines, style.Render(lead+m.measure.pad(l, room))+markStyle.Render(mark)+" ")
	}
	if e.err != nil {
		for _, l := range m.measure.wrap("not sent: "+OneLine(explain(e.err)), w-6) {
			put(alert, "   "+l)
		}
	}
	return lines
}

// mark tells how far one's own message has come.
func (m *Model) mark(c *conversation, e *entry) (string, lipgloss.Style) {
	switch {
	case !e.msg.Own:
		return "", dim
	case e.err != nil:
		return "✗", alert
	case !e.stored:
		return "…", dim
	case c.direct() && c.info.Peer != "" && e.msg.Seq <= c.info.PeerReadSeq:
		return "✓✓", good
	case c.direct() && c.info.Peer != "" && e.msg.Seq <= c.info.PeerRecvSeq:
		return "✓✓", dim
	}
	return "✓", dim
}

func (m *Model) beginsNew(c *conversation, e, prev *entry) bool {
	if c.newFrom == 0 || !e.stored || e.msg.Seq < c.newFrom || e.msg.Own {
		return false
	}
	return prev == nil || prev.msg.Seq < c.newFrom || prev.msg.Own && m.firstNew(c) == e
}

func (m *Model) firstNew(c *conversation) *entry {
	i, _ := c.search(c.newFrom)
	for ; i < len(c.entries); i++ {
		if c.entries[i].stored && !c.entries[i].msg.Own {
			return c.entries[i]
		}
	}
	return nil
}

func (m *Model) rule(s string, w int) string {
	s = " " + s + " "
	n := max(w-m.measure.StringWidth(s)-4, 0)
	return "──" + s + strings.Repeat("─", n) + "  "
}

func (m *Model) day(t time.Time) string {
	now := m.now().Local()
	t = t.Local()
	switch {
	case sameDay(t, now):
		return "today"
	case sameDay(t, now.AddDate(0, 0, -1)):
		return "yesterday"
	case t.Year() == now.Year():
		return t.Format("Monday, 2 January")
	}
	return t.Format("2 January 2006")
}

func sameDay(a, b time.Time) bool {
	a, b = a.Local(), b.Local()
	return a.YearDay() == b.YearDay() && a.Year() == b.Year()
}

// called is how a person is shown in c.
func (m *Model) called(c *conversation, u id.UserID) string {
	if u == m.me {
		return "you"
	}
	if m.client != nil {
		if name := m.client.Name(c.id, u); name != string(u) {
			return name + " (" + string(u) + ")" // a name alone could be anybody's
		}
	}
	return string(u)
}

// bottom is the index of the last entry on the screen and how many of its lines are below.
func (c *conversation) bottom() (i, hidden int) {
	i = len(c.entries) - 1
	if c.anchor == nil {
		return i, 0
	}
	for j := i; j >= 0; j-- {
		if c.entries[j] == c.anchor {
			return j, c.hidden
		}
	}
	return i, 0
}

// lines draws entry i.
func (m *Model) lines(c *conversation, i, w int) []string {
	var prev *entry
	if i > 0 {
		prev = c.entries[i-1]
	}
	return m.block(c, c.entries[i], prev, w)
}

// history draws the part of the conversation that is on the screen.
func (m *Model) history(w, h int) []string {
	c := m.current
	i, hidden := c.bottom()
	var up [][]string // blocks, the last first
	n := -hidden
	for ; i >= 0 && n < h; i-- {
		b := m.lines(c, i, w)
		up = append(up, b)
		n += len(b)
	}
	var all []string
	if n < h && (c.older || c.loading) {
		note := "  …"
		if !m.connected {
			note = "  older messages come when the server is back"
		}
		all = append(all, dim.Render(m.measure.pad(note, w)))
	} else if n < h && len(c.entries) == 0 {
		all = append(all, dim.Render(m.measure.pad("  Nothing was said yet.", w)))
	}
	for j := len(up) - 1; j >= 0; j-- {
		all = append(all, up[j]...)
	}
	all = all[:max(len(all)-hidden, 0)]
	if len(all) > h {
		all = all[len(all)-h:]
	}
	// A conversation shorter than the screen stands at its bottom, beside the prompt.
	pad := make([]string, h-len(all))
	for j := range pad {
		pad[j] = strings.Repeat(" ", w)
	}
	return append(pad, all...)
}

// nearTop reports whether less than a screen lies above what is shown.
func (m *Model) nearTop(c *conversation) bool {
	w, h := m.paneWidth(), m.historyHeight()
	i, hidden := c.bottom()
	n := -hidden
	for ; i >= 0; i-- {
		if n += len(m.lines(c, i, w)); n > 2*h {
			return false
		}
	}
	return true
}

// scroll moves the screen by lines, above 0 upwards to older messages.
func (m *Model) scroll(by int) {
	c := m.current
	if c == nil || len(c.entries) == 0 {
		return
	}
	i, hidden := c.bottom()
	m.place(c, i, hidden+by)
}

// place puts the screen's bottom edge hidden lines above the end of entry i.
func (m *Model) place(c *conversation, i, hidden int) {
	w, h := m.paneWidth(), m.historyHeight()
	for hidden < 0 && i < len(c.entries)-1 {
		i++
		hidden += len(m.lines(c, i, w))
	}
	if hidden < 0 {
		hidden = 0
	}
	for i > 0 {
		n := len(m.lines(c, i, w))
		if hidden < n {
			break
		}
		hidden -= n
		i--
	}
	// Never beyond the top: the screen stays full.
	n := -hidden
	for j := i; j >= 0 && n < h; j-- {
		n += len(m.lines(c, j, w))
	}
	for n < h && (hidden > 0 || i < len(c.entries)-1) {
		short := h - n
		if hidden >= short {
			hidden -= short
			break
		}
		n += hidden
		hidden = 0
		if i < len(c.entries)-1 {
			i++
			hidden = len(m.lines(c, i, w))
		}
	}
	if i == len(c.entries)-1 && hidden == 0 {
		c.anchor, c.hidden = nil, 0
		return
	}
	c.anchor, c.hidden = c.entries[i], hidden
}

// settle keeps the screen's edges where messages are, after a change of size or content.
func (m *Model) settle() {
	c := m.current
	if c == nil || c.anchor == nil {
		return
	}
	i, hidden := c.bottom()
	m.place(c, i, hidden)
}
