// Package rest is the routes of the HTTP API under /api/v1 but for those of signing in: who a
// user is and whom they find, conversations, messages, groups and devices.
//
// Nothing is decided here. A route makes the request of a method out of its path, its query
// and its body, and the same services answer it that answer a REQUEST over any other
// connection; bodies have the JSON form of the packets. The routes stand in one table, of
// which the OpenAPI document is made, too.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Names finds people by what they are called.
type Names interface {
	// Search returns people whose name, a word of it, or user id begins with text, as far as o's user
	// may find them; next is the cursor of the page after, empty on the last.
	Search(ctx context.Context, o *packet.Origin, text, cursor string, limit int) (found []*wire.Profile, next string, err error)
}

// Repeats knows what was asked for before.
type Repeats interface {
	// MessageID returns the id that the user's key stands for: fresh if the key is new, and
	// kept then before it returns, else the one that it was kept with.
	MessageID(ctx context.Context, user id.UserID, key string, fresh id.ClientMsgID) (id.ClientMsgID, error)
}

// Config is what the routes stand on. All are required but what says otherwise.
type Config struct {
	Conversations conn.Conversations
	Methods       map[packet.Method]conn.Method // those of connections; ConversationMethods are added
	Names         Names
	Repeats       Repeats
	Limits        packet.Limits // of messages
	Now           func() int64  // Unix ms; nil: the clock
	Version       string        // of the server, for the document

	// More are routes of others that stand in the document too.
	More []Route
}

// Route is a route and what the document says of it.
type Route struct {
	openapi.Operation
	Components map[string]openapi.Schema // that the operation refers to, beside the packets' own
	PerMinute  int                       // see api.Route
	Serve      func(ctx context.Context, r *api.Request) (*api.Answer, error)
}

// inboxPage is the largest page of conversations.
const inboxPage = 100

type routes struct {
	Config
	turn atomic.Uint64 // of the last message, see origin
	all  []Route
}

// Routes returns the routes for the server, with those that show the document.
func Routes(cfg Config) ([]api.Route, error) {
	if cfg.Conversations == nil || cfg.Names == nil || cfg.Repeats == nil {
		return nil, errors.New("rest: a service is missing")
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	s := &routes{Config: cfg}
	s.turn.Store(1<<63 | rand.Uint64()>>2)
	methods := conn.ConversationMethods(cfg.Conversations, inboxPage)
	maps.Copy(methods, cfg.Methods)
	for _, c := range calls {
		serve := methods[c.method]
		if serve == nil {
			return nil, fmt.Errorf("rest: nothing answers %s", c.method)
		}
		s.all = append(s.all, c.route(serve))
	}
	s.all = append(s.all, s.messages()...)
	s.all = append(s.all, s.people(methods)...)
	s.all = append(s.all, cfg.More...)
	document, err := s.document()
	if err != nil {
		return nil, err
	}
	out := openapi.Routes(document)
	served := make([]api.Route, 0, len(s.all)+len(out))
	for i := range s.all {
		r := &s.all[i]
		access := api.User
		switch r.Security {
		case "":
			access = api.Open
		case "key":
			access = api.Key
		}
		served = append(served, api.Route{Method: r.Method, Path: r.Pattern(), Access: access, PerMinute: r.PerMinute, Body: r.Body != nil, Serve: r.Serve})
	}
	for _, f := range out {
		served = append(served, api.Route{Method: "GET", Path: f.Path, Serve: func(context.Context, *api.Request) (*api.Answer, error) {
			return &api.Answer{Type: f.Type, Body: f.Body, Header: f.Header}, nil
		}})
	}
	return served, nil
}

// origin is who asks. A request is no connection: Conn is 0, so that whatever the call makes
// known goes to all of the user's connections.
func origin(r *api.Request) *packet.Origin {
	return &packet.Origin{User: r.Caller.User, Device: r.Caller.Device}
}

// call is a route that is one method.
type call struct {
	id, verb, path, tag, doc string
	method                   packet.Method

	query  []string          // members of the method's request that are parameters of the query
	body   []string          // and of the body; nil: no body
	needs  []string          // those of the body that must be there
	bits   map[string]uint32 // the request's `fields` is made of the members that the body has
	always string            // members that are always the same, as JSON: `"blocked":true`
	listed string            // a parameter of the path that is a list of one in the request: user_id for user_ids
	keyed  bool              // an Idempotency-Key names what is made
}

func (c *call) route(serve conn.Method) Route {
	shape := c.method.Request()
	op := openapi.Operation{ID: c.id, Method: c.verb, Path: c.path, Tag: c.tag, Doc: c.doc, Security: "bearer"}
	fields := shape.Fields()
	var inPath []string
	for _, name := range parameters(c.path) {
		schema := openapi.Name()
		if i := slices.IndexFunc(fields, func(f packet.Field) bool { return f.Name == name }); i >= 0 {
			schema = openapi.Value(&fields[i])
			inPath = append(inPath, name)
		}
		op.Params = append(op.Params, openapi.Param{Name: name, In: "path", Required: true, Schema: schema})
	}
	for _, name := range c.query {
		op.Params = append(op.Params, openapi.Param{Name: name, In: "query", Schema: openapi.Fields(shape, name)[name]})
	}
	if c.body != nil {
		op.Body = openapi.Closed(openapi.Fields(shape, c.body...), c.needs...)
		if c.bits != nil {
			op.Body["minProperties"] = 1
		}
	}
	if c.keyed {
		op.Params = append(op.Params, idempotencyKey("the same key names the same group for this user: one that is there is answered with, and not made again"))
	}
	op.Answer = openapi.Ref(openapi.ComponentName(c.method.Answer()))
	return Route{Operation: op, Serve: func(ctx context.Context, r *api.Request) (*api.Answer, error) {
		obj := map[string]json.RawMessage{}
		if c.body != nil {
			if err := members(r.Body(), c.body, obj); err != nil {
				return nil, err
			}
			if err := needed(obj, c.needs); err != nil {
				return nil, err
			}
		}
		if c.bits != nil {
			sum := uint32(0)
			for name, bit := range c.bits {
				if string(obj[name]) != "null" && obj[name] != nil {
					sum |= bit
				}
			}
			obj["fields"] = fmt.Appendf(nil, "%d", sum)
		}
		for _, name := range inPath {
			obj[name] = quoted(r.Param(name))
		}
		if c.listed != "" {
			obj[c.listed+"s"] = slices.Concat([]byte{'['}, quoted(r.Param(c.listed)), []byte{']'})
		}
		if err := query(r, c.query, func(name, value string) { obj[name] = quoted(value) }); err != nil {
			return nil, err
		}
		if c.always != "" {
			name, value, _ := strings.Cut(c.always, ":")
			obj[strings.Trim(name, `"`)] = json.RawMessage(value)
		}
		if c.keyed {
			if err := nameByKey(r, obj); err != nil {
				return nil, err
			}
		}
		return ask(ctx, origin(r), c.method, serve, obj)
	}}
}

// ask has a method answer what obj asks for.
func ask(ctx context.Context, o *packet.Origin, m packet.Method, serve conn.Method, obj map[string]json.RawMessage) (*api.Answer, error) {
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, code.Newf(code.BadRequest, "the request can't be read")
	}
	inner, err := packet.RequestFromJSON(m, text)
	if err != nil {
		return nil, err
	}
	answer, err := serve(ctx, o, inner)
	if err != nil {
		return nil, err
	}
	body, err := packet.AnswerJSON(m, answer)
	if err != nil {
		return nil, err
	}
	return &api.Answer{Body: body}, nil
}

// parameters returns the names in braces of a path.
func parameters(path string) []string {
	var out []string
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			out = append(out, strings.TrimSuffix(name, "}"))
		}
	}
	return out
}

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s) // never fails; what isn't UTF-8 becomes U+FFFD and names nobody
	return b
}

// members reads an object that may have these members only into obj.
func members(body []byte, names []string, obj map[string]json.RawMessage) error {
	if err := json.Unmarshal(body, &obj); err != nil {
		return code.Newf(code.BadRequest, "the body isn't a JSON object of this route's fields")
	}
	for name := range obj {
		if !slices.Contains(names, name) {
			return code.Newf(code.BadRequest, "the body has a member that this route doesn't know; it knows %s", strings.Join(names, ", "))
		}
	}
	return nil
}

func needed(obj map[string]json.RawMessage, names []string) error {
	for _, name := range names {
		if v := obj[name]; v == nil || string(v) == "null" {
			return code.Newf(code.BadRequest, "%s is missing", name)
		}
	}
	return nil
}

// query hands the parameters of the query to fn, and refuses unknown ones and those given twice.
func query(r *api.Request, names []string, fn func(name, value string)) error {
	values, err := r.Query()
	if err != nil {
		return err
	}
	for name, list := range values {
		switch {
		case !slices.Contains(names, name):
			return code.Newf(code.BadRequest, "the query has a parameter that this route doesn't know")
		case len(list) > 1:
			return code.Newf(code.BadRequest, "%s is given twice", name)
		case list[0] != "":
			fn(name, list[0])
		}
	}
	return nil
}
