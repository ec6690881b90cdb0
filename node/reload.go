package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"github.com/gochat-im/gochat/protocol/code"
)

// Reloaded tells what a reload did, by the names of the configuration.
type Reloaded struct {
	Changed []string `json:"changed"` // in force now
	Restart []string `json:"restart"` // differ too, and count when the server is started again
}

// reloadable are the names that Reload puts in force. Certificates are read again whatever their names say.
var reloadable = map[string]bool{
	"log.level": true, "http.auth_per_minute": true,
	"tcp.tls.cert_file": true, "tcp.tls.key_file": true, "tcp.tls.min_version": true,
	"http.tls.cert_file": true, "http.tls.key_file": true, "http.tls.min_version": true,
	"limits.connections": true, "limits.connections_per_address": true,
	"limits.connects_per_address": true, "limits.unauthenticated": true,
	"limits.sends_per_second": true, "limits.user_sends_per_second": true, "limits.bytes_per_second": true, "limits.inflight": true,
}

// Reload puts in force what can be changed while clients are connected: certificates, limits
// of connections and rates, the log level. What can't is told. If a part can't be used, nothing
// changes but certificates that were read before it.
func (n *Node) Reload(cfg Config) (done Reloaded, err error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if err := cfg.Validate(); err != nil {
		return done, fmt.Errorf("configuration:\n%w", err)
	}
	cfg.Data = n.cfg.Data // as an absolute path, which doesn't change
	if n.edge != nil {
		if err := n.edge.Reload(cfg, n.inForce.Limits.ConnectionsPerUser); err != nil {
			return done, err
		}
	}
	if n.level != nil {
		var l slog.Level
		if err := l.UnmarshalText([]byte(cfg.Log.Level)); err == nil {
			n.level.Set(l)
		}
	}
	differences(reflect.ValueOf(n.inForce), reflect.ValueOf(cfg), "", func(name string) {
		if reloadable[name] {
			done.Changed = append(done.Changed, name)
		} else {
			done.Restart = append(done.Restart, name)
		}
	})
	// What needs a restart stays as it was, so that the next reload tells it again.
	n.inForce = merged(n.inForce, cfg)
	n.log.Info("configuration reloaded", "changed", done.Changed, "needs_restart", done.Restart)
	return done, nil
}

// merged returns old with what Reload takes over from cfg.
func merged(old, cfg Config) Config {
	l := cfg.Limits
	old.Log.Level, old.HTTP.AuthPerMinute = cfg.Log.Level, cfg.HTTP.AuthPerMinute
	old.TCP.TLS, old.HTTP.TLS = cfg.TCP.TLS, cfg.HTTP.TLS
	old.Limits.Connections = l.Connections
	old.Limits.ConnectionsPerAddress, old.Limits.ConnectsPerAddress = l.ConnectionsPerAddress, l.ConnectsPerAddress
	old.Limits.Unauthenticated = l.Unauthenticated
	old.Limits.SendsPerSecond, old.Limits.UserSendsPerSecond = l.SendsPerSecond, l.UserSendsPerSecond
	old.Limits.BytesPerSecond, old.Limits.Inflight = l.BytesPerSecond, l.Inflight
	return old
}

// differences calls fn with the dotted name of every value in which two configurations differ.
func differences(a, b reflect.Value, prefix string, fn func(name string)) {
	for i := range a.NumField() {
		name := prefix + a.Type().Field(i).Tag.Get("koanf")
		if a.Field(i).Kind() == reflect.Struct {
			differences(a.Field(i), b.Field(i), name+".", fn)
		} else if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			fn(name)
		}
	}
}

func (n *Node) reloadRequest(context.Context, struct{}) (Reloaded, error) {
	if n.load == nil {
		return Reloaded{}, errors.New("this program can't read its configuration again")
	}
	cfg, err := n.load()
	if err != nil {
		return Reloaded{}, code.Newf(code.BadRequest, "%v", err)
	}
	return n.Reload(cfg)
}
