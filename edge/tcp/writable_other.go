//go:build !linux && !windows

package tcp

import (
	"sync"
	"time"
)

// retryEvery is how often a full socket is tried again where there is no epoll.
const retryEvery = 10 * time.Millisecond

// writables tries full sockets again and again. Linux has a better way.
type writables struct {
	wake  func(incarnation uint64)
	mu    sync.Mutex
	wait  []uint64 // incarnations
	stop  chan struct{}
	done  chan struct{}
	close func()
}

func newWritables(wake func(incarnation uint64)) (*writables, error) {
	w := &writables{wake: wake, stop: make(chan struct{}), done: make(chan struct{})}
	w.close = sync.OnceFunc(func() {
		close(w.stop)
		<-w.done
	})
	go w.run()
	return w, nil
}

// await asks for one call of Writable soon.
func (w *writables) await(_ int, incarnation uint64, _ bool) error {
	w.mu.Lock()
	w.wait = append(w.wait, incarnation)
	w.mu.Unlock()
	return nil
}

func (w *writables) forget(int) {}

func (w *writables) run() {
	defer close(w.done)
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
		}
		w.mu.Lock()
		wait := w.wait
		w.wait = nil
		w.mu.Unlock()
		for _, incarnation := range wait {
			w.wake(incarnation)
		}
	}
}
