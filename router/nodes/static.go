package nodes

import "sync"

// Static is a source whose nodes are given: an embedded node, a list in a configuration, a test.
type Static struct {
	Feed
	mu sync.Mutex // one Set at a time
}

// NewStatic returns a source of these nodes. A Start of 0 is given one.
func NewStatic(ns ...Node) (*Static, error) {
	s := new(Static)
	return s, s.Set(ns...)
}

// Set puts other nodes in the place of those there are; the view's revision grows by one. A
// node with the Start 0 keeps the one it has, if its ID is known.
func (s *Static) Set(ns ...Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.View()
	ns = append([]Node(nil), ns...)
	for i := range ns {
		if n := &ns[i]; n.Start == 0 {
			if was := old.ByID(n.ID); was != nil {
				n.Start = was.Start
			} else {
				n.Start = NewStart()
			}
		}
	}
	v, err := NewView(old.Revision()+1, ns)
	if err != nil {
		return err
	}
	s.Publish(v)
	return nil
}
