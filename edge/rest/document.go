package rest

import (
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/protocol/packet"
)

// document is the OpenAPI document of all routes, those of the server's own included.
func (s *routes) document() ([]byte, error) {
	ops := own()
	for i := range s.all {
		ops = append(ops, s.all[i].Operation)
	}
	shapes := []packet.Shape{packet.MessageShape()}
	for _, c := range calls {
		shapes = append(shapes, c.method.Answer())
	}
	shapes = append(shapes, packet.MethodProfiles.Answer())
	parts := components()
	for name, schema := range grants() {
		parts[name] = schema
	}
	for i := range s.all {
		for name, schema := range s.all[i].Components {
			parts[name] = schema
		}
	}
	return openapi.Document(s.Version, ops, shapes, parts)
}

// grants are the bodies of protocol/auth.
func grants() map[string]openapi.Schema {
	return map[string]openapi.Schema{
		"Grant": openapi.Object(map[string]openapi.Schema{
			"user_id": openapi.Name(), "device_id": openapi.Name(), "access_token": openapi.Text(), "access_expires": openapi.Time(),
			"refresh_token": {"type": "string", "description": "good for one refresh"}, "refresh_expires": openapi.Time(),
		}, "user_id", "device_id", "access_token", "access_expires", "refresh_token", "refresh_expires"),
		"Status": openapi.Object(map[string]openapi.Schema{"status": openapi.Text()}, "status"),
		"Empty":  openapi.Object(map[string]openapi.Schema{}),
	}
}

// own are the routes of package api.
func own() []openapi.Operation {
	credentials := openapi.Closed(map[string]openapi.Schema{
		"name": openapi.Name(), "password": {"type": "string", "minLength": 8, "maxLength": 256}, "device_id": openapi.Name(),
		"device_kind": {"type": []string{"string", "integer"}, "description": "unknown, phone, tablet, desktop, web or bot, or its number"},
	}, "name", "password")
	token := map[string]openapi.Schema{"refresh_token": openapi.Text()}
	auth := func(id, name, doc string, body openapi.Schema, answer string) openapi.Operation {
		return openapi.Operation{ID: id, Method: "POST", Path: v1 + "/auth/" + name, Tag: "auth", Doc: doc, Body: body, Answer: openapi.Ref(answer)}
	}
	password := auth("changePassword", "password", "Sets a new password, and signs the user's other devices out.",
		openapi.Closed(map[string]openapi.Schema{"old_password": openapi.Text(), "new_password": {"type": "string", "minLength": 8, "maxLength": 256}}, "old_password", "new_password"), "Empty")
	password.Security = "bearer"
	ops := []openapi.Operation{
		auth("register", "register", "Makes an account and signs a device in.", credentials, "Grant"),
		auth("login", "login", "Signs a device in.", credentials, "Grant"),
		auth("refresh", "refresh", "New tokens for one that is good for one refresh.", openapi.Closed(token, "refresh_token"), "Grant"),
		auth("logout", "logout", "Signs a device out, or all of the user's.",
			openapi.Closed(map[string]openapi.Schema{"refresh_token": openapi.Text(), "all": openapi.Bool()}, "refresh_token"), "Empty"),
		password,
		{ID: "health", Method: "GET", Path: "/healthz", Tag: "operation", Doc: "Answers as soon as the server does.", Answer: openapi.Ref("Status")},
		{ID: "ready", Method: "GET", Path: "/readyz", Tag: "operation", Doc: "Whether clients can be served.", Answer: openapi.Ref("Status")},
		{ID: "metrics", Method: "GET", Path: "/metrics", Tag: "operation", Doc: "Figures for Prometheus.", Produces: "text/plain"},
		{ID: "websocket", Method: "GET", Path: "/ws", Tag: "connection", Doc: "The same protocol as over TCP, in a WebSocket of subprotocol gochat.v1 or gochat.v1.json.", Upgrade: true},
		{ID: "events", Method: "GET", Path: "/events", Tag: "connection", Doc: "The same protocol where WebSockets are blocked: what the server says, as server-sent events. The first tells the key to post to.", Produces: "text/event-stream",
			Params: []openapi.Param{{Name: "protocol", In: "query", Schema: openapi.Schema{"type": "string", "enum": []string{sse.JSON, sse.Frames}}, Doc: "the JSON form (the default), or frames in base64"},
				{Name: "token", In: "query", Schema: openapi.Text(), Doc: "an access token, where Authorization can't be set"}}},
		{ID: "postToEvents", Method: "POST", Path: "/events/{key}", Tag: "connection", Doc: "What the client says, on a stream of events.", Empty: true,
			Body: openapi.Schema{"oneOf": []any{openapi.Schema{"type": "object"}, openapi.Schema{"type": "array", "items": openapi.Schema{"type": "object"}}}}, Frames: true,
			Params: []openapi.Param{{Name: "key", In: "path", Schema: openapi.Text(), Doc: "that the stream told"},
				{Name: "seq", In: "query", Required: true, Schema: openapi.Schema{"type": "integer", "minimum": 1}, Doc: "numbers the bodies of a stream from 1 on; one that was taken before has no effect"}}},
		{ID: "document", Method: "GET", Path: "/api/openapi.json", Tag: "operation", Doc: "This document.", Answer: openapi.Schema{"type": "object"}},
	}
	for _, f := range [...][3]string{{"docs", "/docs", "text/html"}, {"docsScript", "/docs/docs.js", "text/javascript"}, {"docsStyle", "/docs/docs.css", "text/css"}} {
		ops = append(ops, openapi.Operation{ID: f[0], Method: "GET", Path: f[1], Tag: "operation", Doc: "This document, for people.", Produces: f[2]})
	}
	return ops
}
