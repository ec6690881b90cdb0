package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// operator talks to a node's administration socket.
func operator(t *testing.T, data string) func(path string, in, out any) error {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(data, socketFile))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return func(path string, in, out any) error {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		res, err := (&http.Client{Transport: tr}).Post("http://gochat"+path, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", res.Status, answer)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(answer, out)
	}
}

func signUp(t *testing.T, n *running, users ...string) {
	t.Helper()
	for _, u := range users {
		res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json",
			strings.NewReader(fmt.Sprintf(`{"name":%q,"password":"long enough"}`, u)))
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("registering %s: %v, %v", u, res, err)
		}
		res.Body.Close()
	}
}

// say sends a message to a user and returns its seq when it is stored.
func say(ctx context.Context, t *testing.T, c *gochat.Client, to id.UserID, text string) uint64 {
	t.Helper()
	r, err := c.Send(ctx, gochat.ToUser(to), gochat.Text(text))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := r.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Seq
}

func TestBackupOfALiveServerRestores(t *testing.T) {
	dir := t.TempDir()
	data, backup, restored := filepath.Join(dir, "data"), filepath.Join(dir, "out", "backup"), filepath.Join(dir, "restored")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := start(t, data)
	signUp(t, n, "alice", "bob")
	alice := device(t, n, data, "alice", func(gochat.Message) {})
	if err := alice.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	var acked atomic.Uint64
	acked.Store(say(ctx, t, alice, "bob", "before"))

	// Traffic goes on while the backup is written.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, err := alice.Send(ctx, gochat.ToUser("bob"), gochat.Text("meanwhile"))
			if err != nil {
				return
			}
			ack, err := r.Wait(ctx)
			if err != nil {
				return
			}
			acked.Store(ack.Seq)
		}
	}()
	for acked.Load() < 5 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	before := acked.Load()
	ask := operator(t, data)
	var done BackupAnswer
	if err := ask("/gc/backup", BackupRequest{Dir: backup}, &done); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-stopped
	if done.Bytes == 0 || done.Epoch != n.storage.Epoch {
		t.Errorf("the answer is %+v", done)
	}
	for name, bad := range map[string]string{"exists": backup, "relative": "backup"} {
		if err := ask("/gc/backup", BackupRequest{Dir: bad}, nil); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("a directory that is %s: %v", name, err)
		}
	}
	after := say(ctx, t, alice, "bob", "after")
	epoch := n.storage.Epoch
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}

	quiet := slog.New(slog.DiscardHandler)
	audit := func(dir string) {
		t.Helper()
		cfg := Default()
		cfg.Data = dir
		var findings []string
		sum, err := storage.Check(ctx, cfg, quiet, func(_, text string) { findings = append(findings, text) })
		if err != nil || sum.Errors+sum.Warnings > 0 {
			t.Errorf("audit of %s: %+v, %v, %q", dir, sum, err, findings)
		}
	}
	audit(backup)
	cfg := Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = backup, "127.0.0.1:0", "127.0.0.1:0"
	if _, err := New(cfg, Program{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "is a backup") {
		t.Errorf("a server on a backup: %v", err)
	}
	// What an interrupted restore left is no obstacle.
	if err := os.MkdirAll(filepath.Join(restored, ".restoring", "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	info, err := storage.Restore(ctx, backup, restored, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if info.Epoch <= epoch {
		t.Errorf("epoch %d after a restore, %d before", info.Epoch, epoch)
	}
	audit(restored)
	if _, err := storage.Restore(ctx, backup, restored, quiet); err == nil || !strings.Contains(err.Error(), "holds a store already") {
		t.Errorf("restoring over a store: %v", err)
	}
	if _, err := storage.Restore(ctx, restored, filepath.Join(dir, "x"), quiet); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restoring what is no backup: %v", err)
	}

	n = start(t, restored)
	if n.storage.Epoch != info.Epoch {
		t.Errorf("the restored server has epoch %d, want %d", n.storage.Epoch, info.Epoch)
	}
	bob := device(t, n, restored, "bob", func(gochat.Message) {})
	if err := bob.Connected(ctx); err != nil {
		t.Fatal(err) // the token is of a key that came with the backup
	}
	convs, err := bob.Inbox(ctx)
	if err != nil || len(convs) != 1 {
		t.Fatalf("bob's inbox: %+v, %v", convs, err)
	}
	if last := convs[0].LastSeq; last < before || last >= after {
		t.Errorf("the restored conversation ends at %d: %d was acked before the backup, %d after it", last, before, after)
	}
	if seq := say(ctx, t, bob, "alice", "and on"); seq != convs[0].LastSeq+1 {
		t.Errorf("the next message has seq %d after %d", seq, convs[0].LastSeq)
	}
}
