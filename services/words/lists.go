package words

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of lists. All lists together take 25 MB of memory at most, and as much again while they are changed.
const (
	MaxWord  = 64      // runes of a word
	MaxText  = 1 << 20 // bytes of a list
	MaxLists = 64
	MaxRunes = 1<<19 - 1 // of all lists together
)

// ErrList is wrapped by the errors of lists that can't be used.
var ErrList = errors.New("words: bad list")

// Lists are lists of words by name. They are never changed; nil are none.
type Lists struct {
	words   map[string][]string // folded
	runes   int
	matcher *Matcher // nil: there is no word
}

// With returns the lists with this one in place of the one of its name, at most MaxLists beside the one without a name: a word a line, without the space around it; empty lines and those
// that begin with # count for nothing. Its error doesn't quote words.
func (l *Lists) With(name, text string) (*Lists, error) {
	words, err := parse(text)
	if err != nil {
		return nil, err
	}
	next := l.without(name)
	named := len(next.words)
	if _, own := next.words[""]; own {
		named--
	}
	if name != "" && named >= MaxLists {
		return nil, fmt.Errorf("%w: there are %d lists already", ErrList, MaxLists)
	}
	next.words[name] = words
	return next.build()
}

// Without returns the lists without one.
func (l *Lists) Without(name string) *Lists {
	next, err := l.without(name).build()
	if err != nil { // less than what was built
		return l
	}
	return next
}

// Matcher returns what finds the words of all lists; nil: there are none.
func (l *Lists) Matcher() *Matcher {
	if l == nil {
		return nil
	}
	return l.matcher
}

func (l *Lists) without(name string) *Lists {
	next := &Lists{words: map[string][]string{}}
	if l != nil {
		maps.Copy(next.words, l.words)
	}
	delete(next.words, name)
	return next
}

func (l *Lists) build() (*Lists, error) {
	for _, list := range l.words {
		for _, w := range list {
			l.runes += utf8.RuneCountInString(w)
		}
	}
	switch {
	case l.runes > MaxRunes:
		return nil, fmt.Errorf("%w: all lists together would have %d characters, more than %d", ErrList, l.runes, MaxRunes)
	case l.runes > 0:
		l.matcher = newMatcher(l.words, l.runes)
	}
	return l, nil
}

// Check reports whether text can be a list, and how many words it has.
func Check(text string) (words int, err error) {
	list, err := parse(text)
	if err != nil {
		return 0, err
	}
	_, err = (&Lists{words: map[string][]string{"": list}}).build()
	return len(list), err
}

func parse(text string) (words []string, err error) {
	switch {
	case len(text) > MaxText:
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrList, len(text), MaxText)
	case !utf8.ValidString(text):
		return nil, fmt.Errorf("%w: it isn't UTF-8", ErrList)
	}
	number, runes := 0, 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var b strings.Builder
		n := 0
		for _, c := range line {
			if unicode.IsControl(c) {
				return nil, fmt.Errorf("%w: line %d has a control character", ErrList, number)
			}
			if c = fold(c); c != unseen {
				b.WriteRune(c)
				n++
			}
		}
		switch {
		case n == 0:
			return nil, fmt.Errorf("%w: nobody sees what is in line %d", ErrList, number)
		case n > MaxWord:
			return nil, fmt.Errorf("%w: line %d has %d characters, more than %d", ErrList, number, n, MaxWord)
		}
		if runes += n; runes > MaxRunes {
			return nil, fmt.Errorf("%w: it has more than %d characters", ErrList, MaxRunes)
		}
		words = append(words, b.String())
	}
	return words, nil
}
