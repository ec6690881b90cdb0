package packet

import (
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
)

// ReplaceContent makes content the text of a message that is not stored yet. Tail, which
// others may share, is written anew, other fields byte for byte; BodyHash stays that of
// what the client sent, so that a message sent again is still known for the same one.
func (s *Send) ReplaceContent(content string) *code.Error {
	switch {
	case !utf8.ValidString(content):
		return invalidUTF8("content")
	case len(content) > HardMaxContent:
		return code.New(code.ContentTooLarge)
	}
	out := make([]byte, 0, len(s.Tail)-len(s.Content)+len(content)+8)
	var at, end int // of content in out
	put := func() {
		if len(content) > 0 {
			out = appendBytes(out, fieldContent, content)
			at, end = len(out)-len(content), len(out)
		}
	}
	done, filled := false, len(content) > 0
	for rest := s.Tail; len(rest) > 0; {
		f, n := next(rest)
		if n == 0 {
			return malformed("send")
		}
		if !done && f.num >= fieldContent {
			put()
			done = true
		}
		if f.num != fieldContent {
			out = append(out, rest[:n]...)
		}
		filled = filled || f.num == fieldData && len(f.data) > 0
		rest = rest[n:]
	}
	if !done {
		put()
	}
	if !filled && s.Type < TypeSystem {
		return badField("the message is empty")
	}
	s.Tail = out[:len(out):len(out)]
	s.Content = s.Tail[at:end:end]
	return nil
}
