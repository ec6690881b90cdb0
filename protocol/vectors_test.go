// Package protocol_test holds the Go implementation at the vectors that every
// implementation of the protocol shares.
package protocol_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var update = flag.Bool("update", false, "write testdata/ anew")

type frameVector struct {
	Name      string            `json:"name"`
	From      string            `json:"from"`
	Frame     string            `json:"frame"`
	JSON      []json.RawMessage `json:"json,omitempty"`
	Canonical bool              `json:"canonical,omitempty"`
	Error     string            `json:"error,omitempty"`
}

type sendVector struct {
	Name      string `json:"name"`
	Body      string `json:"body"`
	Tail      string `json:"tail"`
	Hash      string `json:"hash"`
	Seq       string `json:"seq"`
	MessageID string `json:"message_id"`
	SenderID  string `json:"sender_id"`
	Element   string `json:"element"`
}

type idVectors struct {
	Conversations []struct {
		Kind  string   `json:"kind"`
		Parts []string `json:"parts"`
		ID    string   `json:"id"`
		Slot  int      `json:"slot"`
	} `json:"conversations"`
	Users []struct {
		Hex   string `json:"hex"`
		Valid bool   `json:"valid"`
		Slot  int    `json:"slot"`
	} `json:"users"`
	ClientMsgIDs []struct {
		Hex       string `json:"hex"`
		UUID      string `json:"uuid"`
		Valid     bool   `json:"valid"`
		UnixMilli int64  `json:"unix_ms"`
	} `json:"client_msg_ids"`
	MessageIDs []struct {
		ID        string `json:"id"`
		UnixMilli int64  `json:"unix_ms"`
		Worker    uint32 `json:"worker"`
		Counter   uint32 `json:"counter"`
	} `json:"message_ids"`
}

func path(name string) string { return filepath.Join("testdata", name) }

func load(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(path(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readFrame is what a receiver of default limits makes of the bytes.
func readFrame(b []byte) (f frame.Frame, err error) {
	f, n, err := frame.Parse(b, frame.DefaultMax)
	if err != nil {
		return f, err
	}
	if n != len(b) {
		return f, fmt.Errorf("the frame has %d of %d bytes", n, len(b))
	}
	if e := packet.Validate(&f, &packet.DefaultLimits); e != nil {
		return f, e
	}
	return f, nil
}

func TestFrameVectors(t *testing.T) {
	var vs []frameVector
	load(t, "frames.json", &vs)
	types := map[frame.Type]bool{}
	for _, v := range vs {
		t.Run(v.Name, func(t *testing.T) {
			raw := unhex(t, v.Frame)
			f, err := readFrame(raw)
			if v.Error != "" {
				var e *code.Error
				if !errors.As(err, &e) || e.Code.String() != v.Error {
					t.Fatalf("%v, want %s", err, v.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			types[f.Type] = true
			got, err := packet.ToJSON(f)
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Split(got, []byte("\n"))
			if len(lines) != len(v.JSON) {
				t.Fatalf("%d JSON objects, want %d", len(lines), len(v.JSON))
			}
			for i, line := range lines {
				var want bytes.Buffer
				if err := json.Compact(&want, v.JSON[i]); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(line, want.Bytes()) {
					t.Errorf("JSON\n%s, want\n%s", line, want.Bytes())
				}
				back, err := packet.FromJSON(v.JSON[i])
				if err != nil {
					t.Fatal(err)
				}
				if v.Canonical && !bytes.Equal(back, raw) {
					t.Errorf("the JSON form is the frame %x", back)
				}
				again, err := readFrame(back)
				if err != nil {
					t.Fatal(err)
				}
				if j, err := packet.ToJSON(again); err != nil || !bytes.Equal(j, line) {
					t.Errorf("there and back\n%s, want\n%s (%v)", j, line, err)
				}
			}
		})
	}
	for typ := frame.Connect; typ.Known(); typ++ {
		if !types[typ] {
			t.Errorf("no vector for %v", typ)
		}
	}
}

func TestSendVectors(t *testing.T) {
	var vs []sendVector
	load(t, "sends.json", &vs)
	for _, v := range vs {
		t.Run(v.Name, func(t *testing.T) {
			var s packet.Send
			if err := packet.DecodeSend(&s, unhex(t, v.Body), &packet.DefaultLimits); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(s.Tail); got != v.Tail {
				t.Errorf("tail %s, want %s", got, v.Tail)
			}
			if got := fmt.Sprintf("%016x", s.BodyHash); got != v.Hash || s.BodyHash != xxhash.Sum64(s.Tail) {
				t.Errorf("hash %s, want %s", got, v.Hash)
			}
			seq, _ := strconv.ParseUint(v.Seq, 10, 64)
			mid, _ := strconv.ParseUint(v.MessageID, 10, 64)
			element := packet.AppendMessage(nil, seq, id.MessageID(mid), id.UserID(v.SenderID), s.Tail)
			if got := hex.EncodeToString(element); got != v.Element {
				t.Errorf("element %s, want %s", got, v.Element)
			}
			m, rest, err := packet.NextMessage(element)
			if err != nil || len(rest) != 0 || m.Seq != seq || uint64(m.ID) != mid || string(m.Sender) != v.SenderID || !bytes.Equal(m.Body, s.Tail) {
				t.Errorf("read back %+v, %v", m, err)
			}
		})
	}
}

func TestIDVectors(t *testing.T) {
	var vs idVectors
	load(t, "ids.json", &vs)
	for _, v := range vs.Conversations {
		if got := conversation(v.Kind, v.Parts); got.String() != v.ID || int(got.Slot()) != v.Slot {
			t.Errorf("%s of %q: %v in slot %d, want %s in %d", v.Kind, v.Parts, got, got.Slot(), v.ID, v.Slot)
		}
	}
	for _, v := range vs.Users {
		u := id.UserID(unhex(t, v.Hex))
		if u.Valid() != v.Valid || v.Valid && int(u.Slot()) != v.Slot {
			t.Errorf("user %q: valid %v, slot %d", string(u), u.Valid(), u.Slot())
		}
	}
	for _, v := range vs.ClientMsgIDs {
		c := id.ClientMsgID(unhex(t, v.Hex))
		if p, err := id.ParseClientMsgID(v.UUID); err != nil || p != c || c.String() != v.UUID || c.Valid() != v.Valid || v.Valid && c.UnixMilli() != v.UnixMilli {
			t.Errorf("client message id %s: %v, valid %v, %d ms, %v", v.UUID, c, c.Valid(), c.UnixMilli(), err)
		}
	}
	for _, v := range vs.MessageIDs {
		m := id.MakeMessageID(v.UnixMilli, v.Worker, v.Counter)
		if strconv.FormatUint(uint64(m), 10) != v.ID || m.UnixMilli() != v.UnixMilli {
			t.Errorf("message id of %d, %d, %d: %d", v.UnixMilli, v.Worker, v.Counter, m)
		}
	}
}

func conversation(kind string, parts []string) id.ConversationID {
	switch kind {
	case "direct":
		return id.Direct(id.UserID(parts[0]), id.UserID(parts[1]))
	case "self":
		return id.Self(id.UserID(parts[0]))
	case "group":
		return id.Named(id.KindGroup, parts[0])
	}
	return id.Named(id.KindRoom, parts[0])
}

// TestVectorsAreFresh holds the data files at what vectors_make_test.go makes; with
// -update it writes them.
func TestVectorsAreFresh(t *testing.T) {
	for name, v := range map[string]any{"frames.json": makeFrames(t), "sends.json": makeSends(t), "ids.json": makeIDs()} {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path(name), buf.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path(name))
		if err != nil || !bytes.Equal(got, buf.Bytes()) {
			t.Errorf("%s is stale (%v): go test ./protocol -update, and look at what changed", name, err)
		}
	}
}

// TestSpecExamples reads every JSON object that SPEC.md shows in a block.
func TestSpecExamples(t *testing.T) {
	spec, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range strings.Split(string(spec), "```json\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for line := range strings.Lines(block) {
			line = strings.ReplaceAll(line, `"01…"`, `"`+id.Direct("1001", "1002").String()+`"`)
			b, err := packet.FromJSON([]byte(line))
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			f, err := readFrame(b)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			back, err := packet.ToJSON(f)
			var want bytes.Buffer
			if err := errors.Join(err, json.Compact(&want, []byte(line))); err != nil || !bytes.Equal(back, want.Bytes()) {
				t.Errorf("%s there and back is\n%s (%v)", line, back, err)
			}
			n++
		}
	}
	if n < 2 {
		t.Errorf("%d examples", n)
	}
}
