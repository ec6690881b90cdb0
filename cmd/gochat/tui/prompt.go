package tui

import "strings"

// prompt is the text being written. The cursor stands before a cluster, so that an emoji
// or an accented letter is moved over and deleted whole.
type prompt struct {
	text []cluster
	at   int
}

func (p *prompt) value() string { return join(p.text) }

func join(cs []cluster) string {
	var b strings.Builder
	for _, c := range cs {
		b.WriteString(c.s)
	}
	return b.String()
}

func (p *prompt) empty() bool { return len(p.text) == 0 }

func (p *prompt) set(m measure, s string) {
	p.text = m.clusters(s)
	p.at = len(p.text)
}

// insert puts s before the cursor. What stands around it may join it to a cluster.
func (p *prompt) insert(m measure, s string) {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	head := join(p.text[:p.at]) + Printable(s)
	tail := join(p.text[p.at:])
	p.text = m.clusters(head + tail)
	p.at = 0
	for n := 0; p.at < len(p.text) && n < len(head); p.at++ {
		n += len(p.text[p.at].s)
	}
}

func (p *prompt) deleteTo(at int) {
	from, to := min(at, p.at), max(at, p.at)
	p.text = append(append([]cluster(nil), p.text[:from]...), p.text[to:]...)
	p.at = from
}

func (p *prompt) move(by int) { p.at = min(max(p.at+by, 0), len(p.text)) }

func (p *prompt) wordLeft() int {
	i := p.at
	for i > 0 && isSpace(p.text[i-1]) {
		i--
	}
	for i > 0 && !isSpace(p.text[i-1]) {
		i--
	}
	return i
}

func (p *prompt) wordRight() int {
	i := p.at
	for i < len(p.text) && isSpace(p.text[i]) {
		i++
	}
	for i < len(p.text) && !isSpace(p.text[i]) {
		i++
	}
	return i
}

func (p *prompt) lineStart() int {
	i := p.at
	for i > 0 && p.text[i-1].s != "\n" {
		i--
	}
	return i
}

func (p *prompt) lineEnd() int {
	i := p.at
	for i < len(p.text) && p.text[i].s != "\n" {
		i++
	}
	return i
}

func isSpace(c cluster) bool { return c.s == " " || c.s == "\n" }

// rows lays the text out in lines of at most width cells, and tells where the cursor is.
func (p *prompt) rows(width int) (lines []string, x, y int) {
	width = max(width, 2)
	var line strings.Builder
	used := 0
	end := func() {
		lines = append(lines, line.String())
		line.Reset()
		used = 0
	}
	for i, c := range p.text {
		if c.s != "\n" && used+c.width > width {
			end()
		}
		if i == p.at {
			x, y = used, len(lines)
		}
		if c.s == "\n" {
			end()
			continue
		}
		line.WriteString(c.s)
		used += c.width
	}
	if p.at == len(p.text) {
		if used >= width {
			end()
		}
		x, y = used, len(lines)
	}
	end()
	return lines, x, y
}

// up and down move the cursor between rows of width cells; false if there is none there.
func (p *prompt) vertical(width, by int) bool {
	lines, x, y := p.rows(width)
	y += by
	if y < 0 || y >= len(lines) {
		return false
	}
	best, at := -1, p.at
	q := *p
	for i := 0; i <= len(p.text); i++ {
		q.at = i
		if qx, qy := q.cursor(width); qy == y && qx <= x && qx > best {
			best, at = qx, i
		}
	}
	p.at = at
	return true
}

func (p *prompt) cursor(width int) (x, y int) {
	_, x, y = p.rows(width)
	return x, y
}

// word returns the word that ends at the cursor.
func (p *prompt) word() string {
	i := p.at
	for i > 0 && !isSpace(p.text[i-1]) {
		i--
	}
	return join(p.text[i:p.at])
}

// replaceWord puts s in the place of the word that ends at the cursor.
func (p *prompt) replaceWord(m measure, s string) {
	p.deleteTo(p.at - len(m.clusters(p.word())))
	p.insert(m, s)
}
