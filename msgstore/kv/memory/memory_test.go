package memory_test

import (
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memory.New(memory.Config{}) })
}

func TestConformanceWithoutStamps(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memory.New(memory.Config{NoStamps: true}) })
}
