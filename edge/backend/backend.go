// Package backend is the routes under /api/v1/admin, with which a company's own back end looks
// after its people: it makes users, sees how they stand, bans them, signs them out, and
// signs tokens for them. They want a server API key with the scope of the route. What such a key does
// *as* a user (send, make groups, read) goes by the users' own routes, with X-User-ID.
package backend

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Accounts is what the routes do with accounts.
type Accounts interface {
	// Create makes an account; without a password nobody signs in by one. NameTaken: there is one.
	Create(ctx context.Context, name, password string) (id.UserID, *code.Error)

	// Mint signs an access token for a user; device may be empty. expires is in Unix ms.
	Mint(ctx context.Context, user id.UserID, device id.DeviceID) (token string, expires int64, err *code.Error)

	Ban(ctx context.Context, user id.UserID, reason string) *code.Error
	Unban(ctx context.Context, user id.UserID) *code.Error
	Revoke(ctx context.Context, user id.UserID, device id.DeviceID) *code.Error
	RevokeAll(ctx context.Context, user id.UserID) *code.Error
}

// Standing is how a user stands.
type Standing struct {
	Registered int64  // Unix ms; 0: no account of GoChat's own
	Closed     string // empty, banned or deleted
	Since      int64  // of Closed, Unix ms
	Reason     string // of a ban
}

// Config is what the routes stand on; all are required.
type Config struct {
	Accounts Accounts
	Methods  map[packet.Method]conn.Method // DEVICES and PROFILE_SET
	Look     func(ctx context.Context, user id.UserID) (Standing, error)
	Online   func(user id.UserID) bool
	Named    func(ctx context.Context, user id.UserID) // hears of users that were made

	Import Importer
	// Broadcast tells everybody who is connected something; by is who asks.
	Broadcast func(ctx context.Context, by string, b *wire.Broadcast) *code.Error

	Dated  func(at int64) map[packet.Method]conn.Method // GROUP_CREATE and GROUP_ROLE, as of the Unix ms at
	Limits packet.Limits                                // of imported messages
	Now    func() int64                                 // Unix ms
}

const (
	admin     = "/api/v1/admin"
	maxUsers  = 100 // of one request
	maxOnline = 1000
)

type routes struct{ Config }

// Routes returns the routes, for rest.Config.More.
func Routes(cfg Config) ([]rest.Route, error) {
	if cfg.Accounts == nil || cfg.Methods[packet.MethodDevices] == nil || cfg.Methods[packet.MethodProfileSet] == nil || cfg.Look == nil || cfg.Online == nil || cfg.Named == nil ||
		cfg.Import == nil || cfg.Dated == nil || cfg.Broadcast == nil || cfg.Now == nil {
		return nil, errors.New("backend: something to stand on is missing")
	}
	s := &routes{cfg}
	person := admin + "/users/{user_id}"
	user := openapi.Param{Name: "user_id", In: "path", Required: true, Schema: openapi.Name()}
	text := openapi.Text()
	list := []rest.Route{
		s.route("createUsers", "POST", admin+"/users", "users", "Makes users, up to 100 at once, with what others see of them. Those that are there already are refused, and the others made: it may be repeated. Without a password a user signs in by your tokens alone.",
			openapi.Closed(map[string]openapi.Schema{"users": {"type": "array", "minItems": 1, "maxItems": maxUsers, "items": openapi.Closed(map[string]openapi.Schema{
				"user_id": openapi.Name(), "password": {"type": "string", "minLength": 8, "maxLength": 256}, "name": text, "avatar": text,
			}, "user_id")}}, "users"), "Created", s.create),
		s.route("getUser", "GET", person, "users", "How a user stands, and the devices that are signed in or connected.", nil, "Standing", s.user, user),
		s.route("online", "GET", admin+"/online", "users", "Which of these users are connected.", nil, "Online", s.online,
			openapi.Param{Name: "user_id", In: "query", Required: true, Doc: "repeated, for each user", Schema: openapi.Schema{"type": "array", "items": openapi.Name(), "minItems": 1, "maxItems": maxOnline}}),
		s.route("ban", "POST", person+"/ban", "users", "Closes an account until it is unbanned: every session ends, no token is accepted.", openapi.Closed(map[string]openapi.Schema{"reason": {"type": "string", "maxLength": 200, "description": "told to the user"}}), "Empty", s.ban, user),
		s.route("unban", "POST", person+"/unban", "users", "Takes a ban back.", nil, "Empty", s.unban, user),
		s.route("kick", "POST", person+"/sign-out", "users", "Ends the session of one device, or of all: connections are closed at once.", openapi.Closed(map[string]openapi.Schema{"device_id": openapi.Name()}), "Empty", s.kick, user),
		s.route("mintToken", "POST", person+"/tokens", "tokens", "An access token for a user, for one device or any.", openapi.Closed(map[string]openapi.Schema{"device_id": openapi.Name()}), "Token", s.mint, user),
	}
	list[0].Components = map[string]openapi.Schema{
		"Created": openapi.Object(map[string]openapi.Schema{
			"created": openapi.List(openapi.Name()),
			"refused": openapi.List(openapi.Object(map[string]openapi.Schema{"user_id": text, "code": openapi.Whole(), "name": text, "message": text}, "user_id", "code", "name", "message")),
		}, "created", "refused"),
		"Standing": openapi.Object(map[string]openapi.Schema{
			"user_id": openapi.Name(), "registered": openapi.Time(), "closed": {"type": "string", "description": "banned or deleted"},
			"since": openapi.Time(), "reason": text, "online": openapi.Bool(), "devices": openapi.List(openapi.Ref("Device")),
		}, "user_id", "online", "devices"),
		"Online": openapi.Object(map[string]openapi.Schema{"online": openapi.List(openapi.Name())}, "online"),
		"Token":  openapi.Object(map[string]openapi.Schema{"access_token": text, "access_expires": openapi.Time()}, "access_token", "access_expires"),
	}
	return append(append(list, s.imports()...), s.broadcasts()), nil
}

// route is one that wants a key of a scope.
func (s *routes) route(name, verb, path, scope, doc string, body openapi.Schema, answer string, serve func(ctx context.Context, r *api.Request) (any, error), params ...openapi.Param) rest.Route {
	return rest.Route{
		Operation: openapi.Operation{ID: name, Method: verb, Path: path, Tag: "admin", Doc: doc + " Scope: " + scope + ".", Security: "key", Params: params, Body: body, Answer: openapi.Ref(answer)},
		Serve: func(ctx context.Context, r *api.Request) (*api.Answer, error) {
			if !slices.Contains(r.Caller.Scopes, scope) {
				return nil, code.Newf(code.Forbidden, "this key is not good for %s", scope)
			}
			v, err := serve(ctx, r)
			if err != nil {
				return nil, err
			}
			b, err := json.Marshal(v)
			return &api.Answer{Body: b}, err
		},
	}
}

// object reads a body whose members are strings of these names only.
func object(body []byte, names ...string) (map[string]string, error) {
	var raw map[string]*string
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, code.Newf(code.BadRequest, "the body isn't a JSON object of this route's fields")
	}
	out := make(map[string]string, len(raw))
	for name, v := range raw {
		if !slices.Contains(names, name) {
			return nil, code.Newf(code.BadRequest, "the body has a member that this route doesn't know")
		}
		if v != nil {
			out[name] = *v
		}
	}
	return out, nil
}

func userOf(r *api.Request) (id.UserID, error) {
	u := id.UserID(r.Param("user_id"))
	if !u.Valid() {
		return "", code.Newf(code.BadRequest, "user_id is no user id")
	}
	return u, nil
}

type refusal struct {
	User    string `json:"user_id"`
	Code    uint32 `json:"code"`
	Name    string `json:"name"`
	Message string `json:"message"`
}

func (s *routes) create(ctx context.Context, r *api.Request) (any, error) {
	var in map[string][]json.RawMessage
	if err := json.Unmarshal(r.Body(), &in); err != nil || len(in) != 1 || len(in["users"]) == 0 || len(in["users"]) > maxUsers {
		return nil, code.Newf(code.BadRequest, "the body has users alone, 1 to %d of them", maxUsers)
	}
	people := make([]map[string]string, len(in["users"]))
	for i, raw := range in["users"] { // all of them before anything is done
		var err error
		if people[i], err = object(raw, "user_id", "password", "name", "avatar"); err != nil {
			return nil, err
		}
	}
	ans := struct {
		Created []string  `json:"created"`
		Refused []refusal `json:"refused"`
	}{[]string{}, []refusal{}}
	for _, p := range people {
		user, err := s.make(ctx, p)
		switch {
		case err == nil:
			ans.Created = append(ans.Created, string(user))
		case err.Retryable(): // what is made is made: the same request again does the rest
			return nil, err
		default:
			ans.Refused = append(ans.Refused, refusal{p["user_id"], uint32(err.Code), err.Code.String(), err.Reason})
		}
	}
	return ans, nil
}

// make makes one user, and then the profile: what of that is wrong is told, and the user stands.
func (s *routes) make(ctx context.Context, p map[string]string) (id.UserID, *code.Error) {
	user, cerr := s.Accounts.Create(ctx, p["user_id"], p["password"])
	if cerr != nil {
		return "", cerr
	}
	set := wire.ProfileSetRequest{Name: p["name"], Avatar: p["avatar"]}
	if set.Name != "" {
		set.Fields |= 1
	}
	if set.Avatar != "" {
		set.Fields |= 2
	}
	if set.Fields == 0 {
		s.Named(ctx, user)
		return user, nil
	}
	inner, err := set.Marshal(nil)
	if err == nil {
		_, err = s.Methods[packet.MethodProfileSet](ctx, &packet.Origin{User: user}, inner)
	}
	var e *code.Error
	switch {
	case err == nil:
		return user, nil
	case errors.As(err, &e):
		return "", e
	}
	return "", code.Wrap(code.Internal, err)
}

func (s *routes) user(ctx context.Context, r *api.Request) (any, error) {
	u, err := userOf(r)
	if err != nil {
		return nil, err
	}
	st, err := s.Look(ctx, u)
	if err != nil {
		return nil, err
	}
	body, err := s.Methods[packet.MethodDevices](ctx, &packet.Origin{User: u}, nil)
	if err != nil {
		return nil, err
	}
	text, err := packet.AnswerJSON(packet.MethodDevices, body)
	if err != nil {
		return nil, err
	}
	var devices struct {
		Devices json.RawMessage `json:"devices"`
	}
	if err := json.Unmarshal(text, &devices); err != nil {
		return nil, err
	}
	if devices.Devices == nil {
		devices.Devices = json.RawMessage("[]")
	}
	return struct {
		User       id.UserID       `json:"user_id"`
		Registered int64           `json:"registered,omitempty"`
		Closed     string          `json:"closed,omitempty"`
		Since      int64           `json:"since,omitempty"`
		Reason     string          `json:"reason,omitempty"`
		Online     bool            `json:"online"`
		Devices    json.RawMessage `json:"devices"`
	}{u, st.Registered, st.Closed, st.Since, st.Reason, s.Online(u), devices.Devices}, nil
}

func (s *routes) online(_ context.Context, r *api.Request) (any, error) {
	values, err := r.Query()
	if err != nil {
		return nil, err
	}
	users := values["user_id"]
	if len(values) != 1 || len(users) == 0 || len(users) > maxOnline {
		return nil, code.Newf(code.BadRequest, "the query names users by user_id, at most %d, and nothing else", maxOnline)
	}
	online := []string{}
	for _, u := range users {
		if s.Online(id.UserID(u)) {
			online = append(online, u)
		}
	}
	return map[string]any{"online": online}, nil
}

// change does something to the user of the path, with what the body says.
func change(r *api.Request, names []string, fn func(u id.UserID, in map[string]string) *code.Error) (any, error) {
	u, err := userOf(r)
	if err != nil {
		return nil, err
	}
	in := map[string]string{}
	if len(names) > 0 {
		if in, err = object(r.Body(), names...); err != nil {
			return nil, err
		}
	}
	if cerr := fn(u, in); cerr != nil {
		return nil, cerr
	}
	return struct{}{}, nil
}

func (s *routes) ban(ctx context.Context, r *api.Request) (any, error) {
	return change(r, []string{"reason"}, func(u id.UserID, in map[string]string) *code.Error { return s.Accounts.Ban(ctx, u, in["reason"]) })
}

func (s *routes) unban(ctx context.Context, r *api.Request) (any, error) {
	return change(r, nil, func(u id.UserID, _ map[string]string) *code.Error { return s.Accounts.Unban(ctx, u) })
}

func (s *routes) kick(ctx context.Context, r *api.Request) (any, error) {
	return change(r, []string{"device_id"}, func(u id.UserID, in map[string]string) *code.Error {
		d, one := in["device_id"]
		switch {
		case !one:
			return s.Accounts.RevokeAll(ctx, u)
		case !id.DeviceID(d).Valid():
			return code.Newf(code.BadRequest, "device_id is no device id")
		}
		return s.Accounts.Revoke(ctx, u, id.DeviceID(d))
	})
}

func (s *routes) mint(ctx context.Context, r *api.Request) (any, error) {
	u, err := userOf(r)
	if err != nil {
		return nil, err
	}
	in, err := object(r.Body(), "device_id")
	if err != nil {
		return nil, err
	}
	token, expires, cerr := s.Accounts.Mint(ctx, u, id.DeviceID(in["device_id"]))
	if cerr != nil {
		return nil, cerr
	}
	return map[string]any{"access_token": token, "access_expires": expires}, nil
}
