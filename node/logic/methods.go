package logic

import (
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/packet"
)

// methods are what REQUESTs may ask for beside what a connection answers by itself.
func (l *Logic) Methods() map[packet.Method]conn.Method {
	all := map[packet.Method]conn.Method{
		packet.MethodSettings:   l.Conversations.AnswerSettings,
		packet.MethodMentions:   l.Conversations.AnswerMentions,
		packet.MethodDevices:    l.Accounts.Devices,
		packet.MethodSignOut:    l.Accounts.SignOut,
		packet.MethodProfiles:   l.Relations.Profiles,
		packet.MethodProfileSet: l.Relations.SetProfile,
		packet.MethodBlock:      l.Relations.Block,
		packet.MethodBlocks:     l.Relations.Blocks,
	}
	for m, answer := range l.Groups.Methods() {
		all[m] = answer
	}
	for m, answer := range l.Rooms.Methods() {
		all[m] = answer
	}
	return all
}
