package tui

import (
	"context"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

const (
	memberPage = 200  // members asked for at a time
	maxListed  = 1000 // members that /members shows
)

// groupCommands work on the group that is open, but for the first two.
var groupCommands = []command{
	{"group", "NAME BOB CAROL…", `begin a group; a name of several words stands in "quotes"`, (*Model).cmdGroup},
	{"join", "ID", "join a group that is open to anyone", (*Model).cmdJoin},
	{"invite", "BOB CAROL…", "bring people into the group", (*Model).cmdInvite},
	{"remove", "BOB…", "take people out of the group", (*Model).cmdRemove},
	{"members", "", "who is in the group, and its id", (*Model).cmdMembers},
	{"role", "BOB ROLE", "make somebody a member, an admin or the owner", (*Model).cmdRole},
	{"name", "NAME", "name the group anew", (*Model).cmdName},
	{"nick", "NAME", "what you are called in the group", (*Model).cmdNick},
	{"leave", "", "leave the group", (*Model).cmdLeave},
}

// inGroup returns the open group, or complains.
func (m *Model) inGroup() *conversation {
	if m.current == nil || !m.current.group() {
		m.complain("open a group first: /to ITS-NAME, or begin one: /group NAME BOB CAROL")
		return nil
	}
	return m.current
}

// change asks for a change of the open group, and says what came of it if its messages don't: they tell the rest.
func (m *Model) change(do func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error)) tea.Cmd {
	c := m.inGroup()
	if c == nil {
		return nil
	}
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		ch, err := do(ctx, c.id)
		return func() tea.Cmd { m.changed(ch); return m.readState(c) }, err
	})
}

func (m *Model) changed(ch gochat.GroupChange) {
	switch {
	case len(ch.Refused) > 0:
		var why []string
		for _, r := range ch.Refused {
			why = append(why, string(r.User)+": "+r.Code.Text())
		}
		m.complain(strings.Join(why, ", "))
	case ch.Changed == 0:
		m.say("that is so already")
	}
}

func users(args []string) []id.UserID {
	var us []id.UserID
	for _, a := range args {
		us = append(us, id.UserID(strings.TrimPrefix(a, "@")))
	}
	return us
}

func (m *Model) cmdGroup(args []string) tea.Cmd {
	if len(args) == 0 {
		m.complain("what is it called? /group NAME BOB CAROL")
		return nil
	}
	g := gochat.NewGroup{Name: args[0], Users: users(args[1:])}
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		ch, err := m.client.CreateGroup(ctx, g)
		return func() tea.Cmd {
			m.changed(ch)
			c := m.conversation(ch.Conversation, "")
			m.turnTo(c)
			return m.readState(c)
		}, err
	})
}

func (m *Model) cmdJoin(args []string) tea.Cmd {
	if len(args) != 1 {
		m.complain("which one? /join ID")
		return nil
	}
	conv, err := id.ParseConversation(args[0])
	if err != nil {
		m.complain("a group's id has 32 digits; /members shows it to those who are in")
		return nil
	}
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		ch, err := m.client.JoinGroup(ctx, conv)
		return func() tea.Cmd {
			m.changed(ch)
			c := m.conversation(conv, "")
			m.turnTo(c)
			return m.readState(c)
		}, err
	})
}

func (m *Model) cmdInvite(args []string) tea.Cmd {
	if len(args) == 0 {
		m.complain("whom? /invite BOB CAROL")
		return nil
	}
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.AddMembers(ctx, conv, users(args)...)
	})
}

func (m *Model) cmdRemove(args []string) tea.Cmd {
	if len(args) == 0 {
		m.complain("whom? /remove BOB")
		return nil
	}
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.RemoveMembers(ctx, conv, users(args)...)
	})
}

func (m *Model) cmdRole(args []string) tea.Cmd {
	roles := map[string]gochat.Role{"member": gochat.Member, "admin": gochat.Admin, "owner": gochat.Owner}
	if len(args) != 2 || roles[args[1]] == 0 {
		m.complain("/role BOB admin, member or owner")
		return nil
	}
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.SetRole(ctx, conv, users(args)[0], roles[args[1]])
	})
}

func (m *Model) cmdName(args []string) tea.Cmd {
	name := strings.Join(args, " ")
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.UpdateGroup(ctx, conv, gochat.GroupUpdate{Name: &name})
	})
}

func (m *Model) cmdNick(args []string) tea.Cmd {
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.SetNickname(ctx, conv, strings.Join(args, " "))
	})
}

func (m *Model) cmdLeave([]string) tea.Cmd {
	return m.change(func(ctx context.Context, conv id.ConversationID) (gochat.GroupChange, error) {
		return m.client.LeaveGroup(ctx, conv)
	})
}

func (m *Model) cmdMembers([]string) tea.Cmd {
	c := m.inGroup()
	if c == nil {
		return nil
	}
	return m.after(func(ctx context.Context) (func() tea.Cmd, error) {
		var lines []string
		left := 0
		for cursor := ""; ; {
			page, next, count, err := m.client.Members(ctx, c.id, cursor, memberPage)
			if err != nil {
				return nil, err
			}
			for _, g := range page {
				line := fmt.Sprintf("%-24s", g.User)
				if g.Role != gochat.Member {
					line += " " + g.Role.String()
				}
				if g.Nickname != "" {
					line += " (" + g.Nickname + ")"
				}
				lines = append(lines, strings.TrimRight(OneLine(line), " "))
			}
			left = count - len(lines)
			if cursor = next; cursor == "" || len(lines) >= maxListed {
				break
			}
		}
		if left > 0 {
			lines = append(lines, fmt.Sprintf("and %d more", left))
		}
		lines = append(lines, "", "The group's id: "+c.id.String())
		return func() tea.Cmd { return m.show(c.title()+": members", lines) }, nil
	})
}

// readMembers asks who is in the open group, once: their names are completed, and called.
func (m *Model) readMembers() tea.Cmd {
	c := m.current
	if c == nil || !c.group() || !c.have || c.members != nil || !m.connected || c.info.LeftSeq != 0 || m.client == nil {
		return nil
	}
	c.members = []string{}
	return m.call(func(ctx context.Context) tea.Msg {
		page, _, _, err := m.client.Members(ctx, c.id, "", memberPage)
		return done{apply: func() tea.Cmd {
			if err != nil { // completed are those who wrote
				return nil
			}
			c.members = []string{}
			for _, g := range page {
				if g.User != m.me {
					c.members = append(c.members, string(g.User))
				}
			}
			return nil
		}}
	})
}

// memberCount is how many are in a group, 0 if that isn't known.
func (m *Model) memberCount(c *conversation) int { return c.info.Members }

// calls is how many unread messages of c call the user.
func (m *Model) calls(c *conversation) int { return c.info.Mentions }
