package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// monitor is the listener of a node's metrics and health, beside what edges show on the address for clients.
type monitor struct {
	ln   net.Listener
	http *http.Server
}

// readyTime is what the store has to answer when somebody asks whether the node is ready.
const readyTime = 2 * time.Second

func newMonitor(listen string, metrics prometheus.Gatherer, ready func(context.Context) error, log *slog.Logger) (*monitor, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s (cluster.monitor): %w", listen, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTime)
		defer cancel()
		if err := ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &monitor{ln, &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// run serves until ctx ends.
func (m *monitor) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = m.http.Close() })()
	if err := m.http.Serve(m.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// close ends a monitor that may never have run.
func (m *monitor) close() error {
	err := m.ln.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// MonitorAddr is where the node shows its metrics and health; nil: nowhere but where clients reach it.
func (n *Node) MonitorAddr() net.Addr {
	if n.monitor == nil {
		return nil
	}
	return n.monitor.ln.Addr()
}

// able reports whether this node can do its part.
func (n *Node) able(ctx context.Context) error {
	if n.storage != nil {
		return n.storage.Ready(ctx)
	}
	if n.peers != nil && len(n.peers.Router.Logics()) == 0 {
		return errNobody
	}
	return nil
}
