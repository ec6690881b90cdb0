package tui

import (
	"encoding/json"
	"fmt"
	"strings"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Types of the server's own messages.
const (
	typeChange   = 64
	typeSettings = 65
	typeNickname = 66
	typeAccount  = 80
)

// system returns what one of the server's messages says, in words; false if m isn't one of those.
func system(m gochat.Message) (string, bool) {
	if m.Type < 64 || m.Type >= 128 {
		return "", false
	}
	var d struct {
		Do       string   `json:"do"`
		Users    []string `json:"users"`
		Count    int      `json:"count"`
		Role     string   `json:"role"`
		Name     *string  `json:"name"`
		Avatar   *string  `json:"avatar"`
		Nickname *string  `json:"nickname"`
		Event    string   `json:"event"`
		Device   string   `json:"device"`
		Kind     string   `json:"kind"`
	}
	who := string(m.Sender)
	if json.Unmarshal([]byte(m.Text), &d) != nil {
		return fmt.Sprintf("%s: a message of type %d", who, m.Type), true
	}
	switch {
	case m.Type == typeChange:
		return change(who, d.Do, d.Role, people(d.Users, d.Count)), true
	case m.Type == typeSettings && d.Name != nil:
		return fmt.Sprintf("%s named the group %q", who, *d.Name), true
	case m.Type == typeSettings && d.Avatar != nil:
		return who + " changed the group's picture", true
	case m.Type == typeSettings:
		return who + " changed the group's settings", true
	case m.Type == typeNickname && d.Nickname != nil && *d.Nickname != "":
		return fmt.Sprintf("%s is called %s here", who, *d.Nickname), true
	case m.Type == typeNickname:
		return who + " has no name of their own here any more", true
	case m.Type == typeAccount && d.Event != "":
		s := strings.ReplaceAll(d.Event, "_", " ")
		if d.Kind != "" && d.Kind != "unknown" {
			s += " on a " + d.Kind
		}
		if d.Device != "" {
			s += " (" + d.Device + ")"
		}
		return s, true
	}
	return fmt.Sprintf("%s: a message of type %d", who, m.Type), true
}

func change(who, do, role, whom string) string {
	switch do {
	case "create":
		if whom == "" || whom == who {
			return who + " made the group"
		}
		return who + " made the group with " + whom
	case "add":
		return who + " added " + whom
	case "join":
		return who + " joined"
	case "leave":
		return who + " left"
	case "remove":
		return who + " removed " + whom
	case "role":
		return fmt.Sprintf("%s made %s %s", who, whom, role)
	}
	return who + ": " + do + " " + whom
}

// people names some and counts the rest.
func people(users []string, count int) string {
	if rest := count - len(users); rest > 0 && len(users) > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(users, ", "), rest)
	}
	if len(users) == 0 && count > 0 {
		return fmt.Sprintf("%d people", count)
	}
	return strings.Join(users, ", ")
}

// Text returns what a message says as text: itself, or words for what isn't text.
func Text(m gochat.Message) string { return describe(m, m.Type, m.Text) }

func describe(m gochat.Message, kind uint32, text string) string {
	if s, ok := system(m); ok {
		return s
	}
	var d struct {
		URL  string `json:"url"`
		Name string `json:"name"`
	}
	name := map[uint32]string{2: "image", 3: "file", 4: "voice", 5: "video"}[kind]
	switch {
	case kind == 1:
		return text
	case name != "":
		_ = json.Unmarshal([]byte(text), &d) // empty, if it isn't what it should be
		return strings.TrimSpace(strings.Join([]string{"[" + name + "]", d.Name, d.URL}, " "))
	case m.Encryption != nil:
		return "[encrypted]"
	case text == "":
		return fmt.Sprintf("[a message of type %d]", kind)
	}
	return fmt.Sprintf("[type %d] %s", kind, text)
}
