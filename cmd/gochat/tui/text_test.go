package tui

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

var graphemes = measure{ansi.GraphemeWidth}

func TestWrapKeepsToTheWidth(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two three", 8, []string{"one two", "three"}},
		{"a\nb", 10, []string{"a", "b"}},
		{"averylongwordindeed", 8, []string{"averylon", "gwordind", "eed"}},
		{"你好世界你好", 8, []string{"你好世界", "你好"}},
		{"你好世界。", 8, []string{"你好世", "界。"}}, // no full stop begins a line
		{"hi 你好世界", 6, []string{"hi 你", "好世界"}},
		{"👩‍👩‍👧👩‍👩‍👧", 3, []string{"👩‍👩‍👧", "👩‍👩‍👧"}},
	} {
		got := graphemes.wrap(c.text, c.width)
		if strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("wrap(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
		for _, l := range got {
			if w := graphemes.StringWidth(l); w > c.width {
				t.Errorf("wrap(%q, %d): line %q has %d cells", c.text, c.width, l, w)
			}
		}
	}
}

func TestPadIsExact(t *testing.T) {
	for _, s := range []string{"", "abc", "abcdefghij", "你好世界", "a你好世界", "👩‍👩‍👧 family", "e\u0301toile"} {
		for w := range 12 {
			for _, m := range []measure{graphemes, {ansi.WcWidth}} {
				if got := m.StringWidth(m.pad(s, w)); got != w {
					t.Errorf("pad(%q, %d) has %d cells", s, w, got)
				}
			}
		}
	}
}

func TestNothingDrivesTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[31mred":       "\uFFFD[31mred",
		"a\x07b\x9bc":       "a\uFFFDb\uFFFDc",
		"abc\u202Edcba":     "abc\uFFFDdcba",
		"tab\there\nnext":   "tab here\nnext",
		"👩‍👩‍👧 stays whole": "👩‍👩‍👧 stays whole",
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
	if got := OneLine("a\nb"); got != "a b" {
		t.Errorf("OneLine gave %q", got)
	}
}

func TestPromptMovesByCharacters(t *testing.T) {
	var p prompt
	p.insert(graphemes, "a👩‍👩‍👧e")
	p.insert(graphemes, "\u0301") // joins the letter before
	if len(p.text) != 3 || p.at != 3 {
		t.Fatalf("%d characters, cursor at %d", len(p.text), p.at)
	}
	p.deleteTo(p.at - 1)
	p.deleteTo(p.at - 1)
	if p.value() != "a" {
		t.Fatalf("two deletions leave %q", p.value())
	}
	p.insert(graphemes, "bc 你好\r\nlast line")
	p.at = p.lineStart()
	if _, x, y := p.rows(20); x != 0 || y != 1 {
		t.Errorf("the last line's start is at %d, %d", x, y)
	}
	if !p.vertical(20, -1) || p.vertical(20, -1) {
		t.Error("two rows: up works once")
	}
	p.at = p.lineEnd()
	if x, y := p.cursor(20); x != 8 || y != 0 {
		t.Errorf("abc 你好 ends at %d, %d", x, y)
	}
	if x, y := p.cursor(6); x != 2 || y != 1 {
		t.Errorf("in 6 cells it ends at %d, %d", x, y)
	}
	p.at = p.wordLeft()
	p.replaceWord(graphemes, "abcd ")
	if !strings.HasPrefix(p.value(), "abc abcd 你好") {
		t.Errorf("the word before the cursor: %q", p.value())
	}
	for width := 1; width < 30; width++ {
		lines, x, y := p.rows(width)
		if y >= len(lines) || x > max(width, 2) {
			t.Errorf("in %d cells the cursor is at %d, %d of %d rows", width, x, y, len(lines))
		}
		for _, l := range lines {
			if graphemes.StringWidth(l) > max(width, 2) {
				t.Errorf("in %d cells a row is %q", width, l)
			}
		}
	}
}

func TestWhoIsCalled(t *testing.T) {
	users, all := called("@bob, and mail@carol @dave @carol! @bob", []string{"bob", "carol"})
	if strings.Join(users, " ") != "bob carol" || all {
		t.Errorf("called %v, all %v", users, all)
	}
	if _, all := called("hey @all: lunch", nil); !all {
		t.Error("@all calls nobody")
	}
}

func TestSystemMessagesInWords(t *testing.T) {
	for _, c := range []struct {
		kind       uint32
		text, want string
	}{
		{64, `{"do":"create"}`, "alice made the group"},
		{64, `{"do":"add","users":["bob","carol"],"count":12}`, "alice added bob, carol and 10 more"},
		{64, `{"do":"remove","users":["bob"],"count":1}`, "alice removed bob"},
		{64, `{"do":"role","users":["bob"],"count":1,"role":"admin"}`, "alice made bob admin"},
		{64, `{"do":"leave","users":["alice"],"count":1}`, "alice left"},
		{65, `{"name":"Lunch"}`, `alice named the group "Lunch"`},
		{65, `{"join":1}`, "alice changed the group's settings"},
		{66, `{"nickname":"Al"}`, "alice is called Al here"},
		{66, `{"nickname":""}`, "alice has no name of their own here any more"},
		{80, `{"event":"signed_in","device":"d1","kind":"phone"}`, "signed in on a phone (d1)"},
		{99, `{}`, "alice: a message of type 99"},
		{64, `no json`, "alice: a message of type 64"},
		{1, "hello", "hello"},
		{2, `{"url":"https://x/y.png","name":"y.png"}`, "[image] y.png https://x/y.png"},
		{3, `broken`, "[file]"},
		{1000, "", "[a message of type 1000]"},
		{1000, "x", "[type 1000] x"},
	} {
		m := gochat.Message{Sender: "alice", Content: gochat.Content{Type: c.kind, Text: c.text}}
		if got := Text(m); got != c.want {
			t.Errorf("type %d %s: %q, want %q", c.kind, c.text, got, c.want)
		}
	}
}
