package config

import (
	"log/slog"
	"time"
)

// Times at which a node that starts says what it waits for.
const (
	waitSoon  = time.Second
	waitAgain = 5 * time.Second
)

// Waiting tells in the log that a node which starts waits for what lies elsewhere: at once where it is asked for, then, as long as nobody
// calls done, after a second and every five from then on. at is where that is, and most how long the node waits.
func Waiting(log *slog.Logger, what string, at any, most time.Duration) (done func()) {
	began, end, ended := time.Now(), make(chan struct{}), make(chan struct{})
	log.Info("connecting to "+what, "at", at)
	go func() {
		defer close(ended)
		timer := time.NewTimer(waitSoon)
		defer timer.Stop()
		waitTold(log, what, at, most, timer.C, func() { timer.Reset(waitAgain) }, end, func() time.Duration { return time.Since(began) })
	}()
	return func() {
		close(end)
		<-ended
	}
}

// waitTold tells at each tick until end is closed, and again before the next one.
func waitTold(log *slog.Logger, what string, at any, most time.Duration, tick <-chan time.Time, again func(), end <-chan struct{}, since func() time.Duration) {
	for {
		select {
		case <-end:
			return
		case <-tick:
		}
		log.Warn("waiting for "+what, "at", at, "since", since().Round(time.Second), "at_most", most)
		again()
	}
}
