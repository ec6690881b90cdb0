//go:build ignore

// Writes codes_gen.go, and the table between the marks in ../SPEC.md, from codes.json.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/format"
	"log"
	"os"
	"sort"
	"strings"
)

type entry struct {
	Number     uint32 `json:"number"`
	Name       string `json:"name"`
	Scope      string `json:"scope"`
	Class      string `json:"class"`
	RetryAfter int64  `json:"retry_after_ms"`
	HTTP       int    `json:"http"`
	WS         int    `json:"ws"`
	Text       string `json:"text"`
}

func main() {
	raw, err := os.ReadFile("codes.json")
	if err != nil {
		log.Fatal(err)
	}
	var es []entry
	if err := json.Unmarshal(raw, &es); err != nil {
		log.Fatal(err)
	}
	sort.Slice(es, func(i, j int) bool { return es[i].Number < es[j].Number })
	scopes := map[string]string{"message": "ScopeMessage", "lane": "ScopeLane", "connection": "ScopeConnection"}
	classes := map[string]string{"terminal": "Terminal", "retry_same": "RetrySame", "retry_new": "RetryNew"}

	var b, t bytes.Buffer
	b.WriteString("// Code generated from codes.json; DO NOT EDIT.\n\npackage code\n\nimport \"time\"\n\n// The registered codes.\nconst (\n")
	for _, e := range es {
		fmt.Fprintf(&b, "\t%s Code = %d // %s\n", camel(e.Name), e.Number, e.Text)
	}
	b.WriteString(")\n\ntype entry struct {\n\tname, text string\n\tscope Scope\n\tclass Class\n\tretryAfter time.Duration\n\thttp, ws int\n}\n\nvar registry = map[Code]entry{\n")
	t.WriteString("| number | name | scope | class | retry after | HTTP | WebSocket | meaning |\n|---|---|---|---|---|---|---|---|\n")
	for _, e := range es {
		if scopes[e.Scope] == "" || classes[e.Class] == "" {
			log.Fatalf("code %d: unknown scope %q or class %q", e.Number, e.Scope, e.Class)
		}
		fmt.Fprintf(&b, "\t%s: {%q, %q, %s, %s, %d * time.Millisecond, %d, %d},\n", camel(e.Name), e.Name, e.Text, scopes[e.Scope], classes[e.Class], e.RetryAfter, e.HTTP, e.WS)
		fmt.Fprintf(&t, "| %d | `%s` | %s | %s | %d ms | %d | %d | %s |\n", e.Number, e.Name, e.Scope, strings.ReplaceAll(e.Class, "_", " "), e.RetryAfter, e.HTTP, e.WS, e.Text)
	}
	b.WriteString("}\n\n// All lists every registered code in ascending order.\nvar All = []Code{\n")
	for _, e := range es {
		fmt.Fprintf(&b, "\t%s,\n", camel(e.Name))
	}
	b.WriteString("}\n")
	src, err := format.Source(b.Bytes())
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("codes_gen.go", src, 0o644); err != nil {
		log.Fatal(err)
	}
	const begin, end = "<!-- codes:begin -->\n", "<!-- codes:end -->"
	spec, err := os.ReadFile("../SPEC.md")
	if os.IsNotExist(err) {
		return
	} else if err != nil {
		log.Fatal(err)
	}
	i, j := bytes.Index(spec, []byte(begin)), bytes.Index(spec, []byte(end))
	if i < 0 || j < i {
		log.Fatal("SPEC.md has no marks for the table of codes")
	}
	out := append(append(append([]byte{}, spec[:i+len(begin)]...), t.Bytes()...), spec[j:]...)
	if err := os.WriteFile("../SPEC.md", out, 0o644); err != nil {
		log.Fatal(err)
	}
}

func camel(s string) string {
	var b strings.Builder
	for _, p := range strings.Split(s, "_") {
		if p == "utf8" || p == "id" {
			b.WriteString(strings.ToUpper(p))
		} else {
			b.WriteString(strings.ToUpper(p[:1]) + p[1:])
		}
	}
	return b.String()
}
