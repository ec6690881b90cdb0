package pebblekv

import "runtime"

// AwaitWaiting returns when n calls of Commit wait for the one that commits.
func AwaitWaiting(s *Store, n int) {
	for {
		s.queue.mu.Lock()
		waiting := len(s.queue.waiting)
		s.queue.mu.Unlock()
		if waiting == n {
			return
		}
		runtime.Gosched()
	}
}

// CheckDiskAlways makes every group ask how much space is free. Only before the first commit.
func CheckDiskAlways(s *Store) { s.group.disk.every = 0 }
