package nodes

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Feed has the latest View and tells of each change of it. A source embeds one and publishes.
// The zero Feed has an empty view.
type Feed struct {
	view atomic.Pointer[View]
	mu   sync.Mutex // serializes changes and what is told of them
	subs []*subscriber
}

type subscriber struct{ fn func(old, new *View) }

var empty = &View{}

// View returns the latest view. It is never nil.
func (f *Feed) View() *View {
	if v := f.view.Load(); v != nil {
		return v
	}
	return empty
}

// Subscribe has fn called with each change from now on, one after the other and in their
// order, each old being the new of the one before; the first old is the view returned. fn is called where the
// change is made: it must not block, and not call Subscribe, cancel or anything that changes the view.
func (f *Feed) Subscribe(fn func(old, new *View)) (now *View, cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &subscriber{fn}
	f.subs = append(f.subs, s)
	return f.View(), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.subs = slices.DeleteFunc(f.subs, func(o *subscriber) bool { return o == s })
	}
}

// Publish puts v in force and tells the subscribers. It returns when they were told.
func (f *Feed) Publish(v *View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.View()
	f.view.Store(v)
	for _, s := range f.subs {
		s.fn(old, v)
	}
}
