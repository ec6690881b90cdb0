package conn

import "sync"

// buffer holds whole frames that wait to be written.
type buffer struct {
	b      []byte
	off    int // written so far
	frames int
	acks   int // SENDACKs among them
	pushed int // DELIVERs and SIGNALs among them

	signals int // of these, SIGNALs
}

// Sizes of pooled buffers in bytes. One that grew beyond the largest is left to the
// garbage collector, so that a burst doesn't stay.
const (
	bufferMin = 1 << 10
	bufferMax = 32 << 10
)

// bufferPool gives buffers out: a connection holds one only while something waits.
type bufferPool struct{ p sync.Pool }

func (p *bufferPool) get() *buffer {
	if b, ok := p.p.Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, bufferMin)}
}

func (p *bufferPool) put(b *buffer) {
	if b == nil || cap(b.b) > bufferMax {
		return
	}
	*b = buffer{b: b.b[:0]}
	p.p.Put(b)
}

// waiting is how many bytes are still to be written.
func (b *buffer) waiting() int {
	if b == nil {
		return 0
	}
	return len(b.b) - b.off
}
