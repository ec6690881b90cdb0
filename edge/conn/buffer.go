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

// pageBuffer is memory for the messages of one page, between the store and the output, which they are
// copied to. Whoever got it from the pool owns it until it is put back.
type pageBuffer []byte

// pageMax is up to which size, in bytes, memory of pages is used again: a page of usual messages, whatever
// their number, is smaller. One that holds a single large one is left to the garbage collector.
const pageMax = 128 << 10

// keep makes b, in which the messages of a page lie, what the next one is written over.
func (p *pageBuffer) keep(b []byte) {
	if cap(b) <= pageMax {
		*p = b[:0]
	}
}

type pagePool struct{ p sync.Pool }

func (p *pagePool) get() *pageBuffer {
	if b, ok := p.p.Get().(*pageBuffer); ok {
		return b
	}
	return new(pageBuffer)
}

func (p *pagePool) put(b *pageBuffer) { p.p.Put(b) }
