// Package words finds words of lists in what people write, so that messages with them are
// refused, or stored with asterisks in their place.
//
// A word is found wherever it stands, also within a longer one: Chinese has no spaces between words. Case, full-width
// forms of ASCII and characters that nobody sees make no difference; other spellings of a word are words of their own.
package words

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Matcher finds any of many words in one pass (Aho-Corasick): in time linear in the text, however many words there are and
// whatever they are. It is never changed, and takes 60 bytes at most for each rune of its words.
type Matcher struct {
	root  [128]uint32 // the first state of words that begin with this rune; 0: there is none
	nodes []node      // by state; 0 is the root
	slots []slot      // open addressing: where rune leads from a state
	mask  uint32
	words int
}

// node is a state: what was read last is the beginning of a word.
type node struct {
	fail  uint32 // the state of the longest proper end of it that is the beginning of a word, too
	found uint16 // runes of the longest word that it ends with; 0: none
	depth uint16 // runes read
}

type slot struct {
	from uint32
	char rune // folded
	to   uint32
}

// newMatcher makes a matcher of folded words, none of which is empty or longer than MaxWord runes. runes is how many they have together at most.
func newMatcher(lists map[string][]string, runes int) *Matcher {
	size := 4
	for size < 2*(runes+1) {
		size *= 2
	}
	m := &Matcher{nodes: make([]node, 1, runes+1), slots: make([]slot, size), mask: uint32(size - 1)}
	for _, list := range lists {
		for _, w := range list {
			at := uint32(0)
			for _, c := range w {
				at = m.add(at, c)
			}
			if n := &m.nodes[at]; n.found == 0 {
				n.found = n.depth
				m.words++
			}
		}
	}
	m.link()
	return m
}

func (m *Matcher) hash(from uint32, c rune) uint32 {
	h := (uint64(from)<<21 ^ uint64(uint32(c))) * 0x9E3779B97F4A7C15
	return uint32(h>>32) & m.mask
}

// add returns where c leads from a state, a new one if that is nowhere yet.
func (m *Matcher) add(from uint32, c rune) uint32 {
	i := m.hash(from, c)
	for ; m.slots[i].to != 0; i = (i + 1) & m.mask {
		if s := &m.slots[i]; s.from == from && s.char == c {
			return s.to
		}
	}
	to := uint32(len(m.nodes))
	m.nodes = append(m.nodes, node{depth: m.nodes[from].depth + 1})
	m.slots[i] = slot{from, c, to}
	if from == 0 && c < utf8.RuneSelf {
		m.root[c] = to
	}
	return to
}

// next returns where c leads from a state; 0: nowhere.
func (m *Matcher) next(from uint32, c rune) uint32 {
	if from == 0 && c < utf8.RuneSelf {
		return m.root[c]
	}
	for i := m.hash(from, c); m.slots[i].to != 0; i = (i + 1) & m.mask {
		if s := &m.slots[i]; s.from == from && s.char == c {
			return s.to
		}
	}
	return 0
}

// link finds where each state goes on when the next rune leads nowhere: breadth first, so that shorter ones are known.
func (m *Matcher) link() {
	edges := make([]slot, 0, len(m.nodes)-1)
	count := make([]int, MaxWord+2)
	for i := range m.nodes {
		count[m.nodes[i].depth+1]++
	}
	for d := 1; d < len(count); d++ {
		count[d] += count[d-1]
	}
	edges = edges[:len(m.nodes)-1]
	for _, s := range m.slots {
		if s.to != 0 {
			at := &count[m.nodes[s.to].depth]
			edges[*at-1] = s // the root, of depth 0, has no edge to it
			*at++
		}
	}
	for _, e := range edges {
		if e.from == 0 {
			continue
		}
		n := &m.nodes[e.to]
		n.fail = m.step(m.nodes[e.from].fail, e.char)
		if n.found == 0 {
			n.found = m.nodes[n.fail].found
		}
	}
}

// step returns the state after c.
func (m *Matcher) step(at uint32, c rune) uint32 {
	for {
		if to := m.next(at, c); to != 0 || at == 0 {
			return to
		}
		at = m.nodes[at].fail
	}
}

// Words returns how many different words there are.
func (m *Matcher) Words() int { return m.words }

// Find reports whether a word is in text, which is UTF-8. It doesn't allocate.
func (m *Matcher) Find(text []byte) bool {
	at := uint32(0)
	for i := 0; i < len(text); {
		c, n := rune(text[i]), 1
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
		} else {
			c, n = utf8.DecodeRune(text[i:])
			c = fold(c)
		}
		i += n
		if c == unseen {
			continue
		}
		if at = m.step(at, c); at != 0 && m.nodes[at].found != 0 {
			return true
		}
	}
	return false
}

// Mask returns text with an asterisk for each rune of each word that is in it. It is never longer than text.
func (m *Matcher) Mask(text string) string {
	type char struct {
		at    int // in text
		found uint16
	}
	chars := make([]char, 0, len(text))
	state := uint32(0)
	for i, c := range text {
		if c = fold(c); c == unseen {
			continue
		}
		state = m.step(state, c)
		chars = append(chars, char{i, m.nodes[state].found})
	}
	// From the end: whatever ends here or later and began before is a word's.
	low := len(chars)
	masked := make([]bool, len(chars))
	for i := len(chars) - 1; i >= 0; i-- {
		if n := int(chars[i].found); n > 0 {
			low = min(low, i+1-n)
		}
		masked[i] = i >= low
	}
	var b strings.Builder
	b.Grow(len(text))
	done := 0 // of text
	for i := range chars {
		if !masked[i] {
			continue
		}
		if i == 0 || !masked[i-1] { // what isn't seen within a word goes with it
			b.WriteString(text[done:chars[i].at])
		}
		b.WriteByte('*')
		_, n := utf8.DecodeRuneInString(text[chars[i].at:])
		done = chars[i].at + n
	}
	b.WriteString(text[done:])
	return b.String()
}

// unseen is what characters are folded to that nobody sees.
const unseen = rune(-1)

// fold returns what stands for all forms of c.
func fold(c rune) rune {
	switch {
	case c < utf8.RuneSelf:
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	case c == 0x3000: // the full-width space
		return ' '
	case 0x2E80 <= c && c < 0xA640, 0xAC00 <= c && c < 0xD7B0: // writing of East Asia, which has no case
		return c
	case 0xFF01 <= c && c <= 0xFF5E: // full-width forms of ASCII
		return fold(c - 0xFF01 + '!')
	case c == 0x00AD, 0x200B <= c && c <= 0x200F, 0x2060 <= c && c <= 0x2064, 0xFE00 <= c && c <= 0xFE0F, c == 0xFEFF:
		return unseen
	}
	least := c
	for o := unicode.SimpleFold(c); o != c; o = unicode.SimpleFold(o) {
		least = min(least, o)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}
