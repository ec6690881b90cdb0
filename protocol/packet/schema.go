package packet

import (
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// kind says what a field holds: how it is checked, and what it looks like in JSON.
type kind uint8

const (
	kindNumber  kind = iota // varint of 32 bits; a JSON number
	kindLong                // varint of 64 bits; a JSON string of decimal digits
	kindTime                // varint, Unix milliseconds; a JSON number
	kindBool                // varint; true or false
	kindDevice              // varint, wire.DeviceKind; a JSON string, a number if unknown
	kindMessage             // fixed64, a MessageID; a JSON string of decimal digits
	kindText                // UTF-8; a JSON string
	kindName                // a UserID or DeviceID; a JSON string
	kindConv                // 16 bytes, a ConversationID; a JSON string of 32 hexadecimal digits
	kindUUID                // 16 bytes, a ClientMsgID; a JSON string in the 8-4-4-4-12 form
	kindBytes               // anything; a JSON string of base64
	kindSub                 // a message; a JSON object
)

// attr is what else holds for a field.
type attr uint8

const (
	repeated attr = 1 << iota
	required      // must be there and not be empty
	always        // in JSON, written even when it is zero
)

// spec is one field of a body.
type spec struct {
	num  uint32
	name string // in JSON; empty: not in JSON
	kind kind
	attr attr
	max  int     // bytes, or elements of a repeated field; 0: what fits the frame
	sub  *schema // kindSub
}

// schema is a body: its fields in ascending order of number. The tables of this package
// restate idl/wire.proto with what protobuf can't say; a test compares the two.
type schema struct {
	name   string
	fields []spec

	// check, if any, is for what no single field can tell. filled has a bit for each field, by
	// position, whose last value isn't zero or empty.
	check func(filled uint32) *code.Error
}

// index returns the position of a field by number, -1 if there is none.
func (s *schema) index(num uint32) int {
	for i := range s.fields {
		if s.fields[i].num == num {
			return i
		}
	}
	return -1
}

func (k kind) wireType() uint8 {
	switch k {
	case kindMessage:
		return wtFixed64
	case kindText, kindName, kindConv, kindUUID, kindBytes, kindSub:
		return wtBytes
	}
	return wtVarint
}

// maxFields is the longest schema's number of fields: room for them on the stack.
const maxFields = 24

// validate checks that body is one of s: readable, every field of its wire type, within its
// limits, and all text valid UTF-8. Unknown fields pass. It allocates nothing unless it refuses.
func (s *schema) validate(body []byte) *code.Error {
	var f field
	var filled uint32
	var counts [maxFields]int
	for at := 0; at < len(body); {
		if at = f.read(body, at); at == 0 {
			return malformed(s.name)
		}
		i := s.index(f.num)
		if i < 0 {
			continue
		}
		sp := &s.fields[i]
		if f.wt != sp.kind.wireType() {
			return malformed(s.name)
		}
		counts[i]++
		if sp.attr&repeated != 0 {
			if sp.max > 0 && counts[i] > sp.max {
				return tooMany(sp.name, sp.max)
			}
		}
		if err := sp.validate(&f); err != nil {
			return err
		}
		filled &^= 1 << i
		if f.val != 0 || len(f.data) > 0 {
			filled |= 1 << i
		}
	}
	for i := range s.fields {
		if sp := &s.fields[i]; sp.attr&required != 0 && filled&(1<<i) == 0 {
			return code.Newf(code.BadRequest, "%s: %s is missing", s.name, sp.name)
		}
	}
	if s.check != nil {
		return s.check(filled)
	}
	return nil
}

func (sp *spec) validate(f *field) *code.Error {
	if sp.max > 0 && sp.attr&repeated == 0 && len(f.data) > sp.max {
		return code.Newf(code.BadRequest, "%s is longer than %d bytes", sp.name, sp.max)
	}
	switch sp.kind {
	case kindNumber, kindDevice:
		if f.val > 1<<32-1 {
			return code.Newf(code.BadRequest, "%s is above 32 bits", sp.name)
		}
	case kindBool: // the generated codec takes 2 for false, protobuf for true
		if f.val > 1 {
			return badField("a bool is neither 0 nor 1")
		}
	case kindText:
		if !utf8.Valid(f.data) {
			return invalidUTF8(sp.name)
		}
	case kindName:
		if len(f.data) > 0 && !id.UserID(aliased(f.data)).Valid() {
			return badName(sp.name, f.data)
		}
	case kindConv, kindUUID:
		if len(f.data) != 16 && len(f.data) != 0 {
			return code.Newf(code.BadRequest, "%s is not 16 bytes", sp.name)
		}
	case kindSub:
		return sp.sub.validate(f.data)
	}
	return nil
}
