package tui

import (
	"fmt"
	"hash/fnv"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// The sixteen colours of the terminal's own palette: they are readable on whatever background the person chose.
var (
	dim     = lipgloss.NewStyle().Faint(true)
	bold    = lipgloss.NewStyle().Bold(true)
	bar     = lipgloss.NewStyle().Reverse(true)
	accent  = lipgloss.NewStyle().Foreground(lipgloss.Color("6"))
	alert   = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	good    = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	calling = lipgloss.NewStyle().Foreground(lipgloss.Color("3")).Bold(true)
	own     = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("6"))
	palette = []lipgloss.Style{person("2"), person("3"), person("4"), person("5"), person("1"), person("10"), person("12"), person("13")}
)

func person(color string) lipgloss.Style {
	return lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color(color))
}

func colorOf(name string) lipgloss.Style {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return palette[h.Sum32()%uint32(len(palette))]
}

const maxPromptRows = 6

// wide reports whether the list stands beside the history.
func (m *Model) wide() bool { return m.width >= 64 }

func (m *Model) listWidth() int {
	if !m.wide() {
		return m.width
	}
	return min(max(m.width/4, 20), 32)
}

// paneWidth is the width of the history.
func (m *Model) paneWidth() int {
	if !m.wide() {
		return m.width
	}
	return m.width - m.listWidth() - 1
}

// historyHeight is what the title, the prompt and the status line leave.
func (m *Model) historyHeight() int {
	rows := 1
	if m.current != nil {
		lines, _, _ := m.current.draft.rows(m.promptWidth())
		rows = m.promptRows(len(lines))
		if m.current.replyTo != nil {
			rows++
		}
	}
	return max(m.height-rows-3, 1) // title, rule, status
}

func (m *Model) promptWidth() int { return max(m.paneWidth()-3, 2) } // "> " and room for the cursor

func (m *Model) promptRows(lines int) int { return min(lines, maxPromptRows, max(m.height-5, 1)) }

// View draws the screen: exactly height lines of at most width cells.
func (m *Model) View() tea.View {
	v := tea.View{AltScreen: true, ReportFocus: true, WindowTitle: m.windowTitle()}
	var lines []string
	switch {
	case m.picking && !m.wide():
		lines = m.listLines(m.width, max(m.height-1, 1))
		v.Cursor = m.filterCursor()
	default:
		lines, v.Cursor = m.pane()
		if m.wide() {
			list := m.listLines(m.listWidth(), len(lines))
			for i := range lines {
				lines[i] = list[i] + dim.Render("│") + lines[i]
			}
			if m.picking {
				v.Cursor = m.filterCursor()
			} else if v.Cursor != nil {
				v.Cursor.X += m.listWidth() + 1
			}
		}
	}
	lines = append(lines, m.status())
	if cut := len(lines) - m.height; cut > 0 { // a screen of a few lines keeps the prompt
		lines = lines[cut:]
		if v.Cursor != nil {
			v.Cursor.Y = max(v.Cursor.Y-cut, 0)
		}
	}
	v.Content = strings.Join(lines, "\n")
	return v
}

func (m *Model) windowTitle() string {
	unread := 0
	for _, c := range m.order {
		if !c.info.Muted {
			unread += c.info.Unread
		}
	}
	if unread > 0 {
		return fmt.Sprintf("(%d) gochat", unread)
	}
	return "gochat"
}

// pane draws the conversation: height-1 lines.
func (m *Model) pane() ([]string, *tea.Cursor) {
	w, h := m.paneWidth(), m.historyHeight()
	lines := []string{m.title(w)}
	switch {
	case m.panel != nil:
		lines = append(lines, m.panelLines(w, h)...)
	case m.current == nil:
		lines = append(lines, m.welcome(w, h)...)
	default:
		lines = append(lines, m.history(w, h)...)
	}
	lines = append(lines, dim.Render(strings.Repeat("─", w)))
	c := m.current
	if c == nil {
		c = &conversation{draft: m.filter}
		if m.picking {
			c.draft = prompt{}
		}
	}
	if c.replyTo != nil {
		about := "reply to " + OneLine(m.called(c, c.replyTo.msg.Sender)) + ": " + OneLine(Text(c.replyTo.msg))
		lines = append(lines, accent.Render(m.measure.pad("↳ "+m.measure.cut(about, w-4), w)))
	}
	rows, x, y := c.draft.rows(m.promptWidth())
	n := m.promptRows(len(rows))
	top := min(max(y-n+1, 0), len(rows)-n)
	var cursor *tea.Cursor
	for i := top; i < top+n; i++ {
		lead := "  "
		if i == 0 {
			lead = accent.Render("> ")
		}
		if i == y {
			cursor = tea.NewCursor(x+2, len(lines))
		}
		lines = append(lines, lead+m.measure.pad(rows[i], w-2))
	}
	for len(lines) < m.height-1 {
		lines = append(lines, strings.Repeat(" ", w))
	}
	return lines, cursor
}

func (m *Model) title(w int) string {
	c := m.current
	if m.panel != nil {
		return bar.Render(m.measure.pad(" "+m.panelTitle, w))
	}
	if c == nil {
		return bar.Render(m.measure.pad(" GoChat", w))
	}
	name, about := " "+c.title(), ""
	if c.group() && c.info.LeftSeq != 0 {
		about = "you have left"
	} else if n := m.memberCount(c); n == 1 {
		about = "nobody but you"
	} else if n > 1 {
		about = fmt.Sprintf("%d members", n)
	}
	if c.info.Muted {
		about = strings.TrimPrefix(about+", muted", ", ")
	}
	if who := c.isTyping(m.now()); len(who) == 1 {
		about = who[0] + " is typing…"
	} else if len(who) > 1 {
		about = fmt.Sprintf("%d people are typing…", len(who))
	}
	if c.anchor != nil {
		about = "PgDn for newer  " + about
	}
	name = m.measure.cut(name, w-1)
	room := w - m.measure.StringWidth(name) - 3
	if room < 6 {
		return bar.Render(m.measure.pad(name, w))
	}
	about = m.measure.cut(strings.TrimSpace(about), room) + " "
	return bar.Render(m.measure.pad(name, w-m.measure.StringWidth(about)) + about)
}

func (m *Model) welcome(w, h int) []string {
	text := []string{
		"", "Nobody is open yet.", "",
		"/to NAME    talk to somebody", "/group NAME BOB CAROL    begin a group", "Ctrl+L      choose from the list", "/help       everything else",
	}
	var lines []string
	for _, t := range text {
		lines = append(lines, m.measure.pad("  "+t, w))
	}
	return fill(lines, w, h)
}

func (m *Model) panelLines(w, h int) []string {
	var all []string
	for _, p := range m.panel {
		for _, l := range m.measure.wrap(p, w-2) {
			all = append(all, m.measure.pad(" "+l, w))
		}
	}
	m.panelTop = min(max(m.panelTop, 0), max(len(all)-h, 0))
	all = all[m.panelTop:]
	return fill(all[:min(len(all), h)], w, h)
}

// fill adds empty lines below, or cuts what is too much.
func fill(lines []string, w, h int) []string {
	for len(lines) < h {
		lines = append(lines, strings.Repeat(" ", w))
	}
	return lines[:h]
}

// status is the last line: the connection, then what was last to be said, or the keys.
func (m *Model) status() string {
	var left string
	style := good
	switch {
	case m.connected:
		left = "● " + OneLine(string(m.me))
	case m.down == nil:
		left, style = "○ connecting", calling
	default:
		style = alert
		left = "○ offline"
		if s := int(m.retryAt.Sub(m.now()).Seconds()) + 1; s > 1 {
			left = fmt.Sprintf("○ offline, again in %d s", s)
		}
	}
	if m.client != nil {
		if n := len(m.client.Outbox()); n > 0 && (!m.connected || n > 1) {
			left += fmt.Sprintf(", %d to send", n)
		}
	}
	left = m.measure.cut(left, m.width-1)
	room := m.width - m.measure.StringWidth(left) - 3
	right, rightStyle := "^N ^P switch  ^L list  ^R reply  PgUp history  /help", dim
	if m.picking {
		right = "type to find  ↑ ↓ choose  Enter open  Esc back"
	}
	if m.panel != nil {
		right = "↑ ↓ scroll  Esc back"
	}
	if m.notice != "" && m.now().Sub(m.noticeAt) < noticeFor {
		right, rightStyle = m.notice, bold
		if m.bad {
			rightStyle = alert
		}
	} else if room < m.measure.StringWidth(right) {
		right = "/help"
	}
	if room < 5 {
		return style.Render(m.measure.pad(left, m.width))
	}
	return style.Render(left) + "  " + rightStyle.Render(m.measure.pad(right, room+1))
}
