package main

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
)

// The engine stores a one-phase commit key by key, without a lock that a reader could see: one whose
// timestamp is later would find a part of it. And it takes the timestamp of an asynchronous commit before it
// locks the keys: a reader in between would miss what was committed before its own. So a read of a region waits for
// the commits under way there. Commits don't wait for reads: one takes its timestamp within, hence after that of every
// reader that told its own before, and such a reader passes over what it writes. (So nobody may read at whatever is the latest.)
type exclusion struct {
	mu      sync.Mutex
	regions map[uint64]*region
}

type region struct {
	sync.RWMutex        // held by a commit
	commits      uint64 // that began
}

func (e *exclusion) of(ctx *kvrpcpb.Context) *region {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.regions[ctx.GetRegionId()]
	if r == nil {
		if e.regions == nil {
			e.regions = make(map[uint64]*region)
		}
		r = new(region)
		e.regions[ctx.GetRegionId()] = r
	}
	return r
}

// read waits until a region can be read at ts, and returns it and how many commits there were.
func (s *server) read(ctx *kvrpcpb.Context, ts uint64) (*region, uint64) {
	s.clock.saw(ts)
	r := s.exclusion.of(ctx)
	r.RLock()
	defer r.RUnlock()
	return r, r.commits
}

func (s *server) KvGet(ctx context.Context, req *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	s.read(req.Context, req.Version)
	return s.Server.KvGet(ctx, req)
}

func (s *server) KvBatchGet(ctx context.Context, req *kvrpcpb.BatchGetRequest) (*kvrpcpb.BatchGetResponse, error) {
	s.read(req.Context, req.Version)
	return s.Server.KvBatchGet(ctx, req)
}

// KvScan scans once more, and has commits wait, if there was one meanwhile: the engine's iterator loses a key of which two
// versions come while it is on the way there. (What it read from the disk the first time is in memory then.)
func (s *server) KvScan(ctx context.Context, req *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	r, before := s.read(req.Context, req.Version)
	res, err := s.scan(ctx, req)
	if err != nil {
		return nil, err
	}
	r.RLock()
	defer r.RUnlock()
	if r.commits == before {
		return res, nil
	}
	return s.scan(ctx, req)
}

func (s *server) scan(ctx context.Context, req *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	if !req.Reverse {
		return s.Server.KvScan(ctx, req)
	}
	// The engine's scans in reverse take the latest version instead of that of their timestamp: the range is
	// walked forward, and its end handed on. Ranges that are walked in reverse are short.
	forward := *req
	forward.StartKey, forward.EndKey, forward.Reverse, forward.Limit = req.EndKey, req.StartKey, false, math.MaxInt32
	res, err := s.Server.KvScan(ctx, &forward)
	if err != nil {
		return nil, err
	}
	slices.Reverse(res.Pairs)
	res.Pairs = res.Pairs[:min(len(res.Pairs), int(req.Limit))]
	return res, nil
}

func (s *server) KvPrewrite(ctx context.Context, req *kvrpcpb.PrewriteRequest) (*kvrpcpb.PrewriteResponse, error) {
	if req.TryOnePc || req.UseAsyncCommit {
		// Not a whit later: who asks PD once this is acknowledged may be given the very next timestamp, and must find it.
		s.clock.saw(max(req.StartVersion+1, req.MinCommitTs) - 1)
		l := s.exclusion.of(req.Context)
		l.Lock()
		defer l.Unlock()
		l.commits++
	}
	res, err := s.Server.KvPrewrite(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, e := range res.Errors {
		if e.Conflict == nil {
			continue
		}
		// A lost answer has the client ask again. The engine finds a conflict with what it committed itself then, or with
		// what came after; TiKV says again that it is committed.
		if req.TryOnePc || req.UseAsyncCommit {
			status, err := s.Server.KvCheckTxnStatus(ctx, &kvrpcpb.CheckTxnStatusRequest{Context: req.Context, PrimaryKey: e.Conflict.Key, LockTs: req.StartVersion})
			if err != nil {
				return nil, err
			}
			if status.CommitVersion != 0 {
				again := &kvrpcpb.PrewriteResponse{MinCommitTs: status.CommitVersion}
				if req.TryOnePc {
					again.OnePcCommitTs = again.MinCommitTs
				}
				return again, nil
			}
		}
		// The engine leaves the primary key out, and a client with a keyspace takes an answer without it for a broken one.
		e.Conflict.Primary = req.PrimaryLock
	}
	return res, nil
}

// KvScanLock and KvCheckTxnStatus look at locks as of a timestamp, which commits that they didn't see come after.

func (s *server) KvScanLock(ctx context.Context, req *kvrpcpb.ScanLockRequest) (*kvrpcpb.ScanLockResponse, error) {
	s.clock.saw(req.MaxVersion)
	return s.Server.KvScanLock(ctx, req)
}

func (s *server) KvCheckTxnStatus(ctx context.Context, req *kvrpcpb.CheckTxnStatusRequest) (*kvrpcpb.CheckTxnStatusResponse, error) {
	s.clock.saw(req.LockTs)
	s.clock.saw(req.CallerStartTs)
	s.clock.saw(req.CurrentTs)
	return s.Server.KvCheckTxnStatus(ctx, req)
}

// BatchCommands answers each request of a stream by itself, through the methods above.
func (s *server) BatchCommands(stream tikvpb.Tikv_BatchCommandsServer) error {
	var mu sync.Mutex // of sending
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		for i, req := range batch.Requests {
			go func(id uint64) { // a request may wait for a lock, and others must not wait for it
				res, err := s.command(stream.Context(), req)
				if err != nil {
					return // the client's call times out, as it does with a server that can't answer
				}
				mu.Lock()
				defer mu.Unlock()
				_ = stream.Send(&tikvpb.BatchCommandsResponse{Responses: []*tikvpb.BatchCommandsResponse_Response{res}, RequestIds: []uint64{id}})
			}(batch.RequestIds[i])
		}
	}
}

type response = tikvpb.BatchCommandsResponse_Response

func (s *server) command(ctx context.Context, req *tikvpb.BatchCommandsRequest_Request) (*response, error) {
	switch r := req.Cmd.(type) {
	case *tikvpb.BatchCommandsRequest_Request_Get:
		a, err := s.KvGet(ctx, r.Get)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Get{Get: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_BatchGet:
		a, err := s.KvBatchGet(ctx, r.BatchGet)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_BatchGet{BatchGet: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_Scan:
		a, err := s.KvScan(ctx, r.Scan)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Scan{Scan: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_Prewrite:
		a, err := s.KvPrewrite(ctx, r.Prewrite)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Prewrite{Prewrite: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_Commit:
		a, err := s.KvCommit(ctx, r.Commit)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Commit{Commit: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_Cleanup:
		a, err := s.KvCleanup(ctx, r.Cleanup)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Cleanup{Cleanup: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_BatchRollback:
		a, err := s.KvBatchRollback(ctx, r.BatchRollback)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_BatchRollback{BatchRollback: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_ScanLock:
		a, err := s.KvScanLock(ctx, r.ScanLock)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_ScanLock{ScanLock: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_ResolveLock:
		a, err := s.KvResolveLock(ctx, r.ResolveLock)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_ResolveLock{ResolveLock: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_CheckTxnStatus:
		a, err := s.KvCheckTxnStatus(ctx, r.CheckTxnStatus)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_CheckTxnStatus{CheckTxnStatus: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_CheckSecondaryLocks:
		a, err := s.KvCheckSecondaryLocks(ctx, r.CheckSecondaryLocks)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_CheckSecondaryLocks{CheckSecondaryLocks: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_TxnHeartBeat:
		a, err := s.KvTxnHeartBeat(ctx, r.TxnHeartBeat)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_TxnHeartBeat{TxnHeartBeat: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_GC:
		a, err := s.KvGC(ctx, r.GC)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_GC{GC: a}}, err
	case *tikvpb.BatchCommandsRequest_Request_DeleteRange:
		a, err := s.KvDeleteRange(ctx, r.DeleteRange)
		return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_DeleteRange{DeleteRange: a}}, err
	}
	return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Empty{Empty: &tikvpb.BatchCommandsEmptyResponse{}}}, nil
}
