package conn

import (
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// flooders remembers the users who were closed as flooding for as long as that tells them
// to wait: else whoever comes back at once begins with buckets that are full again.
type flooders struct {
	mu    sync.Mutex
	until map[id.UserID]int64 // in Edge.now
	prune int                 // the size at which the past ones go
}

// add shuts user out from now on.
func (f *flooders) add(user id.UserID, now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = map[id.UserID]int64{}
	}
	f.until[user] = now + int64(code.New(code.Flooding).RetryAfter)
	if len(f.until) <= f.prune {
		return
	}
	for u, t := range f.until {
		if t <= now {
			delete(f.until, u)
		}
	}
	f.prune = 2*len(f.until) + 100
}

// left returns how long user is still shut out, 0 if not.
func (f *flooders) left(user id.UserID, now int64) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Duration(max(f.until[user]-now, 0))
}
