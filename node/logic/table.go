package logic

import (
	"context"
	"maps"
	"slices"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/backend"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// MethodNames are the methods that Methods answers, for a process that has them answered elsewhere.
func MethodNames() []packet.Method { return slices.Sorted(maps.Keys(new(Logic).Methods())) }

// Table returns the routes that Routes serves as a process without services knows them: what they are called
// and who may ask. It has them served elsewhere; Serve is of no use here.
func Table(cfg config.Config, version string) ([]api.Route, error) {
	var nowhere struct {
		conn.Conversations
		backend.Accounts
		backend.Importer
		rest.Names
		rest.Repeats
	}
	methods := map[packet.Method]conn.Method{}
	for _, m := range MethodNames() {
		methods[m] = func(context.Context, *packet.Origin, []byte) (packet.Body, error) { return nil, nil }
	}
	company, err := backend.Routes(backend.Config{
		Accounts: &nowhere, Methods: methods, Import: &nowhere, Limits: cfg.PacketLimits(),
		Look:      func(context.Context, id.UserID) (backend.Standing, error) { return backend.Standing{}, nil },
		Online:    func(id.UserID) bool { return false },
		Named:     func(context.Context, id.UserID) {},
		Dated:     func(int64) map[packet.Method]conn.Method { return methods },
		Broadcast: func(context.Context, string, *wire.Broadcast) *code.Error { return nil },
		Now:       func() int64 { return 0 },
	})
	if err != nil {
		return nil, err
	}
	return rest.Routes(rest.Config{Conversations: &nowhere, Methods: methods, Names: &nowhere, Repeats: &nowhere, Limits: cfg.PacketLimits(), Version: version, More: company})
}
