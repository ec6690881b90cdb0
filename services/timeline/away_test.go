package timeline

import (
	"errors"
	"testing"
	"time"
)

// While the bus is away it is asked again and again, and may hang then: no conversation waits for that.
func TestNobodyWaitsForTheBusToReturn(t *testing.T) {
	st, b := apartStage(t, func(c *Config) { c.PublishTimeout = time.Hour })
	c := consume(t, b.log)
	b.set(errors.New("away"), false)
	st.send(st.a.text(st.id(0), "1"))
	st.a.expect(t, "1:seq=1")

	hangs := make(chan struct{})
	b.mu.Lock()
	b.fail, b.block = nil, hangs
	before := b.calls
	b.mu.Unlock()
	await(t, "the bus being asked again", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.calls > before
	})
	st.send(st.a.text(st.id(0), "2"))
	st.a.expect(t, "2:seq=2")

	b.mu.Lock()
	b.block = nil
	b.mu.Unlock()
	close(hangs)
	c.wait(dm, 2)
	await(t, "the end of the mark", func() bool { return marks(t, st.store.Store, dm) == 0 })
}
