// Package logic builds what a node does with users and conversations, on its storage.
package logic

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/account/pwhash"
	"github.com/gochat-im/gochat/services/apikey"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/hook"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/room"
	"github.com/gochat-im/gochat/services/self"
	"github.com/gochat-im/gochat/services/timeline"
	"github.com/gochat-im/gochat/services/words"
)

// Config of a Logic. All is needed but what says otherwise.
type Config struct {
	config.Config

	Storage *storage.Storage
	Worker  uint32        // of this node in MessageIDs, no other live node's
	Crypt   *account.Keys // tokens are signed with
	Version string        // of the program

	// Presence knows who is connected, on all edges.
	Presence account.Presence

	// Flush is called after a batch of answers or events was given out. Revoked is told of each end of a
	// device's sign-in, and has its connections closed.
	Flush   func()
	Revoked func(account.Revocation)

	// Direct takes what isn't to wait for a bus that lies apart.
	Direct func(evs []bus.Event)

	// WorkerHeld reports whether Worker is this node's; nil: it always is.
	WorkerHeld func() bool

	// Broadcast tells everybody who is connected something; by is who asks.
	Broadcast func(ctx context.Context, by string, b *wire.Broadcast) *code.Error

	Events      timeline.Events
	BeforeSend  hook.Hook // judges messages before they are stored; nil: none does
	HashCommand []string  // see node.Program
	Logger      *slog.Logger
}

// Logic is the services of one node. Its fields don't change.
type Logic struct {
	Accounts      *account.Service
	APIKeys       *apikey.Service
	Relations     *relation.Service
	Groups        *group.Service
	Rooms         *room.Service
	Conversations *conversation.Service
	Sequencer     *timeline.Sequencer
	Words         *words.Filter // in front of what judges and what stores messages

	cfg     Config
	log     *slog.Logger
	storage *storage.Storage
	hasher  *pwhash.Pool // nil: passwords are hashed in this process
	gate    *hook.Gate   // nil: messages aren't judged
	self    *self.Service
}

// New builds the services. Bind comes before anything else is called. What was opened is closed again when it fails.
func New(cfg Config) (_ *Logic, err error) {
	l := &Logic{cfg: cfg, log: cfg.Logger, storage: cfg.Storage}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	store, keys, now := cfg.Storage.Store, cfg.Storage.Keys, cfg.Storage.Clock.Now
	hashes := hashesAtOnce(cfg.Accounts)
	derive := account.Argon.Key
	if len(cfg.HashCommand) > 0 {
		l.hasher = pwhash.NewPool(pwhash.PoolConfig{Command: cfg.HashCommand, Children: hashes, Logger: l.log})
		derive = l.hasher.Key
	}
	if l.Accounts, err = account.New(account.Config{
		Store: store, Keys: keys, Crypt: cfg.Crypt, Issuers: issuers(cfg.Issuers), Derive: derive,
		AccessTTL: cfg.Accounts.AccessToken, RefreshTTL: cfg.Accounts.RefreshToken, ResumeTTL: cfg.Accounts.Resume,
		RegistrationOff: !cfg.Accounts.Registration, HashesAtOnce: hashes, OnRevoke: cfg.Revoked, Logger: l.log,
		DevicesPerUser: cfg.Devices.PerUser, DevicesPerKind: cfg.Devices.PerKind, Presence: cfg.Presence, Record: l.record, Shared: cfg.Cluster.On(),
	}); err != nil {
		return nil, err
	}
	if l.APIKeys, err = apikey.New(apikey.Config{Store: store, Keys: keys, Now: now, Logger: l.log}); err != nil {
		return nil, err
	}
	policy, err := relation.ParsePolicy(cfg.Contacts.Write)
	if err != nil {
		return nil, err
	}
	search, err := relation.ParsePolicy(cfg.Contacts.Search)
	if err != nil {
		return nil, err
	}
	if l.Relations, err = relation.New(relation.Config{
		Store: store, Keys: keys, Users: l.Accounts, Gone: l.Accounts.Gone, Write: policy, Search: search, MaxBlocks: cfg.Contacts.Blocks, Now: now, Logger: l.log,
	}); err != nil {
		return nil, err
	}
	if l.Groups, err = group.New(group.Config{
		Store: store, Keys: keys, Users: l.Accounts, Contacts: l.Relations, Now: now, Logger: l.log,
		Members: cfg.Limits.GroupMembers, Conversations: cfg.Limits.ConversationsPerUser, Shared: cfg.Cluster.On(),
	}); err != nil {
		return nil, err
	}
	if l.Rooms, err = room.New(room.Config{
		Store: store, Keys: keys, Users: l.Accounts, Off: !cfg.Rooms.On, Create: cfg.Rooms.Create, Members: cfg.Rooms.Members,
		Keep: msgstore.Keep{Age: cfg.Rooms.HistoryAge, Messages: uint64(cfg.Rooms.HistoryMessages)}, Now: now,
	}); err != nil {
		return nil, err
	}
	if l.Conversations, err = conversation.New(conversation.Config{
		Store: store, Keys: keys, Users: l.Accounts, Groups: l.Groups, Rooms: l.Rooms, Writers: l.Relations, Conversations: cfg.Limits.Conversations, Logger: l.log, Now: now,
		AfterBatch: cfg.Flush,
	}); err != nil {
		return nil, err
	}
	if l.Sequencer, err = timeline.New(timeline.Config{
		Store: store, Keys: keys, Bus: cfg.Storage.Bus, Guard: guard{l.Conversations}, Epoch: cfg.Storage.Epoch, Worker: cfg.Worker, Now: now, Reserve: cfg.Storage.Clock.Reserve, Logger: l.log,
		AfterBatch: cfg.Flush, Seen: l.Conversations.Seen, Direct: cfg.Direct, Consumers: cfg.Storage.Consumers, WorkerHeld: cfg.WorkerHeld, Assigned: cfg.Cluster.On(), Slow: cfg.Log.Slow, Pace: cfg.Cluster.Pace, Events: cfg.Events, MaxConversations: cfg.Limits.Conversations,
	}); err != nil {
		return nil, err
	}
	l.Groups.Bind(changes{l.Sequencer})
	l.Rooms.Bind(roomChanges{l.Sequencer})
	if l.self, err = self.New(self.Config{Store: store, Keys: keys, Sequencer: selfTimelines{l.Sequencer}, Now: now}); err != nil {
		return nil, err
	}
	l.Words = words.NewFilter(l.Sequencer)
	if cfg.BeforeSend != nil {
		if l.gate, err = hook.New(hook.Config{Hook: cfg.BeforeSend, Next: l.Sequencer, Logger: l.log}); err != nil {
			return nil, err
		}
		l.Words = words.NewFilter(l.gate)
	}
	l.Conversations.Bind(l.Words)
	return l, nil
}

// Bind sets what tells devices of changes: h, of this node.
func (l *Logic) Bind(h *fanout.Handler) {
	l.Conversations.BindDevices(h)
	l.Conversations.BindAudiences(h)
	l.Relations.Bind(fence{l.Sequencer}, h)
}

// Signals are clients' signals, passed on by h.
func (l *Logic) Signals(h *fanout.Handler) conn.Signals {
	return heardSignals{h, l.Conversations, l.Relations}
}

// Services is what connections stand on in the process of the services themselves.
func (l *Logic) Services(sessions conn.Sessions, signals conn.Signals) conn.Services {
	return conn.Services{Authenticator: l.Accounts, Conversations: l.Conversations, Sessions: sessions, Signals: signals, Methods: l.Methods()}
}

// Sweeper returns what removes what nobody needs any more, and hands on what dead owners left, of the slots that
// mine says are this node's; nil: all are, and there are no other owners.
func (l *Logic) Sweeper(mine func(id.Slot) bool) *msgstore.Sweeper {
	c := msgstore.SweeperConfig{
		Store: l.storage.Store, Keys: l.storage.Keys, Now: l.storage.Clock.Now, Retention: msgstore.Retention(l.cfg.Retention), Logger: l.log, Mine: mine,
	}
	if mine != nil {
		c.HandOn = func(ctx context.Context, convs []id.ConversationID) error {
			l.Sequencer.HandOn(ctx, convs)
			return ctx.Err()
		}
	}
	return msgstore.NewSweeper(c)
}

// deletionsLook is how often a worker looks for deletions that were begun on other nodes.
const deletionsLook = 5 * time.Second

// Deletions returns the deletions of accounts, which end those of users in slots that mine says are this
// node's; nil: of all.
func (l *Logic) Deletions(mine func(id.Slot) bool) *Deletions {
	d := &Deletions{l: l, mine: mine, begun: make(chan struct{}, 1), look: -1}
	if l.cfg.Cluster.On() {
		d.look = deletionsLook
	}
	return d
}

// Settle lets messages that are being judged come to their end; none come after it.
func (l *Logic) Settle() {
	if l.gate != nil {
		l.gate.Close()
	}
}

// Close closes what New opened.
func (l *Logic) Close() {
	if l.Accounts != nil {
		l.Accounts.Close()
	}
	if l.hasher != nil {
		l.hasher.Close()
	}
}

// guard lets the sequencer ask the conversation service; each declares its own Rules.
type guard struct{ convs *conversation.Service }

func (g guard) Rules(ctx context.Context, conv id.ConversationID) (timeline.Rules, error) {
	return g.convs.Rules(ctx, conv)
}

func hashesAtOnce(a config.Accounts) int {
	if a.HashesAtOnce > 0 {
		return a.HashesAtOnce
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}

func issuers(list []config.Issuer) []account.Issuer {
	out := make([]account.Issuer, len(list))
	for i, is := range list {
		out[i] = account.Issuer{Issuer: is.Issuer, Audience: is.Audience, Algorithm: is.Algorithm, Key: is.KeyFile, JWKS: is.JWKS, Prefix: is.Prefix}
	}
	return out
}
