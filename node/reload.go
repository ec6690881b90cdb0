package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/code"
)

// Reloaded tells what a reload did, by the names of the configuration.
type Reloaded struct {
	Changed []string `json:"changed"`        // in force now
	Restart []string `json:"restart"`        // differ too, and count when the server is started again
	Etcd    []string `json:"etcd,omitempty"` // differ too, but a setting of all nodes holds in their place
}

// Reload puts in force what can be changed while clients are connected: certificates, limits
// of connections and rates, budgets, retention, the log level. What can't is told, and so is what the settings of all
// nodes hold for in its place. If a part can't be used, nothing changes but certificates that were read before it.
func (n *Node) Reload(cfg Config) (done Reloaded, err error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if err := cfg.Validate(); err != nil {
		return done, fmt.Errorf("configuration:\n%w", err)
	}
	cfg.Data = n.cfg.Data // as an absolute path, which doesn't change
	if n.edge != nil {
		if err := n.edge.Recertify(cfg); err != nil {
			return done, err
		}
	}
	lists := n.words
	if n.judges() {
		if lists, err = n.readWords(cfg); err != nil {
			return done, code.Newf(code.BadRequest, "%v", err)
		}
	}
	old, logged := n.overlay.Base(), n.logged
	n.logged = "" // what was set by the socket ends
	if err := n.overlay.Rebase(cfg); err != nil {
		n.logged = logged
		return done, code.Newf(code.BadRequest, "%v", err)
	}
	n.useWords(lists)
	differences(reflect.ValueOf(old), reflect.ValueOf(cfg), "", func(name string) {
		// What needs a restart stays as it was, so that the next reload tells it again.
		if config.Live(name) {
			done.Changed = append(done.Changed, name)
		} else {
			done.Restart = append(done.Restart, name)
		}
	})
	if done.Etcd = n.overlay.Above(done.Changed); len(done.Etcd) > 0 {
		done.Changed = slices.DeleteFunc(done.Changed, func(name string) bool { return slices.Contains(done.Etcd, name) })
	}
	n.log.Info("configuration reloaded", "changed", done.Changed, "needs_restart", done.Restart, "etcd_has_another", done.Etcd)
	return done, nil
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
