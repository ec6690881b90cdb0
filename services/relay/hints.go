package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/id"
)

// HintsConfig is what Hints need; zero fields take their defaults.
type HintsConfig struct {
	Hub *hub.Hub

	// PerSecond is how many connections are told in a second, but no HINT takes longer than Within. 0: 2,000.
	PerSecond int
	Within    time.Duration // 0: 10 s
}

// Hints tells connections that they may have missed something, spread over a time: each of them compares
// then what it has with what there is.
type Hints struct {
	cfg   HintsConfig
	frame []byte

	mu  sync.Mutex
	due map[uint64]struct{} // those that wait
	// Of each turn to come, who is told; the next one is at.
	wheel [][]uint64
	at    int
	told  uint64
}

// hintTurn is the time between two turns.
const hintTurn = 100 * time.Millisecond

// NewHints returns Hints for the connections of a hub. Run tells them.
func NewHints(cfg HintsConfig) (*Hints, error) {
	switch {
	case cfg.Hub == nil:
		return nil, errors.New("relay: HINTs need a hub")
	case cfg.PerSecond < 0 || cfg.Within < 0 || cfg.Within > time.Hour:
		return nil, fmt.Errorf("relay: %d HINTs a second, within %v: out of bounds", cfg.PerSecond, cfg.Within)
	}
	if cfg.PerSecond == 0 {
		cfg.PerSecond = 2000
	}
	if cfg.Within == 0 {
		cfg.Within = 10 * time.Second
	}
	return &Hints{
		cfg: cfg, frame: appendHint(nil, id.ConversationID{}, 0),
		due: make(map[uint64]struct{}), wheel: make([][]uint64, max(1, int(cfg.Within/hintTurn))),
	}, nil
}

// Spread has conns, or without any all connections, told within the time, each at a random moment and once.
func (h *Hints) Spread(conns []uint64) {
	if len(conns) == 0 {
		conns = h.cfg.Hub.Incarnations(nil)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	turns := (len(h.due)+len(conns))*int(time.Second/hintTurn)/h.cfg.PerSecond + 1
	turns = min(turns, len(h.wheel))
	for _, c := range conns {
		if _, waits := h.due[c]; !waits {
			h.due[c] = struct{}{}
			turn := (h.at + rand.IntN(turns)) % len(h.wheel)
			h.wheel[turn] = append(h.wheel[turn], c)
		}
	}
}

// Turn tells those whose turn it is.
func (h *Hints) Turn() {
	h.mu.Lock()
	now := h.wheel[h.at]
	h.wheel[h.at] = nil
	h.at = (h.at + 1) % len(h.wheel)
	for _, c := range now {
		delete(h.due, c)
	}
	h.told += uint64(len(now))
	h.mu.Unlock()
	for _, c := range now {
		h.cfg.Hub.Deliver(c, h.frame)
	}
	if len(now) > 0 {
		h.cfg.Hub.Flush()
	}
}

// Run takes turns until ctx ends.
func (h *Hints) Run(ctx context.Context) error {
	t := time.NewTicker(hintTurn)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			h.Turn()
		}
	}
}

// Told counts the HINTs so far.
func (h *Hints) Told() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told
}
