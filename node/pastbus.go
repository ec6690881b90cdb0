package node

import (
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/relay"
)

// What a bus that lies apart needs of the nodes around it: who takes from it reports to who published, so that
// owners notice when nothing comes through, and hand events to the fan-out of their own process.

// besideBus is what the bus of this node is told, and tells.
func (p *peers) besideBus(direct *fanout.Direct) (b storage.Beside, err error) {
	if p.reports, err = relay.NewReports(relay.ReportsConfig{View: p.Router, Call: p.Pool.Saw, Logger: p.log}); err != nil {
		return b, err
	}
	return storage.Beside{
		Publisher: relay.PublisherOf(p.Self.Worker, p.Self.Start), Group: fanoutGroup, Live: p.takers, Seen: p.reports.Take, Direct: direct.Take,
	}, nil
}

// takers are the ids of the nodes that take events from the bus.
func (p *peers) takers() []string {
	var ids []string
	for _, n := range p.Router.Fanouts() {
		if !n.Draining {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// saw takes what another node has seen coming through.
func (n *Node) saw(body []byte) ([]byte, error) {
	marks, err := relay.ReadMarks(body)
	if err != nil {
		return nil, err
	}
	n.storage.Saw(marks)
	return nil, nil
}
