package node

import (
	"github.com/gochat-im/gochat/edge/conn"
)

// lateSignals breaks the circle of hub (delivers for fan-out) and fan-out (takes the hub's signals).
type lateSignals struct{ conn.Signals }

// lateSessions breaks that of hub (closes connections for the sessions) and sessions (are told of the hub's connections).
type lateSessions struct{ conn.Sessions }
