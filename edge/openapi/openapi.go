// Package openapi makes the OpenAPI 3.1 document of the HTTP API, and the page that shows it.
//
// What a body looks like is taken from the packets' own tables (protocol/packet), so that
// the document can't say another thing than what is read and written.
package openapi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Schema is a JSON Schema (draft 2020-12), as OpenAPI 3.1 has it.
type Schema map[string]any

// Param is a parameter of the path, the query or a header.
type Param struct {
	Name, In string // In: path, query or header
	Doc      string
	Required bool
	Schema   Schema
}

// Operation is one route.
type Operation struct {
	ID, Method, Path string // Path with {name} for parameters
	Tag, Doc         string
	Security         string // bearer, key or empty
	Params           []Param
	Body             Schema // nil: takes none
	Answer           Schema // of 200; nil: Produces isn't JSON
	Produces         string // empty: application/json
	Upgrade          bool   // answered by another protocol: 101
	Empty            bool   // answered without content: 204
	Frames           bool   // instead of the Body it takes bytes of frames, too
}

// Pattern is the path with parameters as :name.
func (o *Operation) Pattern() string {
	return strings.NewReplacer("{", ":", "}", "").Replace(o.Path)
}

// Ref refers to a component of the document.
func Ref(name string) Schema { return Schema{"$ref": "#/components/schemas/" + name} }

// Object is an object with these members, of which required must be there.
func Object(properties map[string]Schema, required ...string) Schema {
	s := Schema{"type": "object", "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// Closed is Object with no other members.
func Closed(properties map[string]Schema, required ...string) Schema {
	s := Object(properties, required...)
	s["additionalProperties"] = false
	return s
}

// List is an array.
func List(of Schema) Schema { return Schema{"type": "array", "items": of} }

// Text, Bool, Whole and Time are plain values; Time is in Unix milliseconds.
func Text() Schema  { return Schema{"type": "string"} }
func Bool() Schema  { return Schema{"type": "boolean"} }
func Whole() Schema { return Schema{"type": "integer", "minimum": 0, "maximum": 4294967295} }
func Time() Schema {
	return Schema{"type": "integer", "minimum": 0, "description": "Unix milliseconds"}
}

// Long is a number of 64 bits: a string of decimal digits.
func Long() Schema { return Schema{"type": "string", "pattern": "^[0-9]{1,20}$"} }

// Name is a user id or device id.
func Name() Schema { return Schema{"type": "string", "minLength": 1, "maxLength": 64} }

// Conversation is a conversation id.
func Conversation() Schema { return Schema{"type": "string", "pattern": "^[0-9a-f]{32}$"} }

// UUID is a client message id.
func UUID() Schema { return Schema{"type": "string", "format": "uuid"} }

// Value is what one field of a packet looks like.
func Value(f *packet.Field) Schema {
	var s Schema
	switch f.Kind {
	case "number":
		s = Whole()
	case "long", "message_id":
		s = Long()
	case "time":
		s = Time()
	case "bool":
		s = Bool()
	case "device":
		s = Schema{"type": []string{"string", "integer"}, "description": "unknown, phone, tablet, desktop, web, bot, or the number of a kind that has no name yet"}
	case "text":
		s = Text()
		if f.Max > 0 && !f.Repeated {
			s["maxLength"] = f.Max // counted in bytes of UTF-8, so fewer characters may be too many
		}
	case "name":
		s = Name()
	case "conversation_id":
		s = Conversation()
	case "uuid":
		s = UUID()
	case "bytes":
		s = Schema{"type": "string", "contentEncoding": "base64"}
	case "object":
		s = Ref(ComponentName(f.Shape))
	}
	if f.Repeated {
		s = List(s)
		if f.Max > 0 {
			s["maxItems"] = f.Max
		}
	}
	return s
}

// ComponentName is what the document calls a shape.
func ComponentName(x packet.Shape) string {
	var b strings.Builder
	for _, part := range strings.FieldsFunc(x.Name(), func(r rune) bool { return r == '_' || r == ' ' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// Fields returns the schemas of those fields of a shape that are named.
func Fields(x packet.Shape, names ...string) map[string]Schema {
	out := make(map[string]Schema, len(names))
	for _, f := range x.Fields() {
		for _, n := range names {
			if n == f.Name {
				out[n] = Value(&f)
			}
		}
	}
	return out
}

// document gathers components.
type document struct{ components map[string]Schema }

// shape adds a shape and those within it.
func (d *document) shape(x packet.Shape) {
	name := ComponentName(x)
	if _, ok := d.components[name]; ok {
		return
	}
	properties := map[string]Schema{}
	var always []string
	d.components[name] = nil // it is being made
	for _, f := range x.Fields() {
		properties[f.Name] = Value(&f)
		if f.Always {
			always = append(always, f.Name)
		}
		if f.Kind == "object" {
			d.shape(f.Shape)
		}
		if f.Kind == "message_id" {
			properties["timestamp"] = Time()
			always = append(always, "timestamp")
		}
	}
	if name == "Message" {
		properties["conversation_id"] = Conversation()
		properties["receiver_id"] = Name()
		properties["users"] = List(Name())
		always = append(always, "conversation_id")
	}
	d.components[name] = Object(properties, always...)
}

// Document returns the document as JSON, the same bytes for the same operations. answers
// are shapes that operations refer to; version is the server's.
func Document(version string, ops []Operation, answers []packet.Shape, components map[string]Schema) ([]byte, error) {
	d := &document{components: map[string]Schema{"Error": errorSchema()}}
	for name, s := range components {
		d.components[name] = s
	}
	for _, x := range answers {
		d.shape(x)
	}
	paths := map[string]map[string]any{}
	for i := range ops {
		o := &ops[i]
		if paths[o.Path] == nil {
			paths[o.Path] = map[string]any{}
		}
		verb := strings.ToLower(o.Method)
		if paths[o.Path][verb] != nil {
			return nil, fmt.Errorf("openapi: %s %s stands twice", o.Method, o.Path)
		}
		paths[o.Path][verb] = d.operation(o)
	}
	return json.MarshalIndent(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "GoChat", "version": version, "license": map[string]any{"name": "MIT", "identifier": "MIT"},
			"description": "Numbers of 64 bits are strings of decimal digits, times are numbers of Unix milliseconds, bytes are base64. Members that are zero, empty or false may be left out of an answer. Members that a request doesn't know are refused.",
		},
		"servers": []any{map[string]any{"url": "/"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas": d.components,
			"securitySchemes": map[string]any{
				"bearer": map[string]any{"type": "http", "scheme": "bearer", "description": "a user's access token"},
				"key":    map[string]any{"type": "http", "scheme": "bearer", "description": "a server API key, made by gochat apikey create"},
			},
			"responses": map[string]any{"Refused": map[string]any{
				"description": "refused; the status is that of the code",
				"headers": map[string]any{
					"Retry-After":  map[string]any{"schema": Schema{"type": "string"}, "description": "seconds, where trying again may help"},
					"X-Request-ID": map[string]any{"schema": Schema{"type": "string"}},
				},
				"content": map[string]any{"application/json": map[string]any{"schema": Ref("Error")}},
			}},
		},
	}, "", " ")
}

func (d *document) operation(o *Operation) map[string]any {
	produces := o.Produces
	if produces == "" {
		produces = "application/json"
	}
	media := map[string]any{}
	if o.Answer != nil {
		media["schema"] = o.Answer
	}
	op := map[string]any{
		"operationId": o.ID, "tags": []string{o.Tag}, "summary": o.Doc,
		"responses": map[string]any{
			"200":     map[string]any{"description": "done", "content": map[string]any{produces: media}},
			"default": map[string]any{"$ref": "#/components/responses/Refused"},
		},
		"security": []any{},
	}
	if o.Upgrade {
		op["responses"].(map[string]any)["101"] = map[string]any{"description": "the connection speaks another protocol from here on"}
		delete(op["responses"].(map[string]any), "200")
	}
	if o.Empty {
		op["responses"].(map[string]any)["204"] = map[string]any{"description": "taken"}
		delete(op["responses"].(map[string]any), "200")
	}
	if o.Security != "" {
		op["security"] = []any{map[string]any{o.Security: []string{}}}
	}
	var params []any
	for _, p := range o.Params {
		m := map[string]any{"name": p.Name, "in": p.In, "schema": p.Schema, "required": p.Required || p.In == "path"}
		if p.Doc != "" {
			m["description"] = p.Doc
		}
		params = append(params, m)
	}
	if params != nil {
		op["parameters"] = params
	}
	if o.Body != nil {
		content := map[string]any{"application/json": map[string]any{"schema": o.Body}}
		if o.Frames {
			content["application/octet-stream"] = map[string]any{}
		}
		op["requestBody"] = map[string]any{"required": true, "content": content}
	}
	return op
}

// errorSchema is the one shape of an error.
func errorSchema() Schema {
	var known []string
	for c := code.Code(1000); c < 4000; c++ {
		if c.Text() != "" {
			known = append(known, strconv.Itoa(int(c))+" "+c.String())
		}
	}
	return Object(map[string]Schema{"error": Object(map[string]Schema{
		"code":           {"type": "integer", "description": strings.Join(known, ", ")},
		"name":           Text(),
		"message":        {"type": "string", "description": "for people"},
		"retry_after_ms": {"type": "integer", "minimum": 0},
		"request_id":     Text(),
	}, "code", "name", "message", "retry_after_ms", "request_id")}, "error")
}
