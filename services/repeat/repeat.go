// Package repeat knows what was asked for before: which message a key of its sender's stands
// for, so that a request that is sent again under the same key stores nothing again.
package repeat

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Config of a Service.
type Config struct {
	Store kv.Store // required
	Keys  msgstore.Keys
	Now   func() int64 // Unix ms; nil: the clock
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	if c.Store == nil {
		return errors.New("repeat: no store")
	}
	return nil
}

// Service is safe for concurrent use.
type Service struct {
	rows *msgstore.Relations
	now  func() int64
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	return &Service{rows: msgstore.NewRelations(cfg.Store, cfg.Keys), now: cfg.Now}, nil
}

// maxTurns is how often a key is looked up again because somebody else wrote at the same time.
const maxTurns = 8

// MessageID returns the id that the user's key stands for: fresh if the key is new, which is
// durable then, else the one that it was kept with. A key is known for a day at least, and two at
// most. Every error is a *code.Error.
func (s *Service) MessageID(ctx context.Context, user id.UserID, key string, fresh id.ClientMsgID) (id.ClientMsgID, error) {
	sum := sha256.Sum256([]byte(key))
	for turn := 0; ; turn++ {
		known, err := s.rows.Repeat(ctx, user, [16]byte(sum[:16]), fresh, s.now())
		switch {
		case err == nil:
			return known, nil
		case turn < maxTurns && (errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUndetermined)):
			// Read again: what stands decides.
		default:
			return fresh, msgstore.Refusal(fmt.Errorf("what a key stands for: %w", err))
		}
	}
}
