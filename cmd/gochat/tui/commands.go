package tui

import (
	"context"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/gochat-im/gochat/protocol/id"
)

// command is what a line that begins with / does.
type command struct {
	name, args, help string
	run              func(m *Model, args []string) tea.Cmd
}

// commands is filled in by init: help lists them.
var commands []command

func init() {
	commands = []command{
		{"to", "NAME", "talk to somebody, or in a group by its name", (*Model).cmdTo},
		{"help", "", "this page", (*Model).cmdHelp},
		{"quit", "", "leave; what isn't sent yet is sent next time", func(m *Model, _ []string) tea.Cmd { m.quitting = true; return nil }},
	}
}

func (m *Model) command(line string) tea.Cmd {
	args := strings.Fields(line)
	name := strings.TrimPrefix(args[0], "/")
	for _, c := range commands {
		if c.name == name {
			return c.run(m, args[1:])
		}
	}
	m.complain("no such command: /" + name + "; /help lists them")
	return nil
}

func (m *Model) cmdHelp([]string) tea.Cmd {
	var lines []string
	for _, c := range commands {
		lines = append(lines, fmt.Sprintf("%-24s %s", strings.TrimSpace("/"+c.name+" "+c.args), c.help))
	}
	m.panelTitle, m.panelTop = "Help", 0
	m.panel = append(lines, "",
		"Enter  send            Alt+Enter, Ctrl+J  new line",
		"Ctrl+N, Ctrl+P         next and previous conversation",
		"Ctrl+L                 choose a conversation; type to find it",
		"PgUp, PgDn, ↑, ↓       older and newer messages; Esc: back to the newest",
		"Ctrl+R, Ctrl+T         reply: to an older, to a newer message; Esc: to none",
		"Tab                    complete a command, or a @name; @all calls everyone",
		"Ctrl+C                 clear the line; leave, if it is empty",
		"",
		"…  on its way   ✓  stored   ✓✓  received   green ✓✓  read",
		"Begin a message with // to send a line that begins with /.",
	)
	return nil
}

func (m *Model) cmdTo(args []string) tea.Cmd {
	name := strings.Join(args, " ")
	for _, c := range m.order {
		if c.title() == OneLine(name) || c.id.String() == name {
			m.turnTo(c)
			return nil
		}
	}
	if err := m.TurnTo(name); err != nil {
		m.complain(err.Error())
	}
	return nil
}

// TurnTo opens the direct conversation with a user.
func (m *Model) TurnTo(name string) error {
	peer := id.UserID(name)
	if !peer.Valid() {
		return fmt.Errorf("whom? /to NAME")
	}
	conv := id.Direct(m.me, peer)
	if peer == m.me {
		peer = ""
	}
	m.turnTo(m.conversation(conv, peer))
	return nil
}

// after runs f beside the screen and, if it didn't fail, what it returned in Update.
func (m *Model) after(f func(ctx context.Context) (func() tea.Cmd, error)) tea.Cmd {
	return m.call(func(ctx context.Context) tea.Msg {
		apply, err := f(ctx)
		return done{apply, err}
	})
}
