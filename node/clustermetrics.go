package node

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/router/nodes"
)

// clusterStats are what this node has to do with the others and with what they share, read at each scrape.
type clusterStats struct{ n *Node }

// stat is one metric of clusterStats.
type stat struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func count(name, help string, labels ...string) stat {
	return stat{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func level(name, help string, labels ...string) stat {
	return stat{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

var (
	statRevision = level("gochat_cluster_view_revision", "Revision of the nodes that this one knows of.")
	statNodes    = level("gochat_cluster_nodes", "Nodes that this one knows of, by role; one with several counts for each.", "role")
	statLevel    = level("gochat_feature_level", "Feature level in force: what is written, every node can read.")
	statSlots    = level("gochat_cluster_slots", "Slots that are this node's.")
	statEtcd     = level("gochat_cluster_etcd_away", "1 while etcd can't be reached, and the last view of the nodes is in force.")
	statEtcdBrk  = level("gochat_cluster_etcd_breaker", "Breaker of the requests to etcd: 0 closed, 1 half-open, 2 open.")
	statEtcdKept = count("gochat_cluster_etcd_kept_back_total", "Requests to etcd that its open breaker kept back.")
	statSettings = count("gochat_settings_refused_total", "Settings in etcd that this node refused; what was in force stays.")
	statDiffer   = level("gochat_settings_refused", "Settings of which this node refuses what lies in etcd now.")
	statSetting  = level("gochat_settings_revision", "Revision in etcd of the latest change of a setting that is in force here.")
	statHeld     = level("gochat_cluster_number_held", "1 while this node may make ids with its number.")

	statBreaker  = level("gochat_cluster_breaker", "Breaker of the calls to a node: 0 closed, 1 half-open, 2 open.", "addr")
	statBusy     = level("gochat_cluster_calls_busy", "Calls under way to a node.", "addr")
	statCalls    = count("gochat_cluster_calls_total", "Calls to a node.", "addr")
	statFailed   = count("gochat_cluster_calls_failed_total", "Calls to a node that brought no answer.", "addr")
	statShed     = count("gochat_cluster_calls_kept_back_total", "Calls to a node that its open breaker kept back.", "addr")
	statOnward   = count("gochat_cluster_sends_total", "SENDs that went to other nodes.")
	statWaiting  = level("gochat_cluster_sends_waiting", "SENDs that wait for the calls that take them to other nodes.")
	statMoved    = count("gochat_cluster_sends_moved_total", "SENDs that came to a node that isn't their conversation's, and went on to another.")
	statDeclined = count("gochat_cluster_sends_refused_total", "SENDs to other nodes that were refused here.")
	statUnsure   = count("gochat_cluster_sends_undetermined_total", "Of them, those of which it isn't known whether they were stored.")
	statConns    = level("gochat_cluster_connections", "Connections for calls to other nodes.")
	statServed   = count("gochat_cluster_served_total", "Calls of other nodes.")
	statServing  = level("gochat_cluster_serving", "Calls of other nodes under way.")
	statCallers  = level("gochat_cluster_callers", "Connections of other nodes.")
	statIntruder = count("gochat_cluster_callers_refused_total", "Connections to the address of calls that didn't prove to be a node's, or were too many.")

	statQueue     = level("gochat_cluster_edge_queue_bytes", "Bytes that wait for an edge.", "edge")
	statSent      = count("gochat_cluster_edge_sent_bytes_total", "Bytes brought to an edge.", "edge")
	statSends     = count("gochat_cluster_edge_calls_total", "Calls that bring something to an edge.", "edge")
	statSendFails = count("gochat_cluster_edge_calls_failed_total", "Of them, those that brought no answer.", "edge")
	statLost      = count("gochat_cluster_edge_lost_total", "Deliveries to an edge dropped; it sends its clients HINTs.", "edge")

	statSessions   = level("gochat_cluster_directory_sessions", "Sessions in this node's part of the directory.")
	statEdges      = level("gochat_cluster_directory_edges", "Edges that renew them.")
	statUnknown    = level("gochat_cluster_directory_unknown_slots", "Slots of it of which not every session is known yet.")
	statLapsed     = count("gochat_cluster_directory_lapsed_total", "Edges that said nothing for a lease.")
	statLookUps    = count("gochat_cluster_lookups_total", "Calls that ask other nodes who is connected where.")
	statEverywhere = count("gochat_cluster_lookups_unknown_total", "Users who had to be looked for at all edges.")
	statLater      = level("gochat_cluster_sessions_later", "Slots whose sessions wait to be announced to their node again.")
	statAnnounced  = count("gochat_cluster_sessions_announced_total", "Slots whose sessions were announced.")
	statCut        = count("gochat_cluster_sessions_cut_total", "Connections closed because their user's node couldn't be told of them.")

	statDirect       = level("gochat_bus_direct_queues", "Queues of the bus past which this node hands events over.")
	statHanded       = count("gochat_bus_handed_over_total", "Events handed over past the bus.")
	statHandedMissed = count("gochat_bus_handed_over_missed_total", "Of them, those for which there was no room.")
	statUnreported   = count("gochat_bus_reports_dropped_total", "Reports of what came through the bus that their node couldn't be told.")
	statDead         = level("gochat_bus_dead_letters", "Dead letters of a consumer of the bus that were not replayed, as workers last counted them.", "group")
	statBroker       = level("gochat_bus_breaker", "Breaker of the calls to a broker: 0 closed, 1 half-open, 2 open.", "broker")

	statTiKVGroups       = count("gochat_tikv_groups_total", "Commits of TiKV's, by the way they were made.", "phase")
	statTiKVTxs          = count("gochat_tikv_transactions_total", "Transactions stored by them: per commit, how well they gather.")
	statTiKVBytes        = count("gochat_tikv_bytes_total", "Bytes of keys and values stored.")
	statTiKVConflicts    = count("gochat_tikv_conflicts_total", "Transactions whose requirements didn't hold.")
	statTiKVReruns       = count("gochat_tikv_reruns_total", "Commits made again because somebody else wrote what they write.")
	statTiKVUndetermined = count("gochat_tikv_undetermined_total", "Transactions with an unknown outcome.")
	statTiKVUnavailable  = count("gochat_tikv_unavailable_total", "Transactions that TiKV couldn't be reached for.")
	statTiKVRefused      = count("gochat_tikv_refused_total", "Transactions that are too large, or that TiKV has no space for.")
	statTiKVBreaker      = level("gochat_tikv_breaker", "Breaker of what TiKV and PD are asked: 0 closed, 1 half-open, 2 open.")
	statTiKVKept         = count("gochat_tikv_kept_back_total", "Reads and transactions that the breaker refused.")
	statTiKVGarbage      = count("gochat_tikv_garbage_runs_total", "Rounds of garbage collection by this node, by outcome.", "outcome")
	statTiKVSafe         = level("gochat_tikv_safe_point_seconds", "Up to when the last round removed old versions, as a Unix time.")
)

// Describe implements prometheus.Collector: what there is depends on the node's roles, so nothing is declared.
func (clusterStats) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c clusterStats) Collect(ch chan<- prometheus.Metric) {
	put := func(s stat, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, v, labels...)
	}
	if c.n.peers != nil {
		c.view(put)
		c.calls(put)
		c.relays(put)
	}
	if c.n.storage != nil {
		c.shared(put)
	}
}

type putStat func(s stat, v float64, labels ...string)

func (c clusterStats) view(put putStat) {
	p := c.n.peers
	now := p.Router.Snapshot()
	put(statRevision, float64(now.Revision()))
	for _, role := range []nodes.Roles{nodes.Edge, nodes.Logic, nodes.Fanout, nodes.Worker} {
		put(statNodes, float64(len(now.View().With(role))), role.String())
	}
	put(statLevel, float64(p.Level()))
	put(statSlots, float64(now.Owned(p.Router.Self())))
	put(statEtcd, truth(p.EtcdAway()))
	state, kept := p.EtcdBreaker()
	put(statEtcdBrk, breaker(state))
	put(statEtcdKept, float64(kept))
	put(statHeld, truth(p.WorkerHeld()))
	s := c.n.settingsStats()
	put(statSettings, float64(s.refused))
	put(statDiffer, float64(s.differ))
	put(statSetting, float64(s.revision))
}

func (c clusterStats) calls(put putStat) {
	p := c.n.peers
	called, open := p.Pool.Stats()
	for _, s := range called {
		put(statBreaker, breaker(s.Breaker), s.Addr)
		put(statBusy, float64(s.Busy), s.Addr)
		put(statCalls, float64(s.Calls), s.Addr)
		put(statFailed, float64(s.Failed), s.Addr)
		put(statShed, float64(s.Shed), s.Addr)
	}
	put(statConns, float64(open))
	if p.logic != nil {
		s := p.logic.Stats()
		put(statOnward, float64(s.Messages))
		put(statWaiting, float64(s.Waiting))
		put(statMoved, float64(s.Moved))
		put(statDeclined, float64(s.Refused))
		put(statUnsure, float64(s.Lost))
	}
	s := p.server.Stats()
	put(statServed, float64(s.Total))
	put(statServing, float64(s.Calls))
	put(statCallers, float64(s.Conns))
	put(statIntruder, float64(s.Refused))
}

func (c clusterStats) relays(put putStat) {
	p := c.n.peers
	if p.edges != nil {
		for _, s := range p.edges.Stats() {
			put(statQueue, float64(s.Waiting), s.Edge)
			put(statSent, float64(s.Sent), s.Edge)
			put(statSends, float64(s.Calls), s.Edge)
			put(statSendFails, float64(s.Failed), s.Edge)
			put(statLost, float64(s.Lost), s.Edge)
		}
	}
	if p.part != nil {
		s := p.part.Stats()
		put(statSessions, float64(s.Sessions))
		put(statEdges, float64(s.Edges))
		put(statUnknown, float64(s.Unknown))
		put(statLapsed, float64(s.Lapsed))
	}
	if p.lookUps != nil {
		s := p.lookUps.Stats()
		put(statLookUps, float64(s.Calls))
		put(statEverywhere, float64(s.Unknown))
	}
	if p.sessions != nil {
		s := p.sessions.Stats()
		put(statLater, float64(s.Later))
		put(statAnnounced, float64(s.Announced))
		put(statCut, float64(s.Cut))
	}
}

// shared are the store and the bus, where they lie apart.
func (c clusterStats) shared(put putStat) {
	st := c.n.storage
	if p := c.n.peers; p != nil {
		d := c.n.direct.Stats()
		put(statDirect, float64(c.n.logic.Sequencer.DirectQueues()))
		put(statHanded, float64(d.Events))
		put(statHandedMissed, float64(d.Missed))
		put(statUnreported, float64(p.reports.Stats().Dropped))
	}
	if brokers, ok := st.RocketMQ(); ok {
		for name, state := range brokers {
			put(statBroker, breaker(state), name)
		}
	}
	if group, letters, ok := st.DeadLetters(); ok {
		put(statDead, float64(letters), group)
	}
	if m, ok := st.TiKV(); ok {
		put(statTiKVGroups, float64(m.OnePhase), "one")
		put(statTiKVGroups, float64(m.Async), "async")
		put(statTiKVGroups, float64(m.TwoPhase), "two")
		put(statTiKVTxs, float64(m.Txs))
		put(statTiKVBytes, float64(m.Bytes))
		put(statTiKVConflicts, float64(m.Conflicts))
		put(statTiKVReruns, float64(m.Reruns))
		put(statTiKVUndetermined, float64(m.Undetermined))
		put(statTiKVUnavailable, float64(m.Unavailable))
		put(statTiKVRefused, float64(m.Refused))
		put(statTiKVBreaker, breaker(m.Breaker))
		put(statTiKVKept, float64(m.KeptBack))
		put(statTiKVGarbage, float64(m.GarbageRuns-m.GarbageFailures), "done")
		put(statTiKVGarbage, float64(m.GarbageFailures), "failed")
		put(statTiKVSafe, float64(m.SafePoint)/1000)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// breaker is a breaker's state as a number.
func breaker(state string) float64 {
	switch state {
	case "closed":
		return 0
	case "half-open":
		return 1
	}
	return 2
}

// errNobody is why a node isn't ready that can serve nobody by itself.
var errNobody = errors.New("no node with the role logic is known")
