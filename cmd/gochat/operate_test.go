package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node"
)

// What a server refuses, and what it knows nothing of, is told in words of the operator's.
func TestAskingAServer(t *testing.T) {
	dir, err := os.MkdirTemp("", "gc") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := node.Config{Data: dir}
	get := func(path string) error { return ask(t.Context(), cfg, http.MethodGet, path, nil, nil) }
	if err := get("/"); err == nil || !strings.Contains(err.Error(), "no server answers") {
		t.Errorf("without a server: %v", err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fine", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /refused", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"error":"there is no user nobody"}`))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }() // ends when the server is closed
	t.Cleanup(func() { _ = srv.Close() })
	for path, want := range map[string]string{
		"/refused": "the server refused: there is no user nobody",
		"/unknown": "ask a node with the role logic",
	} {
		if err := get(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := get("/fine"); err != nil {
		t.Error(err)
	}
}
