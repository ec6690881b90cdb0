package id_test

import (
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

func TestPartsOfAnIncarnation(t *testing.T) {
	const second = 1_790_000_000
	conn := uint64(second)<<30 | 1023<<20 | 0xFFFFF
	if w, s := id.ConnWorker(conn), id.ConnSecond(conn); w != 1023 || s != second {
		t.Errorf("worker %d of second %d", w, s)
	}
	if w := id.ConnWorker(uint64(second)<<30 | 7<<20 | 5); w != 7 {
		t.Errorf("worker %d, want 7", w)
	}
}
