package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/web"
)

// exitStorage is the status after a failed write: start the server again, it recovers from its log.
const exitStorage = 3

func serveCommand() *cobra.Command {
	var flags configFlags
	var tcp, http, level string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the whole chat in this process",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set := map[string]any{}
			for name, value := range map[string]string{"tcp.listen": tcp, "http.listen": http, "log.level": level} {
				if value != "" {
					set[name] = value
				}
			}
			cfg, err := flags.load(set)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, func() (node.Config, error) { return flags.load(set) }, cmd.ErrOrStderr())
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&tcp, "tcp", "", "address of the binary protocol (default 127.0.0.1:7070)")
	cmd.Flags().StringVar(&http, "http", "", "address of the HTTP interface (default 127.0.0.1:8080)")
	cmd.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error (default info)")
	return cmd
}

// serve runs a node until ctx ends. load reads the configuration again, when SIGHUP or the operator asks for that.
func serve(ctx context.Context, cfg node.Config, load func() (node.Config, error), out io.Writer) error {
	level := new(slog.LevelVar)
	logger, err := newLogger(cfg.Log, level, out)
	if err != nil {
		return usageError{err}
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program's file: %w", err)
	}
	n, err := node.New(cfg, node.Program{Version: version, Logger: logger, Level: level, Web: web.Files(), HashCommand: []string{self, hashCommandName}, Load: load})
	if err != nil {
		return err
	}
	banner(out, n, cfg)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-hup:
			}
			cfg, err := load()
			if err == nil {
				_, err = n.Reload(cfg)
			}
			if err != nil {
				logger.Error("the configuration in force stays: reloading failed", "err", err)
			}
		}
	}()
	err = n.Run(ctx)
	if errors.Is(err, node.ErrStorage) {
		// Nothing may run any more that could tell a client something: what was being stored is undetermined.
		fmt.Fprintln(out, "gochat:", err)
		os.Exit(exitStorage)
	}
	return err
}

func newLogger(cfg config.Log, level *slog.LevelVar, out io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	level.Set(l)
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, opts)), nil
	}
	return slog.New(slog.NewTextHandler(out, opts)), nil
}

// reachable is an address of this machine under which a server that listens on addr answers:
// one on all addresses is named by the loopback's.
func reachable(addr net.Addr) string {
	a, err := netip.ParseAddrPort(addr.String())
	if err != nil || !a.Addr().IsUnspecified() {
		return addr.String()
	}
	// A listener on [::] takes IPv4 as well.
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port()).String()
}

// invitation tells how to try the server, if whoever likes may register.
func invitation(cfg node.Config, self, flags string) string {
	elsewhere := slices.ContainsFunc(cfg.Issuers, func(i config.Issuer) bool { return i.Prefix == "" })
	if elsewhere || !cfg.Accounts.Registration {
		return "Nobody can register here: users come with a token of a configured issuer, or have an account.\n"
	}
	return fmt.Sprintf("Talk to yourself, in two more terminals:\n\n  %[1]s chat --profile alice%[2]s\n  %[1]s chat --profile bob%[2]s\n", self, flags)
}

// banner tells where everything is and what to type next.
func banner(out io.Writer, n *node.Node, cfg node.Config) {
	if n.TCPAddr() == nil { // no clients come here
		fmt.Fprintf(out, "\nGoChat %s is up: node %s, %s; other nodes reach it at %s\n\n", version, cfg.Cluster.NodeID, strings.Join(cfg.Cluster.Roles, ", "), cfg.Cluster.RPC.Listen)
		return
	}
	flags, scheme := "", "http"
	if cfg.TCP.TLS.On() {
		flags += " --tls --ca " + cfg.TCP.TLS.CertFile
	}
	if cfg.HTTP.TLS.On() {
		scheme = "https"
		if !cfg.TCP.TLS.On() {
			flags += " --ca " + cfg.HTTP.TLS.CertFile
		}
	}
	if n.TCPAddr().String() != "127.0.0.1:7070" {
		flags += " --server " + reachable(n.TCPAddr())
	}
	if n.HTTPAddr().String() != "127.0.0.1:8080" || cfg.HTTP.TLS.On() {
		flags += " --http " + scheme + "://" + reachable(n.HTTPAddr())
	}
	fmt.Fprintf(out, `
GoChat %s is up.

  data      %s
  clients   %s (binary protocol)
  HTTP      %s://%s (the web app: open it in a browser; /docs, /healthz, /metrics)

%s
`, version, cfg.Data, n.TCPAddr(), scheme, n.HTTPAddr(), invitation(cfg, os.Args[0], flags))
	plain := map[string]net.Addr{}
	if !cfg.TCP.TLS.On() {
		plain["The binary protocol"] = n.TCPAddr()
	}
	if !cfg.HTTP.TLS.On() {
		plain["HTTP"] = n.HTTPAddr()
	}
	for what, addr := range plain {
		if a, err := netip.ParseAddrPort(addr.String()); err == nil && !a.Addr().IsLoopback() {
			fmt.Fprintf(out, "WARNING: %s listens on %s WITHOUT TLS. Tokens and messages cross the network in the clear;\nconfigure tcp.tls and http.tls, terminate TLS in front of it, or listen on 127.0.0.1.\n\n", what, addr)
		}
	}
}
