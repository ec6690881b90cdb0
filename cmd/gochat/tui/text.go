package tui

import (
	"strings"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// cluster is what a terminal shows as one character: a letter with its accents, an emoji of several code points.
type cluster struct {
	s     string
	width int // cells
}

// measure counts cells as the terminal does: by grapheme cluster where it said that it can, by code point otherwise.
type measure struct{ ansi.Method }

// first cuts the first cluster off s, which isn't empty.
func (m measure) first(s string) (cluster, string) {
	c, w := ansi.FirstGraphemeCluster(s, m.Method)
	if c == "" {
		c, w = s[:1], 1
	}
	return cluster{c, w}, s[len(c):]
}

func (m measure) clusters(s string) []cluster {
	var cs []cluster
	for s != "" {
		var c cluster
		c, s = m.first(s)
		cs = append(cs, c)
	}
	return cs
}

// cut shortens s to at most width cells, with an ellipsis if something is lost. s has no styles.
func (m measure) cut(s string, width int) string {
	if width <= 0 {
		return ""
	}
	if m.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	left := width - 1
	for _, c := range m.clusters(s) {
		if left -= c.width; left < 0 {
			break
		}
		b.WriteString(c.s)
	}
	return b.String() + "…"
}

// pad cuts or fills s to exactly width cells. s may have styles if it is short enough.
func (m measure) pad(s string, width int) string {
	n := m.StringWidth(s)
	if n > width {
		s = m.cut(ansi.Strip(s), width)
		n = m.StringWidth(s)
	}
	return s + strings.Repeat(" ", max(width-n, 0))
}

// wrap breaks s into lines of at most width cells: at newlines, at spaces, and between
// wide characters, which have none; within a word only if it is longer than a line.
func (m measure) wrap(s string, width int) []string {
	width = max(width, 2)
	var lines []string
	for _, para := range strings.Split(s, "\n") {
		var line []cluster
		used, breakAt := 0, 0 // breakAt: clusters up to there may stand alone
		flush := func(n int) {
			var b strings.Builder
			for _, c := range line[:n] {
				b.WriteString(c.s)
			}
			lines = append(lines, strings.TrimRight(b.String(), " "))
			line = append([]cluster(nil), line[n:]...)
			for len(line) > 0 && line[0].s == " " {
				line = line[1:]
			}
			used, breakAt = 0, 0
			for _, c := range line {
				used += c.width
			}
		}
		for _, c := range m.clusters(para) {
			if c.width == 2 && !noStart(c.s) || len(line) > 0 && line[len(line)-1].s == " " && c.s != " " {
				breakAt = len(line)
			} else if len(line) > 0 && line[len(line)-1].width == 2 && !noStart(c.s) {
				breakAt = len(line)
			}
			if used+c.width > width && c.s != " " {
				if breakAt == 0 {
					breakAt = len(line)
				}
				flush(breakAt)
			}
			line = append(line, c)
			used += c.width
		}
		flush(len(line))
	}
	return lines
}

// noStart reports whether s may not begin a line: closing punctuation of Chinese and Japanese text.
func noStart(s string) bool {
	return strings.Contains("，。、；：？！）】》」』”’,.;:?!)", s)
}

// Printable keeps other people's text from driving the terminal, or from looking like
// something else: control characters and those that turn the direction of text are replaced.
// Newlines stay.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case unicode.IsControl(r), r >= 0x202A && r <= 0x202E, r >= 0x2066 && r <= 0x2069, r == 0x2028, r == 0x2029, r == unicode.ReplacementChar:
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// OneLine is Printable with newlines as spaces.
func OneLine(s string) string { return strings.ReplaceAll(Printable(s), "\n", " ") }
