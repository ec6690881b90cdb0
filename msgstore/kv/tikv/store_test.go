package tikv_test

import (
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/tikv/tikvtest"
)

func TestConformance(t *testing.T) {
	for name, splits := range map[string][][]byte{
		"one region":      nil,
		"several regions": {[]byte("b"), []byte("k1"), []byte("many01000"), []byte("n1"), []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			kvtest.Run(t, func(t *testing.T) kv.Store {
				return tikvtest.Open(t, tikvtest.Config{Splits: splits})
			})
		})
	}
}
