package node

import (
	"context"
	"net/http"
	"time"

	"github.com/gochat-im/gochat/edge/admin"
)

// routes are the operator's requests on the administration socket.
func (n *Node) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /gc/backup": admin.JSON(n.backupRequest),
		"POST /gc/reload": admin.JSON(n.reloadRequest),

		"POST /gc/retention": admin.JSON(n.keepRequest),

		"POST /gc/apikey/create": admin.JSON(n.keyCreateRequest),
		"POST /gc/apikey/list":   admin.JSON(n.keyListRequest),
		"POST /gc/apikey/revoke": admin.JSON(n.keyRevokeRequest),

		"POST /gc/user":     admin.JSON(n.userRequest),
		"POST /gc/ban":      admin.JSON(n.banRequest),
		"POST /gc/unban":    admin.JSON(n.unbanRequest),
		"POST /gc/delete":   admin.JSON(n.deleteRequest),
		"POST /gc/sign-out": admin.JSON(n.signOutRequest),
	}
}

// BackupRequest asks for a backup into Dir, an absolute path on the server's machine.
type BackupRequest struct {
	Dir string `json:"dir"`
}

// BackupAnswer tells of a backup that was written.
type BackupAnswer struct {
	BackupInfo
	Millis int64 `json:"millis"` // how long it took
}

func (n *Node) backupRequest(ctx context.Context, in BackupRequest) (BackupAnswer, error) {
	start := time.Now()
	info, err := n.Backup(ctx, in.Dir)
	return BackupAnswer{BackupInfo: info, Millis: time.Since(start).Milliseconds()}, err
}
