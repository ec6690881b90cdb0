package tikvtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/errorpb"
	clienttikv "github.com/tikv/client-go/v2/tikv"
	"github.com/tikv/client-go/v2/tikvrpc"
	pd "github.com/tikv/pd/client"
	"github.com/tikv/pd/client/clients/tso"
)

// Fault is what becomes of a request.
type Fault int

// Faults of a cluster that lives: servers come and go, regions move, replies are lost.
const (
	None Fault = iota
	NotLeader
	EpochNotMatch
	ServerBusy
	LoseReply   // the server did it, and nobody hears of it
	LoseRequest // the server never gets it
)

// Region returns the error by which a server refuses a request, nil for the faults that aren't one.
func (f Fault) Region() *errorpb.Error {
	switch f {
	case NotLeader:
		return &errorpb.Error{Message: "injected", NotLeader: &errorpb.NotLeader{}}
	case EpochNotMatch:
		return &errorpb.Error{Message: "injected", EpochNotMatch: &errorpb.EpochNotMatch{}}
	case ServerBusy:
		return &errorpb.Error{Message: "injected", ServerIsBusy: &errorpb.ServerIsBusy{Reason: "injected", BackoffMs: 1}}
	}
	return nil
}

// Rates are probabilities of faults; together at most 1.
type Rates struct{ NotLeader, EpochNotMatch, ServerBusy, LoseReply, LoseRequest float64 }

// Draw returns a fault for a number in [0, 1).
func (r Rates) Draw(x float64) Fault {
	for _, c := range []struct {
		rate  float64
		fault Fault
	}{{r.NotLeader, NotLeader}, {r.EpochNotMatch, EpochNotMatch}, {r.ServerBusy, ServerBusy}, {r.LoseReply, LoseReply}, {r.LoseRequest, LoseRequest}} {
		if x -= c.rate; x < 0 {
			return c.fault
		}
	}
	return None
}

// Faults decides between the client and the cluster what becomes of each request.
type Faults struct {
	mu     sync.Mutex
	decide func(req *tikvrpc.Request) Fault
	count  map[Fault]int
	frozen chan struct{} // closed when the servers say something again; nil: they do
	pd     chan struct{} // the same for PD
	held   int           // requests that were held up
}

// Freeze has the servers say nothing until thaw is called; then they do what they were asked meanwhile.
func (f *Faults) Freeze() (thaw func()) { return f.freeze(&f.frozen) }

// FreezePD has PD give no timestamps until thaw is called.
func (f *Faults) FreezePD() (thaw func()) { return f.freeze(&f.pd) }

func (f *Faults) freeze(which *chan struct{}) (thaw func()) {
	ch := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	*which = ch
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		*which = nil
		close(ch)
	})
}

// Held returns how many requests were held up. The client asks PD for timestamps now and then by itself.
func (f *Faults) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// hold returns when whoever *which belongs to isn't frozen, or ctx ended.
func (f *Faults) hold(ctx context.Context, which *chan struct{}) error {
	f.mu.Lock()
	ch := *which
	if ch != nil {
		f.held++
	}
	f.mu.Unlock()
	if ch == nil {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Set has decide called for each request from now on, one at a time; nil: no faults.
func (f *Faults) Set(decide func(req *tikvrpc.Request) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decide = decide
}

// Random draws faults for reads and for the requests of commits, at most so many of those that the client takes
// its time after (all but EpochNotMatch: up to seconds each).
func (f *Faults) Random(seed uint64, r Rates, slow int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	f.Set(func(req *tikvrpc.Request) Fault {
		switch req.Type {
		case tikvrpc.CmdGet, tikvrpc.CmdBatchGet, tikvrpc.CmdScan, tikvrpc.CmdPrewrite, tikvrpc.CmdCommit:
			fault := r.Draw(rng.Float64())
			if fault != None && fault != EpochNotMatch {
				if slow == 0 {
					return None
				}
				slow--
			}
			return fault
		}
		return None
	})
}

// Count returns how often the fault was injected.
func (f *Faults) Count(fault Fault) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[fault]
}

func (f *Faults) draw(req *tikvrpc.Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.decide == nil {
		return None
	}
	fault := f.decide(req)
	if f.count == nil {
		f.count = make(map[Fault]int)
	}
	f.count[fault]++
	return fault
}

type faultClient struct {
	clienttikv.Client
	faults *Faults
}

var errLost = errors.New("injected: connection lost")

// SendRequest implements the client's seam to the servers.
func (c *faultClient) SendRequest(ctx context.Context, addr string, req *tikvrpc.Request, timeout time.Duration) (*tikvrpc.Response, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := c.faults.hold(bounded, &c.faults.frozen); err != nil {
		return nil, err
	}
	switch fault := c.faults.draw(req); fault {
	case None:
		return c.Client.SendRequest(ctx, addr, req, timeout)
	case LoseReply:
		if _, err := c.Client.SendRequest(ctx, addr, req, timeout); err != nil {
			return nil, err
		}
		return nil, errLost
	case LoseRequest:
		return nil, errLost
	default:
		return tikvrpc.GenRegionErrorResp(req, fault.Region())
	}
}

type faultPD struct {
	pd.Client
	faults *Faults
}

// GetTS implements the client's seam to PD.
func (p *faultPD) GetTS(ctx context.Context) (physical, logical int64, err error) {
	if err := p.faults.hold(ctx, &p.faults.pd); err != nil {
		return 0, 0, err
	}
	return p.Client.GetTS(ctx)
}

func (p *faultPD) GetTSAsync(ctx context.Context) tso.TSFuture { return &future{ctx, p} }

type future struct {
	ctx context.Context
	pd  *faultPD
}

func (f *future) Wait() (physical, logical int64, err error) { return f.pd.GetTS(f.ctx) }
