// Package schematest holds answers to the OpenAPI document, for tests: the part of JSON Schema that
// the document uses, and strictly: a member that the document doesn't know is a fault.
package schematest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Document is a parsed OpenAPI document.
type Document struct {
	root map[string]any
}

// Parse reads a document.
func Parse(b []byte) (*Document, error) {
	d := new(Document)
	if err := json.Unmarshal(b, &d.root); err != nil {
		return nil, fmt.Errorf("the document: %w", err)
	}
	return d, nil
}

// Operation is one of the document's.
type Operation struct {
	Method, Path, ID string
	node             map[string]any
}

// Operations returns all of them.
func (d *Document) Operations() []Operation {
	var out []Operation
	paths, _ := d.root["paths"].(map[string]any)
	for path, verbs := range paths {
		for verb, op := range verbs.(map[string]any) {
			node := op.(map[string]any)
			out = append(out, Operation{Method: strings.ToUpper(verb), Path: path, ID: fmt.Sprint(node["operationId"]), node: node})
		}
	}
	return out
}

// Find returns the operation that a request is one of; false: none.
func (d *Document) Find(method, path string) (best Operation, ok bool) {
	parts := strings.Split(path, "/")
	fixed := -1
	for _, op := range d.Operations() {
		pattern := strings.Split(op.Path, "/")
		if op.Method != method || len(pattern) != len(parts) {
			continue
		}
		same := 0
		for i := range pattern {
			if pattern[i] == parts[i] {
				same++
			} else if !strings.HasPrefix(pattern[i], "{") {
				same = -1
				break
			}
		}
		if same > fixed {
			best, fixed, ok = op, same, true
		}
	}
	return best, ok
}

// Answer checks an answer to op; it returns what is wrong with it.
func (d *Document) Answer(op *Operation, status int, contentType string, body []byte) error {
	responses := op.node["responses"].(map[string]any)
	r, ok := responses[fmt.Sprint(status)].(map[string]any)
	if !ok {
		r = d.resolve(responses["default"].(map[string]any))
	}
	kind, _, _ := strings.Cut(contentType, ";")
	media, ok := r["content"].(map[string]any)[kind].(map[string]any)
	if !ok {
		return fmt.Errorf("%s: an answer of type %q is not in the document", op.ID, contentType)
	}
	schema, ok := media["schema"].(map[string]any)
	if !ok {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("%s: %w in %s", op.ID, err, body)
	}
	if err := d.check(schema, v, "the answer"); err != nil {
		return fmt.Errorf("%s: %w", op.ID, err)
	}
	return nil
}

// Body checks the body of a request; nil: it has none.
func (d *Document) Body(op *Operation, body []byte) error {
	request, ok := op.node["requestBody"].(map[string]any)
	if !ok || body == nil {
		if ok != (body != nil) {
			return fmt.Errorf("%s: a body %v, in the document %v", op.ID, body != nil, ok)
		}
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	schema := request["content"].(map[string]any)["application/json"].(map[string]any)["schema"].(map[string]any)
	if err := d.check(schema, v, "the body"); err != nil {
		return fmt.Errorf("%s: %w", op.ID, err)
	}
	return nil
}

func (d *Document) resolve(s map[string]any) map[string]any {
	ref, ok := s["$ref"].(string)
	if !ok {
		return s
	}
	var at any = d.root
	for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		m, _ := at.(map[string]any)
		at = m[part]
	}
	m, _ := at.(map[string]any)
	return m // nil: the reference leads nowhere, and nothing fits it
}

func (d *Document) check(s map[string]any, v any, where string) error {
	if s = d.resolve(s); s == nil {
		return fmt.Errorf("%s: its schema leads nowhere", where)
	}
	if err := kind(s["type"], v, where); err != nil {
		return err
	}
	if list, ok := s["oneOf"].([]any); ok {
		fit := 0
		for _, one := range list {
			if d.check(one.(map[string]any), v, where) == nil {
				fit++
			}
		}
		if fit != 1 {
			return fmt.Errorf("%s fits %d of one", where, fit)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return d.object(s, v, where)
	case []any:
		if n, ok := s["maxItems"].(float64); ok && float64(len(v)) > n {
			return fmt.Errorf("%s has %d elements", where, len(v))
		}
		items, ok := s["items"].(map[string]any)
		for i := 0; ok && i < len(v); i++ {
			if err := d.check(items, v[i], fmt.Sprintf("%s[%d]", where, i)); err != nil {
				return err
			}
		}
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return fmt.Errorf("%s is %q, against %s", where, v, p)
		}
		n := float64(utf8.RuneCountInString(v))
		if low, ok := s["minLength"].(float64); ok && n < low {
			return fmt.Errorf("%s is %q", where, v)
		}
		if high, ok := s["maxLength"].(float64); ok && n > high {
			return fmt.Errorf("%s has %v characters", where, n)
		}
	case float64:
		if low, ok := s["minimum"].(float64); ok && v < low {
			return fmt.Errorf("%s is %v", where, v)
		}
		if high, ok := s["maximum"].(float64); ok && v > high {
			return fmt.Errorf("%s is %v", where, v)
		}
	}
	return nil
}

func (d *Document) object(s, v map[string]any, where string) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s has no %s", where, name)
		}
	}
	properties, ok := s["properties"].(map[string]any)
	if !ok {
		return nil
	}
	for name, value := range v {
		p, ok := properties[name].(map[string]any)
		if !ok {
			return fmt.Errorf("%s has %s, which is not in the document", where, name)
		}
		if err := d.check(p, value, where+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func kind(want, v any, where string) error {
	var kinds []string
	switch want := want.(type) {
	case nil:
		return nil
	case string:
		kinds = []string{want}
	case []any:
		for _, k := range want {
			kinds = append(kinds, k.(string))
		}
	}
	have := "null"
	switch v := v.(type) {
	case map[string]any:
		have = "object"
	case []any:
		have = "array"
	case string:
		have = "string"
	case bool:
		have = "boolean"
	case float64:
		if have = "number"; v == float64(int64(v)) {
			have = "integer"
		}
	}
	if !slices.Contains(kinds, have) {
		return fmt.Errorf("%s is of type %s, want %v", where, have, kinds)
	}
	return nil
}
