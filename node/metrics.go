package node

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/node/edge"
	"github.com/gochat-im/gochat/node/logic"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/timeline"
)

// metrics are what the node counts itself; what its parts count is read when it is scraped.
type metrics struct {
	reg *prometheus.Registry

	committed    prometheus.Counter
	commitTime   prometheus.Histogram
	syncTime     prometheus.Histogram
	perCommit    prometheus.Histogram
	conflicts    prometheus.Counter
	undetermined prometheus.Counter
	duplicates   prometheus.Counter
	refused      *prometheus.CounterVec
	loads        prometheus.Counter
	evictions    prometheus.Counter
	requests     *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	durations := prometheus.ExponentialBuckets(100e-6, 2, 16) // 100 µs to 3.3 s
	m := &metrics{
		reg:          reg,
		committed:    counter("gochat_messages_stored_total", "Messages stored."),
		commitTime:   histogram("gochat_commit_seconds", "From building a batch of appends to its durability.", durations),
		syncTime:     histogram("gochat_store_sync_seconds", "Waiting for the disk, a group of transactions.", durations),
		perCommit:    histogram("gochat_commit_messages", "Messages stored by one commit.", prometheus.ExponentialBuckets(1, 4, 8)),
		conflicts:    counter("gochat_append_conflicts_total", "Appends that ran again because the conversation's head had changed."),
		undetermined: counter("gochat_append_undetermined_total", "Appends whose commit had an unknown outcome."),
		duplicates:   counter("gochat_messages_duplicate_total", "Messages that were stored already when they were sent again."),
		refused:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gochat_messages_refused_total", Help: "Messages refused by the sequencer, by code."}, []string{"code"}),
		loads:        counter("gochat_conversation_loads_total", "Conversations read from the store because they were not in memory."),
		evictions:    counter("gochat_conversation_evictions_total", "Conversations dropped from memory."),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gochat_http_seconds", Help: "HTTP requests by route and status.", Buckets: durations},
			[]string{"route", "status"}),
	}
	reg.MustRegister(m.refused, m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) group(g pebblekv.Group) { m.syncTime.Observe((g.Apply + g.Sync).Seconds()) }

func (m *metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *metrics) timelineEvents() timeline.Events {
	return timeline.Events{
		Committed: func(_, messages int, took time.Duration) {
			m.committed.Add(float64(messages))
			m.perCommit.Observe(float64(messages))
			m.commitTime.Observe(took.Seconds())
		},
		Conflict:     func(id.ConversationID) { m.conflicts.Inc() },
		Undetermined: func(id.ConversationID) { m.undetermined.Inc() },
		Duplicates:   func(n int) { m.duplicates.Add(float64(n)) },
		Refused:      func(c code.Code, n int) { m.refused.WithLabelValues(c.String()).Add(float64(n)) },
		Loaded:       func(id.ConversationID, time.Duration) { m.loads.Inc() },
		Evicted:      func(n int) { m.evictions.Add(float64(n)) },
	}
}

func (m *metrics) gauge(name, help string, read func() float64) {
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

func (m *metrics) counter(name, help string, read func() float64) {
	m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read))
}

// metrics are all of the process: the libraries' own beside m.
func (n *Node) metrics(m *metrics) prometheus.Gatherer {
	if n.storage != nil {
		if _, ok := n.storage.TiKV(); ok {
			return prometheus.Gatherers{m.reg, storage.ClientMetrics()}
		}
	}
	return m.reg
}

// watch registers what is read from the node's parts at each scrape.
func (m *metrics) watch(n *Node) {
	if n.peers != nil {
		m.reg.MustRegister(clusterStats{n})
	}
	if n.edge != nil {
		m.watchEdge(n.edge)
	}
	if n.fanout != nil {
		m.watchFanout(n.fanout)
	}
	if n.sessions != nil {
		m.gauge("gochat_sessions", "Logged-in devices that are connected.", func() float64 { return float64(n.sessions.Len()) })
	}
	if n.storage == nil {
		return
	}
	m.reg.MustRegister(caches{n.logic})
	m.gauge("gochat_words", "Different words that are looked for in messages.", func() float64 { return float64(n.logic.Words.Stats().Words) })
	m.counter("gochat_words_rejected_total", "Messages refused because of such a word.", func() float64 { return float64(n.logic.Words.Stats().Refused) })
	m.counter("gochat_words_masked_total", "Messages stored with asterisks in place of such words.", func() float64 { return float64(n.logic.Words.Stats().Masked) })
	m.gauge("gochat_room_users", "Users who are in the rooms that this process owns, each counted in every room.", func() float64 {
		_, users := n.logic.Rooms.Stats()
		return float64(users)
	})
	if _, ok := n.storage.Embedded(); ok {
		m.watchEmbedded(n.storage)
	}
}

func (m *metrics) watchEdge(e *edge.Edge) {
	m.gauge("gochat_connections", "Connections, those not logged in included.", func() float64 { return float64(e.Hub.Count()) })
	m.counter("gochat_tls_handshakes_total", "TLS handshakes of the binary protocol that succeeded.", func() float64 { return float64(e.TCP.Stats().Handshakes) })
	m.counter("gochat_tls_handshakes_failed_total", "TLS handshakes of the binary protocol that failed.", func() float64 { return float64(e.TCP.Stats().HandshakesFailed) })
	m.counter("gochat_websockets_opened_total", "WebSockets opened.", func() float64 { return float64(e.WS.Stats().Upgrades) })
	m.counter("gochat_websockets_refused_total", "Requests for a WebSocket that became none.", func() float64 { return float64(e.WS.Stats().Refused) })
	m.counter("gochat_websockets_malformed_total", "WebSockets closed for what RFC 6455 forbids.", func() float64 { return float64(e.WS.Stats().Malformed) })
	m.counter("gochat_event_streams_opened_total", "Streams of server-sent events opened.", func() float64 { return float64(e.SSE.Stats().Opened) })
	m.counter("gochat_event_streams_refused_total", "Requests for a stream of events that became none.", func() float64 { return float64(e.SSE.Stats().Refused) })
	m.counter("gochat_event_posts_lost_total", "POSTs to streams of events that there are none of.", func() float64 { return float64(e.SSE.Stats().Lost) })
	m.counter("gochat_socket_writes_total", "Writes to sockets; frames out per write is how well they coalesce.", func() float64 { return float64(e.Hub.Stats().Writes) })
	m.counter("gochat_lagging_total", "Times that a connection's queue was full.", func() float64 { return float64(e.Hub.Stats().Lagging) })
	m.counter("gochat_deliveries_dropped_total", "Deliveries dropped for lagging connections, which pull them later.", func() float64 { return float64(e.Hub.Stats().Dropped) })
	m.counter("gochat_hints_total", "HINTs sent.", func() float64 { return float64(e.Hub.Stats().Hints) })
	m.counter("gochat_connections_returned_total", "Connections of clients that came back with a resume token, and so count neither as new ones of their address nor as waiting for their login.", func() float64 { return float64(e.Hub.Stats().Returned) })
	m.counter("gochat_connections_refused_total", "Connections refused at the door.", func() float64 { return float64(e.Hub.Stats().RefusedAtDoor) })
	m.counter("gochat_accepts_failed_total", "Times that a connection could not be accepted, over the binary protocol's port and HTTP's.", func() float64 { return float64(e.TCP.AcceptsFailed() + e.API.AcceptsFailed()) })
	m.gauge("gochat_audience_seats", "Connections in these, each counted in every group.", func() float64 { return float64(e.Hub.Audiences().Seats()) })
	m.gauge("gochat_rooms", "Rooms that somebody is in at this edge.", func() float64 { return float64(e.Hub.Rooms().Len()) })
	m.gauge("gochat_room_seats", "Connections in these, each counted in every room.", func() float64 { return float64(e.Hub.Rooms().Seats()) })
	m.counter("gochat_room_deliveries_total", "Frames handed to them.", func() float64 { return float64(e.Hub.Rooms().Delivered()) })
	m.counter("gochat_room_deliveries_missed_total", "Frames of rooms that connections missed because they lagged, which aren't brought again.", func() float64 { return float64(e.Hub.Stats().LeftOut) })
	for listener, source := range map[string]*certs.Source{"tcp": e.TCPCert, "http": e.HTTPCert} {
		if source != nil {
			m.gauge("gochat_certificate_expires_"+listener+"_seconds", "When the certificate in use ends, as a Unix time.", func() float64 { return float64(source.Expires().Unix()) })
		}
	}
	m.reg.MustRegister(edgeCounts{e.Hub})
}

func (m *metrics) watchFanout(h *fanout.Handler) {
	m.counter("gochat_fanout_events_total", "Appends fanned out.", func() float64 { return float64(h.Stats().Events) })
	m.counter("gochat_deliveries_total", "Frames handed to connections by fan-out.", func() float64 { return float64(h.Stats().Delivered) })
	m.gauge("gochat_audiences", "Large groups whose connected members are kept together.", func() float64 { return float64(h.Stats().Audiences) })
	m.counter("gochat_audiences_opened_total", "Times that the connected members of a large group were looked up.", func() float64 { return float64(h.Stats().Opened) })
	m.counter("gochat_audience_passes_total", "Passes over these; deliveries per pass are how well messages are gathered.", func() float64 { return float64(h.Stats().Passes) })
	m.gauge("gochat_rooms_spoken_in", "Rooms in which something was written in the last minutes.", func() float64 { return float64(h.Stats().Rooms) })
	m.counter("gochat_room_copies_total", "Messages of rooms, times the connections that they were brought to, about.", func() float64 { return float64(h.Stats().RoomCopies) })
	m.counter("gochat_room_left_out_total", "Messages of rooms that were brought to nobody, because the room was over its budget.", func() float64 { return float64(h.Stats().LeftOut) })
	m.counter("gochat_fanout_hinted_total", "Times that a group over its budget was told of messages instead of sent them.", func() float64 { return float64(h.Stats().Hinted) })
}

func (m *metrics) watchEmbedded(s *storage.Storage) {
	read := func(of func(pebblekv.Metrics) float64) func() float64 {
		return func() float64 {
			k, _ := s.Embedded()
			return of(k)
		}
	}
	m.counter("gochat_store_cache_hits_total", "Blocks of tables that were read from the cache.", read(func(k pebblekv.Metrics) float64 { return float64(k.CacheHits) }))
	m.counter("gochat_store_cache_misses_total", "Blocks of tables that were read from files.", read(func(k pebblekv.Metrics) float64 { return float64(k.CacheMisses) }))
	m.gauge("gochat_store_disk_bytes", "Bytes on disk.", read(func(k pebblekv.Metrics) float64 { return float64(k.DiskBytes) }))
	m.gauge("gochat_store_full", "1 while writes are refused for lack of space.", read(func(k pebblekv.Metrics) float64 {
		if k.Full {
			return 1
		}
		return 0
	}))
}

// edgeCounts are frames by type, and what the edge refused and closed, by code.
type edgeCounts struct{ hub *hub.Hub }

var (
	framesIn    = prometheus.NewDesc("gochat_frames_in_total", "Frames from clients, by type.", []string{"type"}, nil)
	framesOut   = prometheus.NewDesc("gochat_frames_out_total", "Frames to clients, by type.", []string{"type"}, nil)
	edgeRefused = prometheus.NewDesc("gochat_edge_refused_total", "Requests refused by the edge, by code.", []string{"code"}, nil)
	edgeClosed  = prometheus.NewDesc("gochat_edge_closed_total", "Connections closed by the edge, by code.", []string{"code"}, nil)
)

// Describe implements prometheus.Collector.
func (edgeCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- framesIn
	ch <- framesOut
	ch <- edgeRefused
	ch <- edgeClosed
}

// Collect implements prometheus.Collector.
func (e edgeCounts) Collect(ch chan<- prometheus.Metric) {
	s := e.hub.Stats()
	for desc, counts := range map[*prometheus.Desc]map[string]uint64{framesIn: s.In, framesOut: s.Out} {
		for t, n := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), t)
		}
	}
	for desc, counts := range map[*prometheus.Desc]map[code.Code]uint64{edgeRefused: s.Refused, edgeClosed: s.Closed} {
		for c, n := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), c.String())
		}
	}
}

// caches are what is kept in memory, by name.
type caches struct{ l *logic.Logic }

var (
	cacheEntries = prometheus.NewDesc("gochat_cache_entries", "What is kept in memory, by cache.", []string{"cache"}, nil)
	cacheHits    = prometheus.NewDesc("gochat_cache_hits_total", "Look-ups answered from memory, by cache.", []string{"cache"}, nil)
	cacheMisses  = prometheus.NewDesc("gochat_cache_misses_total", "Look-ups for which the store was read, by cache.", []string{"cache"}, nil)
)

// Describe implements prometheus.Collector.
func (caches) Describe(ch chan<- *prometheus.Desc) {
	ch <- cacheEntries
	ch <- cacheHits
	ch <- cacheMisses
}

// Collect implements prometheus.Collector.
func (k caches) Collect(ch chan<- prometheus.Metric) {
	directs, rosters, unread := k.l.Conversations.Caches()
	heads, ids := k.l.Sequencer.Caches()
	for name, s := range map[string]struct {
		Entries      int
		Hits, Misses uint64
	}{
		"directs": directs, "direct_members": rosters, "unread": unread, "group_members": k.l.Groups.Cache(),
		"profiles": k.l.Relations.Cache(), "heads": heads, "ids": ids,
	} {
		ch <- prometheus.MustNewConstMetric(cacheEntries, prometheus.GaugeValue, float64(s.Entries), name)
		ch <- prometheus.MustNewConstMetric(cacheHits, prometheus.CounterValue, float64(s.Hits), name)
		ch <- prometheus.MustNewConstMetric(cacheMisses, prometheus.CounterValue, float64(s.Misses), name)
	}
}

// stats is what the administration socket shows.
func (n *Node) stats() any {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	out := map[string]any{"goroutines": runtime.NumGoroutine(), "heap_bytes": mem.HeapAlloc}
	if n.edge != nil {
		out["edge"] = n.edge.Hub.Stats()
	}
	if n.fanout != nil {
		out["fanout"] = n.fanout.Stats()
	}
	if n.storage != nil {
		if k, ok := n.storage.Embedded(); ok {
			out["store"] = k
		}
	}
	if n.sessions != nil {
		out["sessions"] = n.sessions.Len()
	}
	return out
}
