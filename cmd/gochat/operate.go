package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/gochat-im/gochat/node"
)

// ask sends a request to the administration socket of the server that runs on cfg's data
// directory, and reads its answer into out. The server may take as long as ctx.
func ask(ctx context.Context, cfg node.Config, method, path string, in, out any) error {
	sock := filepath.Join(cfg.Data, "admin.sock")
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}
	defer tr.CloseIdleConnections()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gochat"+path, body)
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("no server answers on %s (does it run, with this --data, as this user?): %w", sock, op.Err)
		}
		return fmt.Errorf("asking the server: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var refused struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(answer, &refused) == nil && refused.Error != "" {
			return fmt.Errorf("the server refused: %s", refused.Error)
		}
		if res.StatusCode == http.StatusNotFound {
			return errors.New("the server does nothing of the kind: in a cluster ask a node with the role logic")
		}
		return fmt.Errorf("the server answered %s: %s", res.Status, bytes.TrimSpace(answer))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

// running reports whether a server answers on cfg's data directory.
func running(cfg node.Config) bool {
	c, err := net.Dial("unix", filepath.Join(cfg.Data, "admin.sock"))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
