package backend

import (
	"context"
	"encoding/json"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/openapi"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
)

// broadcastsAMinute is how many of these calls one key may make.
const broadcastsAMinute = 30

func (s *routes) broadcasts() rest.Route {
	text := openapi.Text()
	r := s.route("broadcast", "POST", admin+"/broadcast", "broadcast",
		"Tells everybody who is connected now something, at once and once: a signal that apps show as they like. It isn't stored, and who is away never hears of it.",
		openapi.Closed(map[string]openapi.Schema{
			"title": {"type": "string", "maxLength": 256}, "text": {"type": "string", "minLength": 1, "maxLength": MaxBroadcast},
			"ext": {"type": "string", "contentEncoding": "base64", "description": "an integrator's own, at most 1 KiB"},
		}, "text"), "Broadcasted", s.broadcast)
	r.PerMinute = broadcastsAMinute
	r.Components = map[string]openapi.Schema{"Broadcasted": openapi.Object(map[string]openapi.Schema{"id": text}, "id")}
	return r
}

// MaxBroadcast is how many bytes the text of a broadcast has at most.
const MaxBroadcast = 2048

func (s *routes) broadcast(ctx context.Context, r *api.Request) (any, error) {
	in := struct {
		Title string `json:"title"`
		Text  string `json:"text"`
		Ext   []byte `json:"ext"`
	}{}
	if _, err := object(r.Body(), "title", "text", "ext"); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.Body(), &in); err != nil {
		return nil, code.Newf(code.BadRequest, "ext isn't base64")
	}
	b := &wire.Broadcast{Title: in.Title, Text: in.Text, Ext: in.Ext}
	if err := s.Broadcast(ctx, "key "+r.Caller.Key, b); err != nil {
		return nil, err
	}
	return map[string]string{"id": b.Id}, nil
}
