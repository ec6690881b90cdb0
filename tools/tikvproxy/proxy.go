// Package tikvproxy is a gRPC proxy before a server of TiKV's API that has things go wrong, for
// tests: it answers with the errors of regions that moved and of busy servers, and breaks connections
// after the server did what it was asked. It understands the streams of batched commands that the
// client sends nearly everything by; other calls pass as they are.
package tikvproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Rates are the probabilities of faults, for each read, prewrite and commit.
type Rates struct {
	NotLeader, EpochNotMatch, ServerBusy float64
	LoseReply                            float64 // the server did it; then the connection breaks
	LoseRequest                          float64 // the connection breaks before
}

// Counts are how often each was injected.
type Counts struct{ NotLeader, EpochNotMatch, ServerBusy, LoseReply, LoseRequest int }

// Proxy serves one address for another.
type Proxy struct {
	addr   string
	conn   *grpc.ClientConn
	server *grpc.Server
	served chan error

	mu     sync.Mutex
	rng    *rand.Rand
	rates  Rates
	counts Counts
}

// Listen returns a proxy that listens on addr (host:port; port 0: any) for the server at target, without faults at
// first. Its goroutines end with Close.
func Listen(addr, target string, seed uint64) (*Proxy, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", target, err)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(frames{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connection to %s: %w", target, err), listener.Close())
	}
	p := &Proxy{addr: listener.Addr().String(), conn: conn, served: make(chan error, 1), rng: rand.New(rand.NewPCG(seed, 0))}
	p.server = grpc.NewServer(grpc.ForceServerCodec(frames{}), grpc.UnknownServiceHandler(p.serve), grpc.MaxRecvMsgSize(64<<20))
	go func() { p.served <- p.server.Serve(listener) }()
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.addr }

// Set has faults of these rates from now on.
func (p *Proxy) Set(r Rates) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rates = r
}

// Counts returns what was injected up to now.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Close breaks every connection and returns when the proxy has ended.
func (p *Proxy) Close() error {
	p.server.Stop()
	return errors.Join(<-p.served, p.conn.Close())
}

// frames hands messages on as the bytes that they came in.
type frames struct{}

func (frames) Name() string { return "proto" }

func (frames) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (frames) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}

const batched = "/tikvpb.Tikv/BatchCommands"

var errBroken = status.Error(codes.Unavailable, "injected: connection broken")

// serve hands one call on, with both directions at once.
func (p *Proxy) serve(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	md, _ := metadata.FromIncomingContext(down.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(down.Context(), md))
	defer cancel()
	up, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	s := &stream{p: p, down: down, up: up, batch: method == batched, lost: make(map[uint64]bool)}
	asked := make(chan error, 1)
	go func() { asked <- s.requests() }() // ends with down's context, which ends when serve returns
	answered := make(chan error, 1)
	go func() { answered <- s.responses() }() // ends with ctx
	select {
	case err = <-answered:
	case err = <-asked:
		if err == nil { // the client has said everything
			err = <-answered
		} else {
			cancel()
			<-answered
		}
	}
	return err
}

type stream struct {
	p     *Proxy
	down  grpc.ServerStream
	up    grpc.ClientStream
	batch bool

	mu   sync.Mutex // of down's sending, and of lost
	lost map[uint64]bool
}

// requests hands on what the client says.
func (s *stream) requests() error {
	for {
		var b []byte
		if err := s.down.RecvMsg(&b); errors.Is(err, io.EOF) {
			return s.up.CloseSend()
		} else if err != nil {
			return err
		}
		if s.batch {
			var err error
			if b, err = s.pick(b); err != nil {
				return err
			} else if b == nil {
				continue
			}
		}
		if err := s.up.SendMsg(&b); err != nil {
			return err
		}
	}
}

// pick answers those requests of a batch that have a fault and returns the others.
func (s *stream) pick(b []byte) ([]byte, error) {
	var in, out tikvpb.BatchCommandsRequest
	if err := in.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("batch of requests: %w", err)
	}
	var refused tikvpb.BatchCommandsResponse
	for i, req := range in.Requests {
		id := in.RequestIds[i]
		refusal, lose, broken := s.p.draw(req)
		switch {
		case broken:
			return nil, errBroken
		case refusal != nil:
			refused.Responses = append(refused.Responses, refusal)
			refused.RequestIds = append(refused.RequestIds, id)
			continue
		case lose:
			s.mu.Lock()
			s.lost[id] = true
			s.mu.Unlock()
		}
		out.Requests = append(out.Requests, req)
		out.RequestIds = append(out.RequestIds, id)
	}
	if len(refused.Responses) > 0 {
		answer, err := refused.Marshal()
		if err != nil {
			return nil, err
		}
		if err := s.answer(answer); err != nil {
			return nil, err
		}
	}
	if len(out.Requests) == 0 {
		return nil, nil
	}
	return out.Marshal()
}

func (s *stream) answer(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down.SendMsg(&b)
}

// responses hands on what the server says, until one is to be lost.
func (s *stream) responses() error {
	for {
		var b []byte
		if err := s.up.RecvMsg(&b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if s.batch {
			var in tikvpb.BatchCommandsResponse
			if err := in.Unmarshal(b); err != nil {
				return fmt.Errorf("batch of responses: %w", err)
			}
			s.mu.Lock()
			for _, id := range in.RequestIds {
				if s.lost[id] {
					s.mu.Unlock()
					return errBroken
				}
			}
			s.mu.Unlock()
		}
		if err := s.answer(b); err != nil {
			return err
		}
	}
}

// draw decides what becomes of a request: an answer that refuses it, or its answer is lost, or the connection breaks now.
func (p *Proxy) draw(req *tikvpb.BatchCommandsRequest_Request) (refusal *tikvpb.BatchCommandsResponse_Response, lose, broken bool) {
	refuse := refusals(req)
	if refuse == nil {
		return nil, false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x, r, c := p.rng.Float64(), &p.rates, &p.counts
	hit := func(rate float64, n *int) bool {
		if x -= rate; x >= 0 {
			return false
		}
		x = 1
		*n++
		return true
	}
	switch {
	case hit(r.NotLeader, &c.NotLeader):
		return refuse(&errorpb.Error{Message: "injected", NotLeader: &errorpb.NotLeader{}}), false, false
	case hit(r.EpochNotMatch, &c.EpochNotMatch):
		return refuse(&errorpb.Error{Message: "injected", EpochNotMatch: &errorpb.EpochNotMatch{}}), false, false
	case hit(r.ServerBusy, &c.ServerBusy):
		return refuse(&errorpb.Error{Message: "injected", ServerIsBusy: &errorpb.ServerIsBusy{Reason: "injected", BackoffMs: 1}}), false, false
	case hit(r.LoseReply, &c.LoseReply):
		return nil, true, false
	case hit(r.LoseRequest, &c.LoseRequest):
		return nil, false, true
	}
	return nil, false, false
}

// refusals returns how to answer the request with a region's error, nil if it is none that has faults.
func refusals(req *tikvpb.BatchCommandsRequest_Request) func(*errorpb.Error) *tikvpb.BatchCommandsResponse_Response {
	type response = tikvpb.BatchCommandsResponse_Response
	switch req.Cmd.(type) {
	case *tikvpb.BatchCommandsRequest_Request_Get:
		return func(e *errorpb.Error) *response {
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Get{Get: &kvrpcpb.GetResponse{RegionError: e}}}
		}
	case *tikvpb.BatchCommandsRequest_Request_BatchGet:
		return func(e *errorpb.Error) *response {
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_BatchGet{BatchGet: &kvrpcpb.BatchGetResponse{RegionError: e}}}
		}
	case *tikvpb.BatchCommandsRequest_Request_Scan:
		return func(e *errorpb.Error) *response {
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Scan{Scan: &kvrpcpb.ScanResponse{RegionError: e}}}
		}
	case *tikvpb.BatchCommandsRequest_Request_Prewrite:
		return func(e *errorpb.Error) *response {
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Prewrite{Prewrite: &kvrpcpb.PrewriteResponse{RegionError: e}}}
		}
	case *tikvpb.BatchCommandsRequest_Request_Commit:
		return func(e *errorpb.Error) *response {
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Commit{Commit: &kvrpcpb.CommitResponse{RegionError: e}}}
		}
	}
	return nil
}
