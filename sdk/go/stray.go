package gochat

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
)

// strayTime is for how long after an attempt that was given up a server may still act on its CONNECT.
const strayTime = 5 * time.Minute

// strays is attempts to connect that were given up before the server had answered: it may have been frozen, or slow, and
// opens the session later for nobody, in the place of the one that the client has by then.
type strays struct {
	mu   sync.Mutex
	last time.Time // when the last one was given up; zero: none
}

// gaveUp notes how an attempt failed that had reached a server.
func (s *strays) gaveUp(err error) {
	var d *dismissal
	if err == nil || errors.As(err, &d) {
		return // it was answered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
}

// explain returns err, with which a connection ended, as an error that isn't final if the client may have been replaced by
// an attempt of its own. One replacement is explained so, a second one is somebody else's.
func (s *strays) explain(err error) error {
	var d *dismissal
	if !errors.As(err, &d) || d.told.Code != code.Replaced {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() || time.Since(s.last) > strayTime {
		return err
	}
	s.last = time.Time{}
	return fmt.Errorf("maybe by an attempt to connect that was given up: %v", err)
}
