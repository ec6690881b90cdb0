package tui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

// found returns the conversations whose name holds what was typed, in the order of the list.
func (m *Model) found() []*conversation {
	if !m.picking || m.filter.empty() {
		return m.visible()
	}
	var cs []*conversation
	want := strings.ToLower(m.filter.value())
	for _, c := range m.order {
		if strings.Contains(strings.ToLower(c.title()), want) {
			cs = append(cs, c)
		}
	}
	return cs
}

// visible is the list without what was hidden, and without empty conversations but the current one.
func (m *Model) visible() []*conversation {
	var cs []*conversation
	for _, c := range m.order {
		if m.shown(c) {
			cs = append(cs, c)
		}
	}
	return cs
}

// listLines draws the list: h lines of w cells, the first for the title or what is typed to find one.
func (m *Model) listLines(w, h int) []string {
	cs := m.found()
	at := -1
	for i, c := range cs {
		if !m.picking && c == m.current || m.picking && i == m.pick {
			at = i
		}
	}
	head := bar.Render(m.measure.pad(fmt.Sprintf(" Conversations (%d)", len(cs)), w))
	if m.picking {
		rows, _, _ := m.filter.rows(max(w-4, 2))
		head = bar.Render(m.measure.pad(" / "+rows[len(rows)-1], w))
	}
	rows := 1
	if len(cs)*2 <= h-1 {
		rows = 2
	}
	fits := max((h-1)/rows, 1)
	top := min(max(at-fits/2, 0), max(len(cs)-fits, 0))
	lines := []string{head}
	for i := top; i < len(cs) && len(lines)+rows <= h; i++ {
		lines = append(lines, m.row(cs[i], w, i == at))
		if rows == 2 {
			lines = append(lines, dim.Render(m.measure.pad("  "+m.preview(cs[i]), w)))
		}
	}
	if len(cs) == 0 && m.listed && m.picking && !m.filter.empty() {
		lines = append(lines, dim.Render(m.measure.pad(" nothing found", w)))
	}
	return fill(lines, w, h)
}

func (m *Model) row(c *conversation, w int, chosen bool) string {
	lead := "  "
	if c.info.Pinned {
		lead = "▪ "
	}
	count := ""
	if n := c.info.Unread; n > 0 {
		count = fmt.Sprint(n)
		if n >= 100 {
			count = "99+"
		}
		if m.calls(c) > 0 {
			count = "@" + count
		}
		count = " " + count + " "
	}
	name := m.measure.cut(c.title(), w-2-len(count))
	text := m.measure.pad(lead+name, w-len(count)) + count
	switch {
	case chosen && m.picking:
		return bar.Render(text)
	case chosen:
		return accent.Bold(true).Render(m.measure.pad("▌ "+name, w-len(count)) + count)
	case c.info.Muted:
		return dim.Render(text)
	case m.calls(c) > 0:
		return calling.Render(text)
	case c.info.Unread > 0:
		return bold.Render(text)
	}
	return text
}

// preview is the second line of a row: the last message.
func (m *Model) preview(c *conversation) string {
	i := c.info
	if i.PreviewType == 0 {
		return ""
	}
	text := describe(gochat.Message{Sender: i.PreviewFrom, Content: gochat.Content{Type: i.PreviewType, Text: i.Preview}}, i.PreviewType, i.Preview)
	if i.PreviewType < 64 || i.PreviewType >= 128 {
		if i.PreviewFrom == m.me {
			text = "you: " + text
		} else if !c.direct() {
			text = string(i.PreviewFrom) + ": " + text
		}
	}
	return OneLine(text)
}

func (m *Model) filterCursor() *tea.Cursor {
	_, x, _ := m.filter.rows(max(m.listWidth()-4, 2))
	return tea.NewCursor(x+3, 0)
}
