package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/router/nodes"
)

// publishers are nodes that are told what came through.
type publishers struct {
	View // only ByWorker is asked
	list []*nodes.Node

	mu   sync.Mutex
	told chan struct{} // a call was made
	hold chan struct{} // calls wait for it
	got  map[string][]Mark
	fail error
}

func (p *publishers) ByWorker(worker uint32) *nodes.Node {
	for _, n := range p.list {
		if n.Worker == worker {
			return n
		}
	}
	return nil
}

func (p *publishers) call(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	marks, err := ReadMarks(body)
	p.mu.Lock()
	p.got[to.ID] = append(p.got[to.ID], marks...)
	err = errors.Join(err, p.fail)
	p.mu.Unlock()
	p.told <- struct{}{}
	select {
	case <-p.hold:
	case <-ctx.Done():
	}
	return nil, err
}

// Each publisher is told of its own packs, the newest of each queue, and what comes while a call is under way gathers.
func TestReports(t *testing.T) {
	one, two := PublisherOf(1, 1<<62|5), PublisherOf(2, 7)
	p := &publishers{list: []*nodes.Node{{ID: "one", Worker: 1}, {ID: "two", Worker: 2}}, got: map[string][]Mark{}, told: make(chan struct{}, 16), hold: make(chan struct{}, 16)}
	r, err := NewReports(ReportsConfig{View: p, Call: p.call})
	if err != nil {
		t.Fatal(err)
	}
	r.Take([]Mark{{one, 3, 10}})
	<-p.told
	r.Take([]Mark{{one, 3, 12}, {one, 3, 11}, {one, 4, 1}})
	r.Take([]Mark{{one, 3, 13}, {two, 3, 1}, {PublisherOf(9, 1), 0, 1}}) // nobody has the number 9
	<-p.told                                                             // two
	p.hold <- struct{}{}
	p.hold <- struct{}{}
	<-p.told // one again
	p.hold <- struct{}{}
	p.mu.Lock()
	got := p.got["one"]
	slices.SortFunc(got[1:], func(a, b Mark) int { return int(a.Queue) - int(b.Queue) })
	if !slices.Equal(got, []Mark{{one, 3, 10}, {one, 3, 13}, {one, 4, 1}}) || !slices.Equal(p.got["two"], []Mark{{two, 3, 1}}) {
		t.Errorf("told %v", p.got)
	}
	p.fail = errors.New("away")
	p.mu.Unlock()
	r.Take([]Mark{{two, 1, 2}}) // and the call hangs
	<-p.told
	r.Close()
	r.Take([]Mark{{two, 1, 3}})
	if s := r.Stats(); s.Dropped != 2 {
		t.Errorf("%+v", s)
	}
	if one == PublisherOf(1, 1<<62|6) || one == PublisherOf(2, 1<<62|5) {
		t.Error("two publishers have one number")
	}
}

// What can't be read is an error.
func TestMarksThatAreCutOff(t *testing.T) {
	for _, body := range []string{"", "\x01", "\x02\x01\x01\x01\x01\x01", "\xff\xff\xff\xff\x01", "\x01\x01\x80\x01"} {
		if marks, err := ReadMarks([]byte(body)); err == nil {
			t.Errorf("%q: %v", body, marks)
		}
	}
}

func TestReportsConfig(t *testing.T) {
	for _, c := range []ReportsConfig{{}, {View: &publishers{}}, {View: &publishers{}, Call: (&publishers{}).call, Timeout: -1}} {
		if _, err := NewReports(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
