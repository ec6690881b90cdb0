package node

import (
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/packet"
)

// methods are what REQUESTs may ask for beside what a connection answers by itself.
func (n *Node) methods() map[packet.Method]conn.Method {
	all := map[packet.Method]conn.Method{
		packet.MethodSettings:   n.convs.AnswerSettings,
		packet.MethodMentions:   n.convs.AnswerMentions,
		packet.MethodDevices:    n.accounts.Devices,
		packet.MethodSignOut:    n.accounts.SignOut,
		packet.MethodProfiles:   n.relations.Profiles,
		packet.MethodProfileSet: n.relations.SetProfile,
		packet.MethodBlock:      n.relations.Block,
		packet.MethodBlocks:     n.relations.Blocks,
	}
	for m, answer := range n.groups.Methods() {
		all[m] = answer
	}
	return all
}
