package remote

import (
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
)

// Router tells who is responsible for what, as this node sees it: a *router.Router does. None of its methods blocks.
type Router interface {
	Owner(slot id.Slot) *nodes.Node // of a slot of conversations or users; nil: nobody is
	OfKey(key string) *nodes.Node   // any node with the role logic, the same for the same key; nil: there is none
	IsSelf(n *nodes.Node) bool
}
