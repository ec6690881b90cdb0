package rocketmq

import (
	"testing"
)

// Dead letters are counted by where each queue begins and ends, and what of it was replayed.
func TestCountDeadLetters(t *testing.T) {
	b := newBroker(t)
	r := b.remote(nil)
	b.says(reqRoute, header{Code: ansTopicNotExist}, "")
	if n, err := r.deadLetters(t.Context(), "g"); n != 0 || err != nil {
		t.Errorf("of a group that nobody knows: %d, %v", n, err)
	}
	offsets := func(of map[string]string) func(*header, []byte) (*header, string) {
		return func(h *header, _ []byte) (*header, string) {
			if h.ExtFields["topic"] != "%DLQ%g" {
				t.Errorf("asked of %v", h.ExtFields)
			}
			n, ok := of[h.ExtFields["queueId"]]
			if !ok {
				return &header{Code: ansQueryNotFound}, ""
			}
			return &header{ExtFields: map[string]string{"offset": n}}, ""
		}
	}
	b.says(reqRoute, header{}, b.route(fourQueues))
	// Nothing was replayed; some was; all were; what was replayed, and more, is gone.
	b.on(reqMinOffset, offsets(map[string]string{"0": "2", "1": "0", "2": "0", "3": "7"}))
	b.on(reqMaxOffset, offsets(map[string]string{"0": "5", "1": "9", "2": "4", "3": "8"}))
	b.on(reqGroupOffset, offsets(map[string]string{"1": "5", "2": "4", "3": "3"}))
	if n, err := r.deadLetters(t.Context(), "g"); n != 3+4+0+1 || err != nil {
		t.Errorf("%d dead letters, %v", n, err)
	}
	if b.count(reqPull) != 0 || b.count(reqSetGroupOffset) != 0 {
		t.Error("counting reads or writes")
	}
	for _, code := range []int{reqRoute, reqMinOffset, reqMaxOffset, reqGroupOffset} {
		b.mu.Lock()
		was := b.answer[code]
		b.mu.Unlock()
		b.says(code, header{Code: 1, Remark: "busy"}, "")
		if _, err := r.deadLetters(t.Context(), "g"); err == nil {
			t.Errorf("counted though request %d is refused", code)
		}
		b.on(code, was)
	}
	b.says(reqRoute, header{}, `{"brokerDatas":[{"brokerAddrs":{1:"10.0.0.1:1"},"brokerName":"a,0:x"}],"queueDatas":[`+fourQueues+`]}`)
	if _, err := r.deadLetters(t.Context(), "g"); err == nil {
		t.Error("counted though the broker has no master")
	}
}
