// Package floor is the bare program that GoChat's figures stand beside: what this
// machine can do for a durable message when nothing but I/O is done. Netpoll
// reads, one committer stores segments in Pebble with a sync, then each touched
// connection is flushed once. No login, permission, repeat detection, membership,
// limits or protobuf: a figure, not a design.
//
// Its frames: length u32 of what follows | type u8 | body, big-endian.
//
//	1 HELLO   index u32               the connection's place; 2k and 2k+1 are a pair
//	2 SEND    request u32, message    message: sent-at u64, client id 16 bytes, body
//	3 ACK     request u32, seq u64    the message is stored
//	4 DELIVER first seq u64, count u32, then count times (length u32, message)
//	5 RECVACK seq u64                 cumulative; the server drops it
//	6 ECHO    anything                comes back as it is; not while messages are under way
package floor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/cockroachdb/pebble/v2"
)

const (
	frameHello   = 1
	frameSend    = 2
	frameAck     = 3
	frameDeliver = 4
	frameRecvAck = 5
	frameEcho    = 6

	headerLen = 5 // length and type
)

// client is one connection.
type client struct {
	nc    netpoll.Connection
	index uint32
	conv  *conversation // set by HELLO; read by the goroutine that reads the connection
	peer  *client       // found and read by the committer
	rest  []byte        // the beginning of a frame whose end hasn't arrived

	mu    sync.Mutex
	out   []byte
	dirty bool // in the committer's list of connections to flush
}

type message struct {
	from    *client
	request uint32
	stored  []byte // sent-at, client id, body: a copy
}

type conversation struct {
	key uint32

	mu      sync.Mutex
	pending []message
	queued  bool

	work []message // the committer's
	seq  uint64    // the committer's
}

// Server is the bare program.
type Server struct {
	group bool // one conversation that everybody is in, instead of pairs
	db    *pebble.DB

	mu      sync.Mutex
	clients []*client // by index; grows only
	convs   map[uint32]*conversation

	queueMu sync.Mutex
	queue   []*conversation
	wake    chan struct{} // holds one token while queue isn't empty and the committer may be asleep

	messages, commits atomic.Int64
}

// NewServer opens the store in dir.
func NewServer(dir string, group bool) (*Server, error) {
	db, err := pebble.Open(dir, &pebble.Options{MemTableSize: 64 << 20, MemTableStopWritesThreshold: 4, Logger: silent{}})
	if err != nil {
		return nil, fmt.Errorf("open the floor's store: %w", err)
	}
	return &Server{group: group, db: db, convs: map[uint32]*conversation{}, wake: make(chan struct{}, 1)}, nil
}

// Serve answers on ln until ctx ends, then closes the store.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	netpoll.SetLoggerOutput(io.Discard) // it reports every client that leaves with something unread
	if err := netpoll.Configure(netpoll.Config{PollerNum: 1, BufferSize: 512}); err != nil {
		return fmt.Errorf("configure netpoll: %w", err)
	}
	nl, err := netpoll.ConvertListener(ln)
	if err != nil {
		return fmt.Errorf("netpoll listener: %w", err)
	}
	loop, err := netpoll.NewEventLoop(onRequest, netpoll.WithOnPrepare(func(nc netpoll.Connection) context.Context {
		return context.WithValue(context.Background(), clientKey{}, &session{s, &client{nc: nc}})
	}))
	if err != nil {
		return fmt.Errorf("netpoll event loop: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var committed sync.WaitGroup
	committed.Go(func() { s.commit(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = loop.Shutdown(context.Background()) })
	defer stop()
	err = loop.Serve(nl)
	cancel()
	committed.Wait()
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, s.db.Close())
}

// Counters returns the messages stored and the commits made so far.
func (s *Server) Counters() (messages, commits int64) { return s.messages.Load(), s.commits.Load() }

type clientKey struct{}

type session struct {
	s *Server
	c *client
}

// onRequest handles everything that has arrived on one connection. Netpoll runs one at a time for each.
func onRequest(ctx context.Context, nc netpoll.Connection) error {
	ss := ctx.Value(clientKey{}).(*session)
	r := nc.Reader()
	b, err := r.Next(r.Len())
	if err != nil {
		return err
	}
	c := ss.c
	if len(c.rest) > 0 {
		b = append(c.rest, b...)
	}
	used := ss.s.handle(c, b)
	c.rest = append(c.rest[:0], b[used:]...)
	return r.Release()
}

// handle returns how many bytes of b were whole frames.
func (s *Server) handle(c *client, b []byte) int {
	used := 0
	var slab []byte // copies of all messages of this read
	echoed := false
	for len(b)-used >= headerLen {
		n := 4 + int(binary.BigEndian.Uint32(b[used:]))
		if n < headerLen || len(b)-used < n {
			break
		}
		typ, body := b[used+4], b[used+headerLen:used+n]
		switch typ {
		case frameHello:
			s.join(c, binary.BigEndian.Uint32(body))
		case frameSend:
			if slab == nil {
				slab = make([]byte, 0, len(b)-used)
			}
			from := len(slab)
			slab = append(slab, body[4:]...)
			s.enqueue(c.conv, message{c, binary.BigEndian.Uint32(body), slab[from:len(slab):len(slab)]})
		case frameEcho:
			c.put(b[used:used+n], nil)
			echoed = true
		}
		used += n
	}
	if echoed {
		c.flush()
	}
	return used
}

// join gives the connection its place. Its HELLO comes first.
func (s *Server) join(c *client, index uint32) {
	key := index / 2
	if s.group {
		key = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for uint32(len(s.clients)) <= index {
		s.clients = append(s.clients, nil)
	}
	c.index = index
	s.clients[index] = c
	if s.convs[key] == nil {
		s.convs[key] = &conversation{key: key}
	}
	c.conv = s.convs[key]
}

// enqueue queues the conversation once, however much waits in it.
func (s *Server) enqueue(cv *conversation, m message) {
	cv.mu.Lock()
	cv.pending = append(cv.pending, m)
	queued := cv.queued
	cv.queued = true
	cv.mu.Unlock()
	if queued {
		return
	}
	s.queueMu.Lock()
	s.queue = append(s.queue, cv)
	first := len(s.queue) == 1
	s.queueMu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// commit is the committer: everything that waits becomes one synced batch, the
// frames are put into the connections' buffers meanwhile, and go out after the sync.
func (s *Server) commit(ctx context.Context) {
	var (
		work    []*conversation
		touched []*client
		buf     scratch
	)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.queueMu.Lock()
		work, s.queue = s.queue, work[:0]
		s.queueMu.Unlock()
		if len(work) == 0 {
			continue
		}
		batch := s.db.NewBatch()
		now := time.Now().Unix()
		for _, cv := range work {
			cv.mu.Lock()
			cv.work, cv.pending = cv.pending, cv.work[:0]
			cv.queued = false
			cv.mu.Unlock()
			first := cv.seq + 1
			s.store(batch, cv, now, &buf)
			touched = s.prepare(touched, cv, first, &buf)
			s.messages.Add(int64(len(cv.work)))
		}
		if err := batch.Commit(pebble.Sync); err != nil {
			panic(fmt.Sprintf("floor: commit: %v", err)) // Pebble has ended the process before it comes to this
		}
		_ = batch.Close()
		s.commits.Add(1)
		for _, c := range touched {
			c.flush()
		}
		touched = touched[:0]
	}
}

// put appends to what will be sent and reports whether the connection is newly touched.
func (c *client) put(head, body []byte) bool {
	c.mu.Lock()
	c.out = append(append(c.out, head...), body...)
	first := !c.dirty
	c.dirty = true
	c.mu.Unlock()
	return first
}

// flush is called by one goroutine at a time for a connection: two would reorder it.
func (c *client) flush() {
	c.mu.Lock()
	b := c.out
	c.out, c.dirty = nil, false
	c.mu.Unlock()
	if len(b) == 0 {
		return
	}
	// Netpoll panics if the client goes in the middle of a write.
	defer func() {
		if e := recover(); e != nil && c.nc.IsActive() {
			panic(e)
		}
	}()
	// It may keep a large slice until it is written, so none is used again.
	w := c.nc.Writer()
	_, _ = w.WriteBinary(b)
	_ = w.Flush() // of a connection that is gone: nothing to be done here
}

type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(format string, a ...any) { fmt.Printf("floor: pebble: "+format+"\n", a...) }
func (silent) Fatalf(format string, a ...any) { panic(fmt.Sprintf("floor: pebble: "+format, a...)) }
