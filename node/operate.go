package node

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/gochat-im/gochat/edge/admin"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// routes are the operator's requests on the administration socket: those that this node's parts can answer.
func (n *Node) routes() map[string]http.HandlerFunc {
	all := map[string]http.HandlerFunc{"POST /gc/reload": admin.JSON(n.reloadRequest)}
	if n.storage == nil {
		return all
	}
	maps.Copy(all, map[string]http.HandlerFunc{
		"POST /gc/backup":    admin.JSON(n.backupRequest),
		"POST /gc/retention": admin.JSON(n.keepRequest),

		"POST /gc/apikey/create": admin.JSON(n.keyCreateRequest),
		"POST /gc/apikey/list":   admin.JSON(n.keyListRequest),
		"POST /gc/apikey/revoke": admin.JSON(n.keyRevokeRequest),

		"POST /gc/broadcast": admin.JSON(n.broadcastRequest),
		"POST /gc/user":      admin.JSON(n.userRequest),
		"POST /gc/ban":       admin.JSON(n.banRequest),
		"POST /gc/unban":     admin.JSON(n.unbanRequest),
		"POST /gc/delete":    admin.JSON(n.deleteRequest),
		"POST /gc/sign-out":  admin.JSON(n.signOutRequest),
	})
	return all
}

// agreeOnLevel has the store say which feature level is in force. What etcd has lost the store knows.
func (n *Node) agreeOnLevel() error {
	if n.peers == nil {
		return n.storage.RaiseLevel(context.Background(), msgstore.FeatureLevel) // all nodes are this one
	}
	n.peers.Recall(n.storage.Level())
	return n.storage.RaiseLevel(context.Background(), n.peers.Level())
}

// BackupRequest asks for a backup into Dir, an absolute path on the server's machine.
type BackupRequest struct {
	Dir string `json:"dir"`
}

// BackupAnswer tells of a backup that was written.
type BackupAnswer struct {
	storage.BackupInfo
	Millis int64 `json:"millis"` // how long it took
}

func (n *Node) backupRequest(ctx context.Context, in BackupRequest) (BackupAnswer, error) {
	start := time.Now()
	info, err := n.storage.Backup(ctx, in.Dir)
	return BackupAnswer{BackupInfo: info, Millis: time.Since(start).Milliseconds()}, err
}

// KeepRequest asks how long a conversation's messages are kept, or, with Set, changes that.
type KeepRequest struct {
	Conversation string        `json:"conversation"`
	Set          bool          `json:"set,omitempty"`
	Default      bool          `json:"default,omitempty"`  // as long as those of its kind
	Age          time.Duration `json:"age,omitempty"`      // ns; without Default, Age and Messages: for ever
	Messages     uint64        `json:"messages,omitempty"` // the newest so many
}

// KeepAnswer is how long a conversation's messages are kept, and which there are.
type KeepAnswer struct {
	Conversation string        `json:"conversation"`
	Kind         string        `json:"kind"`
	Own          bool          `json:"own"` // decided for this conversation; else by its kind
	Since        *time.Time    `json:"since,omitempty"`
	Age          time.Duration `json:"age,omitempty"`      // ns; 0: whatever their age
	Messages     uint64        `json:"messages,omitempty"` // the newest so many; 0: any number
	FirstSeq     uint64        `json:"first_seq"`
	LastSeq      uint64        `json:"last_seq"`
}

func (n *Node) keepRequest(ctx context.Context, in KeepRequest) (KeepAnswer, error) {
	conv, err := id.ParseConversation(in.Conversation)
	if err != nil {
		return KeepAnswer{}, code.Newf(code.BadRequest, "%v", err)
	}
	tl := n.storage.Timeline
	head, _, err := tl.Head(ctx, conv)
	if err != nil {
		return KeepAnswer{}, err
	}
	if !head.Exists() {
		return KeepAnswer{}, code.Newf(code.NoSuchConversation, "no such conversation")
	}
	if in.Set {
		own := &msgstore.Keep{Age: in.Age.Truncate(time.Second), Messages: in.Messages, Set: n.storage.Clock.Now()}
		switch {
		case in.Default:
			own = nil
		case in.Age != 0 && in.Age < time.Hour:
			return KeepAnswer{}, code.Newf(code.BadRequest, "an age of %s: want at least 1h", in.Age)
		}
		if err := tl.SetKeep(ctx, conv, own); err != nil {
			return KeepAnswer{}, err
		}
		n.log.Info("retention of a conversation set", "conversation", conv.String(), "default", in.Default, "age", in.Age, "messages", in.Messages)
		if n.sweeper != nil {
			n.sweeper.Soon()
		}
	}
	own, raw, err := tl.Keep(ctx, conv)
	if err != nil {
		return KeepAnswer{}, err
	}
	ans := KeepAnswer{
		Conversation: conv.String(), Kind: kindNames[conv.Kind()], Own: raw != nil, Age: own.Age, Messages: own.Messages,
		FirstSeq: head.FirstSeq, LastSeq: head.LastSeq,
	}
	if raw != nil {
		ans.Since = timeOrNil(time.UnixMilli(own.Set))
	} else {
		ans.Age = msgstore.Retention(n.current().Retention).Of(conv.Kind())
	}
	return ans, nil
}

// kindNames are those of the configuration.
var kindNames = map[id.Kind]string{id.KindDirect: "direct", id.KindGroup: "group", id.KindSelf: "self", id.KindRoom: "room"}
