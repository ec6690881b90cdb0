package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
)

var clusterKey = bytes.Repeat([]byte("k"), link.MinKey)

// view is the list of nodes of one process, which may differ from the others'.
type view struct {
	*router.Router
	list *nodes.Static
}

func newView(t testing.TB, self nodes.Node, others ...nodes.Node) view {
	t.Helper()
	list, err := nodes.NewStatic(others...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(router.Config{Source: list, Self: self})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return view{r, list}
}

// logicNode is a node with the role logic: a server on loopback and the services behind it.
type logicNode struct {
	nodes.Node
	view
	*rpc.Server
	services *conntest.Services
	kill     func()
}

// start starts a logic node whose view is empty until it is set.
func start(t testing.TB, n int, change func(*rpc.Config)) *logicNode {
	t.Helper()
	l := &logicNode{Node: nodes.Node{ID: fmt.Sprintf("logic-%d", n), Worker: uint32(n), Roles: nodes.Logic, Start: nodes.NewStart()}, services: conntest.New()}
	l.services.Out = nowhere{}
	cfg := rpc.Config{Listen: "127.0.0.1:0", Keys: link.Keys{clusterKey}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	l.view = newView(t, l.Node)
	cfg.Logic = &rpc.Logic{Router: l.Router, Authenticator: l.services, Conversations: l.services, Signals: l.services}
	if change != nil {
		change(&cfg)
	}
	var err error
	if l.Server, err = rpc.New(cfg); err != nil {
		t.Fatal(err)
	}
	l.RPC = l.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := l.Run(ctx); err != nil {
			t.Logf("%s: %v", l.ID, err)
		}
	}()
	l.kill = func() { stop(); <-ended }
	t.Cleanup(l.kill)
	return l
}

// agree gives all views the same nodes.
func agree(t testing.TB, views []view, live ...*logicNode) {
	t.Helper()
	var list []nodes.Node
	for _, l := range live {
		list = append(list, l.Node)
	}
	for _, v := range views {
		if err := v.list.Set(list...); err != nil {
			t.Fatal(err)
		}
	}
}

// pool returns a Pool of the node edge-1.
func pool(t testing.TB, change func(*remote.PoolConfig)) *remote.Pool {
	t.Helper()
	cfg := remote.PoolConfig{Self: "edge-1", Keys: link.Keys{clusterKey}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&cfg)
	}
	p, err := remote.NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

type nowhere struct{}

func (nowhere) Deliver(uint64, []byte) {}
func (nowhere) Flush()                 {}

// between returns a direct conversation that belongs to node n by r.
func between(r remote.Router, n *logicNode) (a, b id.UserID, conv id.ConversationID) {
	for i := 0; ; i++ {
		a, b = "alice", id.UserID(fmt.Sprintf("bob%d", i))
		conv = id.Direct(a, b)
		if o := r.Owner(conv.Slot()); o != nil && o.ID == n.ID {
			return a, b, conv
		}
	}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var alice = &packet.Origin{User: "alice", Device: "phone", Conn: 7}
