// Package loopkv serves a store to other processes of this machine, over loopback, and is a store
// there: tests run several processes on what is one process's memory or directory.
//
// It is for tests alone. There is neither authentication nor encryption, a store served so is
// gone with its process, and nothing here was made to be fast.
package loopkv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Server serves a store.
type Server struct {
	store kv.Store
	ln    net.Listener

	ctx    context.Context // of all calls to the store
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Serve serves store on addr, a loopback address and port (0: any), until Close. The store stays its
// owner's, who closes it after the server.
func Serve(store kv.Store, addr string) (*Server, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("loopkv: %q is no loopback address with a port", addr)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("loopkv: %w", err)
	}
	s := &Server{store: store, ln: ln, conns: make(map[net.Conn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Disconnect closes all connections, as a network that breaks does: the answers to what is under way are lost.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Close ends the server and returns when nothing of it uses the store any more.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.ln.Close()
	s.cancel()
	s.Disconnect()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close()
		} else {
			s.conns[c] = struct{}{}
			s.wg.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

// serve answers the requests of one connection until it ends.
func (s *Server) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for f := newFrames(c); f.receive() == nil; {
		if s.request(f) != nil {
			return
		}
	}
}

func (s *Server) request(f *frames) error {
	switch op := f.byte(); op {
	case opStamps:
		f.putBool(s.store.Stamps())
	case opGet:
		value, err := s.store.Get(s.ctx, f.bytes())
		f.putError(err)
		f.putValue(value)
	case opMultiGet:
		keys := make([][]byte, min(f.uint(), maxFrame))
		for i := range keys {
			keys[i] = f.bytes()
		}
		if f.fail != nil {
			return f.fail
		}
		values, err := s.store.MultiGet(s.ctx, keys)
		f.putError(err)
		for _, v := range values {
			f.putValue(v)
		}
	case opScan:
		span, err := f.ownSpan()
		if err != nil {
			return err
		}
		return f.answerScan(func(fn func(k, v []byte) (bool, error)) error { return s.store.Scan(s.ctx, span, fn) })
	case opCommit:
		txs := make([]*kv.Tx, min(f.uint(), maxFrame))
		for i := range txs {
			txs[i] = new(kv.Tx)
			f.tx(txs[i])
		}
		if err := f.ended(); err != nil {
			return err
		}
		s.store.Commit(s.ctx, txs...)
		for _, tx := range txs {
			f.putError(tx.Err)
			f.putUint(tx.Stamp)
		}
	case opView:
		start, end := clone(f.value()), clone(f.value())
		if err := f.ended(); err != nil {
			return err
		}
		return s.view(f, start, end)
	default:
		return errFrame
	}
	if f.fail != nil {
		return f.fail
	}
	return f.send()
}

// view answers requests from one view until the client gives it up.
func (s *Server) view(f *frames, start, end []byte) error {
	var broken error
	err := s.store.View(s.ctx, start, end, func(v kv.View) error {
		f.putError(nil)
		for broken = f.send(); broken == nil; {
			if broken = f.receive(); broken != nil {
				break
			}
			switch f.byte() {
			case opGet:
				value, err := v.Get(f.bytes())
				f.putError(err)
				f.putValue(value)
				if broken = f.fail; broken == nil {
					broken = f.send()
				}
			case opScan:
				var span kv.Span
				if span, broken = f.ownSpan(); broken == nil {
					broken = f.answerScan(func(fn func(k, v []byte) (bool, error)) error { return v.Scan(span, fn) })
				}
			case opEnd:
				return nil
			default:
				broken = errFrame
			}
		}
		return broken
	})
	if err == nil || broken != nil {
		return broken
	}
	f.putError(err) // there was no view
	return f.send()
}

// ownSpan reads a span whose keys outlive the frame.
func (f *frames) ownSpan() (kv.Span, error) {
	span := f.span()
	span.Start, span.End = clone(span.Start), clone(span.End)
	return span, f.ended()
}

// answerScan sends the pairs of a scan in frames of some size. The scan stands still while the client
// looks at one, so that all of them are of one moment.
func (f *frames) answerScan(scan func(fn func(k, v []byte) (bool, error)) error) error {
	var broken error
	err := scan(func(k, v []byte) (bool, error) {
		f.putByte(scanPair)
		f.putBytes(k)
		f.putBytes(v)
		if len(f.out) < scanBytes {
			return true, nil
		}
		f.putByte(scanMore)
		if broken = f.send(); broken == nil {
			broken = f.receive()
		}
		if broken != nil {
			return false, nil
		}
		return f.bool(), nil
	})
	if broken != nil {
		return broken
	}
	f.putByte(scanEnd)
	f.putError(err)
	return f.send()
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}
