// Package link is what both ends of a call between nodes share: the mutual TLS that only
// nodes of this cluster can speak, what stands in every call and in every refusal, and the
// encoding of SENDs and their outcomes.
package link

import (
	"fmt"

	"github.com/gochat-im/gochat/protocol/code"
)

// Node is a node of the cluster as others reach it.
type Node struct {
	ID   string
	Addr string // host:port of its calls
}

// MaxMessage is the longest request or reply, in bytes.
const MaxMessage = 16 << 20

// WrongNode is the answer of a node that believes another one to be responsible. It doesn't
// wrap a *code.Error by itself: whoever gives up following it answers code.WrongOwner.
type WrongNode struct {
	Node     Node  // that is; its ID may be empty: nobody known
	Revision int64 // of the view that says so
}

func (w *WrongNode) Error() string {
	return fmt.Sprintf("node %q at %s owns this in view %d", w.Node.ID, w.Node.Addr, w.Revision)
}

// Refusal is what w comes to if it isn't followed any further.
func (w *WrongNode) Refusal() *code.Error { return code.Wrap(code.WrongOwner, w) }
