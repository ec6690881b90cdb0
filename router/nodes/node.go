// Package nodes knows the processes that make up the cluster: what each is and where, and
// which of them are there. A View is what was known at one time; a Static list, or a source
// that watches a registry (etcdnodes), has the latest and tells of changes.
package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/id"
)

// Roles is a set of what a node does.
type Roles uint8

// The roles. Numbers are never reused; they are stored by name.
const (
	Edge   Roles = 1 << iota // has clients' connections, and no store
	Logic                    // owns slots: conversations and users
	Fanout                   // takes events from the bus and hands them to edges
	Worker                   // durable timers, sweeps, collection of garbage
)

// All is every role: an embedded node.
const All = Edge | Logic | Fanout | Worker

var roleNames = [...]string{"edge", "logic", "fanout", "worker"}

// Has reports whether all roles of want are in r.
func (r Roles) Has(want Roles) bool { return r&want == want }

// Names returns the names of the roles in r.
func (r Roles) Names() []string {
	var s []string
	for i, n := range roleNames {
		if r&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return s
}

// String returns the names with commas between.
func (r Roles) String() string { return strings.Join(r.Names(), ",") }

// ParseRoles returns the roles of these names.
func ParseRoles(names []string) (Roles, error) {
	var r Roles
next:
	for _, n := range names {
		for i, known := range roleNames {
			if n == known {
				r |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("unknown role %q: roles are %s", n, strings.Join(roleNames[:], ", "))
	}
	return r, nil
}

// MarshalJSON writes the names.
func (r Roles) MarshalJSON() ([]byte, error) { return json.Marshal(r.Names()) }

// UnmarshalJSON reads names. Those that a later release knows are passed over: such a role is
// nothing that this release could ask of the node.
func (r *Roles) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	*r = 0
	for _, n := range names {
		one, err := ParseRoles([]string{n})
		if err == nil {
			*r |= one
		}
	}
	return nil
}

// Weights.
const (
	DefaultWeight = 1
	MaxWeight     = 10_000
)

// MaxID is the longest id of a node in bytes.
const MaxID = 63

// MaxWorker is the highest worker number that a node has. 0 is nobody's, and
// id.ImportWorker stands in the ids of imported messages.
const MaxWorker = id.ImportWorker - 1

// FirstLevel is the feature level of what every release can read.
const FirstLevel = 1

// Node is one process of the cluster. Nodes in a View are never changed.
type Node struct {
	// ID is the node's name, the same at each start: 1 to 63 letters, digits and ".-_".
	// One process at a time has it. Where slots lie depends on it.
	ID string `json:"id"`

	// Worker is the node's number, 1 to MaxWorker, in the ids of messages and the incarnations
	// of connections that it makes. No two live nodes have one number; a node may have another after each start.
	Worker uint32 `json:"worker"`

	// RPC is the host:port at which other nodes reach it; empty where there are no others.
	RPC string `json:"rpc,omitempty"`

	Roles Roles `json:"roles"`

	// Weight is the node's part in owning slots, against the others'. 0: DefaultWeight.
	Weight uint32 `json:"weight,omitempty"`

	// Zone is a label that tells where the node runs. Ownership doesn't depend on it.
	Zone string `json:"zone,omitempty"`

	// Clients are the host:port under which clients reach an edge.
	Clients []string `json:"clients,omitempty"`

	// HTTP is the host:port under which they reach its pages and its interface for programs.
	HTTP string `json:"http,omitempty"`

	// Level is the highest feature level that the node can read. 0: FirstLevel. What may be written is
	// no higher than that of any node: see etcdnodes.Source.Level.
	Level uint32 `json:"level,omitempty"`

	// Start is different at each start of the process. It is compared for equality alone.
	Start uint64 `json:"start"`

	// Started is the Unix millisecond of that start by the node's own clock: for people.
	Started int64 `json:"started,omitempty"`

	// Draining says that the node is about to leave: it owns nothing, and is still to be reached.
	Draining bool `json:"draining,omitempty"`

	// Registration is different each time that the node came into the registry: after it was
	// gone for a while, too, although it had not been started again. Others may have owned its slots
	// in between. Whoever keeps the node's record in the registry sets it.
	Registration int64 `json:"-"`
}

// Same reports whether n and m are the same process, without it having been gone in between:
// what n was told, m knows. Both may be nil.
func (n *Node) Same(m *Node) bool {
	if n == nil || m == nil {
		return n == m
	}
	return n.ID == m.ID && n.Start == m.Start && n.Registration == m.Registration
}

// NewStart returns a value for Node.Start, below 1<<63.
func NewStart() uint64 {
	return uint64(time.Now().UnixMilli())<<20&(1<<63-1) | uint64(rand.Uint32N(1<<20))
}

// ValidID reports whether s may be a node's ID.
func ValidID(s string) bool {
	if s == "" || len(s) > MaxID {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-_", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// Validate checks n as a node of a view, with its number.
func (n *Node) Validate() error {
	errs := []error{n.check()}
	if n.Worker == 0 || n.Worker > MaxWorker {
		errs = append(errs, fmt.Errorf("worker number %d: must be 1 to %d", n.Worker, MaxWorker))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("node %q: %w", n.ID, err)
	}
	return nil
}

// check is Validate without the worker number, which a registry gives out.
func (n *Node) check() error {
	var errs []error
	if !ValidID(n.ID) {
		errs = append(errs, fmt.Errorf("the id must be 1 to %d letters, digits and . - _", MaxID))
	}
	if n.Roles == 0 || n.Roles&^All != 0 {
		errs = append(errs, fmt.Errorf("it needs a role: %s", All))
	}
	if n.Weight > MaxWeight {
		errs = append(errs, fmt.Errorf("weight %d: at most %d", n.Weight, MaxWeight))
	}
	if n.RPC != "" {
		if _, port, err := net.SplitHostPort(n.RPC); err != nil || port == "" {
			errs = append(errs, fmt.Errorf("rpc address %q is not host:port", n.RPC))
		}
	}
	if len(n.Zone) > MaxID || !utf8.ValidString(n.Zone) {
		errs = append(errs, fmt.Errorf("the zone must be at most %d bytes of UTF-8", MaxID))
	}
	return errors.Join(errs...)
}
