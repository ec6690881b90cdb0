//go:build !faultpoints

package storage

import (
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/services/timeline"
)

// plantFaults does nothing in what is shipped: only builds with the tag faultpoints,
// which tests make, have fault points.
func plantFaults(*pebblekv.Config, *timeline.Events) error { return nil }
