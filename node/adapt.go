package node

import (
	"github.com/gochat-im/gochat/edge/conn"
)

// lateSignals breaks the circle of hub (delivers for fan-out) and fan-out (takes the hub's signals).
type lateSignals struct{ conn.Signals }
