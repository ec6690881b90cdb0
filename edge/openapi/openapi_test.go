package openapi

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/packet"
)

func made(t *testing.T, ops ...Operation) []byte {
	t.Helper()
	var shapes []packet.Shape
	for m := packet.Method(1); m.Known(); m++ {
		shapes = append(shapes, m.Answer())
	}
	b, err := Document("test", ops, append(shapes, packet.MessageShape()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every reference leads somewhere, and the same operations make the same bytes.
func TestDocument(t *testing.T) {
	op := Operation{ID: "x", Method: "POST", Path: "/x/{user_id}", Security: "bearer", Body: Closed(Fields(packet.SendShape(), "content", "encryption")), Answer: Ref("Conversations"),
		Params: []Param{{Name: "user_id", In: "path", Schema: Name()}}}
	if op.Pattern() != "/x/:user_id" {
		t.Errorf("pattern %s", op.Pattern())
	}
	b := made(t, op)
	if !bytes.Equal(b, made(t, op)) {
		t.Error("two documents of the same operations differ")
	}
	var doc struct {
		OpenAPI    string
		Components struct{ Schemas, Responses map[string]any }
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%q, %v", doc.OpenAPI, err)
	}
	for _, m := range regexp.MustCompile(`"\$ref": "#/components/(\w+)/(\w+)"`).FindAllStringSubmatch(string(b), -1) {
		in := doc.Components.Schemas
		if m[1] == "responses" {
			in = doc.Components.Responses
		}
		if in[m[2]] == nil {
			t.Errorf("%s leads nowhere", m[0])
		}
	}
	if _, err := Document("test", []Operation{op, op}, nil, nil); err == nil {
		t.Error("an operation that stands twice was accepted")
	}
}

// The page asks nobody but the server that it came from, and makes no markup of what it is told.
func TestPage(t *testing.T) {
	files := Routes([]byte(`{}`))
	if len(files) != 4 {
		t.Fatalf("%d files", len(files))
	}
	for _, f := range files[1:] {
		text := string(f.Body)
		if regexp.MustCompile(`(?i)https?:|//[a-z0-9-]+\.[a-z]`).MatchString(text) {
			t.Errorf("%s names another host", f.Path)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", " style=", " onclick", "javascript:"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %s", f.Path, bad)
			}
		}
	}
	if regexp.MustCompile(`<script>|<style>`).Match(files[1].Body) {
		t.Error("the page has a script or a style within it, against its own policy")
	}
	policies := 0
	for _, h := range files[1].Header {
		if h[0] == "Content-Security-Policy" && strings.Contains(h[1], "default-src 'none'") && !strings.Contains(h[1], "unsafe") {
			policies++
		}
	}
	if policies != 1 {
		t.Errorf("headers of the page: %v", files[1].Header)
	}
}
