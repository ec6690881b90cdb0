package storage

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/msgstore"
)

// The feature level in force is what the nodes agree on, wherever that is recorded. The store has it as well, before
// anything is written that takes it to be read: a store is restored, moved and opened without
// the nodes that it was of, and must itself refuse a release that can't read it.

// levelEvery is how often is looked whether the level in force was raised.
const levelEvery = time.Second

// Level is the feature level that the store says it has: nothing that takes a higher one to be read may be
// written. Ask for each write; it never falls.
func (s *Storage) Level() uint32 { return s.level.Load() }

// RaiseLevel has the store say that it has a feature level which is in force by now.
func (s *Storage) RaiseLevel(ctx context.Context, inForce uint32) error {
	if inForce <= s.level.Load() {
		return nil
	}
	level, err := msgstore.RaiseLevel(ctx, s.Store, s.Keys, inForce)
	if err != nil {
		return err
	}
	if was := s.level.Swap(level); was != level {
		s.log.Info("the store's feature level was raised", "level", level, "was", was)
	}
	return nil
}

// FollowLevel has the store's feature level follow the one in force until ctx ends.
func (s *Storage) FollowLevel(ctx context.Context, inForce func() uint32) error {
	tick := time.NewTicker(levelEvery)
	defer tick.Stop()
	s.followLevel(ctx, tick.C, inForce)
	return nil
}

func (s *Storage) followLevel(ctx context.Context, tick <-chan time.Time, inForce func() uint32) {
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		err := s.RaiseLevel(ctx, inForce())
		if err != nil && !told && ctx.Err() == nil {
			s.log.Warn("the store's feature level stays, and what needs a higher one isn't written", "err", err)
		}
		told = err != nil
	}
}
