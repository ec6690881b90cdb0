// Package admin is the operator's door into a running server: profiles, live figures and the
// log level, over HTTP on a unix socket that only the server's own user may open.
//
//	GET  /debug/pprof/...    as net/http/pprof
//	GET  /debug/vars         Stats, as JSON
//	GET  /gc/log-level       {"level":"INFO"}
//	POST /gc/log-level       the same, to change it
//
// For example: curl --unix-socket data/admin.sock http://gochat/debug/vars
package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Config is what a Server is made of.
type Config struct {
	Path   string                      // of the socket; required; at most 103 bytes
	Stats  func() any                  // what /debug/vars shows; nil: nothing
	Level  *slog.LevelVar              // what /gc/log-level changes; nil: it can't be changed
	Routes map[string]http.HandlerFunc // more of them, by pattern ("POST /gc/revoke")
	Logger *slog.Logger                // default: discards
}

// Server is the HTTP server on the socket: New binds, Run serves, Shutdown drains.
type Server struct {
	cfg  Config
	ln   *net.UnixListener
	made os.FileInfo // the socket as it was made
	http *http.Server
}

// New binds the socket with mode 0600. A socket that a dead server left is replaced; one that
// somebody listens on is an error.
func New(cfg Config) (*Server, error) {
	if cfg.Path == "" {
		return nil, errors.New("admin: no path for the socket")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ln, made, err := listen(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("admin: listening on %s: %w", cfg.Path, err)
	}
	s := &Server{cfg: cfg, ln: ln, made: made}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/vars", s.vars)
	mux.HandleFunc("GET /gc/log-level", s.level)
	mux.HandleFunc("POST /gc/log-level", s.setLevel)
	for pattern, h := range cfg.Routes {
		mux.HandleFunc(pattern, h)
	}
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// listen makes the socket in a directory of its own, which nobody else may enter, and moves it
// to its place when its mode is right: so it is at no moment open to others, and takes
// the place of a dead one in one step.
func listen(path string) (*net.UnixListener, os.FileInfo, error) {
	if len(path) > maxPath {
		return nil, nil, fmt.Errorf("the path has %d bytes, and a socket's at most %d", len(path), maxPath)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, nil, errors.New("there is a file that is no socket")
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, nil, errors.New("another server listens there")
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, nil, fmt.Errorf("asking whether another server listens there: %w", err)
		}
	}
	dir, err := privateDir(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	var made os.FileInfo
	if err == nil {
		made, err = os.Lstat(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		ln.Close()
		return nil, nil, err
	}
	return ln, made, nil
}

// maxPath is the longest path of a socket that every system takes.
const maxPath = 103

// privateDir makes a directory with a name so short that a socket in it is in no greater danger
// of passing the limit than one beside it.
func privateDir(parent string) (string, error) {
	for range 100 {
		var r [2]byte
		_, _ = rand.Read(r[:]) // never fails
		dir := filepath.Join(parent, fmt.Sprintf(".s%x", r))
		err := os.Mkdir(dir, 0o700)
		if !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
	return "", fmt.Errorf("too many directories .s* in %s", parent)
}

// Run serves until ctx ends or Shutdown is called. If ctx ends, requests under way are cut off.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err := s.http.Serve(s.ln)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("admin: serving: %w", err)
}

// Shutdown stops listening, removes the socket, and waits for the requests under way until ctx
// ends: a profile may be minutes from its end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.remove()
	err := s.http.Shutdown(ctx)
	_ = s.ln.Close() // it isn't the http server's before Run
	if err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// Close ends everything at once.
func (s *Server) Close() error {
	s.remove()
	err := s.http.Close()
	_ = s.ln.Close()
	return err
}

// remove removes the socket, unless another server has taken its place.
func (s *Server) remove() {
	if st, err := os.Lstat(s.cfg.Path); err == nil && os.SameFile(st, s.made) {
		_ = os.Remove(s.cfg.Path)
	}
}

func (s *Server) vars(w http.ResponseWriter, _ *http.Request) {
	var v any = struct{}{}
	if s.cfg.Stats != nil {
		v = s.cfg.Stats()
	}
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

type levelBody struct {
	Level string `json:"level"` // debug, info, warn or error
}

func (s *Server) level(w http.ResponseWriter, _ *http.Request) {
	if s.cfg.Level == nil {
		http.Error(w, "the log level of this server can't be changed", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(levelBody{s.cfg.Level.Level().String()})
}

func (s *Server) setLevel(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Level == nil {
		s.level(w, r)
		return
	}
	var (
		in levelBody
		l  slog.Level
	)
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || l.UnmarshalText([]byte(in.Level)) != nil {
		http.Error(w, `want a body like {"level":"debug"}; the levels are debug, info, warn and error`, http.StatusBadRequest)
		return
	}
	old := s.cfg.Level.Level()
	s.cfg.Level.Set(l)
	s.cfg.Logger.Info("log level changed", "from", old.String(), "to", l.String())
	s.level(w, r)
}
