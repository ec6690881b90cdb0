package code

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestRegistry(t *testing.T) {
	names := map[string]Code{}
	last := Code(0)
	for _, c := range All {
		if c <= last {
			t.Errorf("%d is not above %d", c, last)
		}
		last = c
		if other, ok := names[c.String()]; ok {
			t.Errorf("%d and %d have one name", c, other)
		}
		names[c.String()] = c
		if c.Text() == "" || c.HTTP() < 400 || c.HTTP() > 599 {
			t.Errorf("%v: text %q, HTTP %d", c, c.Text(), c.HTTP())
		}
		if ws := c.WS(); ws < 4000 && ws != 1011 && ws != 1012 && ws != 1013 || ws > 4999 {
			t.Errorf("%v: WebSocket close code %d", c, ws)
		}
		if (c < 2000) != (c.Scope() == ScopeConnection) || (c/1000 == 2) != (c.Scope() == ScopeLane) {
			t.Errorf("%v: scope %d out of its thousand", c, c.Scope())
		}
		if c.Scope() == ScopeLane && c.Class() != RetrySame {
			t.Errorf("%v blocks a lane and can't be resent", c)
		}
	}
}

func TestUnknownCodes(t *testing.T) {
	for c, want := range map[Code]struct {
		scope Scope
		class Class
	}{1999: {ScopeConnection, Terminal}, 2999: {ScopeLane, RetrySame}, 3998: {ScopeMessage, Terminal}, 7: {ScopeMessage, Terminal}} {
		if c.Scope() != want.scope || c.Class() != want.class || c.HTTP() != 500 || c.WS() != 1011 || c.RetryAfter() != 0 {
			t.Errorf("%d: scope %d, class %d", c, c.Scope(), c.Class())
		}
	}
	if s := Code(7).String(); s != "code_7" {
		t.Error(s)
	}
}

func TestError(t *testing.T) {
	e := Wrap(Unavailable, io.ErrUnexpectedEOF)
	if !errors.Is(e, io.ErrUnexpectedEOF) || !errors.Is(e, New(Unavailable)) || errors.Is(e, New(Overloaded)) || !e.Retryable() {
		t.Errorf("%v", e)
	}
	if e.RetryAfter != 500*time.Millisecond {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	if s := Newf(BadRequest, "field %d", 3).Error(); s != "bad_request (3000): field 3" {
		t.Error(s)
	}
	if s := e.Error(); s != "unavailable (2000): not possible right now: unexpected EOF" {
		t.Error(s)
	}
	if New(Forbidden).Retryable() || New(IDUnknown).Retryable() {
		t.Error("a refusal that isn't retryable says it is")
	}
}

// TestGeneratedIsFresh runs the generator on a copy.
func TestGeneratedIsFresh(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "code")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	copies := map[string]string{"codes.json": filepath.Join(sub, "codes.json"), "gen.go": filepath.Join(sub, "gen.go"), "../SPEC.md": filepath.Join(dir, "SPEC.md")}
	for from, to := range copies {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "run", "gen.go")
	cmd.Dir = sub
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go run gen.go: %v\n%s", err, out)
	}
	for from, to := range map[string]string{"codes_gen.go": filepath.Join(sub, "codes_gen.go"), "../SPEC.md": filepath.Join(dir, "SPEC.md")} {
		want, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(from); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run go generate in protocol/code", filepath.Base(from))
		}
	}
}

// TestRegistryFile holds the file itself: it is what other languages generate from.
func TestRegistryFile(t *testing.T) {
	raw, err := os.ReadFile("codes.json")
	if err != nil {
		t.Fatal(err)
	}
	var entries []struct {
		Number     Code   `json:"number"`
		Name       string `json:"name"`
		RetryAfter int64  `json:"retry_after_ms"`
		HTTP       int    `json:"http"`
		WS         int    `json:"ws"`
		Scope      string `json:"scope"`
		Class      string `json:"class"`
		Text       string `json:"text"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(All) {
		t.Fatalf("%d entries, %d codes", len(entries), len(All))
	}
	for i, e := range entries {
		if e.Number != All[i] || e.Name != All[i].String() || e.Text != All[i].Text() || e.HTTP != e.Number.HTTP() ||
			e.WS != e.Number.WS() || time.Duration(e.RetryAfter)*time.Millisecond != e.Number.RetryAfter() {
			t.Errorf("entry %+v is not what the code says", e)
		}
	}
}
