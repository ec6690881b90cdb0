// Tikvserver speaks TiKV's gRPC API over the storage engine that TiDB's own tests use
// (unistore, on badger), registered in a real PD. It lets the unmodified TiKV client run against
// a server of one process that needs nothing but Go.
//
// It is NOT TiKV and never a place for data that matters: it has no Raft and one copy, its locks lie in
// memory alone, so a kill forgets transactions that were being committed, and unless -sync is given a commit
// is not on the disk when it is acknowledged. Tests of what survives a crash run elsewhere.
//
// Rows of its own lie under the byte FF, where whole-store scans without a keyspace find them.
//
// One PD takes one such server. It listens where -addr says, on loopback by default, without TLS and
// without any authentication.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pingcap/badger"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/pingcap/log"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/lockstore"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv/mvcc"
	pdclient "github.com/tikv/pd/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

func main() {
	pds := flag.String("pd", "127.0.0.1:2379", "addresses of PD, separated by commas")
	addr := flag.String("addr", "127.0.0.1:20160", "where to listen")
	advertise := flag.String("advertise", "", "what PD tells clients (a proxy's address, say); empty: -addr")
	data := flag.String("data", "", "directory of the data (made if it doesn't exist)")
	syncWrites := flag.Bool("sync", false, "sync each commit to the disk")
	level := flag.String("log-level", "warn", "debug, info, warn, error, fatal")
	flag.Parse()
	if *advertise == "" {
		*advertise = *addr
	}
	if err := run(strings.Split(*pds, ","), *addr, *advertise, *data, *syncWrites, *level); err != nil {
		fmt.Fprintln(os.Stderr, "tikvserver:", err)
		os.Exit(1)
	}
}

func run(pds []string, addr, advertise, data string, syncWrites bool, level string) error {
	if data == "" {
		return errors.New("-data is empty")
	}
	logger, props, err := log.InitLogger(&log.Config{Level: level, Format: "text"})
	if err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	log.ReplaceGlobals(logger, props)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	client, err := pd.NewClient(pds, "tikvserver")
	if err != nil {
		return fmt.Errorf("reach PD at %s: %w", strings.Join(pds, ", "), err)
	}
	defer client.Close()
	s, err := open(client, advertise, data, syncWrites)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		s.regions.heartbeats(ctx)
	}()

	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(64<<20),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(1<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	tikvpb.RegisterTikvServer(g, s)
	healthpb.RegisterHealthServer(g, health.NewServer()) // clients ask after a lost reply
	served := make(chan error, 1)
	go func() { served <- g.Serve(listener) }()
	fmt.Println("ready", addr)
	select {
	case err = <-served:
	case <-ctx.Done():
		g.Stop() // clients hold streams open for good
		err = <-served
	}
	stop()
	<-beats
	s.Stop() // closes the engine, too
	return err
}

// server is the API, with what the engine leaves to its callers.
type server struct {
	*tikv.Server
	regions   *regions
	exclusion exclusion
	clock     *clock
}

// open opens the engine in data and registers the store and its regions in PD.
func open(client pd.Client, addr, data string, syncWrites bool) (*server, error) {
	conf := config.DefaultConf
	conf.Server.StoreAddr = addr
	conf.Server.Raft = false
	conf.Server.RegionSize = 1 << 50 // regions split when they are told to, not by themselves
	conf.Engine.DBPath = data
	conf.Engine.ValueThreshold = 0
	conf.Engine.SyncWrite = syncWrites

	safePoint := &tikv.SafePoint{}
	dir := filepath.Join(data, "kv")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	o := badger.DefaultOptions
	o.Dir, o.ValueDir = dir, dir
	o.ManagedTxns = true
	o.ValueThreshold = conf.Engine.ValueThreshold
	o.SyncWrites = syncWrites
	o.NumCompactors = 1
	// Writing a full table of memory to the disk takes a processor for 5 ms a megabyte, which this server shares with
	// everything else: rather more often than long. Level 0 is compacted when it holds as much as by default. (What would
	// spread a compaction over more than its second, a limit of what is written, counts what comes from memory as well, and
	// commits stand still for 10 s when both are too much for it.)
	o.MaxMemTableSize = 16 << 20
	o.NumLevelZeroTables, o.NumLevelZeroTablesStall = 20, 40
	o.TableBuilderOptions.MaxTableSize = conf.Engine.MaxTableSize
	// The log is synced when a file of it is full, and everybody waits: for 256 MiB from 150 to 400 ms, for these some 25.
	// The engine removes a file some milliseconds before it has noted the table that replaces it: not the last two.
	o.ValueLogFileSize, o.ValueLogMaxNumFiles = 16<<20, 3
	o.CompactL0WhenClose = false // the next start goes on
	o.CompactionFilterFactory = safePoint.CreateCompactionFilter
	db, err := badger.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	clock, err := newClock(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("timestamp of PD: %w", err)
	}
	bundle := &mvcc.DBBundle{DB: db, LockStore: lockstore.NewMemStore(8 << 20), StateTS: clock.latest.Load()}
	r, err := openRegions(bundle, client, conf.Server)
	if err != nil {
		return nil, err
	}
	inner := tikv.NewStandAlongInnerServer(bundle)
	inner.Setup(client)
	store := tikv.NewMVCCStore(&conf, bundle, data, safePoint, tikv.NewDBWriter(bundle), clock)
	store.DeadlockDetectSvr.ChangeRole(tikv.Leader)
	if err := inner.Start(client); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	store.StartDeadlockDetection(false)
	return &server{Server: tikv.NewServer(r, store, inner), regions: r, clock: clock}, nil
}

// regions are the store's regions, which PD is told about. They split when a client asks.
type regions struct {
	*tikv.MockRegionManager
	pd    pd.Client
	store *metapb.Store
}

func openRegions(bundle *mvcc.DBBundle, client pd.Client, conf config.Server) (*regions, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rm, err := tikv.NewMockRegionManager(bundle, client.GetClusterID(ctx), tikv.RegionOptions{StoreAddr: conf.StoreAddr, RegionSize: conf.RegionSize})
	if err != nil {
		return nil, fmt.Errorf("read regions: %w", err)
	}
	r := &regions{MockRegionManager: rm, pd: client}
	known, err := rm.IsBootstrapped()
	if err != nil {
		return nil, fmt.Errorf("read regions: %w", err)
	}
	if !known {
		if err := r.bootstrap(ctx, conf.StoreAddr); err != nil {
			return nil, err
		}
	}
	stores := rm.GetAllStores()
	if len(stores) != 1 {
		return nil, fmt.Errorf("%d stores in the directory", len(stores))
	}
	r.store = stores[0]
	r.store.Address = conf.StoreAddr
	rm.AddStore(r.store.Id, conf.StoreAddr)
	if err := client.PutStore(ctx, r.store); err != nil {
		return nil, fmt.Errorf("register the store in PD: %w", err)
	}
	r.report()
	return r, nil
}

// bootstrap makes the cluster of one store and one region, by ids of PD's.
func (r *regions) bootstrap(ctx context.Context, addr string) error {
	if taken, err := r.pd.IsBootstrapped(ctx); err != nil {
		return fmt.Errorf("ask PD for its cluster: %w", err)
	} else if taken {
		return errors.New("this PD has a store already: one takes one server, with the data directory it began with")
	}
	var ids [3]uint64
	for i := range ids {
		id, err := r.pd.AllocID(ctx)
		if err != nil {
			return fmt.Errorf("id of PD: %w", err)
		}
		for r.AllocID() < id { // ids of later regions are made here, above these
		}
		ids[i] = id
	}
	store := &metapb.Store{Id: ids[0], Address: addr, Version: "8.5.0"}
	region := &metapb.Region{
		Id:          ids[1],
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: 1},
		Peers:       []*metapb.Peer{{Id: ids[2], StoreId: ids[0]}},
	}
	if res, err := r.pd.Bootstrap(ctx, store, region); err != nil {
		return fmt.Errorf("bootstrap PD: %w", err)
	} else if e := res.GetHeader().GetError(); e != nil {
		return fmt.Errorf("bootstrap PD: %s", e.GetMessage())
	}
	if err := r.Bootstrap([]*metapb.Store{store}, region); err != nil {
		return fmt.Errorf("store the first region: %w", err)
	}
	return nil
}

// SplitRegion splits and lets PD know before the client hears of it.
func (r *regions) SplitRegion(req *kvrpcpb.SplitRegionRequest) *kvrpcpb.SplitRegionResponse {
	res := r.MockRegionManager.SplitRegion(req)
	if res.RegionError == nil {
		r.report()
	}
	return res
}

// all returns the regions in their order. From nil on the scan would leave out a region without an end.
func (r *regions) all() []*pdclient.Region { return r.ScanRegions([]byte{0}, nil, 0) }

// report tells PD of every region.
func (r *regions) report() {
	for _, region := range r.all() {
		r.pd.ReportRegion(&pdpb.RegionHeartbeatRequest{Region: region.Meta, Leader: region.Leader, ApproximateSize: 1, ApproximateKeys: 1})
	}
}

// heartbeats keeps the store alive in PD until ctx ends.
func (r *regions) heartbeats(ctx context.Context) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		stats := &pdpb.StoreStats{
			StoreId: r.store.Id, Capacity: 1 << 40, Available: 1 << 39,
			RegionCount: uint32(len(r.all())),
		}
		if err := r.pd.StoreHeartbeat(ctx, stats); err != nil && ctx.Err() == nil {
			log.Warn(fmt.Sprintf("heartbeat: %v", err))
		}
		r.report() // PD may have started again and forgotten
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
