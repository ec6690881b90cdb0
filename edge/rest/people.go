package rest

import (
	"context"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Bounds of a search.
const (
	maxText           = 64 // bytes
	maxFound          = 50
	defaultFound      = 20
	searchesPerMinute = 60
)

func (s *routes) people(methods map[packet.Method]conn.Method) []Route {
	profiles := methods[packet.MethodProfiles]
	user := openapi.Param{Name: "user_id", In: "path", Required: true, Schema: openapi.Name()}
	return []Route{
		{Operation: openapi.Operation{
			ID: "me", Method: "GET", Path: v1 + "/users/me", Tag: "users", Doc: "Who you are, and what others see of you.", Security: "bearer", Answer: openapi.Ref("Me"),
		}, Serve: func(ctx context.Context, r *api.Request) (*api.Answer, error) {
			p, err := profile(ctx, r, profiles, string(r.Caller.User))
			if err != nil {
				return nil, err
			}
			obj := map[string]json.RawMessage{"user_id": quoted(string(r.Caller.User)), "profile": p}
			if r.Caller.Device != "" {
				obj["device_id"] = quoted(string(r.Caller.Device))
			}
			b, err := json.Marshal(obj)
			return &api.Answer{Body: b}, err
		}},
		{Operation: openapi.Operation{
			ID: "getProfile", Method: "GET", Path: v1 + "/users/{user_id}", Tag: "users", Security: "bearer", Params: []openapi.Param{user}, Answer: openapi.Ref("Profile"),
			Doc: "What a user shows of themselves. Whether there is such a user isn't said: of one who shows nothing there is the user_id alone.",
		}, Serve: func(ctx context.Context, r *api.Request) (*api.Answer, error) {
			p, err := profile(ctx, r, profiles, r.Param("user_id"))
			return &api.Answer{Body: p}, err
		}},
		{Operation: openapi.Operation{
			ID: "getProfiles", Method: "GET", Path: v1 + "/users", Tag: "users", Security: "bearer", Answer: openapi.Ref("Profiles"),
			Doc: "What several users show of themselves; those who show nothing are left out.",
			Params: []openapi.Param{{Name: "user_id", In: "query", Required: true, Doc: "repeated, for each user",
				Schema: openapi.Schema{"type": "array", "items": openapi.Name(), "minItems": 1, "maxItems": packet.MaxProfiles}}},
		}, Serve: func(ctx context.Context, r *api.Request) (*api.Answer, error) {
			values, err := r.Query()
			if err != nil {
				return nil, err
			}
			ids := values["user_id"]
			if len(ids) == 0 || len(values) > 1 {
				return nil, code.Newf(code.BadRequest, "the query names users by user_id, and nothing else")
			}
			list, jerr := json.Marshal(ids)
			if jerr != nil {
				return nil, jerr
			}
			return ask(ctx, origin(r), packet.MethodProfiles, profiles, map[string]json.RawMessage{"user_ids": list})
		}},
		{Operation: openapi.Operation{
			ID: "search", Method: "GET", Path: v1 + "/users/search", Tag: "users", Security: "bearer", Answer: openapi.Ref("Found"),
			Doc: "People whose name, a word of it, or user id begins with a text, upper or lower case. The installation says who may be found.",
			Params: []openapi.Param{
				{Name: "q", In: "query", Required: true, Schema: openapi.Schema{"type": "string", "minLength": 1, "maxLength": maxText}},
				{Name: "cursor", In: "query", Schema: openapi.Text()},
				{Name: "limit", In: "query", Schema: openapi.Schema{"type": "integer", "minimum": 1, "maximum": maxFound, "default": defaultFound}},
			},
		}, PerMinute: searchesPerMinute, Serve: s.search},
	}
}

// profile is one user's profile as JSON; with the user_id alone where there is none.
func profile(ctx context.Context, r *api.Request, profiles conn.Method, user string) (json.RawMessage, error) {
	if err := query(r, nil, nil); err != nil {
		return nil, err
	}
	inner, err := packet.RequestFromJSON(packet.MethodProfiles, append(append([]byte(`{"user_ids":[`), quoted(user)...), `]}`...))
	if err != nil {
		return nil, err
	}
	answer, err := profiles(ctx, origin(r), inner)
	if err != nil {
		return nil, err
	}
	p := &wire.Profile{UserId: user}
	if list, ok := answer.(*wire.ProfilesResponse); ok && len(list.Profiles) > 0 {
		p = list.Profiles[0]
	}
	return packet.AnswerJSON(packet.MethodProfileSet, p)
}

func (s *routes) search(ctx context.Context, r *api.Request) (*api.Answer, error) {
	text, cursor, limit := "", "", defaultFound
	var bad error
	if err := query(r, []string{"q", "cursor", "limit"}, func(name, value string) {
		switch name {
		case "q":
			text = value
		case "cursor":
			cursor = value
		default:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				bad = code.Newf(code.BadRequest, "limit is no number from 1")
			}
			limit = min(n, maxFound)
		}
	}); err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, bad
	}
	if text == "" || len(text) > maxText || !utf8.ValidString(text) {
		return nil, code.Newf(code.BadRequest, "q is 1 to %d bytes of text", maxText)
	}
	found, next, err := s.Names.Search(ctx, origin(r), text, cursor, limit)
	if err != nil {
		return nil, err
	}
	list := make([]json.RawMessage, len(found))
	for i, p := range found {
		if list[i], err = packet.AnswerJSON(packet.MethodProfileSet, p); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(map[string]any{"users": list, "cursor": next})
	return &api.Answer{Body: b}, err
}
