package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// live are the names of what can be changed while a node runs; true: also for all nodes at once, in etcd.
// Certificates are files of each machine.
var live = map[string]bool{
	"log.level": true, "http.auth_per_minute": true, "http.calls_per_minute": true,
	"tcp.tls.cert_file": false, "tcp.tls.key_file": false, "tcp.tls.min_version": false,
	"http.tls.cert_file": false, "http.tls.key_file": false, "http.tls.min_version": false,
	"limits.connections": true, "limits.connections_per_address": true,
	"limits.connects_per_address": true, "limits.unauthenticated": true,
	"limits.sends_per_second": true, "limits.user_sends_per_second": true, "limits.bytes_per_second": true, "limits.inflight": true,
	"fanout.large_group": true, "fanout.deliveries_per_second": true, "rooms.deliveries_per_second": true,
	"words.action": true, "words.file": false,
	"retention.direct": true, "retention.group": true, "retention.self": true, "retention.room": true,
}

// Live reports whether the setting of that dotted name can be changed while a node runs.
func Live(name string) bool {
	_, ok := live[name]
	return ok
}

// Shared are the names of the settings that may be given for all nodes of a cluster at once, sorted.
func Shared() []string {
	names := slices.Sorted(maps.Keys(live))
	return slices.DeleteFunc(names, func(n string) bool { return !live[n] })
}

// WordsPrefix begins the names in etcd of lists of words, which aren't in the configuration file.
const WordsPrefix = "words/"

// maxShared is the longest value in bytes of a setting that is given for all nodes.
const maxShared = 256

// Value returns the value of the setting of that dotted name as Print writes it, strings as they are.
func (c Config) Value(name string) (value string, ok bool) {
	v, ok := lookUp(reflect.ValueOf(&c).Elem(), name)
	if !ok {
		return "", false
	}
	if v.Kind() == reflect.String {
		return v.String(), true
	}
	return scalar(v), true
}

// lookUp finds a setting by its dotted name.
func lookUp(v reflect.Value, name string) (reflect.Value, bool) {
	head, rest, more := strings.Cut(name, ".")
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case v.Type().Field(i).Tag.Get("koanf") != head:
		case !more:
			return f, f.Kind() != reflect.Struct
		case f.Kind() == reflect.Struct:
			return lookUp(f, rest)
		}
	}
	return reflect.Value{}, false
}

// copyLive takes from what can be changed while a node runs; everything else stays.
func (c Config) copyLive(from Config) Config {
	for name := range live {
		to, _ := lookUp(reflect.ValueOf(&c).Elem(), name)
		v, _ := lookUp(reflect.ValueOf(&from).Elem(), name)
		to.Set(v)
	}
	return c
}

// With returns c with settings for all nodes in place of its own, by dotted name. It is an error if
// one can't be given so, or is no value, or if the whole is not valid with them.
func (c Config) With(settings map[string]string) (Config, error) {
	set := make(map[string]any, len(settings))
	for name, value := range settings {
		if err := MayShare(name); err != nil {
			return Config{}, err
		}
		// The decoder would take nothing for zero, which often means: any number.
		if value == "" || len(value) > maxShared || strings.TrimSpace(value) != value {
			return Config{}, fmt.Errorf("%s: want a value of 1 to %d bytes, without space around it", name, maxShared)
		}
		set[name] = value
	}
	if err := decode(&c, set); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// MayShare returns why a setting can't be given for all nodes at once; nil: it can.
func MayShare(name string) error {
	if live[name] {
		return nil
	}
	_, known := lookUp(reflect.ValueOf(Config{}), name)
	switch {
	case Live(name):
		return fmt.Errorf("%s names a file of each machine: it is changed in the nodes' own configurations, and reloaded there", name)
	case known:
		return fmt.Errorf("%s can't be changed while nodes run: change it in their own configurations, and start them again", name)
	}
	return fmt.Errorf("there is no setting %q", name)
}

// Overlay are settings for all nodes above one node's own configuration. What is refused of them leaves in force
// what was; it is tried again when something else changes. Not for concurrent use.
type Overlay struct {
	// Try puts a valid configuration in force, wholly or not at all; nil: there is nothing to do for it.
	Try func(Config) error

	// Late is told of a setting that was refused before and is in force now. May be nil.
	Late func(name string)

	base  Config
	now   Config            // base with taken
	given map[string]string // what there is
	taken map[string]string // what of it is in force
}

// NewOverlay returns an overlay above base, which is taken to be in force, with nothing in it.
func NewOverlay(base Config) *Overlay {
	return &Overlay{base: base, now: base, given: map[string]string{}, taken: map[string]string{}}
}

// Config returns what is in force.
func (o *Overlay) Config() Config { return o.now }

// Base returns what is in force without the settings for all nodes.
func (o *Overlay) Base() Config { return o.base }

// Refused returns the names of the settings of which not the latest value is in force, sorted.
func (o *Overlay) Refused() []string {
	var names []string
	for name, v := range o.given {
		if t, ok := o.taken[name]; !ok || t != v {
			names = append(names, name)
		}
	}
	for name := range o.taken {
		if _, ok := o.given[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Above returns which of these names have a setting for all nodes in force.
func (o *Overlay) Above(names []string) (above []string) {
	for _, n := range names {
		if _, ok := o.taken[n]; ok {
			above = append(above, n)
		}
	}
	return above
}

// Set gives a setting; its error says why what was in force stays.
func (o *Overlay) Set(name, value string) error {
	o.given[name] = value
	return o.settle(name)
}

// Unset takes a setting away, so that the node's own value holds again.
func (o *Overlay) Unset(name string) error {
	delete(o.given, name)
	return o.settle(name)
}

// settle tries to put name's latest value in force, and then whatever was refused before.
func (o *Overlay) settle(name string) error {
	err := o.try(name)
	for again := true; again; {
		again = false
		for _, other := range o.Refused() {
			if other != name && o.try(other) == nil {
				again = true
				if o.Late != nil {
					o.Late(other)
				}
			}
		}
		if again && err != nil {
			err = o.try(name)
		}
	}
	return err
}

func (o *Overlay) try(name string) error {
	next := maps.Clone(o.taken)
	if v, ok := o.given[name]; ok {
		next[name] = v
	} else {
		delete(next, name)
	}
	return o.put(o.base, next)
}

func (o *Overlay) put(base Config, settings map[string]string) error {
	now, err := base.With(settings)
	if err == nil && o.Try != nil {
		err = o.Try(now)
	}
	if err == nil {
		o.base, o.now, o.taken = base, now, settings
	}
	return err
}

// Rebase takes over what can be changed while a node runs from its own configuration as it was read again; the
// settings for all nodes stay above it.
func (o *Overlay) Rebase(own Config) error {
	if err := o.put(o.base.copyLive(own), o.taken); err != nil {
		if len(o.taken) == 0 {
			return err
		}
		return errors.Join(fmt.Errorf("together with the settings in etcd, which are %s", strings.Join(slices.Sorted(maps.Keys(o.taken)), ", ")), err)
	}
	for _, name := range o.Refused() {
		if o.try(name) == nil && o.Late != nil {
			o.Late(name)
		}
	}
	return nil
}
