package tui

import (
	"context"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
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
	}
	commands = append(commands, groupCommands...)
	commands = append(commands, []command{
		{"pin", "", "keep this conversation at the top of the list, or no longer", setting("pinned", func(i gochat.Conversation) gochat.Settings { on := !i.Pinned; return gochat.Settings{Pinned: &on} })},
		{"mute", "", "let this conversation not call for attention, or again", setting("muted", func(i gochat.Conversation) gochat.Settings { on := !i.Muted; return gochat.Settings{Muted: &on} })},
		{"hide", "", "out of the list until its next message", setting("hidden", func(gochat.Conversation) gochat.Settings { on := true; return gochat.Settings{Hidden: &on} })},
		{"block", "[NAME]", "let somebody not write to you", blocking(true)},
		{"unblock", "[NAME]", "let them write again", blocking(false)},
		{"devices", "", "where you are signed in", (*Model).cmdDevices},
		{"signout", "DEVICE", "sign another device out", (*Model).cmdSignOut},
		{"help", "", "this page", (*Model).cmdHelp},
		{"quit", "", "leave; what isn't sent yet is sent next time", func(m *Model, _ []string) tea.Cmd { m.quitting = true; return nil }},
	}...)
}

func (m *Model) command(line string) tea.Cmd {
	args := words(line)
	name := strings.TrimPrefix(args[0], "/")
	for _, c := range commands {
		if c.name == name {
			return c.run(m, args[1:])
		}
	}
	m.complain("no such command: /" + name + "; /help lists them")
	return nil
}

// words splits a line at spaces; what stands in double quotes is one word.
func words(line string) []string {
	var ws []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			ws = append(ws, part)
		} else {
			ws = append(ws, strings.Fields(part)...)
		}
	}
	return ws
}

func (m *Model) cmdHelp([]string) tea.Cmd {
	var lines []string
	for _, c := range commands {
		lines = append(lines, fmt.Sprintf("%-24s %s", strings.TrimSpace("/"+c.name+" "+c.args), c.help))
	}
	return m.show("Help", append(lines, "",
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
	))
}

func (m *Model) cmdTo(args []string) tea.Cmd {
	name := strings.Join(args, " ")
	for _, c := range m.order {
		if c.title() == OneLine(name) || string(c.info.Peer) == name && name != "" || c.id.String() == name {
			m.turnTo(c)
			return nil
		}
	}
	if err := m.TurnTo(name); err != nil {
		m.complain(err.Error())
	}
	return nil
}

// setting is a command that changes one of the user's settings of the current conversation.
func setting(name string, of func(gochat.Conversation) gochat.Settings) func(*Model, []string) tea.Cmd {
	return func(m *Model, _ []string) tea.Cmd {
		c := m.current
		if c == nil {
			m.complain("open a conversation first: /to NAME")
			return nil
		}
		conv, settings := c.id, of(c.info)
		return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
			info, err := m.client.SetSettings(ctx, conv, settings)
			return func() tea.Cmd {
				m.heard(info)
				if info.Hidden && m.current == c {
					m.current = nil
				}
				what := name
				if !settingOf(info, name) {
					what = "not " + name
				}
				m.say(c.title() + " is " + what + " now")
				return nil
			}, err
		})
	}
}

func settingOf(c gochat.Conversation, name string) bool {
	return name == "pinned" && c.Pinned || name == "muted" && c.Muted || name == "hidden" && c.Hidden
}

// blocking is /block and /unblock: of the named one, or of whom the current conversation is with.
func blocking(on bool) func(*Model, []string) tea.Cmd {
	return func(m *Model, args []string) tea.Cmd {
		name := strings.Join(args, " ")
		if name == "" && m.current != nil && m.current.direct() {
			name = string(m.current.info.Peer)
		}
		if name == "" {
			m.complain("whom? /block NAME")
			return nil
		}
		return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
			do, what := m.client.Block, " is blocked"
			if !on {
				do, what = m.client.Unblock, " is not blocked any more"
			}
			return func() tea.Cmd { m.say(name + what); return nil }, do(ctx, id.UserID(name))
		})
	}
}

// show puts lines in the place of the history.
func (m *Model) show(title string, lines []string) tea.Cmd {
	m.panelTitle, m.panelTop, m.panel = title, 0, lines
	return nil
}

func (m *Model) cmdDevices([]string) tea.Cmd {
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		devices, err := m.client.Devices(ctx)
		var lines []string
		for _, d := range devices {
			state := "last seen " + d.LastSeen.Local().Format("2 Jan 15:04")
			if d.LastSeen.IsZero() {
				state = "away"
			}
			if d.Online {
				state = "online"
			}
			if d.Current {
				state = "this one"
			}
			kind := strings.ToLower(strings.TrimPrefix(d.Kind.String(), "DEVICE_KIND_"))
			lines = append(lines, OneLine(fmt.Sprintf("%-24s %-8s %s", d.ID, kind, state)))
		}
		return func() tea.Cmd { return m.show("Your devices", append(lines, "", "/signout DEVICE signs one out.")) }, err
	})
}

func (m *Model) cmdSignOut(args []string) tea.Cmd {
	if len(args) != 1 {
		m.complain("which one? /signout DEVICE; /devices lists them")
		return nil
	}
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		was, err := m.client.SignOut(ctx, id.DeviceID(args[0]))
		return func() tea.Cmd {
			if !was {
				m.complain("no such device; /devices lists them")
			} else {
				m.say(args[0] + " is signed out")
			}
			return nil
		}, err
	})
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
